"""Decode all recordings of a corpus once into a memory-mapped file.

The decoder is the served one (`emotion.decoding.decode`), so training rejects the same recordings as serving.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emotion import decoding
from emotion.errors import InputError
from emotion.files import open_atomically
from emotion.loudness import NO_SOUND, find_sound
from emotion.progress import progress
from training.errors import TrainingError
from training.files import write_atomically

VERSION = 2  # of the cache; raise it when its layout or the decoder's output changes


class Recordings:
    """Waveforms by path: float32 [n], mono at 16 kHz, memory-mapped.

    Attributes:
        key: hash of the files' paths, sizes and times; a cache key for what is computed from them.
    """

    def __init__(self, waveforms: NDArray[np.float32], places: dict[str, tuple[int, int]], key: str = "") -> None:
        self._waveforms = waveforms
        self._places = places
        self.key = key

    @property
    def paths(self) -> list[Path]:
        """Return the paths of all recordings."""
        return [Path(name) for name in self._places]

    def __getitem__(self, path: Path) -> NDArray[np.float32]:
        start, length = self._places[str(path)]
        return self._waveforms[start : start + length]


def decode_all(paths: Iterable[Path], cache: Path) -> tuple[Recordings, dict[Path, str]]:
    """Decode recordings, or read them from the cache.

    Args:
        paths: the recordings.
        cache: directory for the decoded recordings (4 bytes per sample, 230 MB per hour).

    Returns:
        The waveforms, and the reason for each recording that can't be decoded or has no sound.

    Raises:
        TrainingError: the cache can't be written.
    """
    paths = sorted(set(paths))
    key = hashlib.sha256(str(VERSION).encode())
    for path in paths:
        status = path.stat()
        key.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    name = key.hexdigest()[:16]
    data = cache / f"recordings-{name}.f32"
    index = data.with_suffix(".json")
    if not index.exists():
        _decode(paths, data, index)
    found = json.loads(index.read_text())
    waveforms = np.memmap(data, np.float32, "r") if data.stat().st_size else np.empty(0, np.float32)
    places = {path: (start, length) for path, (start, length) in found["places"].items()}
    return Recordings(waveforms, places, name), {Path(path): reason for path, reason in found["unreadable"].items()}


def _decode(paths: list[Path], data: Path, index: Path) -> None:
    places: dict[str, tuple[int, int]] = {}
    unreadable: dict[str, str] = {}
    total = 0
    try:
        with open_atomically(data) as file, progress() as bar:
            task = bar.add_task("decoding recordings", total=len(paths))
            for path in paths:
                try:
                    waveform = decoding.decode(path.read_bytes())
                    if find_sound(waveform) is None:
                        raise InputError(f"AUDIO has {NO_SOUND}")
                except InputError as error:
                    unreadable[str(path)] = str(error).removeprefix("AUDIO ")
                else:
                    file.write(waveform.tobytes())
                    places[str(path)] = (total, waveform.size)
                    total += waveform.size
                bar.advance(task)
    except OSError as error:
        raise TrainingError(
            f"{data.parent} can't take the decoded recordings ({error.strerror}); they need 4 bytes per sample "
            "(230 MB per hour): make room, or choose another directory with --cache"
        ) from None
    write_atomically(index, json.dumps({"places": places, "unreadable": unreadable}))
