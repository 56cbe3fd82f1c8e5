"""What a model answers to a set of utterances, asked here in torch or through a served Triton."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from emotion_client import Emotion, EmotionClient, EmotionError
from emotion_client import Utterance as SentUtterance
from numpy.typing import NDArray
from scipy.special import softmax

from emotion.labels import EMOTIONS
from emotion.model import VIEWS, EmotionModel
from training.calibration import fit_temperature
from training.corpora.release import write_atomically
from training.corpora.table import Utterance
from training.data import EVALUATION_BATCH, Batch, Utterances, evaluation_batches
from training.errors import TrainingError
from training.progress import progress

CONCURRENCY = 32  # requests under way at a served Triton; the ensemble's largest batch


@dataclass
class Predictions:
    """Probabilities beside the truth.

    Attributes:
        ids: utterance ids.
        truth: int64 [n], indices into EMOTIONS.
        probabilities: float64 [n, 5] of each view in VIEWS; a row is all zero where the modality is absent.
        styles: "improvised", "scripted" or None for each utterance.
    """

    ids: list[str]
    truth: NDArray[np.int64]
    probabilities: dict[str, NDArray[np.float64]]
    styles: list[str | None]

    @classmethod
    def join(cls, parts: Sequence["Predictions"]) -> "Predictions":
        """Several sets end to end, such as the test sets of all folds."""
        return cls(
            [name for part in parts for name in part.ids],
            np.concatenate([part.truth for part in parts]),
            {view: np.concatenate([part.probabilities[view] for part in parts]) for view in VIEWS},
            [style for part in parts for style in part.styles],
        )

    def save(self, path: Path) -> None:
        """Write JSON, whole or not at all."""
        record = {
            "ids": self.ids,
            "truth": self.truth.tolist(),
            "probabilities": {view: rows.tolist() for view, rows in self.probabilities.items()},
            "styles": self.styles,
        }
        write_atomically(path, json.dumps(record) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Predictions":
        """Read what `save` wrote."""
        record = json.loads(path.read_text())
        return cls(
            record["ids"],
            np.array(record["truth"], np.int64),
            {view: np.array(rows) for view, rows in record["probabilities"].items()},
            record["styles"],
        )

    def without(self, modality: str) -> "Predictions":
        """The answers to the same utterances had they come without "audio" or without "text".

        No second pass is needed: by the model's definition the fused view is then the other modality's own. An
        utterance that has nothing else keeps a row of zeros.
        """
        left = self.probabilities["text" if modality == "audio" else "audio"]
        probabilities = dict.fromkeys(VIEWS, left) | {modality: np.zeros_like(left)}
        return Predictions(self.ids, self.truth, probabilities, self.styles)


def predict(model: EmotionModel, utterances: Utterances) -> Predictions:
    """The model's answers to whole utterances, on the device that it is on; its dropout is switched off."""
    loader = evaluation_batches(utterances, EVALUATION_BATCH)
    probabilities = {view: np.zeros((len(utterances), len(EMOTIONS))) for view in VIEWS}
    device = next(model.parameters()).device
    model.eval()
    with torch.inference_mode(), progress() as bar:
        task = bar.add_task("predicting", total=len(utterances))
        for rows in loader:
            batch = Batch(*(tensor.to(device) for tensor in rows))
            logits = model(batch.patches, batch.patch_counts, batch.input_ids, batch.attention_mask)
            has_audio, has_text = batch.patch_counts > 0, batch.attention_mask.sum(1) > 0
            for view, present in (("fused", has_audio | has_text), ("audio", has_audio), ("text", has_text)):
                values = softmax(getattr(logits, view).double().cpu().numpy(), axis=-1)
                probabilities[view][batch.row.cpu().numpy()] = values * present.cpu().numpy()[:, None]
            bar.advance(task, len(batch.row))
    return _beside(utterances.utterances, probabilities)


def predict_served(endpoint: str, utterances: Sequence[Utterance]) -> Predictions:
    """The answers of the ensemble `emotion` at an endpoint (HOST:PORT of its gRPC), sent as any caller would.

    Raises:
        TrainingError: an utterance got no answer; the message says which and why.
    """
    probabilities = {view: np.zeros((len(utterances), len(EMOTIONS))) for view in VIEWS}
    try:
        with EmotionClient(endpoint) as client, progress() as bar:
            task = bar.add_task("asking the server", total=len(utterances))
            for start in range(0, len(utterances), CONCURRENCY):
                part = utterances[start : start + CONCURRENCY]
                answers = client.analyze_many([SentUtterance(each.audio, each.text) for each in part], CONCURRENCY)
                for row, (utterance, answer) in enumerate(zip(part, answers, strict=True), start):
                    if isinstance(answer, EmotionError):
                        raise TrainingError(f"{endpoint} did not answer to utterance {utterance.id}: {answer}")
                    for view, values in _views(answer).items():
                        probabilities[view][row] = values
                bar.advance(task, len(part))
    except EmotionError as error:
        raise TrainingError(str(error)) from None
    return _beside(utterances, probabilities)


def fit_temperatures(predictions: Predictions) -> dict[str, float]:
    """The temperature of each view, fitted on answers that were given at temperature 1.

    That of the fused view rests on the utterances with both modalities: the others' fused view is the unimodal one.
    """
    return {
        # the logarithms of probabilities are logits
        view: fit_temperature(_logits(predictions.probabilities[view][rows]), predictions.truth[rows])
        for view, rows in _rows(predictions).items()
    }


def at_temperatures(predictions: Predictions, temperatures: Mapping[str, float]) -> Predictions:
    """What answers that were given at temperature 1 become at others."""
    cooled = {view: values.copy() for view, values in predictions.probabilities.items()}
    for view, rows in _rows(predictions).items():
        values = softmax(_logits(predictions.probabilities[view][rows]) / temperatures[view], axis=-1)
        cooled[view][rows] = values
        if view != "fused":
            alone = rows & ~_rows(predictions)["fused"]
            cooled["fused"][alone] = cooled[view][alone]
    return Predictions(predictions.ids, predictions.truth, cooled, predictions.styles)


def _rows(predictions: Predictions) -> dict[str, NDArray[np.bool_]]:
    """bool [n] of each view: the utterances that it alone decides."""
    has_audio, has_text = (predictions.probabilities[view].any(axis=1) for view in ("audio", "text"))
    return {"fused": has_audio & has_text, "audio": has_audio, "text": has_text}


def _logits(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))


def _views(answer: Emotion) -> dict[str, list[float]]:
    views = (answer.probabilities, answer.audio_probabilities, answer.text_probabilities)
    return {
        view: [values[emotion] for emotion in EMOTIONS]
        for view, values in zip(VIEWS, views, strict=True)
        if values is not None
    }


def _beside(utterances: Sequence[Utterance], probabilities: dict[str, NDArray[np.float64]]) -> Predictions:
    truth = np.array([EMOTIONS.index(utterance.emotion) for utterance in utterances], np.int64)
    return Predictions(
        [utterance.id for utterance in utterances], truth, probabilities, [utterance.style for utterance in utterances]
    )
