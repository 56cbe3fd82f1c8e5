"""FLOPs that the model needs, and those that are spent on a batch; a multiply-add counts as two."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import nn

from benchmarks.workload import Utterance
from emotion.audio import HOP, PATCH_FRAMES, PATCH_SHAPE, SAMPLE_RATE, WINDOW
from emotion.model import TEXT_EMBEDDING, VGGish


@dataclass(frozen=True)
class Flops:
    """What the encoders cost; the fusion head (0.1 MFLOP an utterance) is left out.

    Attributes:
        patch: of VGGish.
        token: of BERT, everything that works on single tokens.
        pair: of BERT's attention, for each pair of tokens of one utterance.
        text: of the projection after the mean, for each utterance.
    """

    patch: int
    token: int
    pair: int
    text: int

    @classmethod
    def of(cls, checkpoint: Path) -> Self:
        """From a checkpoint directory's text_encoder/config.json; VGGish is the same in all."""
        config = json.loads((checkpoint / "text_encoder" / "config.json").read_text())
        hidden, layers = config["hidden_size"], config["num_hidden_layers"]
        return cls(
            patch=_vggish(),
            token=layers * (2 * 4 * hidden * hidden + 2 * 2 * hidden * config["intermediate_size"]),
            pair=layers * 2 * 2 * hidden,
            text=2 * hidden * TEXT_EMBEDDING,
        )

    def needed(self, utterances: Sequence[Utterance]) -> int:
        """Without any padding."""
        return sum(self._row(utterance) + self.pair * utterance.tokens**2 for utterance in utterances)

    def spent(self, utterances: Sequence[Utterance]) -> int:
        """As one batch of ours: attention alone pads, to the longest text."""
        longest = max(utterance.tokens for utterance in utterances)
        return sum(map(self._row, utterances)) + self.pair * len(utterances) * longest**2

    def _row(self, utterance: Utterance) -> int:
        return self.patch * patches(utterance.seconds) + self.token * utterance.tokens + self.text


def patches(seconds: float) -> int:
    """Patches of an utterance; see emotion.audio.log_mel_patches."""
    samples = round(seconds * SAMPLE_RATE)
    return max(1, (1 + (samples - WINDOW) // HOP) // PATCH_FRAMES) if samples else 0


def _vggish() -> int:
    with torch.device("meta"):
        vggish = VGGish()
    height, width = PATCH_SHAPE
    total = 0
    for layer in (*vggish.features, *vggish.embeddings):
        match layer:
            case nn.Conv2d():
                total += 2 * layer.weight.numel() * height * width
            case nn.MaxPool2d():
                height, width = height // 2, width // 2
            case nn.Linear():
                total += 2 * layer.weight.numel()
    return total
