"""What browsers record, and what pretends to be a recording."""

import io
import struct
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import soxr
from numpy.typing import NDArray

from emotion import decoding
from web.gateway.errors import Failure
from web.gateway.recordings import decode

MAX_SECONDS = 60.0
BROWSERS = {  # name: container, codec, container's options
    "webm": ("webm", "libopus", {}),
    "webm as it is recorded": ("webm", "libopus", {"live": "1"}),
    "mp4": ("mp4", "aac", {}),
    "mp4 in fragments": ("mp4", "aac", {"movflags": "frag_keyframe+empty_moov"}),
    "aac": ("adts", "aac", {}),
}


def encoded(waveform: NDArray[np.float32], container: str, codec: str, options: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    samples = soxr.resample(waveform, 16_000, 48_000).astype(np.float32)
    with av.open(buffer, "w", format=container, options=options) as file:
        stream = file.add_stream(codec, rate=48_000, layout="mono")
        assert isinstance(stream, av.AudioStream)
        frame = av.AudioFrame.from_ndarray(samples[None, :], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 48_000, 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            file.mux(packet)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def waveform(recordings: dict[str, bytes]) -> NDArray[np.float32]:
    return decoding.decode(next(iter(recordings.values())))


@pytest.mark.parametrize("name", BROWSERS)
def test_what_browsers_record_is_what_was_said(name: str, waveform: NDArray[np.float32]) -> None:
    heard = decode(encoded(waveform, *BROWSERS[name]), MAX_SECONDS)
    assert heard.dtype == np.float32
    assert heard.size == pytest.approx(waveform.size, abs=1600)
    envelopes = [
        np.abs(samples[: waveform.size // 1600 * 1600 - 1600]).reshape(-1, 1600).mean(1)
        for samples in (heard, waveform)
    ]
    assert np.corrcoef(*envelopes)[0, 1] > 0.9  # AAC starts up to 43 ms late


@pytest.mark.parametrize("name", BROWSERS)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.9, 0.99])
def test_what_was_cut_is_refused(name: str, share: float, waveform: NDArray[np.float32]) -> None:
    whole = encoded(waveform, *BROWSERS[name])
    with pytest.raises(Failure, match=r"truncated|can't be decoded") as raised:
        decode(whole[: int(len(whole) * share)], MAX_SECONDS)
    assert raised.value.status == 400 and "\n" not in raised.value.message


def test_files_are_decoded_as_they_are_served(recordings: dict[str, bytes]) -> None:
    for data in recordings.values():
        np.testing.assert_array_equal(decode(data, MAX_SECONDS), decoding.decode(data))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "The recording is empty."),
        (b"PK\x03\x04" + bytes(1000), "The recording is not an audio file"),
        (b"\x1a\x45\xdf\xa3" + bytes(1000), "The recording can't be decoded"),
        (b"\0\0\0\x18ftypmp42" + bytes(1000), "The recording can't be decoded"),
        (b"\xff\xf1" + bytes(1000), "The recording"),
    ],
)
def test_what_is_not_a_recording_gets_a_sentence(data: bytes, words: str) -> None:
    with pytest.raises(Failure) as raised:
        decode(data, MAX_SECONDS)
    assert raised.value.message.startswith(words) and raised.value.message.endswith(".")
    assert "AUDIO" not in raised.value.message


@pytest.mark.parametrize("name", BROWSERS)
def test_two_minutes_are_too_long(name: str) -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, 120 * 16_000).astype(np.float32)
    with pytest.raises(Failure, match="at most 60 s"):
        decode(encoded(noise, *BROWSERS[name]), MAX_SECONDS)


def test_silent_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    """Two hours of silence are a FLAC file of a few kB."""
    path = tmp_path / "bomb.flac"
    with soundfile.SoundFile(path, "w", samplerate=16_000, channels=1, format="FLAC") as file:
        for _ in range(120):
            file.write(np.zeros(60 * 16_000, np.int16))
    with pytest.raises(Failure, match="at most 60 s"):
        decode(path.read_bytes(), MAX_SECONDS)


def test_video_without_sound_says_so() -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        for _ in range(5):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            for packet in stream.encode(frame):
                file.mux(packet)
        for packet in stream.encode(None):
            file.mux(packet)
    with pytest.raises(Failure, match="has no sound in it"):
        decode(buffer.getvalue(), MAX_SECONDS)


def test_ebml_sizes_do_not_lead_astray() -> None:
    """A size of 2^56 - 2 in the first cluster's block."""
    data = b"\x1a\x45\xdf\xa3\x80" + b"\x18\x53\x80\x67\xff" + b"\xa3" + struct.pack(">Q", (1 << 56) + (1 << 56) - 2)
    with pytest.raises(Failure):
        decode(data, MAX_SECONDS)
