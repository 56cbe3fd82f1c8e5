"""Exports a checkpoint for the peers: ONNX files as users export them, and a conventional Triton repository.

The graphs are the model's modules through torch's TorchScript exporter, as optimum uses it. ONNX Runtime's transformer
optimiser (fused attention) gained nothing on CPUs. The repository has the contract of emoserve's own, but rectangular
tensors: text is padded to 128 tokens, and only utterances of equally many patches can share a batch of `vggish`.
"""

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from google.protobuf import text_format
from torch import Tensor, nn
from tritonclient.grpc.model_config_pb2 import ModelConfig

from benchmarks.speed.peers.service import PADDED_LENGTH, VIEWS
from emotion import checkpoint as checkpoints
from emotion.audio import PATCH_SHAPE
from emotion.checkpoint import Checkpoint
from emotion.manifest import MANIFEST, digest
from emotion.model import AUDIO_EMBEDDING, TEXT_EMBEDDING, EmotionModel, confidence, probabilities, segment_mean
from export.repository import TEMPLATE, staging

OPSET = 18  # read by the ONNX Runtime 1.19.2 inside Triton 24.10
STAGE = Path(__file__).with_name("padded_triton.py")
TYPES = {"tensor(float)": "TYPE_FP32", "tensor(int64)": "TYPE_INT64", "tensor(bool)": "TYPE_BOOL"}
COMMON = "max_batch_size: 32 instance_group { kind: KIND_CPU count: 1 } "
PARAMETERS = {  # in the order of a request's steps
    "vggish": "dynamic_batching { max_queue_delay_microseconds: 2000 }",
    "bert": "dynamic_batching { max_queue_delay_microseconds: 2000 }",
    # too small to share out
    "fusion": 'dynamic_batching {} parameters { key: "intra_op_thread_count" value { string_value: "1" } }',
}
PREPROCESS = f"""name: "preprocess" backend: "python" {COMMON} dynamic_batching {{}}
input {{ name: "AUDIO" data_type: TYPE_STRING dims: 1 }}
input {{ name: "TEXT" data_type: TYPE_STRING dims: 1 }}
output {{ name: "PATCHES" data_type: TYPE_FP32 dims: [ -1, 96, 64 ] }}
output {{ name: "HAS_AUDIO" data_type: TYPE_BOOL dims: 1 }}
output {{ name: "INPUT_IDS" data_type: TYPE_INT64 dims: {PADDED_LENGTH} }}
output {{ name: "ATTENTION_MASK" data_type: TYPE_INT64 dims: {PADDED_LENGTH} }}
output {{ name: "HAS_TEXT" data_type: TYPE_BOOL dims: 1 }}
output {{ name: "CHECKPOINT" data_type: TYPE_STRING dims: 1 }}"""


class Graph(nn.Module):
    """A function of the model and of tensors, as a module that can be exported."""

    def __init__(self, model: EmotionModel, function: Callable[..., Any]) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self, *tensors: Tensor) -> Any:
        return self.function(self.model, *tensors)


def vggish(model: EmotionModel, patches: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return AUDIO_EMBEDDING [batch, 128], the mean over the patches [batch, patches, 96, 64], and the mask.

    The mask is passed on to `bert` so that the steps run one after the other: Triton 24.10 crashes on a failure in one
    of two concurrent steps of a request.
    """
    present = torch.ones_like(patches[:, :, 0, 0], dtype=torch.int64)
    utterance = (present.cumsum(0) - 1).reshape(-1)  # of each patch
    embeddings = model.vggish(patches.reshape(-1, *PATCH_SHAPE))
    return segment_mean(embeddings, utterance, present.sum(1)), attention_mask.clone()


def fusion(
    model: EmotionModel, audio: Tensor, has_audio: Tensor, text: Tensor, has_text: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the outputs of `fusion`, of embeddings and of has_audio and has_text, bool [batch, 1]."""
    has_audio, has_text = has_audio[:, 0], has_text[:, 0]
    views = probabilities(model.head(audio, has_audio, text, has_text), has_audio, has_text)
    sure = confidence(views, has_audio, has_text, model.head.confidence)
    return views.fused, views.audio, views.text, sure[:, None]


def export(checkpoint: Path, directory: Path) -> Path:
    """Write the files of the peers into a folder below `directory`, unless an earlier call has done so.

    Returns the folder: vggish.onnx, and the repository padded_triton/, whose bert and fusion the HTTP peers use, too.
    Raises CheckpointError if the checkpoint cannot be read.
    """
    version = hashlib.sha256("".join(map(digest, (Path(__file__), STAGE))).encode()).hexdigest()
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
    mask = torch.ones(2, PADDED_LENGTH, dtype=torch.int64)
    patches = torch.zeros(2, 3, *PATCH_SHAPE)
    present = torch.ones(2, 1, dtype=torch.bool)
    tokens = {"INPUT_IDS": mask[:, :8].clone(), "ATTENTION_MASK": mask[:, :8]}
    embeddings = {"AUDIO_EMBEDDING": torch.zeros(2, AUDIO_EMBEDDING), "HAS_AUDIO": present}
    embeddings |= {"TEXT_EMBEDDING": torch.zeros(2, TEXT_EMBEDDING), "HAS_TEXT": present.clone()}
    free = {0: "batch", 1: "second"}

    def write(
        function: Callable[..., Any], path: Path, inputs: dict[str, Tensor], outputs: Sequence[str], **axes: Any
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        names: dict[str, Any] = {"input_names": list(inputs), "output_names": list(outputs)}
        names["dynamic_axes"] = {name: {0: "batch"} for name in (*inputs, *outputs)} | axes
        tensors = tuple(inputs.values())
        torch.onnx.export(Graph(model, function).eval(), tensors, path, opset_version=OPSET, dynamo=False, **names)

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # deprecations, and values that tracing makes constant
        write(lambda model, rows: model.vggish(rows), files / "vggish.onnx", {"PATCHES": patches[0]}, ["EMBEDDING"])
        inputs = {"PATCHES": patches, "ATTENTION_MASK": mask}
        outputs = ["AUDIO_EMBEDDING", "NEXT_ATTENTION_MASK"]
        write(vggish, repository / "vggish/1/model.onnx", inputs, outputs, PATCHES=free)
        both = {"INPUT_IDS": free, "ATTENTION_MASK": free}
        write(EmotionModel.embed_text, repository / "bert/1/model.onnx", tokens, ["TEXT_EMBEDDING"], **both)
        write(fusion, repository / "fusion/1/model.onnx", embeddings, [*VIEWS, "CONFIDENCE"])


def _write_repository(checkpoint: Checkpoint, repository: Path) -> None:
    """Write configurations and the Python stage beside the ONNX files."""
    stage = repository / "preprocess" / "1"
    stage.mkdir(parents=True)
    shutil.copyfile(STAGE, stage / "model.py")
    shutil.copyfile(checkpoint.tokenizer, stage / "tokenizer.json")
    origin = {"digest": checkpoint.digest, "untrained": checkpoint.config.untrained}
    (stage / "checkpoint.json").write_text(json.dumps(origin))
    steps = [text_format.Parse(PREPROCESS, ModelConfig())]
    steps += [_configuration(name, repository / name / "1/model.onnx") for name in PARAMETERS]
    (repository / "emotion" / "1").mkdir(parents=True)
    shutil.copy(TEMPLATE / "emotion" / "labels.txt", repository / "emotion")
    for config in (*steps, _ensemble(steps)):
        (repository / config.name / "config.pbtxt").write_text(text_format.MessageToString(config))
    digests = {path.relative_to(repository).as_posix(): digest(path) for path in repository.glob("*/1/*.*")}
    manifest = {"checkpoint": checkpoint.digest, "untrained": checkpoint.config.untrained, "files": digests}
    (repository / MANIFEST).write_text(json.dumps(manifest))


def _configuration(name: str, path: Path) -> Any:
    """Return the configuration of an ONNX model, with the tensors of its file."""
    config = text_format.Parse(COMMON + PARAMETERS[name], ModelConfig(name=name, backend="onnxruntime"))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for tensors, nodes in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        for node in nodes:
            dims = [size if isinstance(size, int) else -1 for size in node.shape[1:]]
            tensors.add(name=node.name, data_type=TYPES[node.type], dims=dims)
    return config


def _ensemble(steps: Sequence[Any]) -> Any:
    """Return emoserve's own ensemble with other steps, which run one after the other, as Triton 24.10 needs it."""
    config = text_format.Parse((TEMPLATE / "emotion" / "config.pbtxt").read_text(), ModelConfig())
    config.max_batch_size = 1  # utterances of one request would need equally many patches
    config.ensemble_scheduling.ClearField("step")
    for model in steps:
        step = config.ensemble_scheduling.step.add(model_name=model.name, model_version=-1)
        step.input_map.update({one.name: one.name for one in model.input})
        step.output_map.update({one.name: one.name for one in model.output})
        if model.name == "bert":
            step.input_map["ATTENTION_MASK"] = "NEXT_ATTENTION_MASK"
    return config
