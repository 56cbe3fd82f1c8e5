"""Create the seeds of fuzzing: small valid inputs of every accepted format."""

import io
from collections.abc import Iterator

import av
import numpy as np
import soundfile

from emotion.audio import SAMPLE_RATE

_SOUND = (
    0.3 * np.sin(2 * np.pi * 140 * np.arange(1600) / SAMPLE_RATE)
    + 0.03 * np.random.default_rng(0).standard_normal(1600)
).astype(np.float32)  # 0.1 s
_FILES = (  # libsndfile's formats and subtypes
    *(("WAV", subtype) for subtype in ("PCM_16", "PCM_U8", "PCM_24", "FLOAT", "DOUBLE", "ULAW", "IMA_ADPCM", "GSM610")),
    *(("WAVEX", "PCM_16"), ("RF64", "PCM_16"), ("W64", "PCM_16"), ("AIFF", "PCM_16"), ("AIFF", "FLOAT")),
    *(("AU", "PCM_16"), ("FLAC", "PCM_16"), ("FLAC", "PCM_24"), ("OGG", "VORBIS"), ("OGG", "OPUS")),
    ("MP3", "MPEG_LAYER_III"),
)
_CONTAINERS = (
    *(("webm", "libopus"), ("matroska", "pcm_s16le"), ("adts", "aac")),
    *(("mp4", "libopus"), ("mp4", "aac"), ("mp4", "alac"), ("mov", "pcm_s16le")),
)
_TEXTS = (
    "I can't believe you did that!",
    "Well... it's fine, I guess - really?!",
    "Ça va très bien, señor; 你好, 世界! Привет",
    "e\u0301\u0327 \u200d\u202e\ufeff \U0001f600\U0001f44d\U0001f3fd \ufdfa \u1e9e \u0130",
    "ok \U0001f621\U0001f621 \u2764\ufe0f\u200d\U0001f525 :-( <3 xD T_T (as follows:)",
    "f*** you, sh!t, @sshole, the **** [ __ ] @#$%! *really* 2*3",
    "[LAUGHTER] <b>no</b> (sighs) ++NOISE++ *laughs* [NAME] (I think so)",
    "I can&amp;#39;t don\u00b4t &lt;3 it\u00e2\u20ac\u2122s",
    "\u092e\u0948\u0902 \u0916\u0941\u0936 \u0939\u0942\u0901, \u05e9\u05b8\u05c1\u05dc\u05d5\u05b9\u05dd",
    "unaffable " * 40,
    "\0",
    "",
)


def seeds(target: str) -> Iterator[bytes]:
    """Yield the first inputs of a target's corpus.

    Args:
        target: a key of fuzz.targets.TARGETS.
    """
    if target == "text":
        yield from (text.encode() for text in _TEXTS)
        return
    for kind, subtype in _FILES:
        buffer = io.BytesIO()
        soundfile.write(buffer, _SOUND, SAMPLE_RATE, format=kind, subtype=subtype)
        yield buffer.getvalue()
    yield from (_encode(container, codec) for container, codec in _CONTAINERS)


def _encode(container: str, codec: str) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        rate = 48_000
        stream = out.add_stream(codec, rate=rate)
        assert isinstance(stream, av.AudioStream)
        stream.layout = "mono"
        resampler = av.AudioResampler(format=stream.format, layout="mono", rate=rate, frame_size=960)
        frame = av.AudioFrame.from_ndarray(_SOUND[None], format="flt", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            out.mux(stream.encode(part))
        out.mux(stream.encode(None))
    return buffer.getvalue()
