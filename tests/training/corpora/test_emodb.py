"""Test the reader of EmoDB's two layouts."""

from pathlib import Path

import pytest

from training.corpora import load
from training.errors import TrainingError

NAMES = ["03a01Fa", "03a01Wa", "08b10Nc", "08b10Tb", "16a02Lb", "16a02Eb", "16a02Ab"]
EMOTIONS = ["happiness", "anger", "neutral", "sadness", "boredom", "disgust", "anxiety"]


@pytest.fixture
def published(tmp_path: Path) -> Path:
    (tmp_path / "wav").mkdir()
    for name in (*NAMES, "._03a01Fa"):
        (tmp_path / "wav" / f"{name}.wav").touch()
    return tmp_path


@pytest.fixture
def tabled(tmp_path: Path) -> Path:
    lines = ["file\tspeaker\tsentence\temotion"]
    for name, emotion in zip(NAMES, EMOTIONS, strict=True):
        (tmp_path / f"{name}.flac").touch()
        lines.append(f"{name}.flac\t{name[:2]}\t{name[2:5]}\t{emotion}")
    (tmp_path / "labels.tsv").write_text("\r\n".join(lines) + "\r\n")
    return tmp_path


@pytest.mark.parametrize("layout", ["published", "tabled"])
def test_load_reads_both_layouts(layout: str, request: pytest.FixtureRequest) -> None:
    root: Path = request.getfixturevalue(layout)
    corpus = load("emodb", root)
    assert [(row.id, row.emotion, row.speaker, row.dialogue) for row in corpus.utterances] == [
        ("03a01Fa", "excitement", "03", "a01"),
        ("03a01Wa", "anger", "03", "a01"),
        ("08b10Nc", "neutral", "08", "b10"),
        ("08b10Tb", "sadness", "08", "b10"),
    ]
    assert all(row.text is None and row.style == "scripted" for row in corpus.utterances)
    assert all(row.audio is not None and row.audio.is_file() for row in corpus.utterances)
    assert corpus.dropped == {f"{name} is not among the five emotions": 1 for name in EMOTIONS[4:]}
    assert sorted((row.emotion, row.labels) for row in corpus.others) == sorted(("", (name,)) for name in EMOTIONS[4:])
    dropped = load("emodb", root, happiness_policy="drop")
    assert [row.id for row in dropped.utterances] == ["03a01Wa", "08b10Nc", "08b10Tb"]
    assert dropped.dropped["happiness is left out (--happiness-policy drop)"] == 1


def test_load_of_the_folder_wav_drops_other_names(published: Path) -> None:
    (published / "wav" / "noise.wav").touch()
    corpus = load("emodb", published / "wav")
    assert len(corpus.utterances) == 4
    assert corpus.dropped["the file name is not of the form 03a01Fa.wav"] == 1


def test_load_with_a_missing_recording_names_it(tabled: Path) -> None:
    for name in NAMES[:5]:
        (tabled / f"{name}.flac").unlink()
    with pytest.raises(TrainingError, match=r"5 files, such as 03a01Fa.flac, 03a01Wa.flac, 08b10Nc.flac\. EmoDB is"):
        load("emodb", tabled)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("\tboredom", "\tbored", "line 6: .*'bored'; each row needs a file, a speaker and one of anger, "),
        ("03a01Wa.flac\t03", "03a01Wa.flac\t", "line 3: .*speaker ''"),
        ("file\tspeaker", "path\tspeaker", "lacks the columns file; it needs file, speaker, sentence, emotion"),
    ],
)
def test_load_with_a_wrong_table_is_rejected(tabled: Path, before: str, after: str, message: str) -> None:
    table = tabled / "labels.tsv"
    assert before in table.read_text()
    table.write_text(table.read_text().replace(before, after))
    with pytest.raises(TrainingError, match=message):
        load("emodb", tabled)
