"""Test the decoding of recordings from browsers, and of files that are no recordings."""

import io

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from emotion import decoding
from tests.encoding import CONTAINERS, encode, encode_with_ffmpeg
from web.gateway.errors import ApiError
from web.gateway.recordings import decode

MAX_SECONDS = 60.0


@pytest.fixture(scope="module")
def waveform(recordings: dict[str, bytes]) -> NDArray[np.float32]:
    return decoding.decode(next(iter(recordings.values())))


@pytest.mark.parametrize("name", CONTAINERS)
@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_decode_of_a_truncated_file_raises_400(name: str, share: float, waveform: NDArray[np.float32]) -> None:
    whole = encode_with_ffmpeg(waveform, name)
    with pytest.raises(ApiError, match="truncated") as raised:
        decode(whole[: int(len(whole) * share)], MAX_SECONDS)
    assert raised.value.status == 400 and "\n" not in raised.value.message


@pytest.mark.parametrize("name", CONTAINERS)
def test_decode_of_browser_recordings_equals_the_served_decoder(name: str, waveform: NDArray[np.float32]) -> None:
    data = encode_with_ffmpeg(waveform, name)
    np.testing.assert_array_equal(decode(data, MAX_SECONDS), decoding.decode(data))


def test_decode_of_files_equals_the_served_decoder(recordings: dict[str, bytes]) -> None:
    for data in recordings.values():
        np.testing.assert_array_equal(decode(data, MAX_SECONDS), decoding.decode(data))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "The recording is empty."),
        (b"PK\x03\x04" + bytes(1000), "The recording is a ZIP archive"),
        (b"\x1a\x45\xdf\xa3" + bytes(1000), "The recording is a truncated WebM file"),
        (b"\0\0\0\x18ftypmp42" + bytes(1000), "The recording is a truncated MP4 file"),
        (b"\xff\xf1" + bytes(1000), "The recording"),
    ],
)
def test_decode_of_other_files_raises_a_user_message(data: bytes, words: str) -> None:
    with pytest.raises(ApiError) as raised:
        decode(data, MAX_SECONDS)
    assert raised.value.message.startswith(words) and raised.value.message.endswith(".")
    assert "AUDIO" not in raised.value.message


def test_decode_of_a_video_without_sound_raises() -> None:
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
    with pytest.raises(ApiError, match="has no sound in it"):
        decode(buffer.getvalue(), MAX_SECONDS)


def test_decode_of_a_long_recording_names_the_call_for_it() -> None:
    minute = encode(np.zeros(65 * 8_000, np.float32), rate=8_000)
    with pytest.raises(ApiError, match=r"at most 60 s .*: send one utterance at a time \(/api/utterances finds them"):
        decode(minute, MAX_SECONDS)
