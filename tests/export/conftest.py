"""Fixtures with a small model that has the served structure and is exported in seconds."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console
from transformers import BertConfig, BertModel

import export.__main__
from emotion import checkpoint as checkpoints
from emotion.checkpoint import Checkpoint, CheckpointConfig, load_minilm
from emotion.model import EmotionModel, FusionHead, VGGish
from tests.conftest import Once
from tests.narrow import BERT, narrow_vggish


@pytest.fixture(scope="session")
def narrow() -> Checkpoint:
    """Return a checkpoint with a small model of the served structure and MiniLM's tokenizer."""
    torch.manual_seed(1)
    # weights ten times larger than BERT's, so that a changed weight is visible
    bert = BertModel(BertConfig(**BERT, initializer_range=0.2), add_pooling_layer=False)
    bert.set_attn_implementation("eager")
    with narrow_vggish():
        model = EmotionModel(VGGish(), bert, FusionHead(text_hidden=BERT["hidden_size"])).eval()
    config = CheckpointConfig(["text_encoder", "fusion"], dict.fromkeys(checkpoints.PARTS, "seeded with 1"))
    return Checkpoint(model, config, load_minilm()[1], digest="5ca1ab1e" * 8)


@pytest.fixture(scope="session")
def narrow_repository(narrow: Checkpoint, once: Once) -> Callable[[str], Path]:
    """Return a function that exports the small model in a precision; tests must not change its files.

    The repositories of fp16 and int8 have the fp32 files, too.
    """

    def get(precision: str) -> Path:
        def make(made: Path) -> None:
            if precision != "fp32":
                shutil.copytree(get("fp32"), made)
            export.__main__.export(narrow, made, precision, Console(quiet=True))

        return once(f"narrow-{precision}", make)

    return get
