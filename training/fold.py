"""Train one fold: choose an epoch, calibrate it, predict the test utterances, write the checkpoint."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback

from emotion import checkpoint as checkpoints
from emotion.checkpoint import CheckpointConfig
from emotion.model import VIEWS
from training import low_rank, splits
from training.auxiliary import AuxiliaryHeads, label_targets
from training.data import TrainingData
from training.datasets import Utterances
from training.environment import hardware
from training.errors import TrainingError
from training.files import resumable_write, write_atomically
from training.learner import MONITOR, Learner
from training.predictions import EmbeddedUtterances, calibrate, predict
from training.settings import Settings
from training.splits import Split
from training.trainer import BEST_STATE, LAST_STATE, run_trainer


def train_fold(
    settings: Settings,
    split: Split,
    data: TrainingData,
    start: Path,
    directory: Path,
    cache: Path,
    callbacks: Sequence[Callback] = (),
) -> float:
    """Train a fold and write its checkpoint, its predictions and result.json; a finished fold is not repeated.

    With averaged weights the last epoch is chosen, otherwise the best one. The best of many epochs on a few dozen
    validation utterances is partly luck, and a calibration on the same utterances is then overconfident.

    Args:
        settings: of the run.
        split: the utterances that train, validate and test; without test utterances no predictions are written.
        data: corpus, recordings and tokenizer.
        start: the checkpoint that training starts from.
        directory: of the fold.
        cache: directory for the teacher's features.
        callbacks: of the hyperparameter search.

    Returns:
        The chosen epoch's macro F1 on validation.

    Raises:
        TrainingError, CheckpointError: the user can fix the cause; the last whole epoch is kept.
    """
    result = directory / "result.json"
    if result.exists():
        return float(json.loads(result.read_text())[MONITOR])
    directory.mkdir(parents=True, exist_ok=True)
    splits.save(split, directory / "split.json")
    checkpoint = checkpoints.load(start)
    model = checkpoint.model
    model.vggish.features.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # 1.5 times faster on CPUs
    if settings.lora_rank is not None:
        torch.manual_seed(settings.seed)
        low_rank.inject(model, settings.lora_rank)
    validation = data.part(split.validation)
    train = data.part((*split.train, *splits.others(data.corpus, split, settings.split)))
    learner = Learner(model, settings, train, validation, auxiliary_heads(settings, train, cache))
    taught = [view for view in VIEWS if learner.trains(view)]
    for view in taught:
        model.head.temperature[VIEWS.index(view)] = 1.0
    seconds = run_trainer(learner, settings, directory, callbacks)
    name = LAST_STATE if settings.averaging else BEST_STATE
    state = torch.load(directory / "state" / name, map_location="cpu", weights_only=False)
    learner.load_state_dict(state["state_dict"], strict=False)
    learner.swap_averaged()
    low_rank.merge(model)

    calibrate([EmbeddedUtterances.from_model(model, validation)], taught)
    predictions = predict(model, data.part(split.test)) if split.test else None
    config = _trained_config(checkpoint.config, learner, data.corpus.name)
    with resumable_write(directory / "checkpoint"):
        checkpoints.save(directory / "checkpoint", model.cpu(), config, checkpoint.tokenizer)
    if predictions is not None:
        predictions.save(directory / "predictions.json")
    # of equal epochs, max returns the first one, as Lightning does
    chosen = learner.history[-1] if settings.averaging else max(learner.history, key=lambda epoch: epoch[MONITOR])
    write_atomically(
        result,
        json.dumps(
            {
                MONITOR: chosen[MONITOR],
                "chosen_epoch": chosen["epoch"],
                "history": learner.history,
                "taught": taught,
                "calibrated_on": [split.name],
                "temperatures": config.temperatures,
                "confidence": config.confidence,
                "digest": checkpoints.digest(directory / "checkpoint"),
                "seconds": seconds,
                "hardware": hardware(),
            },
            indent=1,
        )
        + "\n",
    )
    shutil.rmtree(directory / "state")  # Lightning's checkpoints are not needed once ours is written
    return float(chosen[MONITOR])


def auxiliary_heads(settings: Settings, train: Utterances, cache: Path) -> AuxiliaryHeads | None:
    """Return the auxiliary heads that the settings ask for, with the targets of the training set; None for none.

    Args:
        settings: their weights, the teacher and the seed.
        train: the training utterances, in the order of the targets' rows.
        cache: directory for the teacher's features.

    Raises:
        TrainingError: the training set has no published labels, or no recordings for the teacher.
    """
    labels = label_targets(train.utterances) if settings.auxiliary_weight else None
    features = None
    if settings.teacher is not None:
        from training import teacher  # only the teacher needs faster-whisper and CTranslate2

        spoken = {row: each.audio for row, each in enumerate(train.utterances) if each.audio is not None}
        if not spoken:
            raise TrainingError("--teacher needs recordings, and the training set has none; leave it out")
        by_path = teacher.features(settings.teacher, train.recordings, cache)
        found = teacher.standardise(np.stack([by_path[path] for path in spoken.values()], axis=1))
        features = np.zeros((len(found), len(train), found.shape[2]), np.float32)
        features[:, list(spoken)] = found
    if labels is None and features is None:
        return None
    torch.manual_seed(settings.seed)
    return AuxiliaryHeads(labels, features, settings.auxiliary_weight, settings.teacher_weight)


def _trained_config(config: CheckpointConfig, learner: Learner, corpus: str) -> CheckpointConfig:
    """Return the start's configuration, updated with what this training changed."""
    trained = {
        part
        for part, name in (("text_encoder", "text encoder"), ("vggish", "audio encoder"), ("fusion", "fusion"))
        if name in learner.parts
    }
    changed = trained | ({"fusion"} if learner.parts else set())  # each part has a head in fusion.safetensors
    calibrated = checkpoints.with_calibration(config, learner.model.head)
    return replace(
        calibrated,
        untrained=[part for part in config.untrained if part not in trained],
        sources={
            part: f"{source}, trained on {corpus}" if part in changed else source
            for part, source in config.sources.items()
        },
    )
