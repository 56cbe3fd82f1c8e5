"""Read GoEmotions: Reddit comments in English with 28 labels; text alone, with published splits.

A row is kept if all its labels map to the same one of the five emotions. The other rows keep their published labels,
which can train an auxiliary head.
"""

from pathlib import Path

from training.corpora.release import Release, read_text
from training.corpora.table import HAPPINESS_DROPPED, Collector, Corpus, Utterance
from training.errors import TrainingError

PUBLISHER = "https://github.com/google-research/google-research/tree/master/goemotions"
FILES = {"train": "train.tsv", "validation": "dev.tsv", "test": "test.tsv"}
NAMES = ("emotions.txt", "labels.txt")  # the publisher's file name, and another common one
EMOTION = {
    "neutral": "neutral",
    "annoyance": "frustration",
    "disappointment": "frustration",
    "disapproval": "frustration",
    "anger": "anger",
    "sadness": "sadness",
    "grief": "sadness",
    "excitement": "excitement",
    "joy": "excitement",
}
HAPPINESS = "joy"


def find(root: Path) -> Release:
    """Find the files of the release.

    Raises:
        TrainingError: a file is missing.
    """
    names = next((root / name for name in NAMES if (root / name).is_file()), root / NAMES[0])
    expected = (names, *(root / name for name in FILES.values()))
    missing = [path.name for path in expected if not path.is_file()]
    if missing:
        raise TrainingError(
            f"GoEmotions in {root} lacks {', '.join(missing)}; expected there are {', '.join(FILES.values())} and "
            f"{' or '.join(NAMES)}, the contents of the folder data at {PUBLISHER}"
        )
    return Release(root, expected, frozenset())


def read(release: Release, happiness_policy: str) -> Corpus:
    """Read the three tables.

    Raises:
        TrainingError: a row or the file of names is not as published.
    """
    names_file, *tables = release.annotations
    labels = [line.strip() for line in read_text(names_file).split("\n") if line.strip()]
    unknown = [label for label in EMOTION if label not in labels]
    if unknown:
        raise TrainingError(f"{names_file} lacks the labels {', '.join(unknown)}; download it again from {PUBLISHER}")
    table = Collector("goemotions")
    for split, path in zip(FILES, tables, strict=True):
        # not with csv: quotation marks are ordinary characters, and only LF ends a row
        for number, line in enumerate(read_text(path).split("\n"), start=1):
            if not line:
                continue
            try:
                text, ids, comment = line.split("\t")
                row = tuple(labels[int(index)] for index in ids.split(","))
            except (ValueError, IndexError):
                raise TrainingError(
                    f"{path}, line {number}: expected are text, label ids from 0 to {len(labels) - 1} joined by "
                    f"commas, and comment id, separated by tabs; download the file again from {PUBLISHER}"
                ) from None
            emotion = EMOTION.get(row[0], "")
            utterance = Utterance(comment.strip(), None, text, emotion, split=split, labels=row)
            reason = _reason_to_drop(set(row), happiness_policy)
            if reason:
                table.drop(reason, utterance)
            else:
                table.keep(utterance)
    return table.corpus()


def _reason_to_drop(row: set[str], happiness_policy: str) -> str | None:
    if len({EMOTION.get(label, label) for label in row}) > 1:
        return "its labels stand for more than one emotion"
    label = next(iter(row))
    if label not in EMOTION:
        return f"{label} is not among the five emotions"
    return HAPPINESS_DROPPED if HAPPINESS in row and happiness_policy == "drop" else None
