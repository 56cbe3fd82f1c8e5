"""Decoding: every accepted format, and a sentence for every way in which a file can be wrong."""

import io
import struct

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from emotion import decoding
from emotion.audio import SAMPLE_RATE
from emotion.decoding import decode
from emotion.errors import InputError

FORMATS = [
    ("WAV", "PCM_16"),
    ("WAV", "FLOAT"),
    ("WAVEX", "PCM_24"),
    ("FLAC", "PCM_16"),
    ("MP3", "MPEG_LAYER_III"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("AIFF", "PCM_16"),
]


@pytest.fixture(scope="module")
def speech(recordings: dict[str, bytes]) -> NDArray[np.float32]:
    return decode(recordings["austen-0880.flac"])


def encode(samples: NDArray[np.float32], kind: str = "WAV", subtype: str = "PCM_16", rate: int = SAMPLE_RATE) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def refusal(data: bytes, **options: float) -> str:
    with pytest.raises(InputError) as caught:
        decode(data, **options)
    return str(caught.value)


@pytest.mark.parametrize(("kind", "subtype"), FORMATS)
def test_decodes_every_format(speech: NDArray[np.float32], kind: str, subtype: str) -> None:
    decoded = decode(encode(speech, kind, subtype))
    assert decoded.dtype == np.float32
    length = min(len(decoded), len(speech))
    assert abs(len(decoded) - len(speech)) <= 2304  # MP3 pads to whole frames
    assert np.corrcoef(decoded[:length], speech[:length])[0, 1] > 0.9


def test_sixteen_bits_are_those_that_libsndfile_gives(speech: NDArray[np.float32]) -> None:
    data = encode(speech, "WAV")
    np.testing.assert_array_equal(decode(data), soundfile.read(io.BytesIO(data), dtype="float32")[0])


def test_lossless_formats_agree_exactly(speech: NDArray[np.float32]) -> None:
    np.testing.assert_array_equal(decode(encode(speech, "WAV")), decode(encode(speech, "FLAC")))


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
def test_any_rate(rate: int) -> None:
    seconds = np.arange(2 * rate) / rate
    decoded = decode(encode((0.5 * np.sin(2 * np.pi * 440 * seconds)).astype(np.float32), "WAV", "FLOAT", rate))
    assert len(decoded) == 2 * SAMPLE_RATE
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE)
    np.testing.assert_allclose(decoded[800:-800], expected[800:-800], atol=1e-3)  # the ends ring


def test_resampling_does_not_fold_high_tones_into_speech() -> None:
    whistle = np.sin(2 * np.pi * 15_000 * np.arange(48_000) / 48_000).astype(np.float32)
    assert np.abs(decode(encode(whistle, "WAV", "FLOAT", 48_000))[800:-800]).max() < 1e-3


def test_channels_are_averaged(speech: NDArray[np.float32]) -> None:
    channels = np.stack([speech, -speech, speech * 0.5], axis=1)
    np.testing.assert_allclose(decode(encode(channels, "WAV", "FLOAT")), speech / 6, atol=1e-6)


def test_blocks_join_without_a_seam(speech: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = decode(encode(speech))
    monkeypatch.setattr(decoding, "BLOCK", 1000)
    np.testing.assert_array_equal(decode(encode(speech)), whole)


def test_a_wav_written_to_a_pipe_is_accepted(speech: NDArray[np.float32]) -> None:
    data = bytearray(encode(speech))
    struct.pack_into("<I", data, 4, 0xFFFFFFFF)
    struct.pack_into("<I", data, data.index(b"data") + 4, 0xFFFFFFFF)
    np.testing.assert_array_equal(decode(bytes(data)), decode(encode(speech)))


def test_a_flac_of_unknown_length_is_refused_clearly(speech: NDArray[np.float32]) -> None:
    data = bytearray(encode(speech, "FLAC"))
    data[21] &= 0xF0  # STREAMINFO's 36-bit total of samples
    data[22:26] = bytes(4)
    assert "does not say how long it is" in refusal(bytes(data))


def test_an_mp3_with_tags_is_accepted(speech: NDArray[np.float32]) -> None:
    data = encode(speech, "MP3", "MPEG_LAYER_III")
    id3v2 = b"ID3\x04\x00\x00\x00\x00\x01\x00" + bytes(128)
    id3v1 = b"TAG" + bytes(125)
    np.testing.assert_array_equal(decode(id3v2 + data + id3v1), decode(data))


@pytest.mark.parametrize(("kind", "subtype"), FORMATS)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.9, 0.999])
def test_truncation_is_told(speech: NDArray[np.float32], kind: str, subtype: str, share: float) -> None:
    data = encode(speech, kind, subtype)
    message = refusal(data[: int(len(data) * share)])
    assert "truncated" in message or (kind == "MP3" and share == 0.02)  # too little is left to call it an MP3


def test_a_truncated_mp3_without_a_count_is_told(speech: NDArray[np.float32]) -> None:
    data = encode(speech, "MP3", "MPEG_LAYER_III")
    bare = data[data.index(b"\xff\xf3", 4) :]  # from the second frame: the first holds the count
    assert decode(bare).size
    assert "truncated MP3" in refusal(bare[:-50])


@pytest.mark.parametrize("extra", [2, 1000, 2**31 - 1 - 95_680])
def test_a_header_that_claims_more_than_it_holds(speech: NDArray[np.float32], extra: int) -> None:
    data = bytearray(encode(speech))
    at = data.index(b"data") + 4
    struct.pack_into("<I", data, at, struct.unpack_from("<I", data, at)[0] + extra)
    assert "truncated WAV" in refusal(bytes(data))


@pytest.mark.parametrize(
    "data", [b"x", b"\xff\xfe", b"not audio at all, just words" * 10, bytes(1000), b"RIFF", b"fLaC"]
)
def test_not_an_audio_file(data: bytes) -> None:
    assert "send a whole WAV, FLAC, OGG or MP3 file" in refusal(data)


def test_zero_samples() -> None:
    assert "zero samples" in refusal(encode(np.zeros(0, np.float32)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite(speech: NDArray[np.float32], value: float) -> None:
    samples = speech.copy()
    samples[1234] = value
    assert "NaN or infinite" in refusal(encode(samples, "WAV", "FLOAT"))


def test_samples_far_over_full_scale(speech: NDArray[np.float32]) -> None:
    assert "divide 16-bit integers by 32768" in refusal(encode(speech * 32768, "WAV", "FLOAT"))


@pytest.mark.parametrize("rate", [1, 50, 3_999, 10_000_000])
def test_absurd_sample_rates(speech: NDArray[np.float32], rate: int) -> None:
    message = refusal(encode(speech[:1000], rate=rate))
    assert f"{rate} Hz" in message
    assert "4000 to 384000 Hz" in message


def test_too_long_says_the_limit() -> None:
    silence = encode(np.zeros(600 * SAMPLE_RATE, np.float32), "FLAC")
    assert "lasts 600.0 s; at most 60 s" in refusal(silence)
    assert "at most 5 s" in refusal(silence, max_seconds=5)
