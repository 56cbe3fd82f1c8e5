"""Compact checkpoints: only what training changed, small enough for git.

    config.json           an ordinary checkpoint's fields, and `start`: how to tell that the start is the same one
    update.safetensors    what to add to the start, and the fusion head whole
    model_card.md         for people

The start is the pinned MiniLM and the VGGish that the configuration's seed gives. Changes of matrices are stored as
products of two narrow ones in half precision (NAME.left [out, rank], NAME.right [rank, in]), those of convolutions
and of VGGish's last matrix whole in half precision, those of vectors whole; what did not change is not stored. After
low-rank training (LoRA) the products lose nothing but the rounding.
"""

import json
import shutil
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import BertModel

from emotion import checkpoint as checkpoints
from emotion.checkpoint import (
    COMPACT_FORMAT,
    FORMAT,
    MINILM_SHA256,
    Checkpoint,
    CheckpointConfig,
    CheckpointError,
    load_tensors,
    minilm,
    read_config,
    read_safetensors,
    replacing,
    require,
    seeded_vggish,
)
from emotion.model import EmotionModel, FusionHead, VGGish

SAMPLES = 8  # numbers of each seeded tensor that are recorded
TOLERANCE = 1e-5  # of those; the smallest standard deviation among the tensors is 1e-2
TOLERATED_LOSS = 0.02
WHOLE = ("embeddings.4.weight",)  # VGGish's last matrix: 1 MiB, and low-rank training trains it in full
OVERSAMPLING = 16  # directions beyond the rank that make the truncated SVD's leading ones accurate
Tensors = dict[str, Tensor]


@dataclass
class CompactConfig(CheckpointConfig):
    """What a compact checkpoint's config.json holds."""

    start: dict[str, Any] = field(default_factory=dict)
    format: int | str = COMPACT_FORMAT


@dataclass(frozen=True)
class Compacted:
    """What came of compacting; as text, a report that warns where much was lost."""

    directory: Path
    size: int  # bytes of all files
    rank: int
    losses: dict[str, float]  # part -> Frobenius norm of what its update lost, relative to that of the update

    def __str__(self) -> str:
        lines = [f"wrote {self.directory} ({self.size / 2**20:.1f} MiB)"]
        lines += [f"{part}: {loss:.2%} of the update lost" for part, loss in self.losses.items()]
        lines += [
            f"warning: rank {self.rank} does not hold the update of {part}; a higher rank keeps more (--rank)"
            for part, loss in self.losses.items()
            if loss > TOLERATED_LOSS
        ]
        return "\n".join(lines)


@torch.no_grad()
def compact(checkpoint: str | Path, target: str | Path, rank: int) -> Compacted:
    """Write the compact form of an ordinary checkpoint.

    Args:
        checkpoint: its text encoder began as the pinned MiniLM, its VGGish as seeded weights.
        target: the directory to make; a checkpoint there is replaced.
        rank: of the products that stand for the changes of matrices.

    Raises:
        CheckpointError: a checkpoint that began elsewhere or can't be read, a rank below 1, a directory that can't be
            taken.
    """
    checkpoint, target = Path(checkpoint), Path(target)
    if rank < 1:
        raise CheckpointError(f"the rank is {rank}; it must be at least 1")
    _require_two(checkpoint, target)
    trained = checkpoints.load(checkpoint)
    if trained.config.seed is None:
        raise CheckpointError(
            f"{checkpoint}: its config.json has no seed, so it is not known what its VGGish began as; "
            "only a checkpoint whose VGGish was trained from seeded weights can be compacted"
        )
    bert, tokenizer = minilm()
    _require_minilm(trained, bert, tokenizer, checkpoint)
    vggish = seeded_vggish(trained.config.seed, trained.config.final_relu)
    update = {f"fusion.{name}": tensor for name, tensor in trained.model.head.state_dict().items()}
    sources, losses = dict(trained.config.sources), {}
    for part, end, start in (
        ("text_encoder", trained.model.text_encoder, bert),
        ("vggish", trained.model.vggish, vggish),
    ):
        changes, losses[part] = _changes(start.state_dict(), end.state_dict(), rank)
        update |= {f"{part}.{name}": tensor for name, tensor in changes.items()}
        if changes:
            sources[part] += f" + rank-{rank} update"
    inherited = asdict(trained.config) | {"format": COMPACT_FORMAT, "sources": sources}
    config = CompactConfig(
        **inherited,
        start={"torch": torch.__version__, "text_encoder": {"minilm": MINILM_SHA256}, "vggish": _samples(vggish)},
    )
    with replacing(target) as staging:
        save_file({name: tensor.contiguous() for name, tensor in update.items()}, staging / "update.safetensors")
        (staging / "config.json").write_text(json.dumps(asdict(config), indent=2) + "\n")
        shutil.copyfile(require(checkpoint / "model_card.md"), staging / "model_card.md")
    return Compacted(target, sum(path.stat().st_size for path in target.iterdir()), rank, losses)


@torch.no_grad()
def expand(compacted: str | Path, target: str | Path) -> None:
    """Write the ordinary checkpoint that a compact one stands for.

    Its weights, and with them its digest, can differ in their last bits from machine to machine.

    Raises:
        CheckpointError: a compact checkpoint that is incomplete or damaged, a start that comes out differently here, a
            directory that can't be taken.
    """
    compacted, target = Path(compacted), Path(target)
    config = read_config(compacted, CompactConfig)
    _require_two(compacted, target)
    path = compacted / "update.safetensors"
    update = read_safetensors(path)
    card = require(compacted / "model_card.md").read_text()
    bert, tokenizer = minilm()
    if config.seed is None:
        raise CheckpointError(f"{compacted / 'config.json'} has no seed, which VGGish's start is drawn with")
    vggish = seeded_vggish(config.seed, config.final_relu)
    _require_same_start(config, vggish, compacted / "config.json")
    for part, module in (("text_encoder", bert), ("vggish", vggish)):
        for name, tensor in module.state_dict().items():  # shares the module's memory
            name = f"{part}.{name}"
            stored = {end: update.pop(name + end) for end in ("", ".left", ".right") if name + end in update}
            if stored:
                tensor += _restored(stored, name, tensor.shape, path)
    head = FusionHead(bert.config.hidden_size)
    load_tensors(head, path, {name.removeprefix("fusion."): tensor for name, tensor in update.items()})
    checkpoints.set_calibration(head, config)
    ordinary = {own.name: getattr(config, own.name) for own in fields(CheckpointConfig)} | {"format": FORMAT}
    model = EmotionModel(vggish, bert, head).eval()
    checkpoints.save(target, model, CheckpointConfig(**ordinary), tokenizer, card)


def _changes(start: Tensors, trained: Tensors, rank: int) -> tuple[Tensors, float]:
    """What is stored of the changes from one state to another, and the share of them that this loses."""
    stored: Tensors = {}
    lost = total = 0.0
    for name, tensor in trained.items():
        change = tensor - start[name]
        if not change.any():
            continue
        if not change.isfinite().all():
            raise CheckpointError(f"the tensor {name} holds numbers that are not finite; there is no use in keeping it")
        parts = {"": change.half()} if name in WHOLE else _stored(change, rank)
        stored |= {name + end: part for end, part in parts.items()}
        total += change.square().sum().item()
        lost += (change - _product(parts)).square().sum().item()
    return stored, (lost / total) ** 0.5 if total else 0.0


def _stored(change: Tensor, rank: int) -> Tensors:
    """The tensors that stand for a change, by what is added to its name."""
    match change.dim():
        case 1:
            return {"": change}
        case 2:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)  # svd_lowrank begins with random directions
                q = min(rank + OVERSAMPLING, *change.shape)
                left, sizes, right = torch.svd_lowrank(change, q, niter=4)
            root = sizes[:rank].sqrt()  # half to either side: as far as can be from the limits of half precision
            return {".left": (left[:, :rank] * root).half(), ".right": (right[:, :rank] * root).T.half()}
        case _:
            return {"": change.half()}


def _product(stored: Tensors) -> Tensor:
    """The change that such tensors stand for, in float32."""
    return stored[""].float() if "" in stored else stored[".left"].float() @ stored[".right"].float()


def _restored(stored: Tensors, name: str, shape: torch.Size, path: Path) -> Tensor:
    """The same for tensors that were read from a file, checked."""
    if stored.keys() not in ({""}, {".left", ".right"}):
        raise CheckpointError(f"{path} holds an incomplete update of {name}; copy or make it again")
    try:
        change = _product(stored)
    except RuntimeError:  # factors that don't fit each other
        change = None
    if change is None or change.shape != shape:
        raise CheckpointError(f"{path}: the update of {name} does not give its shape {list(shape)}; make it again")
    return change


def _samples(vggish: VGGish) -> dict[str, list[float]]:
    """A few numbers of each drawn tensor, evenly spaced."""
    tensors = ((name, tensor.flatten()) for name, tensor in vggish.state_dict().items() if tensor.dim() > 1)
    return {name: tensor[:: len(tensor) // SAMPLES][:SAMPLES].tolist() for name, tensor in tensors}


def _require_two(source: Path, target: Path) -> None:
    """A checkpoint is not to be replaced by what is made of it."""
    if source.resolve() == target.resolve():
        raise CheckpointError(f"{target} is the checkpoint itself; choose another directory")


def _require_minilm(trained: Checkpoint, bert: BertModel, tokenizer: Path, directory: Path) -> None:
    """Whether a trained text encoder can have begun as MiniLM: its shapes, what shapes don't show, its tokenizer."""

    def form(encoder: BertModel) -> list[Any]:
        shapes = {name: tensor.shape for name, tensor in encoder.state_dict().items()}
        own = encoder.config
        return [shapes, own.num_attention_heads, own.hidden_act, own.layer_norm_eps]

    same_words = trained.tokenizer.read_bytes() == tokenizer.read_bytes()
    if form(trained.model.text_encoder) != form(bert) or not same_words:
        raise CheckpointError(
            f"{directory}: its text encoder is not the pinned MiniLM, trained or not; "
            "only checkpoints that began with `--text-encoder minilm` can be compacted"
        )


def _require_same_start(config: CompactConfig, vggish: VGGish, path: Path) -> None:
    """Whether the start here is the one that the update was taken from."""
    try:
        version, sum_there = config.start["torch"], config.start["text_encoder"]["minilm"]
        recorded = {name: list(map(float, numbers)) for name, numbers in config.start["vggish"].items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        raise CheckpointError(f"{path}: its `start` is incomplete; copy or make the compact checkpoint again") from None
    if sum_there != MINILM_SHA256:
        raise CheckpointError(
            f"{path}: the update belongs to a MiniLM with sha256 {sum_there}, here is {MINILM_SHA256}; "
            "use the version of this software that made it, or the checkpoint that it was made from"
        )
    for name, numbers in _samples(vggish).items():
        there = recorded.get(name, [])
        if len(there) != len(numbers) or not all(
            abs(one - other) <= TOLERANCE for one, other in zip(numbers, there, strict=True)
        ):
            raise CheckpointError(
                f"{path}: VGGish's {name} as drawn with seed {config.seed} and torch {torch.__version__} is not what "
                f"the update was taken from; expand it with torch {version}, or use the checkpoint it was made from"
            )
