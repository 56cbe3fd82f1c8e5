"""Fixtures with a small model that has the served structure and is exported in seconds."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

from emotion import checkpoint as checkpoints
from emotion.checkpoint import Checkpoint, CheckpointConfig
from emotion.model import EmotionModel, FusionHead, VGGish
from export.onnx_files import serving_parts, write_models
from tests.conftest import Once
from tests.narrow import BERT, narrow_vggish


@pytest.fixture(scope="session")
def narrow(checkpoint: Checkpoint) -> Checkpoint:
    """Return a checkpoint with a small model of the served structure and MiniLM's tokenizer."""
    torch.manual_seed(1)
    # weights ten times larger than BERT's, so that a changed weight is visible
    bert = BertModel(BertConfig(**BERT, initializer_range=0.2), add_pooling_layer=False)
    bert.set_attn_implementation("eager")
    with narrow_vggish():
        model = EmotionModel(VGGish(), bert, FusionHead(text_hidden=BERT["hidden_size"])).eval()
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
