"""Test the reader of MELD's tables and clips."""

from pathlib import Path

import pytest

from training.corpora import load
from training.errors import TrainingError

HEADER = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime\n"
EMOTIONS = ["neutral", "joy", "anger", "sadness", "surprise", "fear", "disgust"]
TABLES = {"train": "train_sent_emo.csv", "dev": "dev_sent_emo.csv", "test": "test_sent_emo.csv"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "MELD.Raw"
    for folder, table in TABLES.items():
        (root / folder).mkdir(parents=True)
        rows = [
            f'{number},"It\x92s ""me"", {emotion}",Joey,{emotion},neutral,0,{number},8,21,"0:16:16,059","0:16:21,731"\n'
            for number, emotion in enumerate(EMOTIONS)
        ]
        (root / table).write_text(HEADER + "".join(rows), encoding="utf-8", newline="")
        for number in range(len(EMOTIONS)):
            (root / folder / f"dia0_utt{number}.wav").touch()
        (root / folder / "._dia0_utt0.wav").touch()
    return root


def test_load_reads_published_rows(root: Path) -> None:
    corpus = load("meld", root.parent)
    assert [(row.id, row.emotion, row.dialogue, row.split) for row in corpus.utterances] == [
        (f"{split}_dia0_utt{number}", emotion, f"{split}_dia0", split)
        for split in ("train", "validation", "test")
        for number, emotion in enumerate(["neutral", "excitement", "anger", "sadness"])
    ]
    first = corpus.utterances[0]
    assert (first.text, first.speaker, first.audio) == ('It\u2019s "me", neutral', "Joey", root / "train/dia0_utt0.wav")
    assert corpus.dropped == {f"{name} is not among the five emotions": 3 for name in EMOTIONS[4:]}
    assert load("meld", root, happiness_policy="drop").dropped["happiness is left out (--happiness-policy drop)"] == 3


def test_load_accepts_the_names_of_the_video_folders(root: Path) -> None:
    for folder, name in (
        ("train", "train_splits"),
        ("dev", "dev_splits_complete"),
        ("test", "output_repeated_splits_test"),
    ):
        (root / folder).rename(root / name)
    (root / "train").mkdir()  # as the training archive unpacks
    (root / "train_splits").rename(root / "train" / "train_splits")
    (root / "train_sent_emo.csv").rename(root / "train" / "train_sent_emo.csv")
    (root / "dev_splits_complete/dia0_utt2.wav").rename(root / "dev_splits_complete/dia0_utt2.flac")
    corpus = load("meld", root)
    assert len(corpus.utterances) == 12
    assert all(row.audio is not None and row.audio.is_file() for row in corpus.utterances)


def test_load_counts_missing_clips(root: Path) -> None:
    (root / "train/dia0_utt0.wav").unlink()
    (root / "test/dia0_utt2.wav").rename(root / "test/dia0_utt2.mp4")
    corpus = load("meld", root)
    assert len(corpus.utterances) == 10
    assert corpus.dropped["its clip is missing from the release"] == 1
    assert corpus.dropped["its clip is there as a video alone, without extracted sound"] == 1


def test_load_with_videos_alone_names_the_command(root: Path) -> None:
    for path in (root / "dev").glob("dia*.wav"):
        path.rename(path.with_suffix(".mp4"))
    with pytest.raises(TrainingError, match=r"dev holds 7 videos and no audio; extract their sound: .*ffmpeg .*16000"):
        load("meld", root)


def test_load_with_missing_parts_names_them(root: Path) -> None:
    (root / "test").rename(root / "elsewhere")
    with pytest.raises(TrainingError, match=r"no clips in test or output_repeated_splits_test; .*affective-meld"):
        load("meld", root)
    (root / "dev_sent_emo.csv").unlink()
    with pytest.raises(TrainingError, match=r"lacks dev_sent_emo.csv; .*affective-meld"):
        load("meld", root)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (",anger,", ",rage,", "line 4: Emotion 'rage'"),
        ("neutral,0,2,", "neutral,zero,2,", "line 4: .*Dialogue_ID 'zero'"),
        (",Speaker,", ",Who,", "lacks the columns Speaker"),
    ],
)
def test_load_with_a_wrong_table_is_rejected(root: Path, before: str, after: str, message: str) -> None:
    table = root / "test_sent_emo.csv"
    text = table.read_text(encoding="utf-8")
    assert before in text
    table.write_text(text.replace(before, after), encoding="utf-8")
    with pytest.raises(TrainingError, match=message):
        load("meld", root)
