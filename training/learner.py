"""Define the Lightning module: losses, learning-rate schedules, validation metrics.

The model has three views (audio, text, fused). Each has a loss on the utterances with its modalities, and the sum is
minimised. Seeds, batches and checkpoints belong to an epoch, so that a resumed run equals an uninterrupted one.
"""

import math
import sys
import time
from collections.abc import Callable
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score, recall_score
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, TensorDataset

from emotion.labels import EMOTIONS
from emotion.model import EmotionModel, Logits
from emotion.progress import progress
from training.auxiliary import AuxiliaryHeads
from training.datasets import (
    EVALUATION_BATCH_SIZE,
    OTHER_EMOTION,
    Batch,
    LengthGroupedBatches,
    Segments,
    Utterances,
    evaluation_batches,
    training_batches,
)
from training.errors import TrainingError
from training.settings import Settings

MONITOR = "validation_macro_f1"
WARM_UP_SHARE = 0.06  # share of the steps with a rising learning rate; BERT's fine-tuning recipe
MAX_GRADIENT_NORM = 1.0  # BERT's fine-tuning recipe


def class_weights(targets: NDArray[np.int64], power: float) -> Tensor:
    """Return the weights of the cross-entropy, float32 [5]: mean 1 over the examples; 0 for a class without any.

    Args:
        targets: int64 [n], indices into EMOTIONS; OTHER_EMOTION is not counted.
        power: 0 weighs all examples equally, 1 all classes (inverse frequency), 0.5 is the square root of that.
    """
    counts = np.bincount(targets[targets != OTHER_EMOTION], minlength=len(EMOTIONS)).astype(np.float64)
    weights = np.where(counts > 0, np.maximum(counts, 1.0) ** -power, 0.0)
    return torch.tensor(weights * counts.sum() / (weights * counts).sum(), dtype=torch.float32)


def _moving_average(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """Return the update of an exponential moving average.

    The decay after n updates is min(decay, (1 + n) / (10 + n)), as in TensorFlow's ExponentialMovingAverage, which
    reduces the influence of the first weights.
    """

    def update(average: Tensor, current: Tensor, updates: Tensor | int) -> Tensor:
        rising = min(decay, (1 + float(updates)) / (10 + float(updates)))
        return average.lerp(current, 1 - rising)

    return update


class Learner(lightning.LightningModule):
    """EmotionModel with its training and validation sets.

    Attributes:
        history: metrics of each finished epoch; saved with Lightning's checkpoints.
        parts: name -> parameters and learning rate of what is trained.
        started_at: monotonic time of the start of training, moved back by the time before an interruption.
    """

    def __init__(
        self,
        model: EmotionModel,
        settings: Settings,
        train: Utterances,
        validation: Utterances,
        auxiliary: AuxiliaryHeads | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.settings = settings
        self.auxiliary = auxiliary
        self.train_set = train
        self.validation_set = validation
        self.history: list[dict[str, float]] = []
        self.strict_loading = False  # checkpoints contain trained parameters only
        self.freeze_epochs = settings.epochs if settings.only_fusion else settings.freeze_epochs
        self.register_buffer("weights", class_weights(train.targets, settings.class_weight_power), persistent=False)
        self.parts = self._choose_parts()
        # in a list, because torch would register the parameters twice
        self._trained = [
            nn.ParameterList(parameter for parameters, _ in self.parts.values() for parameter in parameters)
        ]
        self.averaged: AveragedModel | None = None
        if settings.averaging:
            self.averaged = AveragedModel(self._trained[0], avg_fn=_moving_average(settings.averaging))
        self.started_at = time.monotonic()
        self._validated: list[tuple[Tensor, Tensor]] = []
        self._losses: list[float] = []
        self._cached_embeddings: dict[Utterances, TensorDataset] = {}

    def _choose_parts(self) -> dict[str, tuple[list[nn.Parameter], float]]:
        """Return name -> parameters and learning rate of what the examples can train; freeze everything else.

        Raises:
            TrainingError: only the fusion is to be trained, and no utterance has both modalities.
        """
        model, settings = self.model, self.settings
        has_audio = np.array([utterance.audio is not None for utterance in self.train_set.utterances])
        has_text = np.array([tokens.size > 0 for tokens in self.train_set.tokens])
        head = model.head
        chosen: dict[str, tuple[list[nn.Module], float]] = {}
        if has_audio.any() and not settings.only_fusion:
            chosen["audio encoder"] = ([model.vggish], settings.audio_lr)
            chosen["audio head"] = ([head.audio_head], settings.head_lr)
        if has_text.any() and not settings.only_fusion:
            chosen["text encoder"] = ([model.text_encoder], settings.text_lr)
            chosen["text head"] = ([head.text_projection, head.text_head], settings.head_lr)
        if self.auxiliary is not None:
            chosen["auxiliary heads"] = ([self.auxiliary], settings.head_lr)
        if (has_audio & has_text).any():
            chosen["fusion"] = ([head.fusion], settings.head_lr)
        if not chosen:
            raise TrainingError("--only-fusion needs utterances with both audio and text; the training set has none")
        parts = {}
        for name, (modules, rate) in chosen.items():
            # low-rank training has already frozen the large matrices
            parts[name] = [p for module in modules for p in module.parameters() if p.requires_grad], rate
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        for parameters, _ in parts.values():
            for parameter in parameters:
                parameter.requires_grad_(True)
        return parts

    def trains(self, view: str) -> bool:
        """Return whether this training changes the predictions of a view in VIEWS."""
        return {"fused": "fusion", "audio": "audio head", "text": "text head"}[view] in self.parts

    # -- batches

    @property
    def frozen(self) -> bool:
        """Return whether the encoders are frozen in this epoch."""
        return self.current_epoch < self.freeze_epochs

    def train_dataloader(self) -> DataLoader[Any]:
        """Return segments, or embeddings of the whole utterances while the encoders are frozen."""
        settings = self.settings
        if self.frozen:
            embeddings = self._embeddings(self.train_set)
            batches = LengthGroupedBatches(
                [0] * len(embeddings), settings.batch_size, settings.seed, self.current_epoch
            )
            # with its own generator, as in training_batches
            return DataLoader(embeddings, batch_sampler=batches, generator=torch.Generator())
        segments = Segments(
            self.train_set,
            settings.seed,
            self.current_epoch,
            settings.modality_dropout,
            settings.augment,
            settings.time_stretch,
            settings.pitch_shift,
        )
        return training_batches(segments, settings.batch_size, settings.workers)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return whole utterances, or their embeddings while the encoders are frozen."""
        if self.frozen:
            return DataLoader(self._embeddings(self.validation_set), EVALUATION_BATCH_SIZE)
        return evaluation_batches(self.validation_set, EVALUATION_BATCH_SIZE)

    def _embeddings(self, utterances: Utterances) -> TensorDataset:
        """Return a dataset of (audio embedding, has audio, mean token state, has text, target) of each utterance."""
        if utterances not in self._cached_embeddings:
            loader = evaluation_batches(utterances, EVALUATION_BATCH_SIZE)
            rows: dict[int, tuple[Tensor, ...]] = {}
            training = self.model.training
            self.model.eval()
            with torch.inference_mode(), progress() as bar:
                task = bar.add_task("embedding utterances", total=len(loader))
                for batch in loader:
                    batch = Batch(*(tensor.to(self.device) for tensor in batch))
                    columns = (
                        self.model.embed_audio(batch.patches, batch.patch_counts),
                        batch.patch_counts > 0,
                        self.model.mean_tokens(batch.input_ids, batch.attention_mask),
                        batch.attention_mask.sum(1) > 0,
                        batch.target,
                    )
                    for at, index in enumerate(batch.row.tolist()):
                        rows[index] = tuple(column[at].cpu().clone() for column in columns)
                    bar.advance(task)
            self.model.train(training)
            ordered = [rows[index] for index in range(len(utterances))]
            joined = (torch.stack(column) for column in zip(*ordered, strict=True))
            self._cached_embeddings[utterances] = TensorDataset(*joined)
        return self._cached_embeddings[utterances]

    # -- steps

    def on_train_epoch_start(self) -> None:
        """Seed the epoch's random numbers (dropout), and freeze or unfreeze the encoders."""
        lightning.seed_everything(self.settings.seed * 1000 + self.current_epoch, verbose=False)
        for name, (parameters, _) in self.parts.items():
            for parameter in parameters:
                parameter.requires_grad_(not (self.frozen and name.endswith("encoder")))
        for module in (self.model.vggish, self.model.text_encoder):
            module.train(not self.frozen)

    def training_step(self, batch: Any, index: int) -> Tensor:
        """Return the loss of a batch.

        Raises:
            TrainingError: the loss is not finite.
        """
        audio, has_audio, text, has_text, target = self._embed(batch)
        logits = self.model.head(audio, has_audio, text, has_text)
        loss = self._loss(logits, has_audio, has_text, target)
        if self.auxiliary is not None and not self.frozen:
            whole = Batch(*batch)
            loss = loss + self.auxiliary.loss(whole.row, whole.speed, audio, has_audio, text, has_text)
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss.item()} in epoch {self.current_epoch + 1}; the epochs before it are saved: "
                "lower the learning rates (--text-lr, --audio-lr, --head-lr) or use --precision 32-true, "
                "with another --output"
            )
        self._losses.append(loss.item())
        self.log("loss", loss, prog_bar=True)
        return loss

    def _embed(self, batch: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return the audio embeddings, has audio, text embeddings, has text and targets of a batch of either loader."""
        if self.frozen:
            audio, has_audio, tokens, has_text, target = batch
            return audio, has_audio, self.model.head.text_projection(tokens), has_text, target
        batch = Batch(*batch)
        audio = self.model.embed_audio(batch.patches, batch.patch_counts)
        text = self.model.embed_text(batch.input_ids, batch.attention_mask)
        return audio, batch.patch_counts > 0, text, batch.attention_mask.sum(1) > 0, batch.target

    def _loss(self, logits: Logits, has_audio: Tensor, has_text: Tensor, target: Tensor) -> Tensor:
        known = target != OTHER_EMOTION
        views = [(logits.fused, has_audio & has_text & known)]
        if not self.settings.only_fusion:
            views += [(logits.audio, has_audio & known), (logits.text, has_text & known)]
        weights = self.weights
        assert isinstance(weights, Tensor)
        smoothing = self.settings.label_smoothing
        losses = [
            cross_entropy(view[rows], target[rows], weights, label_smoothing=smoothing)
            for view, rows in views
            if rows.any()
        ]
        return torch.stack(losses).sum() if losses else 0.0 * logits.fused.sum()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Update the moving average of the weights."""
        if self.averaged is not None:
            self.averaged.update_parameters(self._trained[0])

    def on_validation_start(self) -> None:
        """Switch to the averaged weights."""
        self.swap_averaged()

    def on_validation_end(self) -> None:
        """Switch back to the trained weights."""
        self.swap_averaged()

    def swap_averaged(self) -> None:
        """Exchange the weights with their moving average, if there is one."""
        if self.averaged is not None:
            for current, average in zip(self._trained[0].parameters(), self.averaged.parameters(), strict=True):
                current.data, average.data = average.data, current.data

    def validation_step(self, batch: Any, index: int) -> None:
        """Collect logits of the fused view."""
        *embedded, target = self._embed(batch)
        logits = self.model.head(*embedded)
        self._validated.append((logits.fused.float().cpu(), target.cpu()))

    def on_validation_epoch_end(self) -> None:
        """Compute, log and print the metrics of the epoch."""
        logits = torch.cat([logits for logits, _ in self._validated])
        truth = torch.cat([target for _, target in self._validated])
        self._validated.clear()
        if self.trainer.sanity_checking:
            return
        answers = logits.argmax(-1).numpy()
        present = sorted(set(truth.tolist()))
        figures = {
            "validation_loss": cross_entropy(logits, truth).item(),
            "validation_accuracy": float(accuracy_score(truth, answers)),
            "validation_uar": float(recall_score(truth, answers, labels=present, average="macro", zero_division=0)),
            MONITOR: float(f1_score(truth, answers, labels=present, average="macro", zero_division=0)),
        }
        self.log_dict(figures)
        train_loss = math.fsum(self._losses) / max(1, len(self._losses))
        self._losses.clear()
        self.history.append({"epoch": self.current_epoch + 1, "train_loss": train_loss, **figures})
        shown = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in figures.items())
        print(f"epoch {self.current_epoch + 1}: loss {train_loss:.3f}, {shown}", file=sys.stderr)

    # -- schedules

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return AdamW with a linear schedule for each part: the rate rises during WARM_UP_SHARE, then falls to zero.

        The schedule of the encoders starts after their frozen epochs.
        """
        settings = self.settings
        groups = [
            {"params": parameters, "lr": rate, "weight_decay": settings.weight_decay if parameter_decays else 0.0}
            for parameters, rate, parameter_decays in self._groups()
        ]
        optimizer = torch.optim.AdamW(groups)
        per_epoch = math.ceil(len(self.train_set) / settings.batch_size)
        total = per_epoch * settings.epochs

        def schedule(begin: int) -> Any:
            length = max(1, total - begin)
            warm_up = max(1, round(WARM_UP_SHARE * length))
            return lambda step: (
                0.0
                if step < begin
                else min((step - begin + 1) / warm_up, max(0.0, (total - step) / max(1, length - warm_up)))
            )

        begins = [
            per_epoch * min(self.freeze_epochs, settings.epochs) if name.endswith("encoder") else 0
            for name in self.parts
            for _ in range(2)
        ]
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, [schedule(begin) for begin in begins])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _groups(self) -> list[tuple[list[nn.Parameter], float, bool]]:
        """Return (parameters, learning rate, whether they decay) for the matrices and for the vectors of each part."""
        return [
            ([p for p in parameters if (p.ndim > 1) == matrices], rate, matrices)
            for parameters, rate in self.parts.values()
            for matrices in (True, False)
        ]

    # -- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only trained parameters and their moving average: VGGish alone has 288 MB."""
        trained = {id(p) for parameters, _ in self.parts.values() for p in parameters}
        names = {name for name, p in self.named_parameters() if id(p) in trained or name.startswith("averaged.")}
        names.add("averaged.n_averaged")
        checkpoint["state_dict"] = {name: value for name, value in checkpoint["state_dict"].items() if name in names}
        checkpoint["history"] = self.history
        checkpoint["seconds"] = time.monotonic() - self.started_at

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the history and the training time."""
        self.history = list(checkpoint["history"])
        self.started_at = time.monotonic() - checkpoint["seconds"]
