"""Define the table that each corpus is read into: utterances, and the number dropped for each reason."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from emotion.labels import EMOTIONS
from emotion.text import clean
from training.errors import TrainingError

HAPPINESS_POLICIES = ("merge", "drop")  # happiness counts as excitement, or is left out
STYLES = ("improvised", "scripted")
SPLITS = ("train", "validation", "test")
HAPPINESS_DROPPED = "happiness is left out (--happiness-policy drop)"
NOTHING_TO_READ = "no audio, and no text after cleaning"


@dataclass(frozen=True)
class Utterance:
    """One row of the table."""

    id: str  # unique in its corpus
    audio: Path | None
    text: str | None  # as published, not cleaned
    emotion: str  # one of EMOTIONS; "" in Corpus.others
    speaker: str | None = None
    session: str | None = None
    dialogue: str | None = None
    style: str | None = None  # one of STYLES
    split: str | None = None  # the corpus's published split, one of SPLITS
    group: str | None = None  # of the speaker, such as "female", for metrics by group
    labels: tuple[str, ...] = ()  # as published, such as GoEmotions' 28; empty if the reader does not keep them


@dataclass(frozen=True)
class Corpus:
    """Utterances of the five emotions, checked on construction.

    Raises:
        TrainingError: there is no utterance, an id occurs twice, a field has a value that is not accepted, or an
            utterance has neither audio nor text.
    """

    name: str
    utterances: tuple[Utterance, ...]
    dropped: Mapping[str, int]  # reason -> number of utterances dropped for it
    others: tuple[Utterance, ...] = ()  # dropped utterances whose labels can train an auxiliary head

    def __post_init__(self) -> None:
        if not self.utterances:
            reasons = "".join(f"; {count} dropped: {reason}" for reason, count in self.dropped.items())
            raise TrainingError(f"{self.name} has no utterance of the five emotions{reasons}")
        name, count = Counter(utterance.id for utterance in (*self.utterances, *self.others)).most_common(1)[0]
        if count > 1:
            raise TrainingError(f"{self.name} has {count} utterances with the id {name}; every id must be unique")
        for utterance in self.utterances:
            place = f"{self.name}, utterance {utterance.id}"
            if utterance.emotion not in EMOTIONS:
                raise TrainingError(f"{place}: emotion {utterance.emotion!r}; accepted are {', '.join(EMOTIONS)}")
            if utterance.audio is None and utterance.text is None:
                raise TrainingError(f"{place} has neither audio nor text; drop it or give it one")
            if utterance.style not in (None, *STYLES):
                raise TrainingError(f"{place}: style {utterance.style!r}; accepted are {', '.join(STYLES)}, or none")
            if utterance.split not in (None, *SPLITS):
                raise TrainingError(f"{place}: split {utterance.split!r}; accepted are {', '.join(SPLITS)}, or none")


class Collector:
    """Builder of a corpus that counts dropped utterances by reason."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._utterances: list[Utterance] = []
        self._others: list[Utterance] = []
        self._dropped: Counter[str] = Counter()

    def drop(self, reason: str, other: Utterance | None = None) -> None:
        """Count one utterance as dropped.

        Args:
            reason: shown to the user.
            other: the utterance, if its labels can train an auxiliary head.
        """
        self._dropped[reason] += 1
        if other is not None and (other.audio is not None or clean(other.text or "")):
            self._others.append(replace(other, emotion=""))

    def keep(self, utterance: Utterance) -> None:
        """Add an utterance. A text that is empty after cleaning counts as absent; without audio it is dropped."""
        if utterance.text is not None and not clean(utterance.text):
            utterance = replace(utterance, text=None)
        if utterance.audio is None and utterance.text is None:
            self.drop(NOTHING_TO_READ)
        else:
            self._utterances.append(utterance)

    def corpus(self) -> Corpus:
        """Return the corpus, with the most frequent reasons first."""
        dropped = dict(self._dropped.most_common())
        return Corpus(self._name, tuple(self._utterances), dropped, tuple(self._others))


def account(corpus: Corpus) -> str:
    """Return a text with the utterances kept by emotion and modality, and those dropped by reason."""
    total = len(corpus.utterances)
    both = sum(utterance.audio is not None and utterance.text is not None for utterance in corpus.utterances)
    audio_alone = sum(utterance.text is None for utterance in corpus.utterances)
    emotions = Counter(utterance.emotion for utterance in corpus.utterances)
    lines = [
        f"{corpus.name}: {total} utterances kept "
        f"(audio and text {both}, audio alone {audio_alone}, text alone {total - both - audio_alone})"
    ]
    lines += [f"{emotions[emotion]:>8}  {emotion} ({emotions[emotion] / total:.1%})" for emotion in EMOTIONS]
    lines.append(f"{sum(corpus.dropped.values())} dropped")
    lines += [f"{count:>8}  {reason}" for reason, count in corpus.dropped.items()]
    return "\n".join(lines)
