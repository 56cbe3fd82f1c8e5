"""Augmentation stays within what it promises."""

import numpy as np
import pytest
from runs import tone

from emotion.audio import MEL_BANDS, PATCH_FRAMES, SAMPLE_RATE
from training import augmentation
from training.augmentation import GAIN, LONGEST_TIME_MASK, MASKS, NOISE, SPEEDS, WIDEST_BAND_MASK

TONE = tone(440, 2.0)


def decibels(ratio: float) -> float:
    return float(20 * np.log10(ratio))


def rms(waveform: np.ndarray) -> float:  # type: ignore[type-arg]
    return float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64))))


def only(monkeypatch: pytest.MonkeyPatch, speed: bool = False, gain: bool = False, noise: bool = False) -> None:
    """Switch the others off."""
    if not speed:
        monkeypatch.setattr(augmentation, "SPEEDS", (1.0,))
    if not gain:
        monkeypatch.setattr(augmentation, "GAIN", (0.0, 0.0))
    if not noise:
        monkeypatch.setattr(augmentation, "NOISE", (200.0, 200.0))


def test_waveforms_stay_float32_and_the_input_as_it_was() -> None:
    before = TONE.copy()
    for seed in range(10):
        varied = augmentation.vary_waveform(TONE, np.random.default_rng(seed))
        assert varied.dtype == np.float32 and varied.ndim == 1 and np.isfinite(varied).all()
    np.testing.assert_array_equal(TONE, before)


def test_speed_changes_length_and_pitch(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, speed=True)
    speeds = set()
    for seed in range(40):
        varied = augmentation.vary_waveform(TONE, np.random.default_rng(seed))
        speed = TONE.size / varied.size
        closest = min(SPEEDS, key=lambda each: abs(each - speed))
        assert speed == pytest.approx(closest, abs=1e-3)
        spectrum = np.abs(np.fft.rfft(varied * np.hanning(varied.size)))
        assert spectrum.argmax() * SAMPLE_RATE / varied.size == pytest.approx(440 * closest, abs=2)
        speeds.add(closest)
    assert speeds == set(SPEEDS)


def test_gain_within_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, gain=True)
    gains = [
        decibels(rms(augmentation.vary_waveform(TONE, np.random.default_rng(seed))) / rms(TONE)) for seed in range(200)
    ]
    assert GAIN[0] - 0.01 <= min(gains) < GAIN[0] + 1 and GAIN[1] - 1 < max(gains) <= GAIN[1] + 0.01


def test_noise_within_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, noise=True)
    ratios = []
    for seed in range(200):
        noise = augmentation.vary_waveform(TONE, np.random.default_rng(seed)) - TONE
        ratios.append(decibels(rms(TONE) / rms(noise)))
    assert NOISE[0] - 0.2 <= min(ratios) < NOISE[0] + 3 and NOISE[1] - 3 < max(ratios) <= NOISE[1] + 0.2


def test_silence_stays_silent() -> None:
    assert not augmentation.vary_waveform(np.zeros(16000, np.float32), np.random.default_rng(1)).any()


def test_masks_within_sizes() -> None:
    patches = np.random.default_rng(0).standard_normal((60, PATCH_FRAMES, MEL_BANDS)).astype(np.float32)
    before = patches.copy()
    masked = augmentation.mask_patches(patches, np.random.default_rng(1))
    np.testing.assert_array_equal(patches, before)
    assert masked.shape == patches.shape and masked.dtype == np.float32
    changed = masked != patches
    assert np.unique(masked[changed]).tolist() == [patches.mean()]
    frames = changed.all(axis=2).sum(axis=1)
    bands = changed.all(axis=1).sum(axis=1)
    assert 0 < frames.max() <= MASKS * LONGEST_TIME_MASK and 0 < bands.max() <= MASKS * WIDEST_BAND_MASK
    assert frames.max() > LONGEST_TIME_MASK and bands.max() > WIDEST_BAND_MASK  # two of each
    for patch in changed:  # nothing but whole frames and whole bands
        rest = patch & ~patch.all(axis=1, keepdims=True) & ~patch.all(axis=0, keepdims=True)
        assert not rest.any()
    assert len({tuple(row) for row in changed.all(axis=2)}) > 50  # other masks in each patch


def test_masks_follow_the_random_numbers() -> None:
    patches = np.random.default_rng(0).standard_normal((2, PATCH_FRAMES, MEL_BANDS)).astype(np.float32)
    first, again, other = (augmentation.mask_patches(patches, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
