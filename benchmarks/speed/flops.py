"""FLOPs that the model needs, and those that are spent on a batch; a multiply-add counts as two."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import nn

from benchmarks.load.workload import Utterance
from emotion.audio import PATCH_SHAPE
from emotion.model import TEXT_EMBEDDING, FusionHead, VGGish


@dataclass(frozen=True)
class Flops:
    """What the served models cost."""

    patch: int  # of `vggish`
    token: int  # of `bert`, everything that works on single tokens
    pair: int  # of `bert`'s attention, for each pair of tokens of an utterance
    text: int  # of the projection after `bert`'s mean, for each utterance
    head: int  # of `fusion`, for each utterance

    @classmethod
    def of(cls, checkpoint: Path) -> Self:
        """Return the costs of a checkpoint directory; VGGish is the same in all."""
        config = json.loads((checkpoint / "text_encoder" / "config.json").read_text())
        hidden, layers = config["hidden_size"], config["num_hidden_layers"]
        return cls(
            patch=_vggish(),
            token=layers * (2 * 4 * hidden * hidden + 2 * 2 * hidden * config["intermediate_size"]),
            pair=layers * 2 * 2 * hidden,
            text=2 * hidden * TEXT_EMBEDDING,
            head=_head(hidden),
        )

    def needed(self, utterances: Sequence[Utterance]) -> int:
        """Return what the models need for all utterances, without padding."""
        patches, tokens = (sum(getattr(each, name) for each in utterances) for name in ("patches", "tokens"))
        pairs = sum(each.tokens**2 for each in utterances)
        per_utterance = len(utterances) * (self.text + self.head)
        return self.patch * patches + self.token * tokens + self.pair * pairs + per_utterance

    def spent(self, utterances: Sequence[Utterance], size: int) -> int:
        """Return what the models compute in batches of `size`: attention is padded to the longest text of its batch."""
        padding = 0
        for start in range(0, len(utterances), size):
            tokens = [each.tokens for each in utterances[start : start + size]]
            padding += len(tokens) * max(tokens) ** 2 - sum(count**2 for count in tokens)
        return self.needed(utterances) + self.pair * padding


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
