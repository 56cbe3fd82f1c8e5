"""Test the encoding of audio before it is sent."""

import io
from pathlib import Path
from typing import Any

import emotion_client.audio
import numpy as np
import pytest
import soundfile
from emotion_client import InvalidInput
from emotion_client.audio import encode
from numpy.typing import NDArray

import emotion.decoding

RATE = 22_050
TONE = (0.5 * np.sin(np.arange(RATE) / 9)).astype(np.float32)


@pytest.mark.parametrize("waveform", [TONE, np.stack([TONE, -TONE, TONE / 3], axis=1), 2 * TONE, TONE[::-1]])
def test_encode_of_a_float32_waveform_is_lossless(waveform: NDArray[np.float32]) -> None:
    file = soundfile.SoundFile(io.BytesIO(encode(waveform, RATE)))
    assert (file.format, file.subtype, file.samplerate) == ("WAV", "FLOAT", RATE)
    np.testing.assert_array_equal(file.read(dtype="float32"), waveform)


@pytest.mark.parametrize(("dtype", "full_scale"), [(np.int16, 2**15), (np.int32, 2**31)])
def test_encode_of_an_integer_waveform_scales_like_an_audio_file(dtype: type, full_scale: int) -> None:
    waveform: NDArray[Any] = np.array([-full_scale, -1, 0, 1, full_scale - 1], dtype)
    stored = io.BytesIO()
    soundfile.write(stored, waveform, RATE, format="WAV", subtype=f"PCM_{waveform.itemsize * 8}")
    expected = soundfile.read(io.BytesIO(stored.getvalue()), dtype="float32")[0]
    np.testing.assert_array_equal(soundfile.read(io.BytesIO(encode(waveform, RATE)), dtype="float32")[0], expected)


def test_encode_of_a_file_returns_its_bytes(clip: Path) -> None:
    data = clip.read_bytes()
    assert (
        encode(clip) == encode(str(clip)) == encode(data) == encode(bytearray(data)) == encode(memoryview(data)) == data
    )


@pytest.mark.parametrize(
    ("audio", "rate", "sentence"),
    [
        ("missing.wav", None, "cannot read audio file missing.wav: No such file or directory"),
        ("/", None, "cannot read audio file /: Is a directory"),
        ("a\0b", None, "cannot read audio file"),
        (b"", None, "audio has zero bytes"),
        (b"RIFF", 16_000, "rate is only for a waveform"),
        (["a.wav"], None, "audio must be bytes, a path or a numpy waveform, not list"),
        (TONE, None, "a waveform needs its sample rate"),
        (TONE, 0, "rate must be a whole number of Hz above zero, not 0"),
        (TONE, 16_000.5, "rate must be a whole number"),
        (TONE[:0], RATE, r"shape \[n\] or \[n, channels\], not \[0\]"),
        (TONE.reshape(1, 1, -1), RATE, r"shape \[n\] or \[n, channels\]"),
        (TONE.reshape(1, -1), RATE, "transpose it"),
        (TONE.astype(np.complex64), RATE, "floating point, int16 or int32, not complex64"),
        (32_768 * TONE, RATE, r"must lie in \[-1, 1\], this one reaches 16384"),
        (np.array([0.0, np.nan]), RATE, "reaches nan"),
    ],
)
def test_encode_of_invalid_audio_raises_one_sentence(audio: object, rate: int | None, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence) as error:
        encode(audio, rate)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_max_peak_equals_that_of_the_server() -> None:
    assert emotion_client.audio._MAX_PEAK == emotion.decoding.MAX_PEAK
