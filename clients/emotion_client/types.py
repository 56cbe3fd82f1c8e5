"""Types of the client's input and results."""

from dataclasses import dataclass
from os import PathLike
from typing import Any, Literal, TypeAlias

from numpy.typing import NDArray

# order of the served probabilities, which is part of the server's interface
EMOTIONS: tuple[str, ...] = ("neutral", "frustration", "anger", "sadness", "excitement")

Audio: TypeAlias = bytes | bytearray | memoryview | str | PathLike[str] | NDArray[Any]
Priority: TypeAlias = Literal["interactive", "bulk"]
Status: TypeAlias = Literal["ok", "unsure", "no_speech"]


@dataclass(frozen=True, slots=True)
class Utterance:
    """One utterance; at least one of `audio` and `text` is required.

    Attributes:
        audio: a whole WAV, FLAC, MP3, Ogg, M4A or WebM file as bytes; or the path of one; or a waveform, [n] or
            [n, channels], floating point in [-1, 1], int16 or int32.
        text: the transcript; None or "" if there is none.
        rate: sample rate in Hz; required for a waveform, and rejected otherwise.
        transcribe: whether the server recognises the text; it must run with speech recognition.
    """

    audio: Audio | None = None
    text: str | None = None
    rate: int | None = None
    transcribe: bool = False


@dataclass(frozen=True, slots=True)
class Timings:
    """Duration of the parts of one call, in milliseconds.

    Attributes:
        prepare: reading and encoding the audio.
        request: from sending the request to the parsed answer, including retries.
    """

    prepare: float
    request: float


@dataclass(frozen=True, slots=True)
class TranscriptConfidence:
    """How sure the server's speech recognition is of a transcript.

    Attributes:
        understood: whether the answer uses the transcript. If not, it uses the voice alone.
        log_probability: mean natural logarithm of the probabilities of the transcript's tokens; 0.0 without words.
        no_speech_probability: probability that nobody speaks; 1.0 without words.
        language: a code such as "en", detected if the server's model knows several languages; "" without words.
        language_probability: probability of the language; 1.0 if it is set in the server, 0.0 without words.
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
        confidence: calibrated probability that the label is right, 0 to 1. It is 0.5 or less if two emotions are
            equally probable, or if the audio or the text alone puts another emotion 0.5 or more above the label.
        is_confident: whether `confidence` is at least the client's `confident_from`.
        status: "no_speech" if audio was sent and the server found no sound in it, so that the answer uses the text
            alone; otherwise "ok" if the answer is confident, and "unsure" if it is not.
        probabilities: probability of each emotion from audio and text together, in the order of EMOTIONS; sum is 1.
        audio_probabilities: the same from the audio alone; None without audio, or without sound in it.
        text_probabilities: the same from the text alone; None without text, or if the transcript was not understood.
        transcript: recognised text, "" if nobody spoke; None if `transcribe` was not set.
        request_id: id of the request in the server's log and trace.
        checkpoint: digest of the weights that computed the answer.
        untrained: parts of the model whose weights were never trained; if not empty, ignore the answer.
        timings: duration of the parts of the call.
        transcript_confidence: how sure the server is of `transcript`; None if `transcribe` was not set.
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


Emotion = EmotionResult  # deprecated name from before version 0.2, kept for one release
