"""A small VGGish and a small BERT, for tests that do not depend on the size of the model."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

import emotion.model
from emotion.checkpoint import load_minilm

BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
CHANNELS = ((4,), (8,), (16,), (16,))
HIDDEN = 32


@contextmanager
def narrow_vggish() -> Iterator[None]:
    """Give each VGGish that is made in this process few channels, and one convolution before each pooling."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(emotion.model, "VGGISH_CHANNELS", CHANNELS)
        patched.setattr(emotion.model, "VGGISH_HIDDEN", HIDDEN)
        yield


def write_bert(directory: Path) -> Path:
    """Write a BERT of two layers in Hugging Face layout, with MiniLM's tokenizer."""
    torch.manual_seed(1)
    BertModel(BertConfig(**BERT), add_pooling_layer=False).save_pretrained(directory)
    shutil.copyfile(load_minilm()[1], directory / "tokenizer.json")
    return directory


def narrow_program(package: str) -> tuple[str, str]:
    """Return Python's arguments that run a package as a command with a narrow VGGish."""
    return "-c", (
        f"import sys; from tests.narrow import narrow_vggish; from {package}.__main__ import main\n"
        "with narrow_vggish():\n    sys.exit(main())"
    )
