"""Test the ranges and the repeatability of augmentation."""

import numpy as np
import pytest
from runs import tone

from emotion.audio import MEL_BANDS, PATCH_FRAMES, SAMPLE_RATE, log_mel_patches
from training import augmentation
from training.augmentation import (
    MASKS_PER_AXIS,
    MAX_BAND_MASK,
    MAX_TIME_MASK,
    SNR_RANGE,
    SPEEDS,
    VOCODER_WINDOW,
    change_speed,
    scale_frequencies,
    shift_pitch,
    stretch_time,
    vary_waveform,
)

TONE = tone(440, 2.0)


def decibels(ratio: float) -> float:
    return float(20 * np.log10(ratio))


def rms(waveform: np.ndarray) -> float:  # type: ignore[type-arg]
    return float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64))))


def pitch(waveform: np.ndarray) -> float:  # type: ignore[type-arg]
    """Frequency of the strongest partial, in Hz."""
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(waveform.size)))
    return float(spectrum.argmax()) * SAMPLE_RATE / waveform.size


def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the added noise inaudible."""
    monkeypatch.setattr(augmentation, "SNR_RANGE", (200.0, 200.0))


def test_vary_waveform_returns_float32_and_keeps_its_input() -> None:
    before = TONE.copy()
    for seed in range(10):
        varied = vary_waveform(TONE, np.random.default_rng(seed))
        assert varied.dtype == np.float32 and varied.ndim == 1 and np.isfinite(varied).all()
    np.testing.assert_array_equal(TONE, before)


@pytest.mark.parametrize("speed", SPEEDS)
def test_change_speed_changes_length_and_pitch(speed: float) -> None:
    changed = change_speed(TONE, speed)
    assert changed.dtype == np.float32
    assert TONE.size / changed.size == pytest.approx(speed, abs=1e-3)
    assert pitch(changed) == pytest.approx(440 * speed, abs=2)


@pytest.mark.parametrize("tempo", [0.75, 0.9, 1.1, 1.25])
def test_stretch_time_changes_length_and_keeps_pitch(tempo: float) -> None:
    stretched = stretch_time(TONE, tempo)
    assert stretched.dtype == np.float32 and stretched.size == round(TONE.size / tempo)
    assert pitch(stretched) == pytest.approx(440, abs=2)
    assert rms(stretched) == pytest.approx(rms(TONE), rel=0.1)


@pytest.mark.parametrize("semitones", [-4, -0.5, 0.5, 4])
def test_shift_pitch_changes_pitch_and_keeps_length(semitones: float) -> None:
    shifted = shift_pitch(TONE, semitones)
    assert shifted.dtype == np.float32 and shifted.size == TONE.size
    assert pitch(shifted) == pytest.approx(440 * 2 ** (semitones / 12), abs=2)
    assert rms(shifted) == pytest.approx(rms(TONE), rel=0.1)


@pytest.mark.parametrize("samples", [1, VOCODER_WINDOW - 1])
@pytest.mark.filterwarnings("error")
def test_vocoder_shorter_than_its_window_returns_the_waveform(samples: int) -> None:
    np.testing.assert_array_equal(stretch_time(TONE[:samples], 1.1), TONE[:samples])
    np.testing.assert_array_equal(shift_pitch(TONE[:samples], 2), TONE[:samples])


@pytest.mark.filterwarnings("error")
def test_vocoder_of_one_window_is_finite() -> None:
    one_window = TONE[:VOCODER_WINDOW]
    assert np.isfinite(stretch_time(one_window, 1.25)).all() and np.isfinite(shift_pitch(one_window, -4)).all()


def test_time_stretch_draws_within_its_range(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet(monkeypatch)
    varied = [vary_waveform(TONE, np.random.default_rng(seed), time_stretch=0.1) for seed in range(30)]
    tempos = [TONE.size / each.size for each in varied]
    assert 0.899 < min(tempos) < 0.92 and 1.08 < max(tempos) < 1.101
    assert all(pitch(each) == pytest.approx(440, abs=2) for each in varied)


def test_pitch_shift_draws_within_its_range(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet(monkeypatch)
    varied = [vary_waveform(TONE, np.random.default_rng(seed), pitch_shift=2) for seed in range(30)]
    semitones = [12 * np.log2(pitch(each) / 440) for each in varied]
    assert -2.05 < min(semitones) < -1.6 and 1.6 < max(semitones) < 2.05
    assert {each.size for each in varied} == {TONE.size}


def test_vary_waveform_with_both_depends_on_the_random_state_alone() -> None:
    first, again, other = (vary_waveform(TONE, np.random.default_rng(seed), 0.1, 2) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert first.size != other.size


def test_vary_waveform_adds_noise_within_its_limits() -> None:
    ratios = []
    for seed in range(200):
        noise = vary_waveform(TONE, np.random.default_rng(seed)) - TONE
        ratios.append(decibels(rms(TONE) / rms(noise)))
    assert SNR_RANGE[0] - 0.2 <= min(ratios) < SNR_RANGE[0] + 3 and SNR_RANGE[1] - 3 < max(ratios) <= SNR_RANGE[1] + 0.2


def test_vary_waveform_of_silence_is_silent() -> None:
    assert not vary_waveform(np.zeros(16000, np.float32), np.random.default_rng(1)).any()


def test_mask_patches_stays_within_its_sizes() -> None:
    patches = np.random.default_rng(0).standard_normal((60, PATCH_FRAMES, MEL_BANDS)).astype(np.float32)
    before = patches.copy()
    masked = augmentation.mask_patches(patches, np.random.default_rng(1))
    np.testing.assert_array_equal(patches, before)
    assert masked.shape == patches.shape and masked.dtype == np.float32
    changed = masked != patches
    assert np.unique(masked[changed]).tolist() == [patches.mean()]
    frames = changed.all(axis=2).sum(axis=1)
    bands = changed.all(axis=1).sum(axis=1)
    assert 0 < frames.max() <= MASKS_PER_AXIS * MAX_TIME_MASK and 0 < bands.max() <= MASKS_PER_AXIS * MAX_BAND_MASK
    assert frames.max() > MAX_TIME_MASK and bands.max() > MAX_BAND_MASK  # two of each
    for patch in changed:  # only whole frames and whole bands are masked
        rest = patch & ~patch.all(axis=1, keepdims=True) & ~patch.all(axis=0, keepdims=True)
        assert not rest.any()
    assert len({tuple(row) for row in changed.all(axis=2)}) > 50  # masks differ between patches


@pytest.mark.parametrize("factor", [0.82, 0.9, 1.1, 1.22])
def test_scale_frequencies_equals_a_tone_of_another_pitch(factor: float) -> None:
    """Scaling moves a tone from frequency f to the band of f / factor."""
    scaled = scale_frequencies(log_mel_patches(tone(1000, 2.0)), factor)
    expected = log_mel_patches(tone(1000 / factor, 2.0))
    assert scaled.shape == expected.shape and scaled.dtype == np.float32
    assert abs(int(scaled.mean(axis=(0, 1)).argmax()) - int(expected.mean(axis=(0, 1)).argmax())) <= 1
    assert scaled.max() == pytest.approx(expected.max(), abs=0.5)


def test_scale_frequencies_by_1_changes_nothing_and_by_others_stays_finite() -> None:
    patches = log_mel_patches(TONE)
    np.testing.assert_allclose(scale_frequencies(patches, 1.0), patches, atol=1e-4)
    for factor in (0.5, 2.0):
        assert np.isfinite(scale_frequencies(patches, factor)).all()
    assert scale_frequencies(patches[:0], 1.1).shape == patches[:0].shape


def test_vary_vocal_tract_depends_on_the_random_state_within_its_range(monkeypatch: pytest.MonkeyPatch) -> None:
    factors: list[float] = []
    monkeypatch.setattr(augmentation, "scale_frequencies", lambda patches, factor: factors.append(factor))
    for seed in (*range(500), 0):
        augmentation.vary_vocal_tract(log_mel_patches(TONE), np.random.default_rng(seed))
    assert factors[0] == factors[-1]
    assert 0.81 < min(factors) < 0.84 and 1.19 < max(factors) < 1.23


def test_mask_patches_depends_on_the_random_state() -> None:
    patches = np.random.default_rng(0).standard_normal((2, PATCH_FRAMES, MEL_BANDS)).astype(np.float32)
    first, again, other = (augmentation.mask_patches(patches, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
