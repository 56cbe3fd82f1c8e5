"""Test what is trained and frozen, the learning rates, and the losses."""

import math
import time
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from runs import SENTENCES, WORDS, tone
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import BertConfig, BertModel

from emotion.checkpoint import load_minilm, seeded_vggish
from emotion.labels import EMOTIONS
from emotion.model import EmotionModel, FusionHead, Logits
from emotion.text import WordPiece
from tests.narrow import narrow_vggish
from training.augmentation import SPEEDS
from training.auxiliary import AuxiliaryHeads
from training.corpora import Utterance
from training.datasets import OTHER_EMOTION, Batch, Utterances, collate, tokenise
from training.errors import TrainingError
from training.learner import MONITOR, WARM_UP_SHARE, Learner, _moving_average, class_weights
from training.recordings import Recordings
from training.settings import Settings

SETTINGS = {"corpus": "manifest", "root": "-", "batch_size": 4, "epochs": 2, "modality_dropout": 0.0, "augment": False}


@pytest.fixture
def model() -> EmotionModel:
    """Return a model of a narrow VGGish and a tiny BERT with MiniLM's vocabulary."""
    torch.manual_seed(1)
    bert = BertModel(
        BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32),
        add_pooling_layer=False,
    )
    with narrow_vggish():
        return EmotionModel(seeded_vggish(1, True), bert, FusionHead(16))


def utterances(kinds: str) -> Utterances:
    """Return an utterance for each letter: a(udio), t(ext) or b(oth); the emotions alternate."""
    tokenizer = WordPiece(load_minilm()[1])
    rows, waveforms, places, total = [], [], {}, 0
    for number, kind in enumerate(kinds):
        emotion = EMOTIONS[number % 5]
        path = Path(f"{number}.wav") if kind in "ab" else None
        if path is not None:
            waveforms.append(tone(200.0 * (1 + number % 5), 1.0, number))
            places[str(path)] = (total, waveforms[-1].size)
            total += waveforms[-1].size
        text = SENTENCES[emotion].format(WORDS[number % 10]) if kind in "tb" else None
        rows.append(Utterance(str(number), path, text, emotion))
    joined = np.concatenate([np.empty(0, np.float32), *waveforms])
    return Utterances(rows, Recordings(joined, places), tokenise(rows, tokenizer))


def learner(model: EmotionModel, kinds: str, auxiliary: AuxiliaryHeads | None = None, **settings: object) -> Learner:
    chosen = Settings(**SETTINGS | settings)  # type: ignore[arg-type]
    return Learner(model, chosen, utterances(kinds), utterances("bbbbb"), auxiliary)


def fit(learner: Learner, *callbacks: lightning.Callback) -> Learner:
    """Train as training.fit does, without writing files."""
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=learner.settings.epochs,
        reload_dataloaders_every_n_epochs=1,
        num_sanity_val_steps=0,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(learner)
    return learner


def copy_of(model: EmotionModel) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def moved(before: dict[str, Tensor], model: EmotionModel) -> set[str]:
    """Return the modules whose weights changed: vggish, text_encoder, head.audio_head, ..."""
    names = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    return {".".join(name.split(".")[: 2 if name.startswith("head") else 1]) for name in names}


class TestClassWeights:
    TARGETS = np.array([0] * 8 + [1] * 2 + [2] * 2 + [4] * 4)  # no sadness

    @pytest.mark.parametrize(("power", "relative"), [(0, [1, 1, 1, 0, 1]), (1, [1, 4, 4, 0, 2])])
    def test_class_weights_follow_the_power(self, power: float, relative: list[float]) -> None:
        weights = class_weights(self.TARGETS, power)
        torch.testing.assert_close(weights / weights[0], torch.tensor(relative, dtype=torch.float32))

    def test_class_weights_of_power_one_half_are_square_roots(self) -> None:
        weights = class_weights(self.TARGETS, 0.5)
        assert weights[1] / weights[0] == pytest.approx(2.0)  # the square root of 4
        assert weights[3] == 0 and weights.dtype == torch.float32

    @pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
    def test_class_weights_have_mean_one_over_the_examples(self, power: float) -> None:
        assert class_weights(self.TARGETS, power)[self.TARGETS].mean().item() == pytest.approx(1.0)


class RateRecorder(lightning.Callback):
    """The learning rates of each step."""

    def __init__(self) -> None:
        self.seen: list[list[float]] = []

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: object) -> None:
        self.seen.append([group["lr"] for group in trainer.optimizers[0].param_groups])


def test_learning_rates_warm_up_after_frozen_epochs_and_fall_to_zero(model: EmotionModel) -> None:
    rates = RateRecorder()
    teaching = learner(model, "bbbbbbbb", epochs=10, freeze_epochs=4, batch_size=1, text_lr=1e-5, head_lr=1e-3)
    # only the schedule is stepped; no training is needed
    optimisers: Any = teaching.configure_optimizers()
    optimizer, scheduler = optimisers["optimizer"], optimisers["lr_scheduler"]["scheduler"]
    steps = 80
    for _ in range(steps):
        rates.seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    names = [name for name in teaching.parts for _ in range(2)]
    by_name = {name: np.array([seen[names.index(name)] for seen in rates.seen]) for name in teaching.parts}
    for name, begin, peak in (("text encoder", 32, 1e-5), ("text head", 0, 1e-3), ("fusion", 0, 1e-3)):
        values = by_name[name]
        assert not values[:begin].any()
        top = int(values.argmax())
        warm_up = round(WARM_UP_SHARE * (steps - begin))
        assert top == begin + warm_up - 1 and values[top] == pytest.approx(peak)
        assert (np.diff(values[begin : top + 1]) > 0).all() and (np.diff(values[top:]) <= 0).all()
        assert 0 < values[-1] < peak / 20
    assert all(group["lr"] == 0 for group in optimizer.param_groups)  # after the last step
    decays = [group["weight_decay"] for group in optimizer.param_groups]
    assert decays == [0.01, 0.0] * len(teaching.parts)  # matrices, vectors
    assert all(parameter.ndim == 1 for group in optimizer.param_groups[1::2] for parameter in group["params"])


class ChangeRecorder(lightning.Callback):
    """The modules whose weights changed in each epoch."""

    def __init__(self) -> None:
        self.epochs: list[set[str]] = []

    def on_train_epoch_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        assert isinstance(module, Learner)
        self.before = copy_of(module.model)

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        assert isinstance(module, Learner)
        self.epochs.append(moved(self.before, module.model))


HEADS = {"head.text_projection", "head.audio_head", "head.text_head", "head.fusion"}
ENCODERS = {"vggish", "text_encoder"}


def test_encoders_are_frozen_in_frozen_epochs_and_trained_afterwards(model: EmotionModel) -> None:
    changes = ChangeRecorder()
    done = fit(learner(model, "bbbbb", epochs=3, freeze_epochs=2, batch_size=5), changes)
    assert changes.epochs == [HEADS, HEADS, HEADS | ENCODERS]
    assert [each["epoch"] for each in done.history] == [1, 2, 3]
    assert all(math.isfinite(value) for each in done.history for value in each.values())
    assert all(MONITOR in each for each in done.history)


@pytest.mark.parametrize(
    ("kinds", "learns"),
    [
        ("ttttt", {"text_encoder", "head.text_projection", "head.text_head"}),
        ("aaaaa", {"vggish", "head.audio_head"}),
        ("aattt", ENCODERS | HEADS - {"head.fusion"}),
    ],
)
@pytest.mark.parametrize("freeze_epochs", [0, 1])
def test_parts_without_examples_are_unchanged(
    model: EmotionModel, kinds: str, learns: set[str], freeze_epochs: int
) -> None:
    before = copy_of(model)
    done = fit(learner(model, kinds, epochs=1, freeze_epochs=freeze_epochs, batch_size=5, weight_decay=0.5))
    assert moved(before, model) == (learns - ENCODERS if freeze_epochs else learns)
    assert done.trains("audio") == ("head.audio_head" in learns)
    assert done.trains("text") == ("head.text_head" in learns)
    assert not done.trains("fused")


def test_only_fusion_changes_the_fusion_alone(model: EmotionModel) -> None:
    before = copy_of(model)
    done = fit(learner(model, "bbbat", only_fusion=True, batch_size=5, weight_decay=0.5, head_lr=0.1))
    assert moved(before, model) == {"head.fusion"}
    assert (done.trains("fused"), done.trains("audio"), done.trains("text")) == (True, False, False)


def test_only_fusion_without_both_modalities_is_rejected(model: EmotionModel) -> None:
    with pytest.raises(TrainingError, match="--only-fusion needs utterances with both audio and text"):
        learner(model, "aattt", only_fusion=True)


def test_loss_of_each_view_uses_utterances_with_its_modalities(model: EmotionModel) -> None:
    teaching = learner(model, "bbattbbttt", label_smoothing=0.1)
    torch.manual_seed(0)
    fused, audio, text = torch.randn(3, 4, 5)
    has_audio, has_text = torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False])
    target = torch.tensor([0, 1, 2, 3])
    weights = class_weights(teaching.train_set.targets, 0.5)

    def loss(logits: Tensor, rows: list[int]) -> Tensor:
        return cross_entropy(logits[rows], target[rows], weights, label_smoothing=0.1)

    expected = loss(fused, [0]) + loss(audio, [0, 1]) + loss(text, [0, 2])
    logits = Logits(fused, audio, text)
    torch.testing.assert_close(teaching._loss(logits, has_audio, has_text, target), expected)
    neither = torch.zeros(4, dtype=torch.bool)
    torch.testing.assert_close(teaching._loss(logits, has_audio, neither, target), loss(audio, [0, 1]))
    alone = learner(model, "bbattbbttt", label_smoothing=0.1, only_fusion=True)
    torch.testing.assert_close(alone._loss(logits, has_audio, has_text, target), loss(fused, [0]))
    # a batch without usable utterances still gives a loss with a gradient
    fused.requires_grad_()
    nothing = alone._loss(Logits(fused, audio, text), neither, neither, target)
    assert nothing.item() == 0 and nothing.requires_grad


def test_embeddings_of_frozen_encoders_give_the_models_logits(model: EmotionModel) -> None:
    teaching = learner(model, "batbb", freeze_epochs=1)
    model.eval()
    audio, has_audio, tokens, has_text, target = teaching._embeddings(teaching.train_set).tensors
    head = model.head(audio, has_audio, model.head.text_projection(tokens), has_text)
    batch = Batch(*collate([teaching.train_set[index] for index in range(5)]))
    whole = model(batch.patches, batch.patch_counts, batch.input_ids, batch.attention_mask)
    assert torch.equal(target, batch.target)
    torch.testing.assert_close(head.fused, whole.fused, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("freeze_epochs", [0, 1])
def test_training_step_with_a_loss_that_is_not_finite_is_rejected(model: EmotionModel, freeze_epochs: int) -> None:
    with torch.no_grad():
        next(model.head.text_head.parameters())[0, 0] = math.nan
    with pytest.raises(
        TrainingError, match=r"the loss became nan in epoch 1; .*: lower the learning rates \(--text-lr"
    ):
        fit(learner(model, "ttttt", freeze_epochs=freeze_epochs))


def test_lightning_checkpoints_contain_trained_parameters_and_history(model: EmotionModel) -> None:
    teaching = learner(model, "ttttt")
    teaching.history = [{"epoch": 1.0}]
    teaching.started_at -= 100
    saved: dict[str, object] = {"state_dict": teaching.state_dict()}
    teaching.on_save_checkpoint(saved)
    names = set(saved["state_dict"])  # type: ignore[call-overload]
    trained = ("model.text_encoder.", "model.head.text_projection.", "model.head.text_head.")
    assert names == {name for name in teaching.state_dict() if name.startswith(trained)}
    other = learner(model, "ttttt")
    other.on_load_checkpoint(saved)
    assert other.history == [{"epoch": 1.0}] and saved["seconds"] == pytest.approx(100, abs=60)
    assert time.monotonic() - other.started_at == pytest.approx(saved["seconds"], abs=1)  # the pause does not count


def test_utterances_of_other_emotions_train_by_the_auxiliary_loss_alone(model: EmotionModel) -> None:
    before = copy_of(model)
    labels = np.eye(7, dtype=np.float32)[[0, 1, 2, 3, 4]]
    teaching = learner(model, "aattt", AuxiliaryHeads(labels, None, 0.5, 1.0), epochs=1, batch_size=5, weight_decay=0.0)
    teaching.train_set.targets[:] = OTHER_EMOTION
    fit(teaching)
    assert moved(before, model) == ENCODERS | {"head.text_projection"}
    assert math.isfinite(teaching.history[0]["train_loss"])


def test_audio_encoder_learns_the_teachers_features(model: EmotionModel) -> None:
    features = np.random.default_rng(1).standard_normal((1, 4, 8)).repeat(len(SPEEDS), 0).astype(np.float32)
    heads = AuxiliaryHeads(None, features, 0.0, 1.0)
    teaching = learner(model, "aaaa", heads, epochs=8, audio_lr=3e-4, head_lr=1e-2)
    batch = Batch(*collate([teaching.train_set[index] for index in range(4)]))

    def loss() -> float:
        with torch.inference_mode():
            audio = model.eval().embed_audio(batch.patches, batch.patch_counts)
            text = model.embed_text(batch.input_ids, batch.attention_mask)
            return heads.loss(
                batch.row, batch.speed, audio, batch.patch_counts > 0, text, batch.attention_mask.sum(1) > 0
            ).item()

    before = loss()
    fit(teaching)
    assert loss() < 0.7 * before


def test_moving_average_decay_rises_to_its_limit() -> None:
    update, average, current = _moving_average(0.9), torch.tensor([1.0]), torch.tensor([2.0])
    assert update(average, current, 1).item() == pytest.approx(1 + 9 / 11)
    assert update(average, current, 1000).item() == pytest.approx(1.1)


def test_averaged_weights_are_validated_and_saved(model: EmotionModel) -> None:
    teaching = learner(model, "ttttt", averaging=0.9, epochs=3, head_lr=0.1)
    seen: list[Tensor] = []

    class Seen(lightning.Callback):
        def on_validation_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
            seen.append(model.head.text_head.state_dict()["0.weight"].clone())

    fit(teaching, Seen())
    trained = model.head.text_head.state_dict()["0.weight"].clone()
    saved: dict[str, Any] = {"state_dict": teaching.state_dict()}
    teaching.on_save_checkpoint(saved)
    assert not torch.equal(seen[-1], trained)
    again = learner(model, "ttttt", averaging=0.9)
    again.load_state_dict(saved["state_dict"], strict=False)
    again.swap_averaged()
    assert torch.equal(model.head.text_head.state_dict()["0.weight"], seen[-1])
