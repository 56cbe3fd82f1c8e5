"""Find the utterances in audio that arrives in pieces, by its loudness."""

from bisect import bisect_left, insort
from collections import deque

import numpy as np
from numpy.typing import NDArray

FRAME_S = 0.02
MARGIN_DB = 12.0  # speech is at least this much louder than the background
LOWEST_DB, HIGHEST_DB = -50.0, -30.0  # bounds of the threshold, relative to full scale
BACKGROUND_S = 5.0  # the background is the tenth percentile of the loudness over this time
QUIET_START_S = 0.2  # of quiet background assumed before the stream, which count for its first 2 s
START_S, PAUSE_S = 0.1, 0.6  # loud time that begins an utterance, and quiet time that ends it
LEAD_S = 0.2  # kept before the first loud frame: many words begin quietly
SHORTEST_S, LONGEST_S = 0.4, 15.0  # shorter ones are noises; longer ones are cut
_SILENCE_DB = -100.0


class UtteranceDetector:
    """Cuts a stream of samples into utterances.

    An utterance begins when START_S in a row are loud, and ends after PAUSE_S that are quiet, or after LONGEST_S. Loud
    means MARGIN_DB above the background, within bounds.
    """

    def __init__(self, rate: int) -> None:
        """Begin at the first sample.

        Args:
            rate: sample rate in Hz.
        """
        self._rate = rate
        self._frame = max(1, round(FRAME_S * rate))
        self._rest = np.empty(0, np.float32)  # the start of a frame
        self._frames = 0
        # quiet at first, so that somebody who speaks at once is heard
        self._levels = deque([_SILENCE_DB] * round(QUIET_START_S / FRAME_S))
        self._sorted_levels = list(self._levels)
        self._start: int | None = None  # frame at which the current utterance begins
        self._loud_since: int | None = None
        self._last_loud = 0
        self._ended = 0  # frame at which the utterance before it ended

    def add(self, samples: NDArray[np.float32]) -> list[tuple[int, int]]:
        """Hear the next samples.

        Args:
            samples: [n], full scale at 1.0.

        Returns:
            The utterances that have ended, as (start, end) in samples since the beginning.
        """
        samples = np.concatenate([self._rest, samples])
        whole = len(samples) // self._frame * self._frame
        self._rest = samples[whole:]
        power = np.square(samples[:whole].reshape(-1, self._frame)).mean(axis=1, dtype=np.float64)
        found = []
        for level in 10 * np.log10(np.maximum(power, 10 ** (_SILENCE_DB / 10))):
            if utterance := self._hear(float(level)):
                found.append(utterance)
        return found

    def end(self) -> list[tuple[int, int]]:
        """Return the utterance that lasts until the end of the stream, if there is one, as `add` does."""
        utterance = None if self._start is None else self._close(self._last_loud)
        return [utterance] if utterance else []

    def _hear(self, level: float) -> tuple[int, int] | None:
        """Hear one frame with a level in dB, and return the utterance that it ends."""
        background = self._background(level)
        frame, self._frames = self._frames, self._frames + 1
        if level < min(HIGHEST_DB, max(LOWEST_DB, background + MARGIN_DB)):
            self._loud_since = None
            if self._start is not None and self._frames - self._last_loud > PAUSE_S / FRAME_S:
                return self._close(self._last_loud)
            return None
        self._last_loud = self._frames
        self._loud_since = frame if self._loud_since is None else self._loud_since
        if self._start is None:
            if self._frames - self._loud_since >= START_S / FRAME_S:
                self._start = max(self._ended, self._loud_since - round(LEAD_S / FRAME_S))
        elif self._frames - self._start >= LONGEST_S / FRAME_S:
            return self._close(self._frames)
        return None

    def _background(self, level: float) -> float:
        """Add the level of a frame, and return the tenth percentile of the last BACKGROUND_S, both in dB."""
        self._levels.append(level)
        insort(self._sorted_levels, level)  # numpy's percentile of each frame takes 50 times as long
        if len(self._levels) > BACKGROUND_S / FRAME_S:
            del self._sorted_levels[bisect_left(self._sorted_levels, self._levels.popleft())]
        index, part = divmod(0.1 * (len(self._levels) - 1), 1)
        lower, upper = self._sorted_levels[int(index) : int(index) + 2]
        return lower + part * (upper - lower)

    def _close(self, end: int) -> tuple[int, int] | None:
        """End the current utterance at a frame, and return it unless it is too short."""
        assert self._start is not None
        start, self._start, self._loud_since = self._start, None, None
        self._ended = end = min(self._frames, end + round(LEAD_S / FRAME_S))
        if (end - start) * FRAME_S < SHORTEST_S + LEAD_S:
            return None
        return start * self._frame, end * self._frame


def find_utterances(samples: NDArray[np.float32], rate: int) -> list[tuple[int, int]]:
    """Return the utterances of a recording, as `AsyncEmotionClient.stream` finds them.

    Args:
        samples: [n], full scale at 1.0.
        rate: sample rate in Hz.

    Returns:
        (start, end) of each utterance in samples, in the order of time.
    """
    detector = UtteranceDetector(rate)
    return [*detector.add(samples), *detector.end()]
