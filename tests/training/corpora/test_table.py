"""Test the table of a corpus, its summary, and its cache."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from training.corpora import CORPORA, Corpus, Utterance, account, load
from training.corpora.release import files, read_text
from training.corpora.table import Collector
from training.errors import TrainingError
from training.files import write_atomically

ANGRY = Utterance("a", None, "Go away!", "anger")


def emodb(root: Path) -> Path:
    """Write three empty recordings, which the reader must not open, and return their folder."""
    (root / "wav").mkdir(parents=True)
    for name in ("03a01Fa.wav", "03a01Nc.wav", "08a02Wb.wav"):
        (root / "wav" / name).touch()
    return root


@pytest.mark.parametrize(
    ("utterances", "message"),
    [
        ((), "no utterance of the five emotions; 7 dropped: too sleepy"),
        ((ANGRY, ANGRY), "2 utterances with the id a"),
        ((replace(ANGRY, emotion="boredom"),), "utterance a: emotion 'boredom'; accepted are neutral, frustration"),
        ((replace(ANGRY, text=None),), "neither audio nor text"),
        ((replace(ANGRY, style="sung"),), "style 'sung'; accepted are improvised, scripted"),
        ((replace(ANGRY, split="dev"),), "split 'dev'; accepted are train, validation, test"),
    ],
)
def test_corpus_with_invalid_rows_is_rejected(utterances: tuple[Utterance, ...], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        Corpus("mine", utterances, {"too sleepy": 7})


def test_collector_of_a_text_that_cleaning_empties_counts_it_as_absent(tmp_path: Path) -> None:
    table = Collector("mine")
    table.keep(ANGRY)
    table.keep(Utterance("b", None, "%", "sadness"))
    table.keep(Utterance("c", tmp_path / "c.wav", " ... ", "sadness"))
    corpus = table.corpus()
    assert [(row.id, row.text) for row in corpus.utterances] == [("a", "Go away!"), ("c", None)]
    assert corpus.dropped == {"no audio, and no text after cleaning": 1}


def test_account_lists_kept_and_dropped_utterances(tmp_path: Path) -> None:
    table = Collector("mine")
    table.keep(ANGRY)
    table.keep(Utterance("b", tmp_path / "b.wav", "Well.", "neutral"))
    table.keep(Utterance("c", tmp_path / "c.wav", None, "neutral"))
    table.keep(Utterance("d", tmp_path / "d.wav", None, "neutral"))
    table.drop("rare")
    table.drop("frequent")
    table.drop("frequent")
    assert account(table.corpus()).splitlines() == [
        "mine: 4 utterances kept (audio and text 1, audio alone 2, text alone 1)",
        "       3  neutral (75.0%)",
        "       0  frustration (0.0%)",
        "       1  anger (25.0%)",
        "       0  sadness (0.0%)",
        "       0  excitement (0.0%)",
        "3 dropped",
        "       2  frequent",
        "       1  rare",
    ]


def test_load_of_an_unknown_name_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no corpus is called 'ravdess'; there are " + ", ".join(CORPORA)):
        load("ravdess", tmp_path)
    with pytest.raises(TrainingError, match="the happiness policy is 'maybe'; accepted are merge, drop"):
        load("emodb", tmp_path, happiness_policy="maybe")


@pytest.mark.parametrize("name", CORPORA)
def test_load_of_a_missing_corpus_names_its_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"expected|give a CSV") as caught:
        load(name, tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in str(caught.value)
    assert name == "manifest" or "http" in str(caught.value)


def test_load_again_reads_the_cache(tmp_path: Path) -> None:
    root, cache = emodb(tmp_path / "emodb"), tmp_path / "cache"
    corpus = load("emodb", root, cache=cache)
    assert load("emodb", root, cache=cache) == corpus == load("emodb", root)
    (table,) = cache.iterdir()
    table.write_text(table.read_text().replace("a02", "cached"))
    assert [row.dialogue for row in load("emodb", root, cache=cache).utterances] == ["a01", "a01", "cached"]


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"name": "emodb", "utterances": [{}], "dropped": {}}', "\udcff"])
def test_load_with_a_damaged_cache_rebuilds_it(tmp_path: Path, damage: str) -> None:
    root, cache = emodb(tmp_path / "emodb"), tmp_path / "cache"
    corpus = load("emodb", root, cache=cache)
    (table,) = cache.iterdir()
    whole = table.read_bytes()
    table.write_bytes(damage.encode("utf-8", "surrogateescape"))
    assert load("emodb", root, cache=cache) == corpus
    assert [path.read_bytes() for path in cache.iterdir()] == [whole]


def test_load_with_other_files_or_options_uses_another_cache(tmp_path: Path) -> None:
    root, cache = emodb(tmp_path / "emodb"), tmp_path / "cache"
    assert len(load("emodb", root, cache=cache).utterances) == 3
    assert len(load("emodb", root, happiness_policy="drop", cache=cache).utterances) == 2
    (root / "wav" / "09a01Ta.wav").touch()
    assert len(load("emodb", root, cache=cache).utterances) == 4
    table = root / "labels.tsv"
    table.write_text("file\tspeaker\tsentence\temotion\nx.flac\t03\ta01\tanger\n")
    (root / "x.flac").touch()
    assert load("emodb", root, cache=cache).utterances[0].emotion == "anger"
    status = table.stat()
    table.write_text(table.read_text().replace("anger", "neutral").replace("a01", "a0"))
    os.utime(table, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert load("emodb", root, cache=cache).utterances[0].emotion == "neutral"


def test_write_atomically_that_fails_leaves_no_files(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match="can't be written"):
        write_atomically(tmp_path / "file" / "table.json", "{}")
    (tmp_path / "taken").mkdir()
    with pytest.raises(TrainingError, match="can't be written"):
        write_atomically(tmp_path / "taken", "{}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "taken"]


@pytest.mark.parametrize(
    "data",
    [
        "It\u2019s fine\u2026 caf\u00e9\n".encode(),
        b"\xef\xbb\xbf" + "It\u2019s fine\u2026 caf\u00e9\r\n".encode(),
        b"It\x92s fine\x85 caf\xe9\n",
        b"It\xc2\x92s fine\xc2\x85 caf\xc3\xa9\n",
    ],
)
def test_read_text_accepts_utf8_latin1_and_windows_1252(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    assert read_text(tmp_path / "a.txt") == "It\u2019s fine\u2026 caf\u00e9\n"


def test_files_leave_out_what_macos_adds(tmp_path: Path) -> None:
    for name in ("b.wav", "a.wav", "._a.wav"):
        (tmp_path / name).touch()
    (tmp_path / "folder.wav").mkdir()
    assert [path.name for path in files(tmp_path, "*.wav")] == ["a.wav", "b.wav"]
