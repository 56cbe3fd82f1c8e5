"""Test the parts of each kind of split."""

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from emotion.labels import EMOTIONS
from training import splits
from training.corpora import Corpus, Utterance
from training.errors import TrainingError
from training.splits import Split


def corpus_of(speakers: int, each: int = 10, sessions: bool = True, name: str = "mine") -> Corpus:
    """Return a corpus of speakers s00, s01, ... with `each` utterances; two speakers make a session."""
    rows = [
        Utterance(
            f"{speaker}-{number}",
            None,
            "Well.",
            EMOTIONS[number % 5],
            speaker=f"s{speaker:02}",
            session=f"Session{speaker // 2 + 1}" if sessions else None,
        )
        for speaker in range(speakers)
        for number in range(each)
    ]
    return Corpus(name, tuple(rows), {})


def random_corpus(seed: int) -> Corpus:
    """Return a random corpus with uneven speakers, sessions and emotions."""
    chance = random.Random(seed)
    rows = []
    for session in range(chance.randint(3, 6)):
        for speaker in range(chance.randint(1, 3)):
            for number in range(chance.randint(4, 12)):
                name = f"{session}.{speaker}"
                rows.append(
                    Utterance(
                        f"{name}.{number}",
                        None,
                        "Well.",
                        chance.choices(EMOTIONS, (5, 3, 2, 2, 1))[0],
                        speaker=name,
                        session=f"Session{session}",
                    )
                )
    chance.shuffle(rows)
    return Corpus("made up", tuple(rows), {})


def parts(split: Split) -> tuple[tuple[str, ...], ...]:
    return split.train, split.validation, split.test


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("kind", ["session", "speaker", "grouped speakers", "random"])
def test_make_gives_disjoint_and_complete_parts(kind: str, seed: int) -> None:
    corpus = random_corpus(seed)
    speaker = {row.id: row.speaker for row in corpus.utterances}
    speakers = len(set(speaker.values()))
    if kind == "grouped speakers":
        folds = splits.make(corpus, "speaker", folds=random.Random(seed).randint(3, speakers))
    else:
        folds = splits.make(corpus, kind, folds=3 if kind == "random" else None, seed=seed)
    for fold in folds:
        assert all(parts(fold))
        assert sorted(sum(parts(fold), ())) == sorted(speaker)  # disjoint and complete
        voices = [{speaker[name] for name in part} for part in parts(fold)]
        if kind == "random":
            assert fold.shares_speakers == bool(voices[2] & (voices[0] | voices[1]))
        else:
            assert sum(map(len, voices)) == speakers
            assert not fold.shares_speakers
    assert Counter(name for fold in folds for name in fold.test) == Counter(list(speaker))  # tested once each
    assert len({fold.name for fold in folds}) == len(folds)


def test_make_session_tests_each_session_once() -> None:
    folds = splits.make(corpus_of(6), "session")
    assert [fold.name for fold in folds] == ["session-1", "session-2", "session-3"]
    last = folds[-1]
    assert [sorted({name[0] for name in part}) for part in parts(last)] == [["2", "3"], ["0", "1"], ["4", "5"]]


def test_make_speaker_tests_each_speaker_once() -> None:
    corpus = corpus_of(10, sessions=False)
    alone = splits.make(corpus, "speaker")
    assert [fold.name for fold in alone] == [f"speaker s{number:02}" for number in range(10)]
    pairs = splits.make(corpus, "speaker", folds=5)
    assert [fold.name for fold in pairs[:2]] == ["speakers s00+s01", "speakers s02+s03"]
    assert [{name[0] for name in fold.validation} for fold in pairs] == [{"2"}, {"4"}, {"6"}, {"8"}, {"0"}]
    assert {name[0] for name in pairs[0].train} == set("3456789")


def test_make_random_is_stratified_and_seeded() -> None:
    corpus = corpus_of(10)
    emotion = {row.id: row.emotion for row in corpus.utterances}
    folds = splits.make(corpus, "random")
    assert len(folds) == 5
    for fold in folds:
        assert [len(part) for part in parts(fold)] == [72, 8, 20]
        assert Counter(emotion[name] for name in fold.test) == dict.fromkeys(EMOTIONS, 4)
        assert {emotion[name] for name in fold.validation} == set(EMOTIONS)
        assert fold.shares_speakers
    assert splits.make(corpus, "random") == folds
    assert splits.make(corpus, "random", seed=1) != folds


def test_make_random_with_a_rare_emotion_keeps_it() -> None:
    corpus = corpus_of(4)
    rows = tuple(replace(row, emotion="neutral" if number else "anger") for number, row in enumerate(corpus.utterances))
    folds = splits.make(replace(corpus, utterances=rows), "random", folds=4)
    assert sum("0-0" in fold.test for fold in folds) == 1


def published(*names: str) -> Corpus:
    corpus = corpus_of(6, each=20)
    rows = (replace(row, split=names[int(str(row.speaker)[1:]) % len(names)]) for row in corpus.utterances)
    return replace(corpus, utterances=tuple(rows))


def test_make_published_uses_the_corpus_split() -> None:
    corpus = published("train", "validation", "test")
    (split,) = splits.make(corpus, "published")
    for name in ("train", "validation", "test"):
        assert getattr(split, name) == tuple(row.id for row in corpus.utterances if row.split == name)
    assert (split.name, split.shares_speakers) == ("published", False)


def test_make_published_without_validation_draws_it() -> None:
    corpus = published("train", "train", "test")
    (split,) = splits.make(corpus, "published")
    assert split.test == tuple(row.id for row in corpus.utterances if row.split == "test")
    assert (len(split.train), len(split.validation)) == (72, 8)
    assert not split.shares_speakers  # no test speaker is in training
    assert splits.make(corpus, "published") == [split]
    assert splits.make(corpus, "published", seed=1) != [split]


def test_make_published_with_shared_speakers_reports_them() -> None:
    corpus = published("train", "test", "train")
    rows = tuple(replace(row, speaker="Joey") for row in corpus.utterances)
    (split,) = splits.make(replace(corpus, utterances=rows), "published")
    assert split.shares_speakers


@pytest.mark.parametrize("part", ["train", "test"])
def test_make_with_unknown_speakers_reports_shared_speakers(part: str) -> None:
    corpus = published("train", "validation", "test")
    rows = tuple(replace(row, speaker=None if row.split == part else row.speaker) for row in corpus.utterances)
    (split,) = splits.make(replace(corpus, utterances=rows), "published")
    assert split.shares_speakers
    assert "split published tests on speakers that also occur in training" in str(splits.warning(split))
    assert splits.warning(replace(split, shares_speakers=False)) is None


def test_make_session_with_shared_speakers_reports_them() -> None:
    corpus = corpus_of(6)
    rows = tuple(replace(row, speaker="s00") for row in corpus.utterances)
    assert all(fold.shares_speakers for fold in splits.make(replace(corpus, utterances=rows), "session"))


@pytest.mark.parametrize(
    ("corpus", "kind", "folds", "message"),
    [
        (corpus_of(6), "leave-one-out", None, "no split is called 'leave-one-out'; there are session, speaker, random"),
        (corpus_of(10, sessions=False, name="emodb"), "session", None, "emodb can't .* It can have: speaker, random"),
        (corpus_of(2), "speaker", None, "three speakers or more.* It can have: random"),
        (corpus_of(4), "session", None, "three sessions or more"),
        (corpus_of(4), "published", None, "needs a published split for each utterance"),
        (corpus_of(3), "speaker", 2, "2 folds of 3 speakers leave no speaker to train on.* ask for 3 folds"),
        (corpus_of(4), "speaker", 5, "4 speakers; ask for at most as many folds, not 5"),
        (corpus_of(4), "speaker", 1, "1 folds leave nothing to test against"),
        (corpus_of(6), "session", 3, "the corpus's own; leave it out"),
        (corpus_of(3, each=5), "random", 4, "15 utterances, 3 of the most frequent emotion, are too few for 4 parts"),
        (corpus_of(1, each=1), "random", 2, "too few"),
    ],
)
def test_make_of_an_unavailable_split_is_rejected(corpus: Corpus, kind: str, folds: int | None, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        splits.make(corpus, kind, folds)


def test_missing_classes_lists_absent_emotions() -> None:
    corpus = corpus_of(3)
    whole, *_ = splits.make(corpus, "speaker")
    assert splits.missing_classes(corpus, whole) == {}
    rows = tuple(row for row in corpus.utterances if row.speaker == "s02" or row.emotion != "frustration")
    lacking = replace(corpus, utterances=rows)
    first, second, third = splits.make(lacking, "speaker")
    assert splits.missing_classes(lacking, first) == {"test": ["frustration"]}
    assert splits.missing_classes(lacking, second) == {"train": ["frustration"], "test": ["frustration"]}
    assert splits.missing_classes(lacking, third) == {"train": ["frustration"]}


def test_split_with_overlapping_parts_is_rejected() -> None:
    with pytest.raises(TrainingError, match="split mine has utterance a 2 times"):
        Split("mine", ("a", "b"), ("c",), ("a",), False)


def test_load_returns_the_saved_split(tmp_path: Path) -> None:
    split = splits.make(corpus_of(6), "random")[0]
    splits.save(split, tmp_path / "run" / "split.json")
    assert splits.load(tmp_path / "run" / "split.json") == split


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"name": "x", "train": 3}'])
def test_load_of_a_damaged_split_is_rejected(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "split.json").write_bytes(content)
    with pytest.raises(TrainingError, match="not a saved split, or is damaged"):
        splits.load(tmp_path / "split.json")


def test_load_of_a_missing_split_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="can't be read: No such file"):
        splits.load(tmp_path / "split.json")


@pytest.mark.parametrize("kind", ["session", "speaker"])
def test_others_exclude_held_out_speakers_and_sessions(kind: str) -> None:
    corpus = corpus_of(6)
    rows = [replace(row, id=f"other-{row.id}", emotion="", labels=("surprise",)) for row in corpus.utterances]
    corpus = replace(corpus, others=tuple(rows))
    for fold in splits.make(corpus, kind):
        train = {f"other-{name}" for name in fold.train}
        assert set(splits.others(corpus, fold, kind)) == train


def test_others_of_a_published_split_are_its_training_part() -> None:
    parts_of_rows = ["train", "train", "validation", "test"] * 10
    rows = [replace(row, split=part) for row, part in zip(corpus_of(4).utterances, parts_of_rows, strict=True)]
    others = tuple(replace(row, id=f"other-{row.id}", emotion="", labels=("surprise",)) for row in rows)
    corpus = Corpus("mine", tuple(rows), {}, others)
    (fold,) = splits.make(corpus, "published")
    assert set(splits.others(corpus, fold, "published")) == {row.id for row in others if row.split == "train"}


def test_others_of_a_random_split_are_all() -> None:
    corpus = corpus_of(4)
    others = tuple(replace(row, id=f"other-{row.id}", emotion="") for row in corpus.utterances)
    corpus = replace(corpus, others=others)
    fold = splits.make(corpus, "random")[0]
    assert splits.others(corpus, fold, "random") == tuple(row.id for row in others)
