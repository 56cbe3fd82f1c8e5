"""`python -m benchmarks.frontend`: ms of the audio front-end for a clip of 3 s, by file format.

It runs in a process of its own with one thread, as a process of the stage `preprocess` does.
"""

import io
import json
import os
import subprocess
import sys
import time
from statistics import median

import numpy as np
import soundfile

from benchmarks.processes import ROOT
from emotion import audio, decoding
from export.speech import SPEECH

SECONDS = 3
REPEATS = 100
FORMATS = {  # name -> container, subtype, rate in Hz, channels
    "WAV 44.1 kHz": ("WAV", "PCM_16", 44_100, 1),
    "WAV 44.1 kHz stereo": ("WAV", "PCM_16", 44_100, 2),
    "WAV 16 kHz": ("WAV", "PCM_16", 16_000, 1),
    "FLAC 16 kHz": ("FLAC", "PCM_16", 16_000, 1),
    "OGG Vorbis 16 kHz": ("OGG", "VORBIS", 16_000, 1),
    "MP3 16 kHz": ("MP3", "MPEG_LAYER_III", 16_000, 1),
}
REFERENCE = "WAV 44.1 kHz"  # the usual recording that has to be resampled


def measure() -> dict[str, float]:
    """Return median ms by format, measured in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.frontend", "--json"]
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=os.environ | one_thread, capture_output=True, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def main() -> None:
    """Measure in this process and print; as JSON with --json."""
    found = {name: _median_ms(_clip(*settings)) for name, settings in FORMATS.items()}
    lines = (f"{name:<22} {ms:5.2f} ms for {SECONDS} s" for name, ms in found.items())
    print(json.dumps(found) if "--json" in sys.argv else "\n".join(lines))


def _clip(container: str, subtype: str, rate: int, channels: int) -> bytes:
    waveform, _ = soundfile.read(sorted(SPEECH.glob("*.flac"))[0], dtype="float32")
    samples = np.resize(waveform, (SECONDS * rate, 1)).repeat(channels, axis=1)  # the rate does not change the work
    file = io.BytesIO()
    soundfile.write(file, samples, rate, subtype, format=container)
    return file.getvalue()


def _median_ms(data: bytes) -> float:
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        audio.sound_patches(decoding.decode(data))
        times.append(1e3 * (time.perf_counter() - start))
    return median(times)
