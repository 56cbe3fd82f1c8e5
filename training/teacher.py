"""Compute the teacher's features of recordings with the encoder of a Whisper model.

VGGish learns to predict these features. A frozen Whisper encoder with logistic regression recognises emotions in EmoDB
better than VGGish does when it is trained from seeded weights on seven speakers (docs/model-card.md).
"""

import hashlib
from pathlib import Path

import numpy as np
from faster_whisper import WhisperModel
from numpy.typing import NDArray

from emotion import audio
from emotion.errors import reason_of
from emotion.files import open_atomically
from emotion.progress import progress
from training.augmentation import SPEEDS, change_speed
from training.errors import TrainingError
from training.recordings import Recordings

VERSION = 2  # of the cached features
MAX_SECONDS = 30.0  # length of the input of Whisper's encoder; longer recordings are cut
_ACCEPTED = "give a directory in CTranslate2's format, or a name that faster-whisper knows, such as tiny.en"


def features(model: str, recordings: Recordings, cache: Path) -> dict[Path, NDArray[np.float32]]:
    """Return the teacher's features of each recording at each speed of the augmentation.

    The teacher hears the whole recording at the speed of the augmented segment, without noise, time stretch or pitch
    shift.

    Args:
        model: a directory in CTranslate2's format, or a name that faster-whisper knows, such as tiny.en, from the hub.
        recordings: the waveforms.
        cache: a directory in which the features are kept.

    Returns:
        By path: float32 [speeds, 2 * width], mean and standard deviation over time of the encoder's states.

    Raises:
        TrainingError: the model can't be loaded, or the cache can't be written.
    """
    paths = recordings.paths
    key = hashlib.sha256(repr((VERSION, recordings.key, model, SPEEDS)).encode())
    kept = cache / f"teacher-{key.hexdigest()[:16]}.npy"
    if not kept.exists():
        whisper = _load(model)
        rows = []
        with progress() as bar:
            task = bar.add_task("computing teacher features", total=len(paths))
            for path in paths:
                rows.append([_features(whisper, change_speed(recordings[path], speed)) for speed in SPEEDS])
                bar.advance(task)
        try:
            with open_atomically(kept) as file:
                np.save(file, np.array(rows, np.float32))
        except OSError as error:
            raise TrainingError(
                f"the teacher's features can't be written to {kept} ({error.strerror or error}); make room, or choose "
                "another directory with --cache"
            ) from None
    return dict(zip(paths, np.load(kept), strict=True))


def standardise(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return features [..., width] with mean 0 and standard deviation 1 in each column."""
    others = tuple(range(rows.ndim - 1))
    deviation = rows.std(axis=others)
    standardised: NDArray[np.float32] = (rows - rows.mean(axis=others)) / np.maximum(deviation, np.float32(1e-6))
    return standardised


def _load(model: str) -> WhisperModel:
    """Load the Whisper model.

    Raises:
        TrainingError: the directory does not exist or holds no such model, or the hub does not give it.
    """
    if model.startswith((".", "/")) and not Path(model).is_dir():
        raise TrainingError(f"--teacher {model}: there is no such directory; {_ACCEPTED}")
    try:
        return WhisperModel(model, device="cpu", compute_type="float32")
    except Exception as error:  # errors of the hub, of CTranslate2 and of the file system have no common base class
        raise TrainingError(
            f"--teacher {model}: no Whisper model can be loaded ({reason_of(error)}); {_ACCEPTED}"
        ) from None


def _features(whisper: WhisperModel, waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the teacher's features of a waveform: float32 [n] at 16 kHz -> float32 [2 * width]."""
    # without padding to 30 s as for transcription: a clip of 2 s then takes a tenth of the time
    mel = whisper.feature_extractor(np.asarray(waveform[: int(MAX_SECONDS * audio.SAMPLE_RATE)]), padding=0)
    mel = mel[:, : max(2, mel.shape[1] // 2 * 2)]
    states = np.array(whisper.encode(np.ascontiguousarray(mel, np.float32)))[0]
    return np.concatenate([states.mean(axis=0), states.std(axis=0)])
