"""Write and expand compact checkpoints, which store only what training changed and are small enough for git.

    config.json           the fields of an ordinary checkpoint, and `start`: a fingerprint of the initial weights
    update.safetensors    what training added to the initial weights, and the whole fusion head
    model_card.md         description for readers

The initial weights are the pinned MiniLM and the VGGish that the configuration's seed gives.

| changed tensor | stored as |
| --- | --- |
| matrix | product of two narrow float16 matrices: NAME.left [out, rank], NAME.right [rank, in] |
| convolution, and VGGish's last matrix | whole change in float16 |
| vector | whole change in float32 |

Unchanged tensors are not stored. After low-rank training (LoRA) the products lose only the rounding to float16.
"""

import shutil
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import BertModel

from emotion.checkpoint.format import (
    COMPACT_FORMAT,
    FORMAT,
    Checkpoint,
    CheckpointConfig,
    CheckpointError,
    as_json,
    atomic_directory,
    load,
    load_tensors,
    read_config,
    read_safetensors,
    require_file,
    save,
    set_calibration,
)
from emotion.checkpoint.sources import MINILM_SHA256, load_minilm, seeded_vggish
from emotion.model import EmotionModel, FusionHead, VGGish

FINGERPRINT_VALUES = 8  # recorded of each seeded tensor
FINGERPRINT_TOLERANCE = 1e-5  # absolute; the smallest standard deviation among the tensors is 1e-2
MAX_LOSS = 0.02  # relative Frobenius norm; a larger loss is reported as a warning
WHOLE_MATRICES = ("embeddings.4.weight",)  # VGGish's last matrix: 1 MiB, and low-rank training trains all of it
SVD_OVERSAMPLING = 16  # extra directions, which make the leading ones of the truncated SVD accurate
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class CompactConfig(CheckpointConfig):
    """Contents of a compact checkpoint's config.json.

    Attributes:
        start: fingerprint of the initial weights: torch version, SHA-256 of MiniLM, some values of the seeded VGGish.
    """

    start: dict[str, Any] = field(default_factory=dict)
    format: int | str = COMPACT_FORMAT


@dataclass(frozen=True)
class CompactionReport:
    """Result of `compact`; its text warns where more than MAX_LOSS of an update is lost.

    Attributes:
        directory: the compact checkpoint.
        size: of all its files, in bytes.
        rank: of the products.
        losses: part -> Frobenius norm of the lost change, relative to that of the whole change.
    """

    directory: Path
    size: int
    rank: int
    losses: dict[str, float]

    def __str__(self) -> str:
        lines = [f"wrote {self.directory} ({self.size / 2**20:.1f} MiB)"]
        lines += [f"{part}: {loss:.2%} of the update lost" for part, loss in self.losses.items()]
        lines += [
            f"warning: rank {self.rank} does not hold the update of {part}; a higher rank keeps more (--rank)"
            for part, loss in self.losses.items()
            if loss > MAX_LOSS
        ]
        return "\n".join(lines)


@torch.no_grad()
def compact(checkpoint: str | Path, target: str | Path, rank: int) -> CompactionReport:
    """Write the compact form of an ordinary checkpoint.

    Args:
        checkpoint: trained from the pinned MiniLM and from a VGGish with seeded weights.
        target: the directory to write; a checkpoint there is replaced.
        rank: of the products that approximate the changes of matrices; at least 1.

    Raises:
        CheckpointError: the checkpoint has other initial weights or can't be read, the rank is below 1, or the target
            holds something else than a checkpoint.
    """
    checkpoint, target = Path(checkpoint), Path(target)
    if rank < 1:
        raise CheckpointError(f"the rank is {rank}; it must be at least 1")
    _require_different(checkpoint, target)
    trained = load(checkpoint)
    if trained.config.seed is None:
        raise CheckpointError(
            f"{checkpoint}: its config.json has no seed, so the initial weights of its VGGish are unknown; "
            "only a checkpoint whose VGGish was trained from seeded weights can be compacted"
        )
    bert, tokenizer = load_minilm()
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
        start={"torch": torch.__version__, "text_encoder": {"minilm": MINILM_SHA256}, "vggish": _fingerprint(vggish)},
    )
    with atomic_directory(target) as staging:
        save_file({name: tensor.contiguous() for name, tensor in update.items()}, staging / "update.safetensors")
        (staging / "config.json").write_text(as_json(config))
        shutil.copyfile(require_file(checkpoint / "model_card.md"), staging / "model_card.md")
    return CompactionReport(target, sum(path.stat().st_size for path in target.iterdir()), rank, losses)


@torch.no_grad()
def expand(compacted: str | Path, target: str | Path) -> None:
    """Write the ordinary checkpoint that a compact one represents.

    The last bits of its weights, and therefore its digest, can differ between machines.

    Args:
        compacted: the compact checkpoint.
        target: the directory to write; a checkpoint there is replaced.

    Raises:
        CheckpointError: the compact checkpoint is incomplete or damaged, the initial weights differ on this machine, or
            the target holds something else than a checkpoint.
    """
    compacted, target = Path(compacted), Path(target)
    config = read_config(compacted, CompactConfig)
    _require_different(compacted, target)
    path = compacted / "update.safetensors"
    update = read_safetensors(path)
    card = require_file(compacted / "model_card.md").read_text()
    bert, tokenizer = load_minilm()
    if config.seed is None:
        raise CheckpointError(f"{compacted / 'config.json'} has no seed for VGGish's initial weights; make it again")
    vggish = seeded_vggish(config.seed, config.final_relu)
    _require_same_start(config, vggish, compacted / "config.json")
    for part, module in (("text_encoder", bert), ("vggish", vggish)):
        for name, tensor in module.state_dict().items():  # shares memory with the module
            name = f"{part}.{name}"
            stored = {end: update.pop(name + end) for end in ("", ".left", ".right") if name + end in update}
            if stored:
                tensor += _read_change(stored, name, tensor.shape, path)
    head = FusionHead(bert.config.hidden_size)
    load_tensors(head, path, {name.removeprefix("fusion."): tensor for name, tensor in update.items()})
    set_calibration(head, config)
    ordinary = {own.name: getattr(config, own.name) for own in fields(CheckpointConfig)} | {"format": FORMAT}
    model = EmotionModel(vggish, bert, head).eval()
    save(target, model, CheckpointConfig(**ordinary), tokenizer, card)


def _changes(start: Tensors, trained: Tensors, rank: int) -> tuple[Tensors, float]:
    """Return the stored form of the changes between two states, and the relative loss.

    Args:
        start: initial tensors by name.
        trained: trained tensors by name.
        rank: of the products.

    Returns:
        Tensors by name and suffix, and the Frobenius norm of what they lose relative to that of all changes.

    Raises:
        CheckpointError: a trained tensor is not finite.
    """
    stored: Tensors = {}
    lost = total = 0.0
    for name, tensor in trained.items():
        change = tensor - start[name]
        if not change.any():
            continue
        if not change.isfinite().all():
            raise CheckpointError(f"the tensor {name} holds numbers that are not finite; train it again")
        parts = {"": change.half()} if name in WHOLE_MATRICES else _factorise(change, rank)
        stored |= {name + end: part for end, part in parts.items()}
        total += change.square().sum().item()
        lost += (change - _product(parts)).square().sum().item()
    return stored, (lost / total) ** 0.5 if total else 0.0


def _factorise(change: Tensor, rank: int) -> Tensors:
    """Return the stored form of a change, by the suffix of its name."""
    match change.dim():
        case 1:
            return {"": change}
        case 2:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)  # svd_lowrank starts from random directions
                q = min(rank + SVD_OVERSAMPLING, *change.shape)
                left, sizes, right = torch.svd_lowrank(change, q, niter=4)
            root = sizes[:rank].sqrt()  # split between both factors, to stay far from the limits of float16
            return {".left": (left[:, :rank] * root).half(), ".right": (right[:, :rank] * root).T.half()}
        case _:
            return {"": change.half()}


def _product(stored: Tensors) -> Tensor:
    """Return the change that the stored tensors represent, in float32."""
    return stored[""].float() if "" in stored else stored[".left"].float() @ stored[".right"].float()


def _read_change(stored: Tensors, name: str, shape: torch.Size, path: Path) -> Tensor:
    """Return the change that tensors of a file represent, after a check of their names and shapes."""
    if stored.keys() not in ({""}, {".left", ".right"}):
        raise CheckpointError(f"{path} holds an incomplete update of {name}; copy or make it again")
    try:
        change = _product(stored)
    except RuntimeError:  # the shapes of the factors do not match
        change = None
    if change is None or change.shape != shape:
        raise CheckpointError(f"{path}: the update of {name} does not give its shape {list(shape)}; make it again")
    return change


def _fingerprint(vggish: VGGish) -> dict[str, list[float]]:
    """Return FINGERPRINT_VALUES evenly spaced values of each seeded tensor."""
    tensors = ((name, tensor.flatten()) for name, tensor in vggish.state_dict().items() if tensor.dim() > 1)
    return {
        name: tensor[:: len(tensor) // FINGERPRINT_VALUES][:FINGERPRINT_VALUES].tolist() for name, tensor in tensors
    }


def _require_different(source: Path, target: Path) -> None:
    """Reject a target that would replace the source."""
    if source.resolve() == target.resolve():
        raise CheckpointError(f"{target} is the checkpoint itself; choose another directory")


def _require_minilm(trained: Checkpoint, bert: BertModel, tokenizer: Path, directory: Path) -> None:
    """Reject a text encoder that can't be a trained MiniLM: its architecture or its tokenizer differs.

    Raises:
        CheckpointError: something differs.
    """

    def architecture(encoder: BertModel) -> list[Any]:
        shapes = {name: tensor.shape for name, tensor in encoder.state_dict().items()}
        own = encoder.config
        return [shapes, own.num_attention_heads, own.hidden_act, own.layer_norm_eps]

    same_tokenizer = trained.tokenizer.read_bytes() == tokenizer.read_bytes()
    if architecture(trained.model.text_encoder) != architecture(bert) or not same_tokenizer:
        raise CheckpointError(
            f"{directory}: its text encoder is not the pinned MiniLM, trained or not; "
            "only checkpoints created with `--text-encoder minilm` can be compacted"
        )


def _require_same_start(config: CompactConfig, vggish: VGGish, path: Path) -> None:
    """Reject initial weights that differ from those that the update was computed from.

    Raises:
        CheckpointError: the fingerprint is incomplete, or a value differs.
    """
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
    for name, numbers in _fingerprint(vggish).items():
        there = recorded.get(name, [])
        if len(there) != len(numbers) or not all(
            abs(one - other) <= FINGERPRINT_TOLERANCE for one, other in zip(numbers, there, strict=True)
        ):
            raise CheckpointError(
                f"{path}: VGGish's {name} as drawn with seed {config.seed} and torch {torch.__version__} is not what "
                f"the update was taken from; expand it with torch {version}, or use the checkpoint it was made from"
            )
