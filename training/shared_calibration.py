"""Calibration of the folds of a run on each other's validation answers.

A fold of few speakers validates on one of them, and thirty answers cannot tell how sure a model may be. The validation
answers of the other folds are as good: each model gave them to a speaker whom it had not heard. A fold whose
validation speakers are tested here is left out, so that nothing is fitted on test speakers.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from emotion import checkpoint as checkpoints
from training.corpora.release import write_atomically
from training.data import Materials
from training.predictions import Embedded, calibrate, predict
from training.splits import Split


def calibrate_folds(folds: Sequence[tuple[Split, Path]], materials: Materials) -> None:
    """Calibrate each fold on its own validation answers and those of the folds that may help it.

    Checkpoint, answers to the test utterances and result.json of a fold are written anew, unless it was calibrated on
    the same folds before.

    Args:
        folds: those that are trained, each with its directory.
        materials: the corpus with its recordings.

    Raises:
        CheckpointError: a checkpoint that cannot be read or written.
    """
    speakers = {each.id: each.speaker for each in materials.corpus.utterances}
    validated: dict[Path, Embedded] = {}  # by the fold's directory

    def may_help(helper: Split, helped: Split) -> bool:
        validating = {speakers[each] for each in helper.validation}
        return helper == helped or not validating & {None, *(speakers[each] for each in helped.test)}

    for split, directory in folds:
        helpers = {other.name: (other, place) for other, place in folds if may_help(other, split)}
        result = json.loads((directory / "result.json").read_text())
        if result["calibrated_on"] == list(helpers):
            continue
        for other, place in helpers.values():
            if place not in validated:
                model = checkpoints.load(place / "checkpoint").model
                validated[place] = Embedded.by(model, materials.part(other.validation))
        calibrate([validated[place] for _, place in helpers.values()], result["taught"])

        trained = checkpoints.load(directory / "checkpoint")
        config = checkpoints.with_calibration(trained.config, validated[directory].head)
        checkpoints.set_calibration(trained.model.head, config)
        checkpoints.save(directory / "checkpoint", trained.model, config, trained.tokenizer)
        if split.test:
            predict(trained.model, materials.part(split.test)).save(directory / "predictions.json")
        result |= {
            "calibrated_on": list(helpers),
            "temperatures": config.temperatures,
            "confidence": config.confidence,
            "digest": checkpoints.digest(directory / "checkpoint"),
        }
        write_atomically(directory / "result.json", json.dumps(result, indent=1) + "\n")
