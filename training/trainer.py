"""Run Lightning's training loop so that it resumes after a kill exactly as if it had not been interrupted."""

import io
import logging
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger

from emotion.files import open_atomically
from training.files import resumable_write
from training.learner import MAX_GRADIENT_NORM, MONITOR, Learner
from training.settings import Settings

BEST_STATE, LAST_STATE = "best.ckpt", "last.ckpt"  # Lightning's checkpoints in a fold's directory `state`


class ResumableEarlyStopping(EarlyStopping):
    """Early stopping that stays stopped: Lightning would train on when it resumes a run that had stopped early."""

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Stop at once if the restored state had run out of patience."""
        trainer.should_stop = self.wait_count >= max(1, self.patience)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoint writer that replaces a file atomically.

    Lightning writes to the system's temporary directory and moves the file. Between file systems that is a copy, which
    a kill or a full disk leaves half done in place of the last whole state.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint; the file holds the new state or the old state, never a part."""
        buffer = io.BytesIO()  # torch.save to a full disk would raise without the reason
        torch.save(checkpoint, buffer)
        with open_atomically(Path(path)) as file:
            file.write(buffer.getbuffer())


class ProgressBar(RichProgressBar):
    """Lightning's progress bar without the version number of its logger."""

    def get_metrics(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> dict[str, Any]:
        """Return the metrics that are shown beside the bar."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics


def run_trainer(learner: Learner, settings: Settings, directory: Path, callbacks: Sequence[Callback]) -> float:
    """Train, or resume from the last whole epoch in the directory.

    Args:
        learner: the model with its datasets; holds the last epoch's weights afterwards.
        settings: of the run.
        directory: of the fold; receives `state` with BEST_STATE and LAST_STATE, and `tensorboard`.
        callbacks: added to those that stop and save.

    Returns:
        Training time in seconds, including the time before an interruption.

    Raises:
        TrainingError: the loss is not finite, or a state can't be written.
        KeyboardInterrupt: the user pressed Ctrl-C.
    """
    _silence_lightning()
    state = directory / "state"
    # in this order, so that the last state records the best one; ModelCheckpoint's save_last skips worse epochs
    saving = [
        ModelCheckpoint(
            state,
            filename=name.removesuffix(".ckpt"),
            monitor=monitor,
            mode="max",
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )
        for name, monitor in ((BEST_STATE, MONITOR), (LAST_STATE, None))
    ]
    stopping = ResumableEarlyStopping(MONITOR, mode="max", patience=settings.patience, check_on_train_epoch_end=True)
    trainer = lightning.Trainer(
        accelerator="auto",
        devices=1,
        precision=settings.precision,  # type: ignore[arg-type]  # one of Lightning's literals, checked by argparse
        max_epochs=settings.epochs,
        gradient_clip_val=MAX_GRADIENT_NORM,
        reload_dataloaders_every_n_epochs=1,  # the segments differ in each epoch
        num_sanity_val_steps=0,
        callbacks=[ProgressBar(), stopping, *callbacks, *saving],
        plugins=[AtomicCheckpointIO()],
        logger=TensorBoardLogger(directory, name="", version="tensorboard"),
        enable_model_summary=False,
        log_every_n_steps=10,
    )
    last = state / LAST_STATE
    try:
        with resumable_write(state):
            trainer.fit(learner, ckpt_path=last if last.exists() else None)
    except SystemExit:  # Lightning turns Ctrl-C into this
        raise KeyboardInterrupt from None
    return time.monotonic() - learner.started_at


def _silence_lightning() -> None:
    """Hide Lightning's tips and warnings, which address authors of training loops."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning.*")
