"""Exports a checkpoint for the peers: ONNX files as users export them, and a conventional Triton repository.

The graphs are the model's modules through torch's TorchScript exporter, as optimum uses it. ONNX Runtime's transformer
optimiser (fused attention) gained nothing on CPUs.
"""

import hashlib
import json
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.speed.peers.service import PADDED_LENGTH
from emotion import checkpoint as checkpoints
from emotion.audio import PATCH_SHAPE
from emotion.checkpoint import Checkpoint
from emotion.manifest import MANIFEST, digest
from emotion.model import (
    AUDIO_EMBEDDING,
    TEXT_EMBEDDING,
    EmotionModel,
    FusionHead,
    VGGish,
    confidence,
    probabilities,
    segment_mean,
)
from export.repository import staging

OPSET = 18  # read by the ONNX Runtime 1.19.2 inside Triton 24.10
TEMPLATE = Path(__file__).parent / "padded_triton"


class Bert(nn.Module):
    """INPUT_IDS, ATTENTION_MASK int64 [batch, length] -> TEXT_EMBEDDING [batch, 256]."""

    def __init__(self, model: EmotionModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model.embed_text(input_ids, attention_mask)


class UtteranceVGGish(nn.Module):
    """PATCHES [batch, patches, 96, 64] -> AUDIO_EMBEDDING [batch, 128], the mean over the patches; zero without any.

    ATTENTION_MASK is passed on to `bert` so that the steps run one after the other: Triton 24.10 crashes on a failure
    in one of two concurrent steps of a request.
    """

    def __init__(self, vggish: VGGish) -> None:
        super().__init__()
        self.vggish = vggish

    def forward(self, patches: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        present = torch.ones_like(patches[:, :, 0, 0], dtype=torch.int64)
        utterance = (present.cumsum(0) - 1).reshape(-1)  # of each patch
        embeddings = self.vggish(patches.reshape(-1, *PATCH_SHAPE))
        return segment_mean(embeddings, utterance, present.sum(1)), attention_mask.clone()


class Fusion(nn.Module):
    """AUDIO_EMBEDDING, TEXT_EMBEDDING and HAS_AUDIO, HAS_TEXT bool [batch, 1] -> the outputs of `fusion`."""

    def __init__(self, head: FusionHead) -> None:
        super().__init__()
        self.head = head

    def forward(
        self, audio: Tensor, has_audio: Tensor, text: Tensor, has_text: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        has_audio, has_text = has_audio[:, 0], has_text[:, 0]
        views = probabilities(self.head(audio, has_audio, text, has_text), has_audio, has_text)
        sure = confidence(views, has_audio, has_text, self.head.confidence)
        return views.fused, views.audio, views.text, sure[:, None]


def export(checkpoint: Path, directory: Path) -> Path:
    """Write the files of the peers into a folder below `directory`, unless an earlier call has done so.

    Returns:
        The folder: vggish.onnx, and the repository padded_triton/, whose bert and fusion the HTTP peers use, too.

    Raises:
        CheckpointError: the checkpoint cannot be read.
    """
    written = sorted([*TEMPLATE.rglob("*.py"), *TEMPLATE.rglob("*.pbtxt")])
    version = hashlib.sha256("".join(map(digest, written)).encode()).hexdigest()
    files = directory.resolve() / f"{checkpoints.digest(checkpoint)[:16]}-{version[:8]}"
    if files.is_dir():
        return files
    loaded = checkpoints.load(checkpoint)
    with staging(files) as scratch:
        _write_onnx(loaded.model, scratch)
        _write_repository(loaded, scratch / "padded_triton")
        scratch.rename(files)
    return files


def _write_onnx(model: EmotionModel, files: Path) -> None:
    repository = files / "padded_triton"
    ids = torch.ones(2, 8, dtype=torch.int64)
    patches = torch.zeros(2, 3, *PATCH_SHAPE)
    present = torch.ones(2, 1, dtype=torch.bool)
    text = {"INPUT_IDS": ids, "ATTENTION_MASK": torch.ones_like(ids)}
    _write(Bert(model), repository / "bert/1/model.onnx", text, ["TEXT_EMBEDDING"], "length", list(text))
    _write(model.vggish, files / "vggish.onnx", {"PATCHES": patches[0]}, ["EMBEDDING"])
    _write(
        UtteranceVGGish(model.vggish),
        repository / "vggish/1/model.onnx",
        {"PATCHES": patches, "ATTENTION_MASK": torch.ones(2, PADDED_LENGTH, dtype=torch.int64)},
        ["AUDIO_EMBEDDING", "NEXT_ATTENTION_MASK"],
        "patches",
        ["PATCHES"],
    )
    embeddings = {
        "AUDIO_EMBEDDING": torch.zeros(2, AUDIO_EMBEDDING),
        "HAS_AUDIO": present,
        "TEXT_EMBEDDING": torch.zeros(2, TEXT_EMBEDDING),
        "HAS_TEXT": present.clone(),
    }
    outputs = ["PROBABILITIES", "AUDIO_PROBABILITIES", "TEXT_PROBABILITIES", "CONFIDENCE"]
    _write(Fusion(model.head), repository / "fusion/1/model.onnx", embeddings, outputs)


def _write(
    module: nn.Module,
    path: Path,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    second: str = "",
    varying: Sequence[str] = (),
) -> None:
    """Export a graph with free first axes, and free second axes (named `second`) of the inputs `varying`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    axes = {name: {0: "batch"} | ({1: second} if name in varying else {}) for name in (*inputs, *outputs)}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # deprecations, and values that tracing makes constant
        torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            path,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )


def _write_repository(checkpoint: Checkpoint, repository: Path) -> None:
    """Write configurations and the Python stage beside the ONNX files."""
    shutil.copytree(TEMPLATE, repository, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    stage = repository / "preprocess" / "1"
    shutil.copyfile(checkpoint.tokenizer, stage / "tokenizer.json")
    (stage / "checkpoint.json").write_text(
        json.dumps({"digest": checkpoint.digest, "untrained": checkpoint.config.untrained})
    )
    (repository / "emotion" / "1").mkdir()
    digests = {path.relative_to(repository).as_posix(): digest(path) for path in repository.glob("*/1/*.*")}
    manifest = {"checkpoint": checkpoint.digest, "untrained": checkpoint.config.untrained, "files": digests}
    (repository / MANIFEST).write_text(json.dumps(manifest))
