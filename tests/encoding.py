"""Sound as the files that people send, made by libsndfile or FFmpeg."""

import io
import tempfile
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from emotion.audio import SAMPLE_RATE

RATE = 48_000  # Hz, of what FFmpeg encodes
CONTAINERS: dict[str, tuple[str, str, dict[str, str]]] = {  # container, codec, container's options
    "webm": ("webm", "libopus", {}),
    "webm as it is recorded": ("webm", "libopus", {"live": "1"}),
    "mp4": ("mp4", "aac", {}),
    "mp4 with its index first": ("mp4", "aac", {"movflags": "faststart"}),
    "mp4 in fragments": ("mp4", "aac", {"movflags": "frag_keyframe+empty_moov"}),
    "opus in mp4": ("mp4", "libopus", {}),
    "alac": ("mp4", "alac", {}),
    "quicktime": ("mov", "pcm_s16le", {}),
    "aac": ("adts", "aac", {}),
}


def encode(samples: NDArray[Any], kind: str = "WAV", subtype: str = "PCM_16", rate: int = SAMPLE_RATE) -> bytes:
    """Return a file of float samples [n] or [n, channels], as libsndfile writes it."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def encode_with_ffmpeg(samples: NDArray[np.float32], name: str) -> bytes:
    """Return a file of float samples [n] or [n, 2] at 16 kHz in one of CONTAINERS."""
    container, codec, options = CONTAINERS[name]
    planes = np.atleast_2d(soxr.resample(samples, SAMPLE_RATE, RATE).astype(np.float32).T)
    layout = "mono" if len(planes) == 1 else "stereo"
    with tempfile.NamedTemporaryFile(prefix="emoserve-") as made:  # FFmpeg reads it again where it puts the index first
        _write(made.name, planes, layout, container, codec, options)
        return Path(made.name).read_bytes()


def _write(
    path: str, planes: NDArray[np.float32], layout: str, container: str, codec: str, options: dict[str, str]
) -> None:
    with av.open(path, "w", format=container, options=options) as file:
        stream = file.add_stream(codec, rate=RATE, layout=layout)
        assert isinstance(stream, av.AudioStream)
        resampler = av.AudioResampler(format=stream.format, layout=layout, rate=RATE)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(planes), format="fltp", layout=layout)
        frame.sample_rate, frame.pts = RATE, 0
        for part in resampler.resample(frame):
            file.mux(stream.encode(part))
        file.mux(stream.encode(None))
