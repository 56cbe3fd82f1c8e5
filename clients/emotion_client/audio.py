"""Convert audio from a path, bytes or a waveform to the bytes of one encoded file."""

import struct
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emotion_client.errors import InvalidInput
from emotion_client.types import Audio

_IEEE_FLOAT = 3  # WAVE format tag
_MAX_PEAK = 8.0  # largest sample that the server accepts, 18 dB over full scale (MAX_PEAK of emotion/decoding.py)


def encode(audio: Audio, rate: int | None = None) -> bytes:
    """Return the bytes of an audio file.

    Args:
        audio: the bytes of a file, which are returned unchanged; the path of a file; or a waveform, [n] or
            [n, channels], which becomes a WAV file.
        rate: sample rate in Hz; required for a waveform, and rejected otherwise.

    Raises:
        InvalidInput: the file cannot be read or is empty, or the waveform or its rate is invalid.
    """
    if isinstance(audio, np.ndarray):
        return _wav(audio, rate)
    if rate is not None:
        raise InvalidInput("rate is only for a waveform: leave it out, as an audio file contains its own sample rate")
    match audio:
        case bytes() | bytearray() | memoryview():
            data, name = bytes(audio), "audio"
        case str() | PathLike():
            data, name = _read(Path(audio)), f"audio file {audio}"
        case _:
            raise InvalidInput(f"audio must be bytes, a path or a numpy waveform, not {type(audio).__name__}")
    if not data:
        raise InvalidInput(
            f"{name} has zero bytes: give a whole WAV, FLAC, MP3, Ogg, M4A or WebM file, or None for no audio"
        )
    return data


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"cannot read audio file {path}: {error.strerror}") from None
    except ValueError as error:  # the path contains a NUL character
        raise InvalidInput(f"cannot read audio file {str(path)!r}: {error}") from None


def _wav(waveform: NDArray[Any], rate: int | None) -> bytes:
    """Return a waveform, [n] or [n, channels] at `rate` Hz, as a WAV file of float32, the server's sample type."""
    if rate is None:
        raise InvalidInput("a waveform needs its sample rate: give rate in Hz")
    if rate != int(rate) or not 0 < rate < 1 << 32:
        raise InvalidInput(f"rate must be a whole number of Hz above zero, not {rate}")
    if waveform.ndim not in (1, 2) or waveform.size == 0:
        raise InvalidInput(f"a waveform must have the shape [n] or [n, channels], not {list(waveform.shape)}")
    frames, channels = waveform.shape[0], waveform.shape[1] if waveform.ndim == 2 else 1
    if channels > frames:
        raise InvalidInput(f"a waveform of the shape {list(waveform.shape)} is [channels, n]: transpose it")
    samples = to_float32(waveform).tobytes()
    frame_bytes = 4 * channels
    header = struct.pack(
        "<4sI4s4sIHHIIHHH4sII4sI",
        *(b"RIFF", 50 + len(samples), b"WAVE"),
        *(b"fmt ", 18, _IEEE_FLOAT, channels, int(rate), int(rate) * frame_bytes, frame_bytes, 32, 0),
        *(b"fact", 4, frames),
        *(b"data", len(samples)),
    )
    return header + samples


def to_float32(waveform: NDArray[Any]) -> NDArray[np.float32]:
    """Return a waveform as little-endian float32 with full scale at 1.0.

    Args:
        waveform: floating point, int16 or int32; not empty.

    Raises:
        InvalidInput: another type, or samples far over full scale.
    """
    if waveform.dtype in (np.int16, np.int32):
        return (waveform / -float(np.iinfo(waveform.dtype).min)).astype("<f4")
    if waveform.dtype.kind != "f":
        raise InvalidInput(f"a waveform must be floating point, int16 or int32, not {waveform.dtype}")
    peak = np.abs(waveform).max()
    if not peak <= _MAX_PEAK:  # written with `not` so that NaN is rejected, too
        raise InvalidInput(
            f"a floating-point waveform must lie in [-1, 1], this one reaches {peak:g}: divide 16-bit integers by 32768"
        )
    return waveform.astype("<f4")
