"""Normalise the level of a recording and find its sound, between decoding and the log-mel patches.

The prediction must not depend on the microphone's gain or on silence before and after speech. This step scales every
recording to one level, removes the silence around the speech, and returns the positions of sound.
"""

import math
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

FRAME = 320  # samples: 20 ms; levels are measured in frames that do not overlap
RUMBLE_DEGREE = 7  # of the polynomial subtracted from a frame, which removes a DC offset and mains hum
ACTIVITY_MARGIN = 15.9  # dB between the active level and the quietest active frame: M of ITU-T P.56, method B
TARGET_LEVEL = -20.5  # dB of full scale: the median active level of EmoDB's recordings
SOUND_RANGE = 21.0  # dB below the active level in which a frame is sound
SOUND_FRAMES = 3  # consecutive frames that make a sound (60 ms); a click is shorter
MIN_LEVEL = -60.0  # dB of full scale: the lowest active level of a recording that has sound
MIN_STEADY_LEVEL = -40.0  # dB of full scale: the same for a recording of steady level, which is noise or hum
STEADY_SPREAD = 6.0  # dB between the 10th and the 90th percentile of the active frames
SOUND_MARGIN = 800  # samples kept before the first sound and behind the last one: 50 ms
NO_SOUND = f"no sound above {MIN_LEVEL:g} dB of full scale, or nothing but steady noise or clicks"  # in error messages
MIN_POWER = 1e-12  # -120 dB: keeps the logarithm of digital silence finite


class Sound(NamedTuple):
    """The part of a recording that has sound, at TARGET_LEVEL.

    Attributes:
        waveform: float32 [samples], from SOUND_MARGIN before the first sound to SOUND_MARGIN after the last one.
        positions: int64 [sounds], ascending indices into `waveform`, each the middle of SOUND_FRAMES of sound.
    """

    waveform: NDArray[np.float32]
    positions: NDArray[np.int64]


def find_sound(waveform: NDArray[np.float32]) -> Sound | None:
    """Return the part of a waveform that has sound, at one level.

    Frames are active as in ITU-T P.56, method B, with the powers of frames for its envelope: the quietest lies
    ACTIVITY_MARGIN below their mean power. Silence around speech does not change which they are. The active level here
    is their median power, because clipping lowers the mean. One gain brings it to TARGET_LEVEL. MIN_LEVEL bounds that
    gain, so that faint noise is not amplified.

    Zeros are added where the waveform has less than SOUND_MARGIN around the sound. The same recording then gives the
    same patches, with or without leading silence.

    Args:
        waveform: float32 [n], n >= 1, mono at 16 kHz.

    Returns:
        None if no SOUND_FRAMES consecutive frames are louder than SOUND_RANGE below the active level, if the active
        level is below MIN_LEVEL, or if it is below MIN_STEADY_LEVEL and hardly varies.
    """
    highest, lowest = int(waveform.argmax()), int(waveform.argmin())
    peak = highest if waveform[highest] >= -waveform[lowest] else lowest
    in_front = -peak % FRAME  # a frame starts at the peak, so that leading silence does not shift the frames
    frames = -(-(in_front + waveform.size) // FRAME)
    padded = np.zeros(SOUND_MARGIN + frames * FRAME + SOUND_MARGIN, np.float32)
    padded[SOUND_MARGIN + in_front :][: waveform.size] = waveform
    powers = frame_powers(padded[SOUND_MARGIN:-SOUND_MARGIN])
    if powers.size < SOUND_FRAMES:
        return None
    active = _active(powers)
    power = float(active[active.size // 2])
    level = _decibels(power)
    spread = _decibels(active[active.size // 10] / active[active.size * 9 // 10])
    if level < (MIN_STEADY_LEVEL if spread < STEADY_SPREAD else MIN_LEVEL):
        return None
    threshold = power * 10 ** (-SOUND_RANGE / 10)
    (first_frames,) = np.nonzero(sliding_window_view(powers >= threshold, SOUND_FRAMES).all(axis=1))
    if not first_frames.size:
        return None
    begin, end = first_frames[0] * FRAME, (first_frames[-1] + SOUND_FRAMES) * FRAME + 2 * SOUND_MARGIN
    sound = padded[begin:end]
    sound *= np.float32(10 ** ((TARGET_LEVEL - level) / 20))
    middles = SOUND_MARGIN + (first_frames - first_frames[0]) * FRAME + SOUND_FRAMES * FRAME // 2
    return Sound(sound, middles)


def frame_powers(waveform: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the power of each whole frame, without DC offset and mains hum: float64 [n // FRAME].

    A least-squares polynomial takes 49 dB out of a tone of 60 Hz, 25 dB out of 100 Hz, and 1 dB out of 200 Hz. VGGish's
    mel bands start at 125 Hz.

    The powers are computed in float64. In float32 the last bit of the gain would depend on the BLAS kernel and numpy's
    version, which changed quiet log-mel values by up to 1e-4.
    """
    frames = waveform[: waveform.size // FRAME * FRAME].reshape(-1, FRAME).astype(np.float64)
    total = np.einsum("ij,ij->i", frames, frames)
    rumble = frames @ _polynomials()
    powers: NDArray[np.float64] = (total - np.einsum("ij,ij->i", rumble, rumble)) / FRAME
    return np.maximum(powers, MIN_POWER)


@cache
def _polynomials() -> NDArray[np.float64]:
    """Return orthonormal polynomials over a frame: float64 [FRAME, RUMBLE_DEGREE + 1]."""
    legendre = np.polynomial.legendre.legvander(np.linspace(-1, 1, FRAME), RUMBLE_DEGREE)  # type: ignore[no-untyped-call]
    return np.ascontiguousarray(np.linalg.qr(legendre)[0])


def _active(powers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the powers of the active frames, descending: all within ACTIVITY_MARGIN below their mean."""
    powers = np.sort(powers)[::-1]
    means = np.cumsum(powers) / np.arange(1, powers.size + 1)
    (candidates,) = np.nonzero(means <= powers * 10 ** (ACTIVITY_MARGIN / 10))
    return powers[: candidates[-1] + 1]  # never empty: the loudest frame alone is a candidate


def _decibels(power: float) -> float:
    return 10 * math.log10(power)
