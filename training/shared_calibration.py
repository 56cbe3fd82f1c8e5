"""Calibrate the folds of a run on each other's validation predictions.

In a small corpus a fold may validate on one speaker, whose thirty predictions are too few to fit a temperature. Each
fold is therefore also calibrated on the validation predictions of other folds. Folds that validate on a speaker whom
this fold tests are excluded, so no tested speaker contributes to a fold's calibration. The models of the other folds
may have been trained on the tested speakers.
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
    """Calibrate each fold on its own validation predictions and those of other folds without its test speakers.

    Rewrites the configuration of the fold's checkpoint, its predictions.json and its result.json, in this order, unless
    the fold was already calibrated on the same folds. An interrupted call can be repeated.

    Args:
        folds: the trained folds, each with its directory.
        data: the corpus with its recordings.

    Raises:
        CheckpointError: a checkpoint can't be read or written.
        TrainingError: a fold was trained by an earlier version, or a file can't be written.
    """
    speakers = {each.id: each.speaker for each in data.corpus.utterances}
    validated: dict[Path, EmbeddedUtterances] = {}  # by directory of the fold

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
