"""Augment training audio: speed, tempo, pitch and noise of waveforms, vocal tract length and masks of patches.

There is no random gain, because the front-end normalises the level (`emotion.loudness`).
"""

import numpy as np
import soxr
from numpy.random import Generator
from numpy.typing import NDArray

from emotion.audio import MEL_BANDS, PATCH_FRAMES, SAMPLE_RATE, hertz, mel, mel_edges

SPEEDS = (0.9, 0.95, 1.0, 1.05, 1.1)  # Ko et al., 2015; resampling changes tempo and pitch together
UNCHANGED_SPEED = SPEEDS.index(1.0)
SNR_RANGE = (15.0, 45.0)  # dB, signal-to-noise ratio of added white noise
MAX_VOCAL_TRACT = 0.2  # largest absolute logarithm of the frequency factor: 0.82 to 1.22
MASKS_PER_AXIS = 2  # per patch; SpecAugment (Park et al., 2019), sized for patches of 96 frames x 64 bands
VOCODER_WINDOW = 1024  # samples: 64 ms separates the harmonics of voices down to 62.5 Hz (four bins of a Hann window)
MAX_TIME_MASK = 16  # frames
MAX_BAND_MASK = 12  # mel bands


def change_speed(waveform: NDArray[np.float32], speed: float) -> NDArray[np.float32]:
    """Change tempo and pitch of a waveform together, by resampling: float32 [n] -> float32 [about n / speed]."""
    if speed == 1.0:
        return waveform
    changed: NDArray[np.float32] = soxr.resample(waveform, SAMPLE_RATE, SAMPLE_RATE / speed, quality="QQ")
    return changed


def vary_waveform(
    waveform: NDArray[np.float32], random: Generator, time_stretch: float = 0.0, pitch_shift: float = 0.0
) -> NDArray[np.float32]:
    """Change tempo and pitch of a waveform at random with a phase vocoder, and add noise.

    Args:
        waveform: float32 [n], mono at 16 kHz.
        random: source of all draws; the same state gives the same waveform.
        time_stretch: largest relative change of tempo at the same pitch; 0.1 draws from 0.9 to 1.1 times. 0 is off.
        pitch_shift: largest change of pitch at the same tempo, in semitones up or down. 0 is off.

    Returns:
        float32 [round(n / tempo)].
    """
    if time_stretch:
        waveform = stretch_time(waveform, random.uniform(1 - time_stretch, 1 + time_stretch))
    if pitch_shift:
        waveform = shift_pitch(waveform, random.uniform(-pitch_shift, pitch_shift))
    level = np.sqrt(np.mean(np.square(waveform))) * 10 ** (-random.uniform(*SNR_RANGE) / 20)
    noise = random.standard_normal(waveform.size, np.float32)
    return (waveform + level * noise).astype(np.float32)


def stretch_time(waveform: NDArray[np.float32], tempo: float) -> NDArray[np.float32]:
    """Change the tempo of a waveform and keep its pitch: float32 [n] -> float32 [round(n / tempo)].

    A waveform shorter than the vocoder's window is returned as it is.
    """
    if waveform.size < VOCODER_WINDOW:
        return waveform
    from librosa.effects import time_stretch  # imported here, because it takes 2 s

    stretched: NDArray[np.float32] = time_stretch(waveform, rate=tempo, n_fft=VOCODER_WINDOW)
    return stretched


def shift_pitch(waveform: NDArray[np.float32], semitones: float) -> NDArray[np.float32]:
    """Change the pitch of a waveform and keep its tempo: float32 [n] -> float32 [n].

    A waveform shorter than the vocoder's window is returned as it is.
    """
    if waveform.size < VOCODER_WINDOW:
        return waveform
    from librosa.effects import pitch_shift  # imported here, because it takes 2 s

    shifted: NDArray[np.float32] = pitch_shift(waveform, sr=SAMPLE_RATE, n_steps=semitones, n_fft=VOCODER_WINDOW)
    return shifted


def load_vocoder() -> None:
    """Import and compile what time stretch and pitch shift need, before worker processes are forked.

    Otherwise each worker spends about 3 s of CPU time on this in every epoch.
    """
    shift_pitch(np.zeros(VOCODER_WINDOW, np.float32), 1.0)


def vary_vocal_tract(patches: NDArray[np.float32], random: Generator) -> NDArray[np.float32]:
    """Change the length of the speaker's vocal tract at random: float32 [n, 96, 64] -> the same shape.

    Vocal tract length perturbation (Jaitly and Hinton, 2013) on log-mel bands: each band takes the interpolated value
    at its frequency times one random factor.
    """
    return scale_frequencies(patches, float(np.exp(random.uniform(-MAX_VOCAL_TRACT, MAX_VOCAL_TRACT))))


def scale_frequencies(patches: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """Divide all frequencies of log-mel patches by a factor: float32 [n, 96, 64] -> the same shape.

    Bands whose source lies outside VGGish's range take the value of the outermost band.
    """
    centres = mel_edges()[1:-1]
    source = np.interp(mel(hertz(centres) * factor), centres, np.arange(MEL_BANDS))
    below = np.minimum(source.astype(np.int64), MEL_BANDS - 2)
    share = (source - below).astype(np.float32)
    scaled: NDArray[np.float32] = patches[..., below] * (1 - share) + patches[..., below + 1] * share
    return scaled


def mask_patches(patches: NDArray[np.float32], random: Generator) -> NDArray[np.float32]:
    """Replace random frames and bands of each patch by the mean of all: float32 [n, 96, 64] -> the same shape."""
    masked = patches.copy()
    fill = patches.mean()
    for patch in masked:
        for _ in range(MASKS_PER_AXIS):
            width = random.integers(MAX_TIME_MASK + 1)
            start = random.integers(PATCH_FRAMES - width + 1)
            patch[start : start + width] = fill
            width = random.integers(MAX_BAND_MASK + 1)
            start = random.integers(MEL_BANDS - width + 1)
            patch[:, start : start + width] = fill
    return masked
