"""Folds are calibrated on each other's validation answers, and never on a speaker whom they test."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from emotion import checkpoint as checkpoints
from emotion.labels import EMOTIONS
from emotion.text import WordPiece
from training import splits
from training.corpora import Corpus, Utterance
from training.data import Materials
from training.predictions import Embedded, Predictions, calibrate
from training.recordings import Recordings
from training.shared_calibration import calibrate_folds
from training.splits import Split

WORDS = ("house", "river", "train", "garden")


@pytest.fixture
def materials(checkpoint_directory: Path) -> Materials:
    """Four sentences by each of three speakers."""
    rows = tuple(
        Utterance(f"{speaker}-{word}", None, f"The {word} of {speaker}.", EMOTIONS[(n + k) % 5], speaker=speaker)
        for n, speaker in enumerate(("ann", "ben", "cem"))
        for k, word in enumerate(WORDS)
    )
    tokenizer = WordPiece(checkpoints.load(checkpoint_directory).tokenizer)
    return Materials(Corpus("three", rows, {}), Recordings(np.empty(0, np.float32), {}), tokenizer)


def trained(materials: Materials, checkpoint: Path, run: Path) -> list[tuple[Split, Path]]:
    """The directories of three folds, as training leaves them."""
    folds = []
    for split in splits.make(materials.corpus, "speaker", None, 1):
        directory = run / split.name
        shutil.copytree(checkpoint, directory / "checkpoint", copy_function=os.link)
        result = {"taught": ["text"], "calibrated_on": [split.name], "digest": "", "temperatures": {}, "confidence": {}}
        (directory / "result.json").write_text(json.dumps(result))
        folds.append((split, directory))
    return folds


def test_a_fold_is_calibrated_on_the_folds_that_validate_on_others(
    materials: Materials, checkpoint_directory: Path, tmp_path: Path
) -> None:
    folds = trained(materials, checkpoint_directory, tmp_path)
    calibrate_folds(folds, materials)
    # the first tests ann and validates on ben, the second tests ben and validates on cem, the third validates on ann
    helping = {"speaker ann": [0, 1], "speaker ben": [1, 2], "speaker cem": [0, 2]}
    model = checkpoints.load(checkpoint_directory).model
    for split, directory in folds:
        result = json.loads((directory / "result.json").read_text())
        helpers = [folds[number][0] for number in helping[split.name]]
        assert result["calibrated_on"] == [helper.name for helper in helpers]
        expected = [Embedded.by(model, materials.part(helper.validation)) for helper in helpers]
        calibrate(expected, ["text"])
        found = checkpoints.load(directory / "checkpoint")
        np.testing.assert_allclose(found.model.head.temperature, model.head.temperature, rtol=1e-4)
        np.testing.assert_allclose(found.model.head.confidence, model.head.confidence, atol=1e-3)
        assert result["temperatures"] == found.config.temperatures and result["digest"] == found.digest
        assert result["temperatures"]["text"] != 1 and result["temperatures"]["audio"] == 1
        answers = Predictions.load(directory / "predictions.json")
        assert answers.ids == list(split.test)
        own = Embedded.by(found.model, materials.part(split.test)).answers()
        np.testing.assert_allclose(answers.probabilities["text"], own.probabilities["text"], atol=1e-6)

    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    calibrate_folds(folds, materials)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


def test_without_known_speakers_a_fold_keeps_its_own_calibration(
    materials: Materials, checkpoint_directory: Path, tmp_path: Path
) -> None:
    folds = trained(materials, checkpoint_directory, tmp_path)
    unknown = tuple(Utterance(each.id, None, each.text, each.emotion) for each in materials.corpus.utterances)
    materials = Materials(Corpus("three", unknown, {}), materials.recordings, materials.tokenizer)
    calibrate_folds(folds, materials)
    for split, directory in folds:
        assert json.loads((directory / "result.json").read_text())["calibrated_on"] == [split.name]
        assert not (directory / "predictions.json").exists()
