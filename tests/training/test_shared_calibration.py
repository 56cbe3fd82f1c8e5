"""Test that folds are calibrated on each other's validation predictions, without their test speakers."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from emotion import checkpoint as checkpoints
from emotion.labels import EMOTIONS
from emotion.text import WordPiece
from training import shared_calibration, splits
from training.corpora import Corpus, Utterance
from training.data import TrainingData
from training.errors import TrainingError
from training.predictions import EmbeddedUtterances, Predictions, calibrate
from training.recordings import Recordings
from training.shared_calibration import calibrate_folds
from training.splits import Split

WORDS = ("house", "river", "train", "garden")

pytestmark = pytest.mark.usefixtures("narrow_models")


@pytest.fixture
def data(small_checkpoint: Path) -> TrainingData:
    """Return a corpus of four sentences by each of three speakers."""
    rows = tuple(
        Utterance(f"{speaker}-{word}", None, f"The {word} of {speaker}.", EMOTIONS[(n + k) % 5], speaker=speaker)
        for n, speaker in enumerate(("ann", "ben", "cem"))
        for k, word in enumerate(WORDS)
    )
    tokenizer = WordPiece(checkpoints.load(small_checkpoint).tokenizer)
    return TrainingData(Corpus("three", rows, {}), Recordings(np.empty(0, np.float32), {}), tokenizer)


def trained(data: TrainingData, checkpoint: Path, run: Path) -> list[tuple[Split, Path]]:
    """Return three folds with their directories as training writes them, each with a different head."""
    folds = []
    for number, split in enumerate(splits.make(data.corpus, "speaker", None, 1)):
        directory = run / split.name
        shutil.copytree(checkpoint, directory / "checkpoint", copy_function=os.link)
        head = directory / "checkpoint" / "fusion.safetensors"
        tensors = load_file(head)
        tensors["text_head.3.bias"] = 3 * torch.eye(5)[number]
        head.unlink()
        save_file(tensors, head)
        result = {"taught": ["text"], "calibrated_on": [split.name], "digest": "", "temperatures": {}, "confidence": {}}
        (directory / "result.json").write_text(json.dumps(result))
        folds.append((split, directory))
    return folds


def test_calibrate_folds_uses_folds_without_its_test_speakers(
    data: TrainingData, small_checkpoint: Path, tmp_path: Path
) -> None:
    folds = trained(data, small_checkpoint, tmp_path)
    # the first tests ann and validates on ben, the second tests ben and validates on cem, the third validates on ann
    helping = {"speaker ann": [0, 1], "speaker ben": [1, 2], "speaker cem": [0, 2]}
    models = [checkpoints.load(directory / "checkpoint").model for _, directory in folds]
    calibrate_folds(folds, data)
    for number, (split, directory) in enumerate(folds):
        result = json.loads((directory / "result.json").read_text())
        helpers = helping[split.name]
        assert result["calibrated_on"] == [folds[helper][0].name for helper in helpers]
        expected = [
            EmbeddedUtterances.from_model(models[helper], data.part(folds[helper][0].validation)) for helper in helpers
        ]
        calibrate(expected, ["text"])
        model = models[number]
        found = checkpoints.load(directory / "checkpoint")
        np.testing.assert_allclose(found.model.head.temperature, model.head.temperature, rtol=1e-4)
        np.testing.assert_allclose(found.model.head.confidence, model.head.confidence, atol=1e-3)
        assert result["temperatures"] == found.config.temperatures and result["digest"] == found.digest
        assert result["temperatures"]["text"] != 1 and result["temperatures"]["audio"] == 1
        answers = Predictions.load(directory / "predictions.json")
        assert answers.ids == list(split.test)
        own = EmbeddedUtterances.from_model(found.model, data.part(split.test)).answers()
        np.testing.assert_allclose(answers.probabilities["text"], own.probabilities["text"], atol=1e-6)

    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    calibrate_folds(folds, data)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


@pytest.mark.parametrize("step", ["replace_config", "predict", "write_atomically"])
def test_calibrate_folds_interrupted_at_any_step_resumes_to_the_same_result(
    data: TrainingData, small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    whole = trained(data, small_checkpoint, tmp_path / "whole")
    calibrate_folds(whole, data)
    interrupted = trained(data, small_checkpoint, tmp_path / "interrupted")
    owner = checkpoints if step == "replace_config" else shared_calibration
    original, calls = getattr(owner, step), []

    def interrupt(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 2:  # in the second fold
            raise KeyboardInterrupt
        return original(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(owner, step, interrupt)
        with pytest.raises(KeyboardInterrupt):
            calibrate_folds(interrupted, data)
    results = [json.loads((directory / "result.json").read_text()) for _, directory in interrupted]
    assert [result["digest"] != "" for result in results] == [True, False, False]
    calibrate_folds(interrupted, data)
    for (_, directory), (_, expected) in zip(interrupted, whole, strict=True):
        for name in ("result.json", "predictions.json", "checkpoint/config.json"):
            assert (directory / name).read_bytes() == (expected / name).read_bytes()


@pytest.mark.parametrize("unknown", ["ann-", "ann-house"])
def test_calibrate_folds_with_an_unknown_speaker_uses_its_own_fold_alone(
    data: TrainingData, small_checkpoint: Path, tmp_path: Path, unknown: str
) -> None:
    folds = trained(data, small_checkpoint, tmp_path)
    rows = tuple(
        replace(each, speaker=None) if each.id.startswith(unknown) else each for each in data.corpus.utterances
    )
    calibrate_folds(folds, replace(data, corpus=Corpus("three", rows, {})))
    calibrated = [json.loads((directory / "result.json").read_text())["calibrated_on"] for _, directory in folds]
    # ann is a test speaker of the first fold, which then uses its own predictions alone,
    # and a validation speaker of the third, which then helps no other fold
    assert calibrated == [["speaker ann"], ["speaker ben"], ["speaker ann", "speaker cem"]]


def test_calibrate_folds_of_an_earlier_version_is_rejected(
    data: TrainingData, small_checkpoint: Path, tmp_path: Path
) -> None:
    folds = trained(data, small_checkpoint, tmp_path)
    (folds[0][1] / "result.json").write_text("{}")
    with pytest.raises(TrainingError, match="was trained by an earlier version"):
        calibrate_folds(folds, data)
