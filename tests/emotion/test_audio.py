"""Test the log-mel patches against an independent implementation of VGGish's front-end."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from emotion.audio import SAMPLE_RATE, log_mel_patches
from emotion.decoding import decode


@pytest.fixture(scope="module")
def speech(recordings: dict[str, bytes]) -> NDArray[np.float32]:
    return decode(recordings["austen-0880.flac"])


def reference_log_mel(waveform: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return VGGish's log-mel, computed one frame at a time in float64 with explicit mel triangles."""
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    starts = range(0, len(waveform) - 400 + 1, 160)
    spectrum = np.array([np.abs(np.fft.rfft(waveform[at : at + 400].astype(np.float64) * hann, 512)) for at in starts])

    def mel(hertz: float) -> float:
        return 1127 * math.log(1 + hertz / 700)

    width = (mel(7500) - mel(125)) / 65
    filters = np.zeros((257, 64))
    for bin_ in range(1, 257):
        for band in range(64):
            distance = abs(mel(bin_ * SAMPLE_RATE / 512) - (mel(125) + (band + 1) * width))
            filters[bin_, band] = max(0.0, 1 - distance / width)
    log_mel: NDArray[np.float64] = np.log(spectrum @ filters + 0.01)
    return log_mel


def test_log_mel_patches_equal_an_independent_implementation(speech: NDArray[np.float32]) -> None:
    patches = log_mel_patches(speech)
    expected = reference_log_mel(speech)[: len(patches) * 96].reshape(patches.shape)
    np.testing.assert_allclose(patches, expected, atol=2e-4)


def test_log_mel_patches_of_a_sine_peak_at_its_band() -> None:
    sine = np.sin(2 * np.pi * 1000 * np.arange(3 * SAMPLE_RATE) / SAMPLE_RATE).astype(np.float32)
    patches = log_mel_patches(sine)
    assert patches.shape == (3, 96, 64)
    assert patches.dtype == np.float32
    low, high, tone = (1127 * math.log(1 + hertz / 700) for hertz in (125, 7500, 1000))
    assert patches.mean(axis=(0, 1)).argmax() == round((tone - low) / (high - low) * 65) - 1


@pytest.mark.parametrize(
    ("samples", "patches"),
    [(1, 1), (400, 1), (15_599, 1), (15_600, 1), (30_959, 1), (30_960, 2), (48_000, 3), (960_000, 62)],
)
def test_log_mel_patches_count_follows_the_formula(samples: int, patches: int) -> None:
    assert len(log_mel_patches(np.zeros(samples, np.float32))) == patches


def test_log_mel_patches_of_silence_are_finite() -> None:
    np.testing.assert_allclose(log_mel_patches(np.zeros(16_000, np.float32)), np.log(0.01), rtol=1e-5)
