"""Every recording of a corpus, decoded once and kept in one memory-mapped file.

Decoding is the served front-end's (`emotion.decoding.decode`): what can't be served can't be trained on either.
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
from training.errors import TrainingError
from training.files import write_atomically
from training.progress import progress

VERSION = 2  # of the cache's layout and of the decoder's output


class Recordings:
    """Waveforms by path: float32 [n], mono, 16 kHz, read from disk only where they are touched.

    Attributes:
        key: hash of the files' paths, sizes and times, to cache what is computed from them.
    """

    def __init__(self, waveforms: NDArray[np.float32], places: dict[str, tuple[int, int]], key: str = "") -> None:
        self._waveforms = waveforms
        self._places = places
        self.key = key

    @property
    def paths(self) -> list[Path]:
        """All recordings."""
        return [Path(name) for name in self._places]

    def __getitem__(self, path: Path) -> NDArray[np.float32]:
        start, length = self._places[str(path)]
        return self._waveforms[start : start + length]


def decode_all(paths: Iterable[Path], cache: Path) -> tuple[Recordings, dict[Path, str]]:
    """Decode recordings, or find them decoded in the cache.

    Args:
        paths: the recordings.
        cache: a directory for the decoded recordings of each set (4 bytes a sample: 230 MB an hour).

    Returns:
        The waveforms, and for each recording that can't be decoded or has no sound the reason in a sentence.
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
            f"{data.parent} can't take the decoded recordings ({error.strerror}); they need 4 bytes a sample "
            "(230 MB an hour): make room, or choose another directory with --cache"
        ) from None
    write_atomically(index, json.dumps({"places": places, "unreadable": unreadable}))
