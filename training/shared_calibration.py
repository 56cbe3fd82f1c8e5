"""Calibration of the folds of a run on each other's validation answers.

In a small corpus a fold may validate on one speaker, whose thirty answers are too few to fit a temperature on. So each
fold is also calibrated on the validation answers of the other folds. A fold that validates on a speaker whom this fold
tests is left out: no answer that calibrates a fold comes from a speaker whom the fold tests. The other folds' models
may have been trained on these speakers.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from emotion import checkpoint as checkpoints
from training.data import TrainingData
from training.errors import TrainingError
from training.files import write_atomically
from training.predictions import EmbeddedUtterances, calibrate, predict
from training.splits import Split


def calibrate_folds(folds: Sequence[tuple[Split, Path]], data: TrainingData) -> None:
    """Calibrate each fold on its own validation answers and those of the folds that may help it.

    The configuration of a fold's checkpoint, its answers to the test utterances and its result.json are written anew,
    unless it was calibrated on the same folds before.

    Args:
        folds: those that are trained, each with its directory.
        data: the corpus with its recordings.

    Raises:
        CheckpointError: a checkpoint cannot be read or written.
        TrainingError: a fold was trained by an earlier version, or the disk is full or refuses.
    """
    speakers = {each.id: each.speaker for each in data.corpus.utterances}
    validated: dict[Path, EmbeddedUtterances] = {}  # by the fold's directory

    def may_help(helper: Split, helped: Split) -> bool:
        validating, tested = ({speakers[each] for each in ids} for ids in (helper.validation, helped.test))
        return helper == helped or not (validating & tested or None in validating | tested)

    for split, directory in folds:
        helpers = {other.name: (other, place) for other, place in folds if may_help(other, split)}
        result = json.loads((directory / "result.json").read_text())
        if "calibrated_on" not in result:
            raise TrainingError(f"{directory} was trained by an earlier version; train again with another --output")
        if result["calibrated_on"] == list(helpers):
            continue
        for other, place in helpers.values():
            if place not in validated:
                model = checkpoints.load(place / "checkpoint").model
                validated[place] = EmbeddedUtterances.from_model(model, data.part(other.validation))
        calibrate([validated[place] for _, place in helpers.values()], result["taught"])

        trained = checkpoints.load(directory / "checkpoint")
        config = checkpoints.with_calibration(trained.config, validated[directory].head)
        checkpoints.set_calibration(trained.model.head, config)
        checkpoints.replace_config(directory / "checkpoint", config)
        if split.test:
            predict(trained.model, data.part(split.test)).save(directory / "predictions.json")
        result |= {
            "calibrated_on": list(helpers),
            "temperatures": config.temperatures,
            "confidence": config.confidence,
            "digest": checkpoints.digest(directory / "checkpoint"),
        }
        write_atomically(directory / "result.json", json.dumps(result, indent=1) + "\n")
