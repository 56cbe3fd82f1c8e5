"""What goes in and what comes back."""

from dataclasses import dataclass
from os import PathLike
from typing import Any, Literal, TypeAlias

from numpy.typing import NDArray

# The order of the served probabilities: part of the server's contract
EMOTIONS: tuple[str, ...] = ("neutral", "frustration", "anger", "sadness", "excitement")

Audio: TypeAlias = bytes | bytearray | memoryview | str | PathLike[str] | NDArray[Any]
Priority: TypeAlias = Literal["interactive", "bulk"]
Status: TypeAlias = Literal["ok", "unsure", "no_speech"]


@dataclass(frozen=True, slots=True)
class Utterance:
    """One thing that somebody said; at least one of `audio` and `text` is needed.

    Attributes:
        audio: a whole WAV, FLAC, MP3, Ogg, M4A or WebM file as bytes; or the path of one; or a waveform, [n] or
            [n, channels], floating point in [-1, 1], int16 or int32.
        text: its transcript; None or "" where there is none.
        rate: sample rate in Hz; needed for a waveform, and only there.
        transcribe: whether the server is to recognise the text, for which it must run with speech recognition.
    """

    audio: Audio | None = None
    text: str | None = None
    rate: int | None = None
    transcribe: bool = False


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time of one call went, in milliseconds.

    Attributes:
        prepare: reading and encoding the audio.
        request: from sending to the parsed answer, retries included.
    """

    prepare: float
    request: float


@dataclass(frozen=True, slots=True)
class TranscriptConfidence:
    """How sure the server's speech recognition is of a transcript.

    Attributes:
        understood: whether the transcript was judged. Where it was not, the answer rests on the voice alone.
        log_probability: mean natural logarithm of the probabilities of the transcript's tokens; 0.0 without words.
        no_speech_probability: that nobody speaks; 1.0 without words.
        language: a code such as "en", detected where the server's model knows several; "" without words.
        language_probability: of the language; 1.0 where the server was told it, 0.0 without words.
    """

    understood: bool
    log_probability: float
    no_speech_probability: float
    language: str
    language_probability: float


@dataclass(frozen=True, slots=True)
class EmotionResult:
    """The answer to one utterance.

    Attributes:
        label: the most probable emotion.
        confidence: calibrated probability that the label is right, 0 to 1. It is 0.5 or less where two emotions are
            equally probable, or where the audio or the text alone puts another emotion 0.5 or more above the label.
        is_confident: whether `confidence` reaches the client's `confident_from`.
        status: "no_speech" where audio was sent in which the server found no sound, so that the answer rests on the
            text alone; else "ok" where the answer is confident, "unsure" where it is not.
        probabilities: by emotion, in the order of EMOTIONS; they sum to 1. Audio and text taken together.
        audio_probabilities: what the audio alone says; None where the utterance had no audio, or no sound in it.
        text_probabilities: what the text alone says; None where the utterance had no text, or none was understood.
        transcript: what the server recognised, "" where nobody spoke; None where it was not asked to.
        request_id: the request's name in the server's log and trace.
        checkpoint: digest of the weights that answered.
        untrained: parts of the model whose weights were never trained: not empty means that the answer means nothing.
        timings: where the time went.
        transcript_confidence: how sure the server is of `transcript`; None where it was not asked for one.
    """

    label: str
    confidence: float
    is_confident: bool
    status: Status
    probabilities: dict[str, float]
    audio_probabilities: dict[str, float] | None
    text_probabilities: dict[str, float] | None
    transcript: str | None
    request_id: str
    checkpoint: str
    untrained: tuple[str, ...]
    timings: Timings
    transcript_confidence: TranscriptConfidence | None = None


Emotion = EmotionResult  # deprecated: the name until version 0.2, kept for a release
