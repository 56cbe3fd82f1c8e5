"""Test level normalisation and the detection of sound and silence."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.signal
from numpy.typing import NDArray

from emotion import loudness
from emotion.audio import MIN_SAMPLES, SAMPLE_RATE, log_mel_patches, sound_patches
from emotion.decoding import decode
from emotion.loudness import SOUND_MARGIN, TARGET_LEVEL, find_sound, frame_powers

Waveform = NDArray[np.float32]


@pytest.fixture(scope="module")
def speech(recordings: dict[str, bytes]) -> list[Waveform]:
    return [decode(data) for data in recordings.values()]


def pcm16(waveform: NDArray[Any]) -> Waveform:
    """Return the samples after rounding to 16 bits."""
    return np.clip(np.rint(waveform * 32768), -32768, 32767).astype(np.float32) / np.float32(32768)


def noise(samples: int, level: float, seed: int = 0) -> Waveform:
    """Return white noise; `level` is in dB of full scale."""
    return (np.random.default_rng(seed).standard_normal(samples) * 10 ** (level / 20)).astype(np.float32)


def tone(hertz: float, level: float, seconds: float = 3.0) -> Waveform:
    """Return a sine; `level` is in dB of full scale."""
    times = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (np.sin(2 * np.pi * hertz * times) * np.sqrt(2) * 10 ** (level / 20)).astype(np.float32)


def level(waveform: Waveform) -> float:
    """Return the median level, in dB of full scale, of the frames at most 20 dB below the loudest tenth."""
    levels = 10 * np.log10(frame_powers(waveform))
    return float(np.median(levels[levels > np.percentile(levels, 90) - 20]))


# --- level


@pytest.mark.parametrize("gain", [-18.0, -12.0, 6.0])
def test_sound_patches_at_another_gain_are_equal(speech: list[Waveform], gain: float) -> None:
    for waveform in speech:
        expected, found = sound_patches(waveform), sound_patches(waveform * np.float32(10 ** (gain / 20)))
        np.testing.assert_allclose(found, expected, atol=2e-3)


def test_sound_patches_of_16_bits_at_another_gain_are_close(speech: list[Waveform]) -> None:
    for waveform in speech:
        expected, found = sound_patches(waveform), sound_patches(pcm16(waveform * 10 ** (-18 / 20)))
        assert found.shape == expected.shape
        assert np.abs(found - expected).mean() < 0.05


def test_find_sound_of_clipped_speech_keeps_the_level(speech: list[Waveform]) -> None:
    for waveform in speech:
        clipped, sound = find_sound(pcm16(waveform * 10 ** (12 / 20))), find_sound(waveform)
        assert clipped is not None and sound is not None
        assert level(clipped.waveform) == pytest.approx(level(sound.waveform), abs=0.5)


def test_find_sound_of_speech_scales_it_to_the_target_level(speech: list[Waveform]) -> None:
    for waveform in speech:
        sound = find_sound(waveform)
        assert sound is not None
        assert level(sound.waveform) == pytest.approx(TARGET_LEVEL, abs=1.5)


# --- silence around speech


@pytest.mark.parametrize("samples", [1, 1600, 12_345, 48_000])
@pytest.mark.parametrize("place", ["before", "behind", "around"])
def test_sound_patches_with_digital_silence_around_speech_are_equal(
    speech: list[Waveform], samples: int, place: str
) -> None:
    before = np.zeros(samples if place != "behind" else 0, np.float32)
    behind = np.zeros(samples if place != "before" else 0, np.float32)
    for waveform in speech:
        found = sound_patches(np.concatenate([before, waveform, behind]))
        np.testing.assert_allclose(found, sound_patches(waveform), atol=1e-3)


@pytest.mark.parametrize("faint", [-80.0, -65.0])
def test_sound_patches_with_faint_noise_around_speech_are_close(speech: list[Waveform], faint: float) -> None:
    for waveform in speech:
        found = sound_patches(np.concatenate([noise(12_345, faint), waveform, noise(34_567, faint)]))
        expected = sound_patches(waveform)
        assert found.shape == expected.shape
        assert np.abs(found - expected).mean() < 0.02


def test_find_sound_keeps_a_margin_around_the_sound(speech: list[Waveform]) -> None:
    middle = speech[1][8_000:24_000]  # begins and ends in a word
    sound = find_sound(middle)
    assert sound is not None
    assert (
        not sound.waveform[: SOUND_MARGIN - loudness.FRAME].any()
        and not sound.waveform[-SOUND_MARGIN + loudness.FRAME :].any()
    )
    assert sound.waveform.size == pytest.approx(middle.size + 2 * SOUND_MARGIN, abs=4 * loudness.FRAME)


# --- patches


def test_sound_patches_of_a_short_clip_return_one_patch(speech: list[Waveform]) -> None:
    assert sound_patches(speech[0][16_000:20_800]).shape == (1, 96, 64)


def test_sound_patches_leave_out_patches_without_sound(speech: list[Waveform]) -> None:
    first, last = speech[1][:32_000], speech[3][:32_000]
    joined = np.concatenate([first, noise(10 * SAMPLE_RATE, -70), last])
    assert len(log_mel_patches(joined)) == 14
    assert 3 <= len(sound_patches(joined)) <= 6


def test_sound_patches_of_a_long_tail_add_one_patch() -> None:
    long_tail, short_tail = (tone(440, -20, seconds) for seconds in (1.7, 1.2))
    sound = find_sound(long_tail)
    assert sound is not None
    patches = sound_patches(long_tail)
    np.testing.assert_array_equal(
        patches, [*log_mel_patches(sound.waveform), *log_mel_patches(sound.waveform[-MIN_SAMPLES:])]
    )
    assert (len(patches), len(sound_patches(short_tail))) == (2, 1)


def test_find_sound_of_loud_steady_sound_finds_it() -> None:
    assert len(sound_patches(tone(1000, -6))) == 3
    assert len(sound_patches(noise(48_000, -20))) == 3


# --- silence and steady noise

HUM = sum(tone(hertz, -45 - 3 * number) for number, hertz in enumerate((50, 100, 150, 250, 350)))
SILENCES: dict[str, Callable[[], NDArray[Any]]] = {
    "zeros": lambda: np.zeros(48_000),
    "0.1 s of zeros": lambda: np.zeros(1_600),
    "one sample": lambda: np.ones(1),
    "dither of 16 bits": lambda: pcm16(np.random.default_rng(0).triangular(-1, 0, 1, 48_000) / 32768),
    "noise at -80 dB": lambda: pcm16(noise(48_000, -80)),
    "noise at -50 dB": lambda: pcm16(noise(48_000, -50)),
    "pink noise at -50 dB": lambda: scipy.signal.lfilter([0.24], [1, -0.97], noise(48_000, -50)),
    "hum": lambda: pcm16(HUM + noise(48_000, -80)),
    "loud hum of 50 Hz": lambda: tone(50, -20),
    "a constant": lambda: np.full(48_000, 0.3),
    "a click": lambda: np.concatenate([noise(20_000, -80), [0.9, -0.9] * 20, noise(20_000, -80)]),
}  # fmt: skip


@pytest.mark.parametrize("name", SILENCES)
def test_sound_patches_without_sound_are_empty(name: str) -> None:
    patches = sound_patches(SILENCES[name]().astype(np.float32))
    assert patches.shape == (0, 96, 64) and patches.dtype == np.float32


def test_find_sound_excludes_pauses(speech: list[Waveform]) -> None:
    powers = frame_powers(speech[3])
    quiet = np.repeat(powers < np.percentile(powers, 8), loudness.FRAME)
    assert not len(sound_patches(speech[3][: quiet.size][quiet]))


# --- faint speech sounds


def whisper(waveform: Waveform) -> Waveform:
    """Return noise with the spectral envelope of speech and no pitch, at 0 dB of full scale."""
    _, _, spectrum = scipy.signal.stft(waveform, SAMPLE_RATE, nperseg=400, noverlap=300)
    envelope = scipy.signal.convolve2d(np.abs(spectrum), np.ones((9, 1)) / 9, "same")
    phases = np.exp(2j * np.pi * np.random.default_rng(0).random(envelope.shape))
    _, found = scipy.signal.istft(envelope * phases, SAMPLE_RATE, nperseg=400, noverlap=300)
    return (found / np.sqrt(np.mean(np.square(found)))).astype(np.float32)


@pytest.mark.parametrize("level", [-30.0, -45.0, -55.0])
def test_find_sound_keeps_whispers(speech: list[Waveform], level: float) -> None:
    for waveform in speech[1:3]:
        breath = whisper(waveform) * np.float32(10 ** (level / 20))
        found = sound_patches(breath + noise(breath.size, -75))
        assert abs(len(found) - len(sound_patches(waveform))) <= 1 and len(found)


@pytest.mark.parametrize("peak", [-10.0, -25.0, -35.0])
def test_find_sound_keeps_sighs(peak: float) -> None:
    samples = int(1.2 * SAMPLE_RATE)
    band = scipy.signal.butter(2, [300, 3000], "band", fs=SAMPLE_RATE)
    sigh = scipy.signal.lfilter(*band, noise(samples, 0)) * np.sin(np.pi * np.arange(samples) / samples) ** 2
    sigh *= 10 ** (peak / 20) / np.abs(sigh).max()
    room = noise(2 * SAMPLE_RATE + samples, -75)
    room[SAMPLE_RATE : SAMPLE_RATE + samples] += sigh.astype(np.float32)
    assert len(sound_patches(room))


def test_find_sound_keeps_a_sigh_after_speech(speech: list[Waveform]) -> None:
    samples = SAMPLE_RATE
    envelope = np.sin(np.pi * np.arange(samples) / samples)
    sigh = noise(samples, TARGET_LEVEL - 12) * envelope.astype(np.float32)
    sound = find_sound(speech[1])
    assert sound is not None
    pause = np.zeros(2 * SAMPLE_RATE, np.float32)
    assert len(sound_patches(np.concatenate([sound.waveform, pause, sigh]))) > len(sound_patches(sound.waveform))
