"""Train the encoders with auxiliary heads, which are not saved in checkpoints.

The heads have two kinds of targets. Published labels cover more emotions and more utterances than the five classes.
Features of a teacher come from a network that was trained on far more speech.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from emotion.model import AUDIO_EMBEDDING, TEXT_EMBEDDING
from training.corpora.table import Utterance
from training.errors import TrainingError


def label_targets(utterances: Sequence[Utterance]) -> NDArray[np.float32]:
    """Return the published labels of each utterance as a distribution: float32 [n, labels].

    Several labels of an utterance share the probability evenly. The row of an utterance without labels is all zero.

    Raises:
        TrainingError: no utterance has a label.
    """
    names = sorted({label for utterance in utterances for label in utterance.labels})
    if not names:
        raise TrainingError(
            "--auxiliary-weight needs published labels, which only goemotions and emodb have; leave it out"
        )
    targets = np.zeros((len(utterances), len(names)), np.float32)
    for row, utterance in enumerate(utterances):
        for label in utterance.labels:
            targets[row, names.index(label)] = 1 / len(utterance.labels)
    return targets


class AuxiliaryHeads(nn.Module):
    """Linear heads on both embeddings, and the targets of all training utterances.

    Args:
        labels: float32 [n, labels] of `label_targets`, or None.
        features: float32 [speeds, n, features], the teacher's features at each of SPEEDS, or None. Rows of utterances
            without audio are not read.
        label_weight: weight of the loss on labels.
        feature_weight: weight of the loss on features.
    """

    labels: Tensor | None
    features: Tensor | None

    def __init__(
        self,
        labels: NDArray[np.float32] | None,
        features: NDArray[np.float32] | None,
        label_weight: float,
        feature_weight: float,
    ) -> None:
        super().__init__()
        self.label_weight, self.feature_weight = label_weight, feature_weight
        for name, targets in (("labels", labels), ("features", features)):
            self.register_buffer(name, None if targets is None else torch.from_numpy(targets), persistent=False)
        if labels is not None:
            self.audio_labels = nn.Linear(AUDIO_EMBEDDING, labels.shape[1])
            self.text_labels = nn.Linear(TEXT_EMBEDDING, labels.shape[1])
        if features is not None:
            self.audio_features = nn.Linear(AUDIO_EMBEDDING, features.shape[2])

    def loss(
        self, row: Tensor, speed: Tensor, audio: Tensor, has_audio: Tensor, text: Tensor, has_text: Tensor
    ) -> Tensor:
        """Return the weighted sum of the losses of a batch.

        Args:
            row: int64 [batch], row of each utterance in the training set.
            speed: int64 [batch], index into SPEEDS.
            audio: float [batch, 128], audio embeddings.
            has_audio: bool [batch].
            text: float [batch, 256], text embeddings.
            has_text: bool [batch].
        """
        losses = [0.0 * audio.sum()]
        if self.labels is not None:
            targets = self.labels[row]
            known = targets.any(dim=1)
            for head, embedding, present in (
                (self.audio_labels, audio, has_audio & known),
                (self.text_labels, text, has_text & known),
            ):
                if present.any():
                    losses.append(self.label_weight * cross_entropy(head(embedding[present]), targets[present]))
        if self.features is not None and has_audio.any():
            predicted = self.audio_features(audio[has_audio])
            losses.append(self.feature_weight * mse_loss(predicted, self.features[speed, row][has_audio]))
        return torch.stack(losses).sum()
