"""What browsers and people's phones record -> a mono waveform at 16 kHz.

WAV, FLAC, OGG and MP3 go through the very front-end that is served. WebM and MP4, which browsers record, and bare AAC
are decoded by FFmpeg (PyAV).
"""

import io
import itertools
from collections.abc import Iterator

import av
import numpy as np
from av.audio.frame import AudioFrame
from numpy.typing import NDArray

from emotion import audio, decoding
from emotion.errors import InputError
from web.gateway import webm
from web.gateway.errors import for_people, unusable

_EBML = b"\x1a\x45\xdf\xa3"  # WebM, Matroska
_ADTS = (b"\xff\xf1", b"\xff\xf9")  # bare AAC
_ACCEPTED = "send a whole WebM, MP4, WAV, FLAC, OGG or MP3 file"


def decode(data: bytes, max_seconds: float) -> NDArray[np.float32]:
    """Decode one recording.

    Returns:
        float32 [n], n >= 1, at 16 kHz.

    Raises:
        Failure: the recording can't be used; the message says why.
    """
    if not data:
        raise unusable("The recording is empty.")
    try:
        if data.startswith(_EBML) or data[4:8] == b"ftyp" or data.startswith(_ADTS):
            return _decode_with_ffmpeg(data, max_seconds)
        return decoding.decode(data, max_seconds)
    except InputError as error:
        raise unusable(for_people(str(error))) from None


def _decode_with_ffmpeg(data: bytes, max_seconds: float) -> NDArray[np.float32]:
    try:
        with av.open(io.BytesIO(data), "r", metadata_errors="ignore") as container:
            if not container.streams.audio:
                raise InputError(f"AUDIO has no sound in it; {_ACCEPTED}")
            if (container.duration or 0) > max_seconds * av.time_base:
                raise InputError(_too_long(max_seconds))
            stream = container.streams.audio[0]
            blocks = list(_resampled(container.decode(stream), max_seconds))
    except av.FFmpegError as error:
        raise InputError(f"AUDIO can't be decoded ({error.strerror}); {_ACCEPTED}") from None
    if data.startswith(_EBML) and webm.ends_early(data):
        raise InputError(f"AUDIO is a truncated WebM file; {_ACCEPTED}")
    waveform = np.concatenate([np.empty(0, np.float32), *blocks])
    if not waveform.size:
        raise InputError(f"AUDIO has no sound in it; {_ACCEPTED}")
    return waveform


def _resampled(frames: Iterator[AudioFrame], max_seconds: float) -> Iterator[NDArray[np.float32]]:
    seconds = 0.0
    # a stream may change its rate or channels midway, and a resampler takes frames of one kind
    for _, alike in itertools.groupby(frames, lambda frame: (frame.format.name, frame.layout.name, frame.sample_rate)):
        resampler = av.AudioResampler(format="flt", layout="mono", rate=audio.SAMPLE_RATE)
        for frame in itertools.chain(alike, [None]):  # None takes what is left out of the resampler
            if frame is not None:
                seconds += frame.samples / max(1, frame.sample_rate)
                if seconds > max_seconds:
                    raise InputError(_too_long(max_seconds))
            for block in resampler.resample(frame):
                yield block.to_ndarray()[0]


def _too_long(max_seconds: float) -> str:
    return f"AUDIO is too long; at most {max_seconds:g} s are accepted"
