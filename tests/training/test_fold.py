"""Test the auxiliary heads of a fold."""

from pathlib import Path

import numpy as np
import pytest

from training import teacher
from training.augmentation import SPEEDS
from training.corpora import Utterance
from training.datasets import Utterances
from training.errors import TrainingError
from training.fold import auxiliary_heads
from training.recordings import Recordings
from training.settings import Settings

SETTINGS = Settings("manifest", "m.jsonl", teacher="tiny.en")
NO_RECORDINGS = Recordings(np.empty(0, np.float32), {})


def dataset(*audio: Path | None) -> Utterances:
    """Return utterances with these recordings, all with the same text."""
    rows = [Utterance(f"row-{number}", path, "Well.", "neutral") for number, path in enumerate(audio)]
    return Utterances(rows, NO_RECORDINGS, [np.array([101, 102])] * len(rows))


def test_auxiliary_heads_place_the_teachers_features_by_speed_and_row(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    one, other = Path("one.wav"), Path("other.wav")
    random = np.random.default_rng(0)
    by_path = {path: random.standard_normal((len(SPEEDS), 7)).astype(np.float32) for path in (one, other)}
    monkeypatch.setattr(teacher, "features", lambda *_: by_path)
    rows = (other, None, one, other)
    heads = auxiliary_heads(SETTINGS, dataset(*rows), tmp_path)
    assert heads is not None and heads.features is not None and heads.labels is None
    found = heads.features.numpy()
    assert found.shape == (len(SPEEDS), len(rows), 7) and found.dtype == np.float32
    together = np.concatenate([by_path[path] for path in rows if path is not None])  # every speed of every recording
    for row, path in enumerate(rows):
        for speed in range(len(SPEEDS)):
            expected = np.zeros(7)
            if path is not None:
                expected = (by_path[path][speed] - together.mean(axis=0)) / together.std(axis=0)
            np.testing.assert_allclose(found[speed, row], expected, atol=1e-5)


def test_auxiliary_heads_without_recordings_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="--teacher needs recordings, and the training set has none; leave it out"):
        auxiliary_heads(SETTINGS, dataset(None, None), tmp_path)
