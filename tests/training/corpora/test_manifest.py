"""Test the reader of manifests, which list users' own corpora."""

from pathlib import Path

import pytest

from training.corpora import Corpus, Utterance, load
from training.errors import TrainingError


def read(directory: Path, content: str, name: str = "mine.csv", happiness_policy: str = "merge") -> Corpus:
    (directory / name).write_text(content, encoding="utf-8")
    return load("manifest", directory / name, happiness_policy)


def test_load_reads_csv(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips/a.wav").touch()
    corpus = read(
        tmp_path,
        "\ufeffid,audio,text,emotion,speaker,session,dialogue,style,split\r\n"
        'one,clips/a.wav,"Well, ""yes""",Neutral,anna,s1,d1,Scripted,train\r\n'
        ",clips/a.wav,,happy,,,,,\r\n"
        ',,"two\nlines",sadness,,,,,\r\n'
        ",,late,anger,,,,,\r\n"
        ",,...,anger,,,,,\r\n",
    )
    audio = tmp_path / "clips/a.wav"
    assert corpus.utterances == (
        Utterance("one", audio, 'Well, "yes"', "neutral", "anna", "s1", "d1", "scripted", "train"),
        Utterance("clips/a.wav", audio, None, "excitement"),
        Utterance("line-5", None, "two\nlines", "sadness"),
        Utterance("line-6", None, "late", "anger"),
    )
    assert corpus.dropped == {"no audio, and no text after cleaning": 1}


def test_load_reads_jsonl(tmp_path: Path) -> None:
    content = (
        '{"text": "Hm: é", "emotion": "frustration", "speaker": 3, "style": null}\n\n{"text": "Ha", "emotion": "joy"}'
    )
    corpus = read(tmp_path, content, "mine.jsonl")
    assert corpus.utterances == (
        Utterance("line-1", None, "Hm: é", "frustration", "3"),
        Utterance("line-3", None, "Ha", "excitement"),
    )
    dropped = read(tmp_path, content, "mine.jsonl", "drop")
    assert len(dropped.utterances) == 1
    assert dropped.dropped == {"happiness is left out (--happiness-policy drop)": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,emotion\nhello,bored\n", "line 2: emotion 'bored'; accepted are neutral, .*happy, happiness, joy"),
        ("text,emotion\nhello,anger\nhello,\n", "line 3 has no emotion; accepted are"),
        ("text,mood\nhello,anger\n", "line 1: unknown column 'mood'; accepted are id, audio, text, emotion"),
        ("text,emotion,style\nhello,anger,sung\n", "line 2: style 'sung'; accepted are improvised, scripted"),
        ("text,emotion,split\nhello,anger,dev\n", "line 2: split 'dev'; accepted are train, validation, test"),
        ("text,emotion\nwell, hello,anger\n", "line 2 has not the 2 fields of the header"),
        ("text,emotion\nhello\n", "line 2 has not the 2 fields of the header"),
        ('text,emotion\n"hello,anger\n', "check its quotation marks"),
        ("id,text,emotion\na,hello,anger\na,hi,anger\n", "line 3: a is on line 2 too"),
        ("audio,emotion\nx.wav,anger\n", r"not there, relative to .*: x.wav \(line 2\)"),
        ("", "no utterance of the five emotions"),
    ],
)
def test_load_of_a_wrong_csv_names_the_line(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        read(tmp_path, content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"emotion": "anger"', "line 1 is not JSON"),
        ('\n["anger"]', "line 2: expected is an object of texts"),
        ('{"emotion": ["anger"]}', "line 1: expected is an object of texts"),
        ('{"text": "a", "emotion": "anger", "rating": 3}', "line 1: unknown column 'rating'"),
    ],
)
def test_load_of_a_wrong_jsonl_names_the_line(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        read(tmp_path, content, "mine.jsonl")


def test_load_of_another_file_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"neither .csv nor .jsonl"):
        read(tmp_path, "", "mine.txt")
    (tmp_path / "mine.csv").write_bytes(b"text,emotion\ncaf\xe9,anger\n")
    with pytest.raises(TrainingError, match=r"not UTF-8 \(at byte 16\)"):
        load("manifest", tmp_path / "mine.csv")
