"""FLOPs that the model needs, and those that are spent on a batch; a multiply-add counts as two."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import nn

from benchmarks.workload import Utterance
from emotion.audio import PATCH_SHAPE
from emotion.model import TEXT_EMBEDDING, FusionHead, VGGish


@dataclass(frozen=True)
class Flops:
    """What the served models cost.

    Attributes:
        patch: of `vggish`.
        token: of `bert`, everything that works on single tokens.
        pair: of `bert`'s attention, for each pair of tokens of one utterance.
        text: of the projection after `bert`'s mean, for each utterance.
        head: of `fusion`, for each utterance.
    """

    patch: int
    token: int
    pair: int
    text: int
    head: int

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
            head=_head(hidden),
        )

    def needed(self, utterances: Sequence[Utterance]) -> dict[str, int]:
        """Return what each model needs for all of them, without any padding."""
        return {
            "vggish": self.patch * sum(each.patches for each in utterances),
            "bert": sum(self.token * each.tokens + self.pair * each.tokens**2 + self.text for each in utterances),
            "fusion": self.head * len(utterances),
        }

    def spent(self, batch: Sequence[Utterance]) -> dict[str, int]:
        """Return what each model computes for one batch.

        Attention alone is padded, to the longest text.
        """
        tokens = [each.tokens for each in batch]
        attention = self.pair * len(batch) * max(tokens) ** 2
        return self.needed(batch) | {"bert": self.token * sum(tokens) + attention + self.text * len(batch)}


def _head(hidden: int) -> int:
    with torch.device("meta"):
        head = FusionHead(hidden)
    parts = (head.audio_head, head.text_head, head.fusion.layers)
    return sum(2 * layer.weight.numel() for part in parts for layer in part if isinstance(layer, nn.Linear))


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
