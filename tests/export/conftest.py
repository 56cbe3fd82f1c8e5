"""Fixtures with a small model that has the served structure and is exported in seconds."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

from emotion import checkpoint as checkpoints
from emotion.checkpoint import Checkpoint, CheckpointConfig
from emotion.model import EmotionModel, FusionHead, VGGish
from export.onnx_files import serving_parts, write_models
from tests.conftest import Once


def narrow_vggish() -> VGGish:
    """Return a VGGish with 4 to 16 channels instead of 64 to 512."""
    with torch.device("meta"):
        vggish = VGGish()
    layers: list[nn.Module] = []
    channels = 1
    for width in (4, 8, 16, 16):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, 2)]
        channels = width
    vggish.features = nn.Sequential(*layers)
    vggish.embeddings = nn.Sequential(nn.Linear(channels * 6 * 4, 32), nn.ReLU(), nn.Linear(32, 128), nn.ReLU())
    return vggish


@pytest.fixture(scope="session")
def narrow(checkpoint: Checkpoint) -> Checkpoint:
    """Return a checkpoint with a small model of the served structure and MiniLM's tokenizer."""
    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    # weights ten times larger than BERT's, so that a changed weight is visible
    bert = BertModel(BertConfig(**sizes, initializer_range=0.2), add_pooling_layer=False)
    bert.set_attn_implementation("eager")
    model = EmotionModel(narrow_vggish(), bert, FusionHead(text_hidden=32)).eval()
    config = CheckpointConfig(["text_encoder", "fusion"], dict.fromkeys(checkpoints.PARTS, "seeded with 1"))
    return Checkpoint(model, config, checkpoint.tokenizer, digest="5ca1ab1e" * 8)


@pytest.fixture(scope="session")
def narrow_repository(narrow: Checkpoint, once: Once) -> Callable[[str], Path]:
    """Return a function that exports the small model in a precision without checks; tests must not change its files."""

    def get(precision: str) -> Path:
        def make(made: Path) -> None:
            write_models(serving_parts(narrow, precision), made, precision, {})

        return once(f"narrow-{precision}", make)

    return get
