"""Read the recordings of examples/speech that have a transcript, for gates, calibration and load tests."""

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emotion import decoding

SPEECH = Path(__file__).parent.parent / "examples" / "speech"


def transcripts() -> dict[str, str]:
    """Return the sentences of the recordings by file name."""
    with (SPEECH / "transcripts.tsv").open(newline="", encoding="utf-8") as file:
        return dict(csv.reader(file, delimiter="\t"))


def waveform() -> NDArray[np.float32]:
    """Return all recordings with a transcript, concatenated, float32 [n] at 16 kHz."""
    return np.concatenate([decoding.decode((SPEECH / name).read_bytes()) for name in transcripts()])
