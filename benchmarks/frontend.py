"""`python -m benchmarks.frontend`: print the ms of the audio front-end for 3 s of WAV at 44.1 kHz, which is resampled.

It runs in a process of its own with one thread, as a process of the stage `preprocess` does.
"""

import os
import subprocess
import sys
import timeit
from statistics import median

import numpy as np

from benchmarks.load.workload import encode
from benchmarks.processes import ROOT
from emotion import audio, decoding
from export import speech

SECONDS, RATE, REPEATS = 3, 44_100, 100


def measure() -> float:
    """Return the median ms, measured in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.frontend"]
    return float(subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True).stdout)


if __name__ == "__main__":
    clip = np.resize(speech.waveform(), SECONDS * RATE)  # the rate of what was spoken does not change the work
    data = encode(clip, RATE)
    times = timeit.repeat(lambda: audio.sound_patches(decoding.decode(data)), number=1, repeat=REPEATS)
    print(f"{1e3 * median(times):.2f}")
