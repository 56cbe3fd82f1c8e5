"""Split a corpus into training, validation and test utterances.

| kind | folds |
| --- | --- |
| session | one for each session; the next session validates, the first one for the last fold |
| speaker | one for each speaker or group of speakers; the first speaker of the next fold validates |
| random | stratified by emotion; parts share speakers, as in many published results |
| published | one, the corpus's own split |
"""

import json
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from sklearn.model_selection import StratifiedKFold

from emotion.labels import EMOTIONS
from training.corpora.table import Corpus, Utterance
from training.errors import TrainingError
from training.files import write_atomically

KINDS = ("session", "speaker", "random", "published")
RANDOM_FOLDS = 5
VALIDATION_FOLDS = 10  # one of them validates: 10 % of what is not tested


@dataclass(frozen=True)
class Split:
    """Utterance ids of the three parts of a fold, in the corpus's order.

    Raises:
        TrainingError: an utterance is in two parts.
    """

    name: str  # "session-1", "speakers 03+08", "random-1", "published"
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    shares_speakers: bool  # a test speaker also trains or validates, or a speaker is unknown

    def __post_init__(self) -> None:
        name, count = Counter((*self.train, *self.validation, *self.test)).most_common(1)[0]
        if count > 1:
            raise TrainingError(f"split {self.name} has utterance {name} {count} times; parts must not overlap")


def make(corpus: Corpus, kind: str, folds: int | None = None, seed: int = 0) -> list[Split]:
    """Return the folds of a split; equal arguments give equal folds.

    Args:
        corpus: speakers, sessions and published splits of its utterances determine which kinds are possible.
        kind: one of KINDS.
        folds: number of speaker groups (default: one for each speaker) or of random parts (default: RANDOM_FOLDS).
        seed: of random folds, and of validation utterances that no session or speaker defines.

    Raises:
        TrainingError: the corpus can't be split in this way; the message lists the possible kinds.
    """
    if kind not in KINDS:
        raise TrainingError(f"no split is called {kind!r}; there are {', '.join(KINDS)}")
    if kind not in kinds(corpus):
        raise TrainingError(
            f"{corpus.name} can't have a {kind} split: it needs {_NEEDS[kind]}. It can have: {', '.join(kinds(corpus))}"
        )
    if folds is not None and kind in ("session", "published"):
        raise TrainingError(f"the number of folds of a {kind} split is the corpus's own; leave it out")
    if folds is not None and folds < 2:
        raise TrainingError(f"{folds} folds leave nothing to test against; ask for 2 or more")
    match kind:
        case "session":
            return _by_session(corpus)
        case "speaker":
            return _by_speaker(corpus, folds)
        case "random":
            return _at_random(corpus, folds or RANDOM_FOLDS, seed)
        case _:
            return [_as_published(corpus, seed)]


_NEEDS = {
    "session": "a session for each utterance, and three sessions or more: to train, to validate, to test",
    "speaker": "a speaker for each utterance, and three speakers or more: to train, to validate, to test",
    "published": "a published split for each utterance, train and test among them",
}


def kinds(corpus: Corpus) -> tuple[str, ...]:
    """Return the kinds of split that are possible for a corpus, a subset of KINDS."""
    sessions = {utterance.session for utterance in corpus.utterances}
    speakers = {utterance.speaker for utterance in corpus.utterances}
    published = {utterance.split for utterance in corpus.utterances}
    possible = {
        "session": None not in sessions and len(sessions) >= 3,
        "speaker": None not in speakers and len(speakers) >= 3,
        "random": True,
        "published": None not in published and {"train", "test"} <= published,
    }
    return tuple(kind for kind in KINDS if possible[kind])


def others(corpus: Corpus, split: Split, kind: str) -> tuple[str, ...]:
    """Return the ids of the corpus's other utterances that may train an auxiliary head in a fold.

    For the kinds "speaker", "session" and "published", none of them belongs to a speaker, session or part that
    validates or tests. For "random", all of them are returned.

    Args:
        corpus: its `others` have labels beyond the five emotions.
        split: one of the folds that `make` returned for `kind`.
        kind: one of KINDS.
    """
    held_out = {*split.validation, *split.test}
    rows = [row for row in corpus.utterances if row.id in held_out]
    speakers, sessions = {row.speaker for row in rows}, {row.session for row in rows}

    def may_train(row: Utterance) -> bool:
        match kind:
            case "published":
                return row.split == "train"
            case "speaker":
                return row.speaker not in speakers
            case "session":
                return row.session not in sessions
            case _:
                return True

    return tuple(row.id for row in corpus.others if may_train(row))


def warning(split: Split) -> str | None:
    """Return a warning that test speakers may occur in training, or None."""
    if not split.shares_speakers:
        return None
    return (
        f"split {split.name} tests on speakers that also occur in training, or that are unknown: "
        "its metrics may be better than those for new speakers"
    )


def missing_classes(corpus: Corpus, split: Split) -> dict[str, list[str]]:
    """Return the emotions without an example by part, for the parts "train" and "test" that lack any."""
    emotion = {utterance.id: utterance.emotion for utterance in corpus.utterances}
    missing = {}
    for part, ids in (("train", split.train), ("test", split.test)):
        present = {emotion[name] for name in ids}
        missing[part] = [name for name in EMOTIONS if name not in present]
    return {part: names for part, names in missing.items() if names}


def save(split: Split, path: Path) -> None:
    """Write a split as JSON atomically.

    Raises:
        TrainingError: the file can't be written.
    """
    write_atomically(path, json.dumps(asdict(split), indent=1, ensure_ascii=False) + "\n")


def load(path: Path) -> Split:
    """Read a split that `save` wrote.

    Raises:
        TrainingError: the file is missing or damaged.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        parts = {part: tuple(map(str, fields[part])) for part in ("train", "validation", "test")}
        return Split(name=str(fields["name"]), shares_speakers=bool(fields["shares_speakers"]), **parts)
    except OSError as error:
        raise TrainingError(f"the split {path} can't be read: {error.strerror}") from None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        raise TrainingError(f"{path} is not a saved split, or is damaged; train the fold again") from None


def _by_session(corpus: Corpus) -> list[Split]:
    sessions = sorted({str(utterance.session) for utterance in corpus.utterances})
    folds = []
    for session, validating in zip(sessions, (*sessions[1:], sessions[0]), strict=True):
        test = {utterance.id for utterance in corpus.utterances if utterance.session == session}
        validation = {utterance.id for utterance in corpus.utterances if utterance.session == validating}
        folds.append(_split(corpus, f"session-{session.removeprefix('Session')}", validation, test))
    return folds


def _by_speaker(corpus: Corpus, folds: int | None) -> list[Split]:
    speakers = sorted({str(utterance.speaker) for utterance in corpus.utterances})
    folds = folds or len(speakers)
    if folds > len(speakers):
        raise TrainingError(f"{corpus.name} has {len(speakers)} speakers; ask for at most as many folds, not {folds}")
    groups = [list(map(str, group)) for group in np.array_split(speakers, folds)]
    if len(groups[0]) + 1 == len(speakers):  # the first group is a largest one
        raise TrainingError(
            f"{folds} folds of {len(speakers)} speakers leave no speaker to train on: the largest group tests, the "
            f"last speaker validates; ask for {len(speakers)} folds"
        )
    splits = []
    for group, following in zip(groups, (*groups[1:], groups[0]), strict=True):
        test = {utterance.id for utterance in corpus.utterances if utterance.speaker in group}
        validation = {utterance.id for utterance in corpus.utterances if utterance.speaker == following[0]}
        splits.append(_split(corpus, f"speaker{'s' if len(group) > 1 else ''} {'+'.join(group)}", validation, test))
    return splits


def _at_random(corpus: Corpus, folds: int, seed: int) -> list[Split]:
    parts = _stratified(corpus.utterances, folds, seed)
    splits = []
    for number, test in enumerate(parts, start=1):
        rest = [utterance for utterance in corpus.utterances if utterance.id not in test]
        splits.append(_split(corpus, f"random-{number}", _tenth(rest, seed), test))
    return splits


def _as_published(corpus: Corpus, seed: int) -> Split:
    ids = {part: {row.id for row in corpus.utterances if row.split == part} for part in ("validation", "test")}
    if not ids["validation"]:
        ids["validation"] = _tenth([row for row in corpus.utterances if row.split == "train"], seed)
    return _split(corpus, "published", ids["validation"], ids["test"])


def _tenth(utterances: Sequence[Utterance], seed: int) -> set[str]:
    """Return the ids of a stratified 10 % of the utterances."""
    most = max(Counter(utterance.emotion for utterance in utterances).values())
    return _stratified(utterances, min(VALIDATION_FOLDS, most), seed)[0]


def _stratified(utterances: Sequence[Utterance], folds: int, seed: int) -> list[set[str]]:
    """Return the ids of each of `folds` parts with equal shares of the emotions.

    Raises:
        TrainingError: there are too few utterances.
    """
    emotions = [utterance.emotion for utterance in utterances]
    most = max(Counter(emotions).values())
    if folds < 2 or most < folds:
        raise TrainingError(
            f"{len(utterances)} utterances, {most} of the most frequent emotion, are too few for {max(folds, 2)} "
            "parts; add utterances, or ask for fewer parts with --folds"
        )
    drawing = StratifiedKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # missing_classes reports emotions with fewer examples than folds
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        parts = list(drawing.split(emotions, emotions))
    return [{utterances[index].id for index in indices} for _, indices in parts]


def _split(corpus: Corpus, name: str, validation: set[str], test: set[str]) -> Split:
    """Return a split in which the rest of the corpus trains."""
    rows = corpus.utterances
    tested = {row.speaker for row in rows if row.id in test}
    trained = {row.speaker for row in rows if row.id not in test}
    return Split(
        name,
        train=tuple(row.id for row in rows if row.id not in validation and row.id not in test),
        validation=tuple(row.id for row in rows if row.id in validation),
        test=tuple(row.id for row in rows if row.id in test),
        shares_speakers=None in tested | trained or bool(tested & trained),
    )
