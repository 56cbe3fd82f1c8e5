"""Predict utterances in torch or through a served Triton, and calibrate the predictions."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from emotion_client import EmotionClient, EmotionError, EmotionResult
from emotion_client import Utterance as SentUtterance
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor

from emotion.labels import EMOTIONS
from emotion.model import VIEWS, EmotionModel, FusionHead, Probabilities, confidence, contradiction
from emotion.progress import progress
from training.calibration import fit_confidence, fit_temperature
from training.corpora.table import Utterance
from training.datasets import EVALUATION_BATCH_SIZE, Batch, Utterances, evaluation_batches
from training.errors import TrainingError
from training.files import write_atomically

CONCURRENCY = 32  # concurrent requests to a served Triton; the ensemble's maximum batch size


@dataclass
class Predictions:
    """Predicted probabilities and true labels of utterances.

    Attributes:
        ids: utterance ids.
        truth: int64 [n], true labels as indices into EMOTIONS.
        probabilities: view -> float64 [n, 5]; the row of an absent modality is all zero.
        styles: "improvised", "scripted" or None for each utterance.
        confidence: view -> float64 [n], confidence of the prediction with both modalities ("fused") or with one alone;
            0 without a prediction. Views with unknown confidence are left out.
        speakers, groups: of each utterance, None if unknown.
    """

    ids: list[str]
    truth: NDArray[np.int64]
    probabilities: dict[str, NDArray[np.float64]]
    styles: list[str | None]
    confidence: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    speakers: list[str | None] = field(default_factory=list)
    groups: list[str | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Set speakers and groups to None for each utterance if they are not given."""
        self.speakers = self.speakers or [None] * len(self.ids)
        self.groups = self.groups or [None] * len(self.ids)

    @classmethod
    def join(cls, parts: Sequence["Predictions"]) -> "Predictions":
        """Concatenate sets of predictions, such as those for the test sets of all folds."""
        return cls(
            [name for part in parts for name in part.ids],
            np.concatenate([part.truth for part in parts]),
            {view: np.concatenate([part.probabilities[view] for part in parts]) for view in VIEWS},
            [style for part in parts for style in part.styles],
            {
                view: np.concatenate([part.confidence[view] for part in parts])
                for view in VIEWS
                if all(view in part.confidence for part in parts)
            },
            [speaker for part in parts for speaker in part.speakers],
            [group for part in parts for group in part.groups],
        )

    def select(self, chosen: NDArray[np.bool_]) -> "Predictions":
        """Return the predictions for some of the utterances.

        Args:
            chosen: bool [n].
        """
        places = np.flatnonzero(chosen)
        return Predictions(
            [self.ids[place] for place in places],
            self.truth[places],
            {view: rows[places] for view, rows in self.probabilities.items()},
            [self.styles[place] for place in places],
            {view: values[places] for view, values in self.confidence.items()},
            [self.speakers[place] for place in places],
            [self.groups[place] for place in places],
        )

    def save(self, path: Path) -> None:
        """Write the predictions as JSON atomically.

        Raises:
            TrainingError: the file can't be written.
        """
        record = {
            "ids": self.ids,
            "truth": self.truth.tolist(),
            "probabilities": {view: rows.tolist() for view, rows in self.probabilities.items()},
            "styles": self.styles,
            "confidence": {view: values.tolist() for view, values in self.confidence.items()},
            "speakers": self.speakers,
            "groups": self.groups,
        }
        write_atomically(path, json.dumps(record) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Predictions":
        """Read predictions that `save` wrote."""
        record = json.loads(path.read_text())
        return cls(
            record["ids"],
            np.array(record["truth"], np.int64),
            {view: np.array(rows) for view, rows in record["probabilities"].items()},
            record["styles"],
            {view: np.array(values) for view, values in record["confidence"].items()},
            record["speakers"],
            record["groups"],
        )

    def without(self, modality: str) -> "Predictions":
        """Return the predictions for the same utterances without "audio" or without "text".

        The fused view then equals the view of the other modality by definition, so the model is not run again. An
        utterance without the other modality gets a row of zeros.
        """
        other = "text" if modality == "audio" else "audio"
        left = self.probabilities[other]
        probabilities = dict.fromkeys(VIEWS, left) | {modality: np.zeros_like(left)}
        known = {"fused": self.confidence[other], other: self.confidence[other]} if other in self.confidence else {}
        return replace(self, probabilities=probabilities, confidence=known)


@dataclass(frozen=True)
class Embeddings:
    """Inputs of the fusion head: audio float32 [n, 128], text float32 [n, 256], and bool [n] for presence of each."""

    audio: Tensor
    has_audio: Tensor
    text: Tensor
    has_text: Tensor


def embed(model: EmotionModel, utterances: Utterances) -> Embeddings:
    """Return the embeddings of whole utterances, computed on the model's device; its dropout is switched off."""
    loader = evaluation_batches(utterances, EVALUATION_BATCH_SIZE)
    columns: list[tuple[Tensor, ...]] = []
    rows: list[Tensor] = []
    device = next(model.parameters()).device
    model.eval()
    with torch.inference_mode(), progress() as bar:
        task = bar.add_task("predicting", total=len(utterances))
        for tensors in loader:
            batch = Batch(*(tensor.to(device) for tensor in tensors))
            columns.append(
                (
                    model.embed_audio(batch.patches, batch.patch_counts),
                    batch.patch_counts > 0,
                    model.embed_text(batch.input_ids, batch.attention_mask),
                    batch.attention_mask.sum(1) > 0,
                )
            )
            rows.append(batch.row)
            bar.advance(task, len(batch.row))
        order = torch.cat(rows).argsort()
        return Embeddings(*(torch.cat(parts)[order] for parts in zip(*columns, strict=True)))


@dataclass(frozen=True)
class EmbeddedUtterances:
    """Embeddings of utterances by a model's encoders, and the model's head."""

    head: FusionHead
    embeddings: Embeddings
    utterances: Sequence[Utterance]

    @classmethod
    def from_model(cls, model: EmotionModel, utterances: Utterances) -> "EmbeddedUtterances":
        """Embed whole utterances on the model's device; its dropout is switched off."""
        return cls(model.head, embed(model, utterances), utterances.utterances)

    def answers(self) -> Predictions:
        """Return the head's predictions with its current temperatures and confidence."""
        has_audio, has_text = self.embeddings.has_audio, self.embeddings.has_text
        with torch.inference_mode():
            logits = self.head(self.embeddings.audio, has_audio, self.embeddings.text, has_text)
        probabilities = {}
        for view, present in (("fused", has_audio | has_text), ("audio", has_audio), ("text", has_text)):
            values = softmax(getattr(logits, view).double().cpu().numpy(), axis=-1)
            probabilities[view] = values * present.cpu().numpy()[:, None]
        answers = _with_truth(self.utterances, probabilities)
        coefficients = self.head.confidence.double().cpu()
        for view in VIEWS:
            views = _confidence_inputs(answers, view)
            sure = confidence(*views, coefficients).numpy()
            answers.confidence[view] = sure * answers.probabilities[view].any(axis=1)
        return answers


def predict(model: EmotionModel, utterances: Utterances) -> Predictions:
    """Return the model's predictions for whole utterances, computed on its device; its dropout is switched off."""
    return EmbeddedUtterances.from_model(model, utterances).answers()


def _confidence_inputs(answers: Predictions, view: str) -> tuple[Probabilities, Tensor, Tensor]:
    """Return the inputs of `confidence` for predictions with both modalities, or with audio or text alone."""
    fused = torch.from_numpy(answers.probabilities[view])
    nothing = torch.zeros_like(fused)
    audio, text = (
        torch.from_numpy(answers.probabilities[name]) if view in ("fused", name) else nothing
        for name in ("audio", "text")
    )
    return Probabilities(fused, audio, text), audio.any(-1), text.any(-1)


def predict_served(endpoint: str, utterances: Sequence[Utterance]) -> Predictions:
    """Return the predictions of a served ensemble `emotion`.

    Args:
        endpoint: HOST:PORT of its gRPC service.
        utterances: sent with the client library.

    Raises:
        TrainingError: a request failed; the message names the utterance and the reason.
    """
    probabilities = {view: np.zeros((len(utterances), len(EMOTIONS))) for view in VIEWS}
    confidences = np.zeros(len(utterances))
    try:
        with EmotionClient(endpoint) as client, progress() as bar:
            task = bar.add_task("requesting predictions", total=len(utterances))
            for start in range(0, len(utterances), CONCURRENCY):
                part = utterances[start : start + CONCURRENCY]
                answers = client.analyze_many([SentUtterance(each.audio, each.text) for each in part], CONCURRENCY)
                for row, (utterance, answer) in enumerate(zip(part, answers, strict=True), start):
                    if isinstance(answer, EmotionError):
                        raise TrainingError(f"{endpoint} did not answer to utterance {utterance.id}: {answer}")
                    confidences[row] = answer.confidence
                    for view, values in _views(answer).items():
                        probabilities[view][row] = values
                bar.advance(task, len(part))
    except EmotionError as error:
        raise TrainingError(str(error)) from None
    return replace(_with_truth(utterances, probabilities), confidence={"fused": confidences})


def calibrate(sets: Sequence[EmbeddedUtterances], views: Collection[str]) -> None:
    """Fit temperatures and confidence on utterances that the models were not trained on.

    The fused view combines the calibrated views, so its temperature is fitted after theirs, and the confidence last.

    Args:
        sets: embedded utterances; all their heads get the same temperatures and the same confidence in place.
        views: views to fit, a subset of VIEWS; the others are not changed.
    """

    def answer() -> Predictions:
        return Predictions.join([each.answers() for each in sets])

    def set_all(name: str, view: str, value: Tensor) -> None:
        for each in sets:
            getattr(each.head, name)[VIEWS.index(view)] = value

    for view in views:
        set_all("temperature", view, torch.tensor(1.0))
    for chosen in (("audio", "text"), ("fused",)):
        answers = answer()
        for view in set(chosen) & set(views):
            rows = decided_by(answers)[view]
            # the logarithms of probabilities are logits
            logits = _logits(answers.probabilities[view][rows])
            set_all("temperature", view, torch.tensor(fit_temperature(logits, answers.truth[rows])))
    answers = answer()
    for view in views:
        rows = decided_by(answers)[view]
        probabilities = answers.probabilities[view][rows]
        right = probabilities.argmax(axis=1) == answers.truth[rows]
        # contradiction already lowers the confidence, so uncontradicted predictions weigh most in the fit
        weights = 1.0 - contradiction(*_confidence_inputs(answers, view)).numpy()[rows]
        set_all("confidence", view, torch.tensor(fit_confidence(probabilities.max(axis=1), right, weights)))


def at_temperatures(predictions: Predictions, temperatures: Mapping[str, float]) -> Predictions:
    """Return the predictions with the logits of each view divided by another temperature.

    The fused view still combines the other views as they were. The confidence is removed.
    """
    cooled = {view: values.copy() for view, values in predictions.probabilities.items()}
    decided = decided_by(predictions)
    for view, rows in decided.items():
        values = softmax(_logits(predictions.probabilities[view][rows]) / temperatures[view], axis=-1)
        cooled[view][rows] = values
        if view != "fused":
            alone = rows & ~decided["fused"]
            cooled["fused"][alone] = cooled[view][alone]
    return replace(predictions, probabilities=cooled, confidence={})


def decided_by(predictions: Predictions) -> dict[str, NDArray[np.bool_]]:
    """Return for each view the utterances whose prediction it decides: bool [n]."""
    has_audio, has_text = (predictions.probabilities[view].any(axis=1) for view in ("audio", "text"))
    return {"fused": has_audio & has_text, "audio": has_audio, "text": has_text}


def _logits(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))


def _views(answer: EmotionResult) -> dict[str, list[float]]:
    views = (answer.probabilities, answer.audio_probabilities, answer.text_probabilities)
    return {
        view: [values[emotion] for emotion in EMOTIONS]
        for view, values in zip(VIEWS, views, strict=True)
        if values is not None
    }


def _with_truth(utterances: Sequence[Utterance], probabilities: dict[str, NDArray[np.float64]]) -> Predictions:
    truth = np.array([EMOTIONS.index(utterance.emotion) for utterance in utterances], np.int64)
    return Predictions(
        [utterance.id for utterance in utterances],
        truth,
        probabilities,
        [utterance.style for utterance in utterances],
        speakers=[utterance.speaker for utterance in utterances],
        groups=[utterance.group for utterance in utterances],
    )
