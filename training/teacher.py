"""The teacher: features of recordings by the encoder of a Whisper model.

A frozen Whisper encoder with logistic regression recognises emotions in EmoDB better than VGGish does when it is
trained from seeded weights on seven speakers (docs/model-card.md). VGGish learns to predict its features.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from faster_whisper import WhisperModel
from numpy.typing import NDArray

from emotion import audio
from training.errors import TrainingError
from training.progress import progress
from training.recordings import VERSION as DECODED
from training.recordings import Recordings

VERSION = 1  # of the features
LONGEST = 30.0  # s: what Whisper's encoder takes at a time; the rest of a longer recording is left out


def features(model: str, paths: Sequence[Path], recordings: Recordings, cache: Path) -> NDArray[np.float32]:
    """Return the teacher's features: float32 [n, 2 * width], mean and standard deviation over time of its states.

    Args:
        model: a directory in CTranslate2's format, or a name of faster-whisper's, such as tiny.en, from the hub.
        paths: the recordings, in the order of the rows.
        recordings: their waveforms.
        cache: a directory in which the features are kept.

    Raises:
        TrainingError: the model cannot be loaded.
    """
    key = hashlib.sha256(repr((VERSION, DECODED, model)).encode())
    for path in paths:
        status = path.stat()
        key.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    kept = cache / f"teacher-{key.hexdigest()[:16]}.npy"
    if kept.exists():
        found: NDArray[np.float32] = np.load(kept)
        return found
    try:
        whisper = WhisperModel(model, device="cpu", compute_type="float32")
    except Exception as error:  # of the hub, of CTranslate2, of the file system: they have no common base class
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise TrainingError(
            f"--teacher {model}: no Whisper model can be loaded ({reason}); give a directory in CTranslate2's format, "
            "or a name that faster-whisper knows, such as tiny.en"
        ) from None
    rows = []
    with progress() as bar:
        task = bar.add_task("asking the teacher", total=len(paths))
        for path in paths:
            rows.append(_features(whisper, recordings[path]))
            bar.advance(task)
    found = np.array(rows, np.float32)
    cache.mkdir(parents=True, exist_ok=True)
    scratch = kept.with_suffix(".partial.npy")
    np.save(scratch, found)
    scratch.replace(kept)
    return found


def standardise(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return features [n, width] with mean 0 and standard deviation 1 in each column."""
    deviation = rows.std(axis=0)
    standardised: NDArray[np.float32] = (rows - rows.mean(axis=0)) / np.maximum(deviation, np.float32(1e-6))
    return standardised


def _features(whisper: WhisperModel, waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    # the recording alone, not filled up to 30 s as for transcription: a clip of 2 s then takes a tenth of the time
    mel = whisper.feature_extractor(np.asarray(waveform[: int(LONGEST * audio.SAMPLE_RATE)]), padding=0)
    mel = mel[:, : max(2, mel.shape[1] // 2 * 2)]
    states = np.array(whisper.encode(np.ascontiguousarray(mel, np.float32)))[0]
    return np.concatenate([states.mean(axis=0), states.std(axis=0)])
