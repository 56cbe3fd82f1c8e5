"""`python -m training fit`: a corpus in, a checkpoint, its figures and a report out.

A run is a directory:

    settings.json  start/           what was asked; the checkpoint that training began with
    report.html  report.json        the test utterances of all folds together
    FOLD/                           one training
        split.json                  who trained, validated, tested
        state/                      Lightning's checkpoints: last.ckpt to resume from, best.ckpt
        tensorboard/
        checkpoint/                 the chosen epoch's, calibrated on validation: ready to export
        predictions.json            its answers to the test utterances

At the end of each call all finished folds are calibrated together (training/shared_calibration.py), so a fold's
checkpoint is final when the last fold is trained.

Each step is skipped where its result is there, so that the same command resumes a run that was stopped.
"""

import io
import json
import logging
import os
import platform
import re
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from safetensors import SafetensorError

from emotion import checkpoint as checkpoints
from emotion.checkpoint import CheckpointConfig
from emotion.files import open_atomically
from emotion.labels import EMOTIONS
from emotion.model import VIEWS
from emotion.text import WordPiece
from training import baselines, corpora, low_rank, splits
from training.auxiliary import AuxiliaryHeads, label_targets
from training.corpora import account
from training.corpora.release import name_some
from training.data import Materials, Utterances
from training.errors import TrainingError
from training.files import write_atomically
from training.learner import LARGEST_GRADIENT, MONITOR, Learner
from training.metrics import Metrics
from training.predictions import EmbeddedUtterances, Predictions, at_temperatures, calibrate, predict
from training.recordings import decode_all
from training.report import Fold, RunRecord, example_recordings, summary_table, write
from training.settings import Settings
from training.shared_calibration import calibrate_folds
from training.splits import Split

PACKAGES = ("torch", "transformers", "lightning", "librosa", "scikit-learn", "numpy")


def fit(
    settings: Settings, output: Path, cache: Path, fold: int | None, with_baselines: bool, console: Console
) -> Path:
    """Train one fold or all of them, or go on where an earlier call with the same settings stopped.

    Args:
        output: the run's directory.
        cache: where tables and decoded recordings are kept.
        fold: its number, from 1; None for all.
        with_baselines: whether conventional classifiers are trained on the same folds, for the report.

    Returns:
        The path of the report's page.

    Raises:
        TrainingError, CheckpointError: what the user can mend; what was done up to there is kept.
    """
    settings.save(output)
    start = make_start(settings, output)
    materials = gather(settings, start, cache, console)
    folds = splits.make(materials.corpus, settings.split, settings.folds, settings.seed)
    if fold is not None and not 1 <= fold <= len(folds):
        raise TrainingError(f"there is no fold {fold}; this split has the folds 1 to {len(folds)}")
    chosen = folds if fold is None else [folds[fold - 1]]
    for split in chosen:
        for part, missing in splits.missing_classes(materials.corpus, split).items():
            console.print(f"[yellow]{split.name}: no {part} utterance is labelled {' or '.join(missing)}[/]")
        if warning := splits.warning(split):
            console.print(f"[yellow]{warning}[/]")
    for number, split in enumerate(chosen, 1):
        console.rule(f"{split.name} ({number} of {len(chosen)})")
        train_fold(settings, split, materials, start, directory_of(output, split), cache)
    done = [split for split in folds if (directory_of(output, split) / "result.json").exists()]
    calibrate_folds([(split, directory_of(output, split)) for split in done], materials)
    compared = baselines.judge(materials.corpus, done, materials.recordings) if with_baselines else []
    page = _report(settings, materials, done, len(folds), compared, output)
    console.print(f"report: {page}")
    return page


def directory_of(output: Path, split: Split) -> Path:
    """Where a fold's files are; speakers' names may hold what a file's name can't."""
    return output / re.sub(r"[^\w+.-]+", "-", split.name)


def make_start(settings: Settings, output: Path) -> Path:
    """The checkpoint that training begins with: the one given, or a fresh one in the run's directory."""
    if settings.start is not None:
        return Path(settings.start)
    start = output / "start"
    if not (start / "config.json").exists():
        with _writing(start):
            checkpoints.create(start, settings.text_encoder, settings.vggish, settings.seed)
    return start


def gather(settings: Settings, start: Path, cache: Path, console: Console) -> Materials:
    """The corpus with its recordings decoded.

    Raises:
        TrainingError: recordings that can't be decoded, unless they may be skipped.
    """
    corpus = corpora.load(settings.corpus, Path(settings.root), settings.happy, cache)
    if not settings.auxiliary_weight:
        corpus = replace(corpus, others=())
    paths = [each.audio for each in (*corpus.utterances, *corpus.others) if each.audio is not None]
    recordings, unreadable = decode_all(paths, cache)
    if unreadable and not settings.skip_unreadable:
        reasons = "; ".join(f"{path} {reason}" for path, reason in list(unreadable.items())[:3])
        raise TrainingError(
            f"{len(unreadable)} of {len(paths)} recordings of {corpus.name} can't be used ({reasons}); repair or "
            "remove them, or leave them out with --skip-unreadable"
        )
    if unreadable:
        console.print(f"[yellow]skipped {name_some(str(path) for path in unreadable)}: not readable as audio[/]")
        kept = tuple(each for each in corpus.utterances if each.audio not in unreadable)
        others = tuple(each for each in corpus.others if each.audio not in unreadable)
        dropped = dict(corpus.dropped)
        if lost := len(corpus.utterances) - len(kept):
            dropped["recording can't be decoded"] = lost
        corpus = replace(corpus, utterances=kept, dropped=dropped, others=others)
    console.print(account(corpus), highlight=False)
    checkpoint = checkpoints.load(start)
    return Materials(
        corpus,
        recordings,
        WordPiece(checkpoint.tokenizer, checkpoint.model.text_encoder.config.max_position_embeddings),
    )


def train_fold(
    settings: Settings,
    split: Split,
    materials: Materials,
    start: Path,
    directory: Path,
    cache: Path,
    callbacks: Sequence[Callback] = (),
) -> float:
    """Train, choose an epoch, calibrate it, answer the test utterances, write the checkpoint.

    Of averaged weights the last epoch is chosen, else the best one. The best of many epochs on a few dozen validation
    utterances is partly luck, and what is calibrated on the same utterances is then too sure.

    Args:
        cache: where the teacher's features are kept.
        callbacks: of the search for settings, beside our own.

    Returns:
        The chosen epoch's macro F1 on validation.
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
    validation = materials.part(split.validation)
    train = materials.part((*split.train, *splits.others(materials.corpus, split, settings.split)))
    learner = Learner(model, settings, train, validation, _auxiliary_heads(settings, train, cache))
    taught = [view for view in VIEWS if learner.taught(view)]
    for view in taught:
        model.head.temperature[VIEWS.index(view)] = 1.0
    seconds = _train(learner, settings, directory, callbacks)
    name = "last.ckpt" if settings.averaging else "best.ckpt"
    state = torch.load(directory / "state" / name, map_location="cpu", weights_only=False)
    learner.load_state_dict(state["state_dict"], strict=False)
    learner.swap_averaged()
    low_rank.merge(model)

    calibrate([EmbeddedUtterances.from_model(model, validation)], taught)
    predictions = predict(model, materials.part(split.test)) if split.test else None
    config = _trained(checkpoint.config, learner, materials.corpus.name)
    with _writing(directory / "checkpoint"):
        checkpoints.save(directory / "checkpoint", model.cpu(), config, checkpoint.tokenizer)
    if predictions is not None:
        predictions.save(directory / "predictions.json")
    # max finds the first of equals, as Lightning keeps it
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
    shutil.rmtree(directory / "state")  # Lightning's, of no use once the checkpoint is there
    return float(chosen[MONITOR])


def _auxiliary_heads(settings: Settings, train: Utterances, cache: Path) -> AuxiliaryHeads | None:
    """Return the auxiliary heads that the settings ask for, with the targets of the training set."""
    labels = label_targets(train.utterances) if settings.auxiliary_weight else None
    features = None
    if settings.teacher is not None:
        from training import teacher  # faster-whisper and CTranslate2 are not needed otherwise

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


class Patience(EarlyStopping):
    """Early stopping that stays stopped: Lightning would train on when it resumes a training that had ended."""

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """After the state was restored."""
        trainer.should_stop = self.wait_count >= max(1, self.patience)


class WholeFiles(TorchCheckpointIO):
    """Writes a state beside its place, then renames it.

    Lightning writes to the system's temporary directory and moves: between file systems that is a copy, which a kill
    or a full disk leaves half done, over the last whole state.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """The new state or the one before, never half of one."""
        buffer = io.BytesIO()  # torch.save to a full disk would raise without the reason
        torch.save(checkpoint, buffer)
        with open_atomically(Path(path)) as file:
            file.write(buffer.getbuffer())


class Bar(RichProgressBar):
    """Lightning's bar with time left, without its version number."""

    def get_metrics(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> dict[str, Any]:
        """What is shown beside the bar."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics


def _train(learner: Learner, settings: Settings, directory: Path, callbacks: Sequence[Callback]) -> float:
    """Lightning's loop; returns the seconds that it took, those before an interruption included."""
    _quieten()
    state = directory / "state"
    # in this order, so that the last state knows of the best one; its own save_last skips epochs that are not better
    saving = [
        ModelCheckpoint(
            state,
            filename=name,
            monitor=monitor,
            mode="max",
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )
        for name, monitor in (("best", MONITOR), ("last", None))
    ]
    stopping = Patience(MONITOR, mode="max", patience=settings.patience, check_on_train_epoch_end=True)
    trainer = lightning.Trainer(
        accelerator="auto",
        devices=1,
        precision=settings.precision,  # type: ignore[arg-type]  # one of Lightning's literals, checked by argparse
        max_epochs=settings.epochs,
        gradient_clip_val=LARGEST_GRADIENT,
        reload_dataloaders_every_n_epochs=1,  # each epoch has segments of its own
        num_sanity_val_steps=0,
        callbacks=[Bar(), stopping, *callbacks, *saving],
        plugins=[WholeFiles()],
        logger=TensorBoardLogger(directory, name="", version="tensorboard"),
        enable_model_summary=False,
        log_every_n_steps=10,
    )
    last = state / "last.ckpt"
    try:
        with _writing(state):
            trainer.fit(learner, ckpt_path=last if last.exists() else None)
    except SystemExit:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from None
    return time.monotonic() - learner.begun


@contextmanager
def _writing(place: Path) -> Iterator[None]:
    """Makes a sentence of a disk that is full or refuses."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TrainingError(
            f"{place} can't be written ({reason}); the last whole state is kept: make room and repeat the command to "
            "go on from there"
        ) from None


def _quieten() -> None:
    """Lightning's advice is for those who write its loops."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning.*")


def _trained(config: CheckpointConfig, learner: Learner, corpus: str) -> CheckpointConfig:
    """The start's configuration, with what this training has changed."""
    taught = {
        part
        for part, name in (("text_encoder", "text encoder"), ("vggish", "audio encoder"), ("fusion", "fusion"))
        if name in learner.parts
    }
    changed = taught | ({"fusion"} if learner.parts else set())  # every part trains something of the head's file
    calibrated = checkpoints.with_calibration(config, learner.model.head)
    return replace(
        calibrated,
        untrained=[part for part in config.untrained if part not in taught],
        sources={
            part: f"{source}, trained on {corpus}" if part in changed else source
            for part, source in config.sources.items()
        },
    )


def _report(
    settings: Settings,
    materials: Materials,
    done: Sequence[Split],
    planned: int,
    compared: Sequence[tuple[str, Metrics]],
    output: Path,
) -> Path:
    """The report over the folds that are done."""
    corpus = materials.corpus
    record, answers, uncalibrated, results = [], [], [], []
    emotion = {utterance.id: utterance.emotion for utterance in corpus.utterances}
    for split in done:
        directory = directory_of(output, split)
        result = json.loads((directory / "result.json").read_text())
        predictions = Predictions.load(directory / "predictions.json")
        answers.append(predictions)
        # dividing by 1 / T takes a temperature back
        uncalibrated.append(at_temperatures(predictions, {view: 1 / t for view, t in result["temperatures"].items()}))
        results.append(result)
        parts = {"train": split.train, "validation": split.validation, "test": split.test}
        record.append(
            Fold(
                name=split.name,
                class_counts={
                    part: {name: Counter(emotion[each] for each in ids)[name] for name in EMOTIONS}
                    for part, ids in parts.items()
                },
                test_ids=split.test,
                temperatures=result["temperatures"],
                digest=result["digest"],
                history=result["history"],
                chosen_epoch=result["chosen_epoch"],
            )
        )
    joined = Predictions.join(answers)
    ids = set(joined.ids)
    tested = [utterance for utterance in corpus.utterances if utterance.id in ids]
    Console().print(summary_table(joined))
    run = RunRecord(
        name=f"{corpus.name}, {settings.split} split",
        corpus=corpus.name,
        split=settings.split,
        folds=record,
        planned_folds=planned,
        shares_speakers=any(split.shares_speakers for split in done),
        seed=settings.seed,
        settings={name: value for name, value in asdict(settings).items() if name != "root"},
        versions=versions(),
        hardware=results[0]["hardware"],
        seconds=sum(result["seconds"] for result in results),
        dropped=corpus.dropped,
    )
    return write(
        output,
        run,
        joined,
        uncalibrated=Predictions.join(uncalibrated),
        without_audio=joined.without("audio"),
        without_text=joined.without("text"),
        baselines=compared,
        examples=example_recordings(tested, materials.recordings),
    )


def versions() -> dict[str, str]:
    """Of the packages that figures depend on."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def hardware() -> str:
    """What trained, in words."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{len(os.sched_getaffinity(0))} CPU cores ({platform.machine()})"
