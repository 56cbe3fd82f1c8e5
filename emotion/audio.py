"""Compute the log-mel patches that VGGish takes from a 16 kHz mono waveform.

The patches are those of Google's AudioSet VGGish (`mel_features.py` and `vggish_params.py` of the public release),
computed in float32 over all frames at once.
"""

from functools import cache

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from emotion.loudness import find_sound

SAMPLE_RATE = 16_000  # Hz
WINDOW = 400  # samples: 25 ms
HOP = 160  # samples: 10 ms
FFT = 512  # the next power of two over WINDOW
MEL_BANDS = 64
MEL_RANGE = (125.0, 7500.0)  # Hz
LOG_OFFSET = 0.01  # added before the logarithm, which keeps silence finite
PATCH_FRAMES = 96  # frames: 0.96 s; patches do not overlap
PATCH_SHAPE = (PATCH_FRAMES, MEL_BANDS)
PATCH_ELEMENTS = PATCH_FRAMES * MEL_BANDS
MIN_SAMPLES = (PATCH_FRAMES - 1) * HOP + WINDOW  # samples of one patch: 0.975 s
MAX_TAIL_SHARE = 1 / 3  # share of the sound that may lie in the dropped tail behind the last patch


@cache
def _window() -> NDArray[np.float32]:
    """Return a periodic Hann window: float32 [WINDOW]."""
    return (0.5 - 0.5 * np.cos(2 * np.pi / WINDOW * np.arange(WINDOW))).astype(np.float32)


def mel(hertz: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """Return frequencies on HTK's mel scale, 1127 ln(1 + f / 700)."""
    return 1127.0 * np.log1p(np.asarray(hertz) / 700.0)


def hertz(mels: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """Return the frequencies of points on HTK's mel scale: the inverse of `mel`."""
    return 700.0 * np.expm1(np.asarray(mels) / 1127.0)


def mel_edges() -> NDArray[np.float64]:
    """Return the lower edges, centres and upper edges of the mel filters, in mel: float64 [MEL_BANDS + 2].

    Filter n has its lower edge at n, its centre at n + 1 and its upper edge at n + 2.
    """
    return np.linspace(mel(MEL_RANGE[0]), mel(MEL_RANGE[1]), MEL_BANDS + 2)


@cache
def _mel_matrix() -> NDArray[np.float32]:
    """Return the mel filters: float32 [FFT // 2 + 1, MEL_BANDS].

    They are triangles that are linear in mel (not in Hz) and not normalised. The row of 0 Hz is zero, as in HTK.
    """
    bins = mel(np.linspace(0.0, SAMPLE_RATE / 2, FFT // 2 + 1))[:, None]
    edges = mel_edges()
    lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
    weights = np.maximum(0.0, np.minimum((bins - lower) / (centre - lower), (upper - bins) / (upper - centre)))
    weights[0] = 0.0
    return weights.astype(np.float32)


def log_mel_patches(waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return all log-mel patches of a waveform, as VGGish's published front-end computes them.

    Args:
        waveform: float32 [n], n >= 1, mono at 16 kHz in [-1, 1].

    Returns:
        float32 [patches, 96, 64] (frames x mel bands), patches = floor((1 + floor((n - 400) / 160)) / 96). A clip
        shorter than one patch is padded with zeros at its end to make one; the incomplete tail of a longer one is
        dropped, as VGGish does.
    """
    if waveform.size < MIN_SAMPLES:
        waveform = np.pad(waveform, (0, MIN_SAMPLES - waveform.size))
    patches = (1 + (waveform.size - WINDOW) // HOP) // PATCH_FRAMES
    windows = np.lib.stride_tricks.sliding_window_view(waveform, WINDOW)[::HOP]
    mel = np.empty((patches, *PATCH_SHAPE), np.float32)
    frames = np.zeros((PATCH_FRAMES, FFT), np.float32)  # four times faster than padding by rfft
    for index in range(patches):  # one patch at a time fits the CPU cache: half the time of all at once
        np.multiply(windows[index * PATCH_FRAMES : (index + 1) * PATCH_FRAMES], _window(), out=frames[:, :WINDOW])
        np.matmul(np.abs(scipy.fft.rfft(frames)), _mel_matrix(), out=mel[index])
    mel += np.float32(LOG_OFFSET)
    return np.log(mel, out=mel)


def sound_patches(waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the patches of a waveform that serving and training give to VGGish.

    `emotion.loudness` first brings the waveform to one level and cuts the silence around it. Patches without sound are
    left out. If the tail behind the last patch holds more than MAX_TAIL_SHARE of the sound, one more patch is added.
    It ends where the waveform ends, and may overlap the patch before it.

    Args:
        waveform: float32 [n], n >= 1, mono at 16 kHz.

    Returns:
        float32 [patches, 96, 64]; patches = 0 if there is no sound.
    """
    sound = find_sound(waveform)
    if sound is None:
        return np.empty((0, *PATCH_SHAPE), np.float32)
    patches = log_mel_patches(sound.waveform)
    count = len(patches)
    sounds = np.bincount(
        sound.positions // (PATCH_FRAMES * HOP), minlength=count
    )  # number of sounds in each patch, then in the tail
    has_sound = sounds[:count] > 0
    if not has_sound.all():
        patches = patches[has_sound]
    if sounds[count:].sum() > MAX_TAIL_SHARE * sound.positions.size:
        patches = np.concatenate([patches, log_mel_patches(sound.waveform[-MIN_SAMPLES:])])
    return patches
