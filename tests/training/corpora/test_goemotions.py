"""Test the reader of GoEmotions."""

from pathlib import Path

import pytest

from training.corpora import load
from training.errors import TrainingError

LABELS = [
    *("admiration", "anger", "annoyance", "joy", "excitement", "sadness"),
    *("grief", "disappointment", "disapproval", "neutral", "surprise"),
]
ROWS = [  # text, labels, outcome: an emotion or the reason for dropping it
    ('He said "well.', "neutral", "neutral"),
    ("Oh no", "sadness grief", "sadness"),
    ("Yay\u2028!", "joy excitement", "excitement"),
    ("Hm", "disappointment disapproval annoyance", "frustration"),
    ("Grr", "anger", "anger"),
    ("Wow", "surprise", "surprise is not among the five emotions"),
    ("Nice", "joy admiration", "its labels stand for more than one emotion"),
    ("Meh", "anger annoyance", "its labels stand for more than one emotion"),
    ("%", "neutral", "no audio, and no text after cleaning"),
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "emotions.txt").write_text("\n".join(LABELS))
    for split in ("train", "dev", "test"):
        lines = [
            f"{text}\t{','.join(str(LABELS.index(label)) for label in labels.split())}\t{split}{number}\n"
            for number, (text, labels, _) in enumerate(ROWS)
        ]
        (tmp_path / f"{split}.tsv").write_text("".join(lines), encoding="utf-8")
    return tmp_path


def test_load_reads_published_rows(root: Path) -> None:
    corpus = load("goemotions", root)
    kept = [(row.text, row.emotion, row.split) for row in corpus.utterances]
    expected = [(text, outcome) for text, _, outcome in ROWS[:5]]
    assert kept == [(*row, split) for split in ("train", "validation", "test") for row in expected]
    assert [row.id for row in corpus.utterances[:5]] == [f"train{number}" for number in range(5)]
    reasons = [outcome for _, _, outcome in ROWS[5:]]
    assert corpus.dropped == {reason: 3 * reasons.count(reason) for reason in reasons}
    assert [row.labels for row in corpus.utterances[:2]] == [("neutral",), ("sadness", "grief")]
    assert [(row.text, row.emotion, row.labels, row.split) for row in corpus.others[:3]] == [
        ("Wow", "", ("surprise",), "train"),
        ("Nice", "", ("joy", "admiration"), "train"),
        ("Meh", "", ("anger", "annoyance"), "train"),
    ]


def test_load_with_happiness_dropped_counts_joy(root: Path) -> None:
    corpus = load("goemotions", root, happiness_policy="drop")
    assert "excitement" not in {row.emotion for row in corpus.utterances}
    assert corpus.dropped["happiness is left out (--happiness-policy drop)"] == 3
    assert ("Yay\u2028!", "") in {(row.text, row.emotion) for row in corpus.others}


def test_load_with_missing_files_names_them(root: Path) -> None:
    (root / "emotions.txt").rename(root / "labels.txt")  # the file's other common name
    assert load("goemotions", root)
    (root / "labels.txt").unlink()
    (root / "dev.tsv").unlink()
    with pytest.raises(TrainingError, match=r"lacks emotions.txt, dev.tsv; .*https://github.com/google-research"):
        load("goemotions", root)


@pytest.mark.parametrize("line", ["text\t1", "text\t99\tid", "text\tanger\tid", "a\tb\t1\tid"])
def test_load_with_a_malformed_row_names_its_line(root: Path, line: str) -> None:
    with (root / "dev.tsv").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(TrainingError, match=rf"dev.tsv, line {len(ROWS) + 1}: expected are text, label ids"):
        load("goemotions", root)


def test_load_with_another_file_of_labels_is_rejected(root: Path) -> None:
    (root / "emotions.txt").write_text("anger\nneutral\n")
    with pytest.raises(TrainingError, match=r"emotions.txt lacks the labels annoyance, "):
        load("goemotions", root)
