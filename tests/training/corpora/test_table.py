"""The table, its account, and the cache."""

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
    """Three recordings' names; nothing may open them."""
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
def test_invalid_corpus(utterances: tuple[Utterance, ...], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        Corpus("mine", utterances, {"too sleepy": 7})


def test_text_that_cleaning_empties_is_absent(tmp_path: Path) -> None:
    table = Collector("mine")
    table.keep(ANGRY)
    table.keep(Utterance("b", None, "%", "sadness"))
    table.keep(Utterance("c", tmp_path / "c.wav", " ... ", "sadness"))
    corpus = table.corpus()
    assert [(row.id, row.text) for row in corpus.utterances] == [("a", "Go away!"), ("c", None)]
    assert corpus.dropped == {"no audio, and no text after cleaning": 1}


def test_account(tmp_path: Path) -> None:
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


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no corpus is called 'ravdess'; there are " + ", ".join(CORPORA)):
        load("ravdess", tmp_path)
    with pytest.raises(TrainingError, match="happy is 'maybe'; accepted are merge, drop"):
        load("emodb", tmp_path, happy="maybe")


@pytest.mark.parametrize("name", CORPORA)
def test_absent_corpus(name: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"expected|give a CSV") as caught:
        load(name, tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in str(caught.value)
    assert name == "manifest" or "http" in str(caught.value)


def test_second_load_comes_from_the_cache(tmp_path: Path) -> None:
    root, cache = emodb(tmp_path / "emodb"), tmp_path / "cache"
    corpus = load("emodb", root, cache=cache)
    assert load("emodb", root, cache=cache) == corpus == load("emodb", root)
    (table,) = cache.iterdir()
    table.write_text(table.read_text().replace("a02", "cached"))
    assert [row.dialogue for row in load("emodb", root, cache=cache).utterances] == ["a01", "a01", "cached"]


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"name": "emodb", "utterances": [{}], "dropped": {}}', "\udcff"])
def test_damaged_cache_is_rebuilt(tmp_path: Path, damage: str) -> None:
    root, cache = emodb(tmp_path / "emodb"), tmp_path / "cache"
    corpus = load("emodb", root, cache=cache)
    (table,) = cache.iterdir()
    whole = table.read_bytes()
    table.write_bytes(damage.encode("utf-8", "surrogateescape"))
    assert load("emodb", root, cache=cache) == corpus
    assert [path.read_bytes() for path in cache.iterdir()] == [whole]


def test_cache_follows_the_release_and_the_options(tmp_path: Path) -> None:
    root, cache = emodb(tmp_path / "emodb"), tmp_path / "cache"
    assert len(load("emodb", root, cache=cache).utterances) == 3
    assert len(load("emodb", root, happy="drop", cache=cache).utterances) == 2
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


def test_refused_write_is_told_and_leaves_nothing(tmp_path: Path) -> None:
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
def test_text_of_any_age(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    assert read_text(tmp_path / "a.txt") == "It\u2019s fine\u2026 caf\u00e9\n"


def test_files_leaves_out_what_macos_adds(tmp_path: Path) -> None:
    for name in ("b.wav", "a.wav", "._a.wav"):
        (tmp_path / name).touch()
    (tmp_path / "folder.wav").mkdir()
    assert [path.name for path in files(tmp_path, "*.wav")] == ["a.wav", "b.wav"]
