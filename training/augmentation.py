"""What makes one recording many: speed, gain and noise on the waveform, masks on the log-mel patches."""

import numpy as np
import soxr
from numpy.random import Generator
from numpy.typing import NDArray

from emotion.audio import MEL_BANDS, PATCH_FRAMES, SAMPLE_RATE

SPEEDS = (0.9, 0.95, 1.0, 1.05, 1.1)  # Ko et al., 2015: changes tempo and pitch together, as resampling does
GAIN = (-6.0, 6.0)  # dB
NOISE = (15.0, 45.0)  # dB of signal over white noise
MASKS = 2  # per patch and axis; SpecAugment (Park et al., 2019), sized for patches of 96 frames x 64 bands
LONGEST_TIME_MASK = 16  # frames
WIDEST_BAND_MASK = 12  # mel bands


def vary_waveform(waveform: NDArray[np.float32], random: Generator) -> NDArray[np.float32]:
    """Another speed, another loudness, a little noise: float32 [n] -> float32 [about n / speed]."""
    speed = random.choice(SPEEDS)
    if speed != 1.0:
        waveform = soxr.resample(waveform, SAMPLE_RATE, SAMPLE_RATE / speed, quality="QQ")
    gain = 10 ** (random.uniform(*GAIN) / 20)
    level = np.sqrt(np.mean(np.square(waveform))) * 10 ** (-random.uniform(*NOISE) / 20)
    noise = random.standard_normal(waveform.size, np.float32)
    return ((waveform + level * noise) * gain).astype(np.float32)


def mask_patches(patches: NDArray[np.float32], random: Generator) -> NDArray[np.float32]:
    """SpecAugment: in each patch some frames and some bands become the patches' mean. [n, 96, 64] -> the same shape."""
    masked = patches.copy()
    fill = patches.mean()
    for patch in masked:
        for _ in range(MASKS):
            width = random.integers(LONGEST_TIME_MASK + 1)
            start = random.integers(PATCH_FRAMES - width + 1)
            patch[start : start + width] = fill
            width = random.integers(WIDEST_BAND_MASK + 1)
            start = random.integers(MEL_BANDS - width + 1)
            patch[:, start : start + width] = fill
    return masked
