"""Test exports: the files in the repository, atomic replacement, and the parity gate."""

import copy
import hashlib
import itertools
import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

import export.__main__
from emotion import checkpoint as checkpoints
from emotion.audio import PATCH_SHAPE
from emotion.checkpoint import Checkpoint
from emotion.labels import EMOTIONS
from emotion.manifest import MANIFEST
from emotion.model import AUDIO_EMBEDDING, TEXT_EMBEDDING, confidence, probabilities
from export import parity
from export.control_flow import PATCHES_PER_TURN
from export.onnx_files import DATA_THRESHOLD, IR_VERSION, OPSET, Part, export_part, serving_parts, write_models
from export.repository import (
    ENCODERS,
    ONNX_MODELS,
    TEMPLATE,
    edited_templates,
    model_file,
    publish,
    read_manifest,
    staging,
    update_templates,
)
from export.runtimes import RUNTIMES
from serving import TritonError
from serving.repository import check_repository
from tests.narrow import narrow_program

EXPORTED = {
    *(f"{model}/1/model.onnx{ending}" for model in ONNX_MODELS for ending in ("", ".data")),
    "preprocess/1/checkpoint.json",
    "preprocess/1/tokenizer.json",
}


@pytest.fixture(scope="module")
def exported(narrow_repository: Callable[[str], Path]) -> Path:
    """Return a repository with the small model in fp32; tests must not change it."""
    return narrow_repository("fp32")


@cache
def onnx_file(path: Path) -> onnx.ModelProto:
    return onnx.load(path)


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and the graphs inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from graphs(attribute.g)


def weights(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """Return the initializers of all graphs of a model."""
    return [tensor for graph in graphs(model.graph) for tensor in graph.initializer]


every_model = pytest.mark.parametrize("name", ONNX_MODELS)


def contents(directory: Path) -> dict[str, bytes]:
    """Return the bytes of every file in a directory by name."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def encoder_files(precision: str) -> set[str]:
    """Return the names of the encoders' files in a precision."""
    return {f"{model}/1/model.{precision}.onnx{ending}" for model in ENCODERS for ending in ("", ".data")}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# ---- the files of an export


def test_export_writes_all_files_with_the_digests_of_the_manifest(repository: Path) -> None:
    manifest = read_manifest(repository)
    assert manifest is not None
    assert set(manifest["files"]) == EXPORTED
    assert {name: sha256((repository / name).read_bytes()) for name in EXPORTED} == manifest["files"]
    assert check_repository(repository) == manifest
    assert not list(repository.parent.glob(f".{repository.name}.*"))  # the staging directory is removed


def test_export_manifest_lists_untrained_parts(exported: Path) -> None:
    manifest = read_manifest(exported)
    assert manifest is not None
    assert manifest["untrained"] == ["text_encoder", "fusion"]


def test_export_manifest_describes_the_export(repository: Path, checkpoint: Checkpoint) -> None:
    manifest = read_manifest(repository)
    assert manifest is not None
    assert manifest["checkpoint"] == checkpoint.digest
    assert manifest["untrained"] == []
    assert manifest["sources"] == checkpoint.config.sources
    assert manifest["versions"]["torch"] == torch.__version__
    assert (manifest["versions"]["opset"], manifest["versions"]["ir"]) == (str(OPSET), str(IR_VERSION))
    assert list(manifest["parity"]) == ["fp32"]
    compared = {comparison["name"]: comparison for comparison in manifest["parity"]["fp32"]}
    assert len(compared) == 3 + len(RUNTIMES)
    assert all(0 < each["difference"] <= each["tolerance"] <= 1e-4 for each in compared.values())


def test_export_writes_the_tokenizer_and_the_checkpoint_for_preprocess(exported: Path, narrow: Checkpoint) -> None:
    stage = exported / "preprocess" / "1"
    assert (stage / "tokenizer.json").read_bytes() == narrow.tokenizer.read_bytes()
    described = json.loads((stage / "checkpoint.json").read_text())
    assert described == {"digest": narrow.digest[:12], "untrained": ["text_encoder", "fusion"], "max_tokens": 512}


def test_export_copies_the_hand_written_files(repository: Path) -> None:
    names = (
        "vggish/config.pbtxt",
        "bert/configs/gpu.pbtxt",
        "bert/warmup/count_16",
        "emotion/labels.txt",
    )
    for name in (*names, "emotion/1/.gitkeep", "preprocess/1/model.py"):
        assert (repository / name).read_bytes() == (TEMPLATE / name).read_bytes()


@every_model
def test_exported_file_is_readable_by_tritons_onnx_runtime(repository: Path, name: str) -> None:
    """ONNX Runtime 1.19.2 reads opset <= 21 and IR version <= 10; the file has no operators of other domains."""
    path = model_file(repository, name, "fp32")
    onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path, load_external_data=False)
    assert model.ir_version <= 10
    assert [(opset.domain, opset.version <= 21) for opset in model.opset_import] == [("", True)]
    assert {node.domain for graph in graphs(model.graph) for node in graph.node} == {""}
    assert not model.functions
    stored = {entry.value for tensor in weights(model) for entry in tensor.external_data if entry.key == "location"}
    assert stored == {"model.onnx.data"}
    large = [tensor for tensor in weights(model) if math.prod(tensor.dims) * 4 >= DATA_THRESHOLD]
    assert large and all(tensor.data_location == TensorProto.EXTERNAL for tensor in large)


@every_model
def test_exported_file_has_metadata(exported: Path, narrow: Checkpoint, name: str) -> None:
    model = onnx_file(model_file(exported, name, "fp32"))
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["checkpoint"] == narrow.digest
    assert metadata["precision"] == "fp32"
    assert metadata["untrained"] == "text_encoder,fusion"
    assert metadata["labels"] == ",".join(EMOTIONS)
    assert metadata["version.torch"] == torch.__version__
    assert metadata["version.onnx"] == onnx.__version__
    assert model.producer_name == "emoserve"


@every_model
def test_exported_file_has_no_paths_of_the_exporting_machine(repository: Path, name: str) -> None:
    content = model_file(repository, name, "fp32").read_bytes()
    words = (b"/emotion/", b"/export/", b"site-packages", b"stack_trace", b"pkg.torch", sys.prefix.encode())
    assert [word for word in words if word in content] == []


def test_export_in_fp16_halves_the_encoders_and_keeps_their_interface(
    narrow_repository: Callable[[str], Path],
) -> None:
    repository = narrow_repository("fp16")
    manifest = check_repository(repository)
    assert manifest is not None
    comparisons = manifest["parity"]["fp16"]
    assert {comparison["tolerance"] for comparison in comparisons[:3]} == {1e-2, 2e-3}
    assert len(comparisons) == 9 + len(RUNTIMES)  # includes two comparisons of accuracy for each view
    assert comparisons[0]["difference"] > 1e-4  # the compared files are fp16
    # the fp32 files of the same checkpoint and their parity are kept
    assert set(manifest["files"]) == EXPORTED | encoder_files("fp16")
    assert set(manifest["parity"]) == {"fp32", "fp16"}
    for name, kept in (("vggish", []), ("bert", ["projection.0.weight"])):
        models = [onnx.load(model_file(repository, name, precision)) for precision in ("fp16", "fp32")]
        assert list(models[0].graph.input) == list(models[1].graph.input)
        assert list(models[0].graph.output) == list(models[1].graph.output)
        metadata = {entry.key: entry.value for entry in models[0].metadata_props}
        assert metadata["precision"] == "fp16"
        matrices = [tensor for tensor in weights(models[0]) if len(tensor.dims) >= 2 and tensor.dims[0]]
        assert [tensor.name for tensor in matrices if tensor.data_type == TensorProto.FLOAT] == kept
        assert sum(tensor.data_type == TensorProto.FLOAT16 for tensor in matrices) >= 6


def test_export_in_int8_quantises_the_encoders_and_keeps_their_interface(
    narrow: Checkpoint, narrow_repository: Callable[[str], Path]
) -> None:
    repository = narrow_repository("int8")
    manifest = check_repository(repository)
    assert manifest is not None
    comparisons = manifest["parity"]["int8"]
    assert comparisons[0]["difference"] > 1e-3  # the compared files are int8
    assert comparisons[2]["name"] == "alone against in a batch"
    assert comparisons[2]["difference"] < 1e-5  # rounding does not depend on other utterances of a batch
    assert set(manifest["files"]) == EXPORTED | encoder_files("int8")
    # all convolutions of vggish except the first, its dense layers, and four matrices of each BERT layer
    for name, count in (("vggish", 3 + 3), ("bert", 2 * 4)):
        small, full = (onnx.load(model_file(repository, name, precision)) for precision in ("int8", "fp32"))
        assert [value.name for value in small.graph.input] == [value.name for value in full.graph.input]
        assert [value.type for value in small.graph.input] == [value.type for value in full.graph.input]
        assert [value.name for value in small.graph.output] == [value.name for value in full.graph.output]
        assert [value.type for value in small.graph.output] == [value.type for value in full.graph.output]
        metadata = {entry.key: entry.value for entry in small.metadata_props}
        assert metadata["precision"] == "int8"
        assert metadata["checkpoint"] == narrow.digest
        assert small.ir_version <= 10
        rounded = [numpy_helper.to_array(tensor) for tensor in weights(small) if tensor.data_type == TensorProto.INT8]
        matrices = [weight for weight in rounded if weight.ndim >= 2]
        assert len(matrices) == count
        # seven bits, because CPUs without VNNI add pairs of products in 16 bits
        assert all(60 <= np.abs(weight.astype(int)).max() <= 64 for weight in matrices)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_vggish_loops_over_patches_with_unchanged_answers(
    narrow_repository: Callable[[str], Path], precision: str
) -> None:
    """Any number of patches gives the answers of single patches, also around the number of one loop turn."""
    repository = narrow_repository(precision)
    every_graph = list(graphs(onnx_file(model_file(repository, "vggish", precision)).graph))
    [loop] = [node for graph in every_graph for node in graph.node if node.op_type == "Loop"]
    [body] = [attribute.g for attribute in loop.attribute]
    convolving = [graph for graph in every_graph if {"Conv", "MaxPool"} & {node.op_type for node in graph.node}]
    assert convolving == [body]
    model = parity.OnnxModels(repository, precision)
    random = np.random.default_rng(0)
    per_turn = PATCHES_PER_TURN[precision]
    for count in (0, 1, per_turn - 1, per_turn, per_turn + 1, 3 * per_turn + 7):
        patches = random.normal(-2, 2, (count, 96, 64)).astype(np.float32)
        ids = np.array([101, 7592, 102])
        found = model([parity.Utterance(patches, ids)])["AUDIO_EMBEDDING"]
        each = [model([parity.Utterance(patch[None], ids)])["AUDIO_EMBEDDING"] for patch in patches]
        expected = np.mean(each, axis=0) if each else np.zeros((1, 128), np.float32)
        np.testing.assert_allclose(found, expected, atol=2e-3 if precision == "fp16" else 1e-5)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("used", [0, 1])
@pytest.mark.parametrize("name", ["vggish", "bert"])
def test_encoder_runs_only_if_an_utterance_uses_an_element(
    narrow_repository: Callable[[str], Path], tmp_path: Path, name: str, used: int, precision: str
) -> None:
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "profile")
    path = model_file(narrow_repository(precision), name, precision)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    counts = np.array([[0], [used], [0]], np.int32)
    if name == "vggish":
        shape = np.array([PATCH_SHAPE] * 3, np.int32)
        inputs = {"PATCHES": np.zeros(3 * 96 * 64, np.float32), "PATCH_COUNT": counts}
        inputs["PATCHES_SHAPE"] = np.concatenate([np.ones_like(counts), shape], 1)
    else:
        inputs = {"INPUT_IDS": np.full(3, 101), "TOKEN_COUNT": counts, "AFTER": counts}
        inputs["INPUT_IDS_SHAPE"] = np.ones_like(counts)
    embedding, found = session.run(None, inputs)
    np.testing.assert_array_equal(found, counts)
    np.testing.assert_array_equal(embedding[0], embedding[2])
    assert np.isfinite(embedding).all() and bool((embedding[1] != embedding[0]).any()) == bool(used)
    assert name == "bert" or not embedding[0].any()  # bert returns the projection of zero
    events = json.loads(Path(session.end_profiling()).read_bytes())
    operators = [event["args"]["op_name"] for event in events if event["cat"] == "Node"]
    products = [operator for operator in operators if "MatMul" in operator or "Gemm" in operator or "Conv" in operator]
    projection = 1 if name == "bert" else 0
    assert len(products) > 3 if used else len(products) == projection


@torch.no_grad()
def test_fusion_file_applies_the_calibration(narrow: Checkpoint, tmp_path: Path) -> None:
    """The file uses the temperatures and the confidence of the head, with all combinations of modalities in a batch."""
    torch.manual_seed(6)
    calibrated = copy.copy(narrow)
    calibrated.model = copy.deepcopy(narrow.model)
    head = calibrated.model.head
    torch.nn.init.normal_(head.get_parameter("fusion.layers.3.weight"))
    audio, text = 3 * torch.randn(4, AUDIO_EMBEDDING), 3 * torch.randn(4, TEXT_EMBEDDING)
    audio[3] = torch.nan  # NaN as from export.graphs.Packing.withhold_uncopied
    patches = torch.tensor([[2], [0], [2], [2]], dtype=torch.int32)
    tokens = torch.tensor([[4], [4], [0], [4]], dtype=torch.int32)
    has_audio, has_text = patches[:, 0] > 0, tokens[:, 0] > 0
    names = ("PROBABILITIES", "AUDIO_PROBABILITIES", "TEXT_PROBABILITIES")
    inputs = {"AUDIO_EMBEDDING": audio, "PATCHES_USED": patches, "TEXT_EMBEDDING": text, "TOKENS_USED": tokens}
    answers = []
    for number, (temperatures, pair) in enumerate([((1.0, 1.0, 1.0), (1.0, 0.0)), ((3.0, 1.7, 0.4), (1.8, -0.3))]):
        head.temperature.copy_(torch.tensor(temperatures))
        head.confidence.copy_(torch.tensor([pair, (1.2, -0.1), (0.7, -0.2)]))
        ir.save(export_part(serving_parts(calibrated, "fp32")["fusion"], "fp32", tmp_path), tmp_path / f"{number}.onnx")
        session = onnxruntime.InferenceSession(tmp_path / f"{number}.onnx", providers=["CPUExecutionProvider"])
        found = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
        views = probabilities(head(audio, has_audio, text, has_text), has_audio, has_text)
        expected = [
            views.fused,
            views.audio,
            views.text,
            confidence(views, has_audio, has_text, head.confidence)[:, None],
        ]
        assert [output.name for output in session.get_outputs()] == [*names, "CONFIDENCE"]
        for name, answer, tensor in zip([*names, "CONFIDENCE"], found, expected, strict=True):
            np.testing.assert_allclose(answer, tensor, atol=1e-6, err_msg=name)
        assert np.isnan(found[0][3]).all() and found[3][3, 0] == 0
        answers.append([answer[:3] for answer in found])
    for before, after in zip(*answers, strict=True):
        assert np.abs(after - before).max() > 1e-2


# ---- the parity gate, and failed exports


@pytest.fixture
def failing_export(
    narrow: Checkpoint,
    exported: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[[], tuple[int, str]]:
    """Return a function that runs a failing export, and returns its exit status and last line of standard error.

    The function checks that the export leaves the repository unchanged.
    """
    repository = shutil.copytree(exported, tmp_path / "repository")
    before = contents(repository)
    monkeypatch.setattr(checkpoints, "load", lambda directory: narrow)
    monkeypatch.setattr(sys, "argv", ["export", "checkpoint", "--repository", str(repository)])

    def run() -> tuple[int, str]:
        status = export.__main__.main()
        assert contents(repository) == before
        assert [path.name for path in tmp_path.iterdir()] == ["repository"]
        return status, capsys.readouterr().err.splitlines()[-1]

    return run


def test_export_over_tolerance_keeps_the_repository(
    failing_export: Callable[[], tuple[int, str]], exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_perturbed_models(parts: dict[str, Part], staged: Path, *arguments: Any) -> None:
        """Write the models with a small change in BERT's last layer, as in an export of wrong weights."""
        for name in ("vggish", "fusion"):  # they are unchanged
            shutil.copytree(exported / name / "1", staged / name / "1")
        bert = copy.copy(parts["bert"])
        bert.module = copy.deepcopy(bert.module)
        with torch.no_grad():
            bert.module.get_parameter("layers.1.output.LayerNorm.bias")[3] += 0.02
        write_models({"bert": bert}, staged, *arguments)

    monkeypatch.setattr(export.__main__, "write_models", write_perturbed_models)
    status, last = failing_export()
    assert status == 1
    assert last.startswith("error: ONNX against eager PyTorch: TEXT_EMBEDDING differs by 0.0")
    assert "(tolerance 0.0001) on utterance " in last
    assert last.endswith(" tokens)")


def test_export_that_is_killed_keeps_the_repository_and_the_next_cleans_up(
    small_checkpoint: Path, exported: Path, tmp_path: Path
) -> None:
    repository = shutil.copytree(exported, tmp_path / "repository")
    before = contents(repository)
    command = [sys.executable, *narrow_program("export"), str(small_checkpoint), "--repository", str(repository)]
    with subprocess.Popen(command, cwd=TEMPLATE.parent, stderr=subprocess.PIPE, text=True) as process:
        try:
            deadline = time.monotonic() + 240
            while not list(tmp_path.glob(".repository.export-*/**/*.onnx")):
                assert process.poll() is None, process.stderr.read() if process.stderr else ""
                assert time.monotonic() < deadline, "no file was exported"
                time.sleep(0.05)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL
    (left,) = tmp_path.glob(".repository.export-*")
    assert contents(repository) == before
    assert check_repository(repository) is not None
    with staging(repository) as directory:
        assert not left.exists()
        assert not list(directory.iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["repository"]


def test_export_without_a_checkpoint_directory_prints_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["export", str(tmp_path / "nowhere"), "--repository", str(tmp_path / "repository")]
    monkeypatch.setattr(sys, "argv", arguments)
    assert export.__main__.main() == 1
    error = capsys.readouterr().err
    assert error.startswith("error: there is no checkpoint directory")
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_export_to_an_unwritable_directory_prints_one_line(
    narrow: Checkpoint, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checkpoints, "load", lambda directory: narrow)
    monkeypatch.setattr(sys, "argv", ["export", "checkpoint", "--repository", "/proc/repository"])
    assert export.__main__.main() == 1
    error = capsys.readouterr().err
    assert error.startswith("error: /proc/.repository.export-") and error.count("\n") == 1
    assert "can't be written (No such file or directory); make room, or choose another directory" in error


def test_export_to_a_full_disk_prints_one_line_and_keeps_the_repository(
    failing_export: Callable[[], tuple[int, str]],
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))  # a larger file fails as on a full disk
    try:
        status, last = failing_export()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert status == 1
    assert last.startswith("error: ") and "can't be written (File too large)" in last


def test_export_that_is_interrupted_prints_one_line_and_keeps_the_repository(
    failing_export: Callable[[], tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(export.__main__, "write_models", interrupted)
    assert failing_export() == (130, "interrupted; repeat the command to export")


# ---- publishing, with files of a few bytes


def publish_files(repository: Path, checkpoint: str, precision: str, files: dict[str, str]) -> None:
    with staging(repository) as staged:
        for name, content in files.items():
            (staged / name).parent.mkdir(parents=True, exist_ok=True)
            (staged / name).write_text(content)
        publish(staged, repository, {"checkpoint": checkpoint, "parity": {precision: []}})


TEXTS = {"preprocess/1/tokenizer.json": "words"}
FP32 = {"bert/1/model.onnx": "32 bits", **TEXTS}
FP16 = {"bert/1/model.fp16.onnx": "16 bits", **TEXTS}


def published(repository: Path) -> dict[str, Any]:
    manifest = check_repository(repository)
    assert manifest is not None
    return manifest


def test_publish_keeps_other_precisions_of_the_checkpoint(tmp_path: Path) -> None:
    publish_files(tmp_path / "repository", "a", "fp32", FP32)
    publish_files(tmp_path / "repository", "a", "fp16", FP16)
    manifest = published(tmp_path / "repository")
    assert manifest["files"] == {name: sha256(content.encode()) for name, content in (FP32 | FP16).items()}
    assert set(manifest["parity"]) == {"fp32", "fp16"}
    assert (tmp_path / "repository/bert/1/model.onnx").read_text() == "32 bits"


def test_staging_of_two_exports_uses_two_directories(tmp_path: Path) -> None:
    """Each export has its own directory, and the later one replaces the files of the other."""
    repository = tmp_path / "repository"
    with staging(repository) as first, staging(repository) as second:
        assert first != second and first.is_dir() and second.is_dir()
        publish_files(repository, "a", "fp32", FP32)
        assert first.is_dir() and second.is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["repository"]
    assert published(repository)["checkpoint"] == "a"


def test_publish_removes_files_of_another_checkpoint(tmp_path: Path) -> None:
    publish_files(tmp_path / "repository", "a", "fp32", FP32)
    publish_files(tmp_path / "repository", "b", "fp16", FP16)
    manifest = published(tmp_path / "repository")
    assert manifest["checkpoint"] == "b"
    assert set(manifest["files"]) == set(FP16)
    assert set(manifest["parity"]) == {"fp16"}
    assert not (tmp_path / "repository/bert/1/model.onnx").exists()


def test_publish_keeps_edited_hand_written_files(tmp_path: Path) -> None:
    config = tmp_path / "repository" / "bert" / "config.pbtxt"
    config.parent.mkdir(parents=True)
    config.write_text("tuned for this machine")
    publish_files(tmp_path / "repository", "a", "fp32", FP32)
    assert config.read_text() == "tuned for this machine"
    assert edited_templates(tmp_path / "repository") == ["bert/config.pbtxt"]
    other = "emotion/config.pbtxt"
    assert (tmp_path / "repository" / other).read_bytes() == (TEMPLATE / other).read_bytes()


def test_update_templates_copies_changed_files_and_keeps_edited_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template, target = tmp_path / "template", tmp_path / "repository"
    for name in ("bert/config.pbtxt", "queue/config.pbtxt", "queue/1/model.py"):
        (template / name).parent.mkdir(parents=True, exist_ok=True)
        (template / name).write_text("first")
    monkeypatch.setattr("export.repository.TEMPLATE", template)
    publish_files(target, "a", "fp32", FP32)
    (target / "bert/config.pbtxt").write_text("tuned for this machine")
    for name in ("bert/config.pbtxt", "queue/config.pbtxt", "fusion.txt"):
        (template / name).write_text("second")
    update_templates(target)
    assert (target / "bert/config.pbtxt").read_text() == "tuned for this machine"
    assert (target / "queue/config.pbtxt").read_text() == (target / "fusion.txt").read_text() == "second"
    assert (target / "queue/1/model.py").read_text() == "first"
    assert edited_templates(target) == ["bert/config.pbtxt"]
    assert set(published(target)["files"]) == set(FP32)
    update_templates(target)  # a second call changes nothing
    assert edited_templates(target) == ["bert/config.pbtxt"]


@pytest.mark.parametrize("arguments", [[], ["checkpoint", "--templates"]])
def test_export_without_or_with_both_checkpoint_and_templates_is_rejected(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["export", *arguments])
    with pytest.raises(SystemExit) as stopped:
        export.__main__.main()
    assert stopped.value.code == 2
    assert "name a CHECKPOINT to export, or --templates" in capsys.readouterr().err


def test_copy_templates_without_an_export_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["export", "--templates", "--repository", str(tmp_path)])
    assert export.__main__.main() == 1
    assert capsys.readouterr().err == f"error: nothing is exported into {tmp_path}; name a CHECKPOINT to export\n"


def test_publish_that_stops_half_way_leaves_no_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = tmp_path / "repository"
    publish_files(repository, "a", "fp32", FP32)
    replace = os.replace

    def replace_until_tokenizer(source: Path, target: Path) -> Path:
        if target.name == "tokenizer.json":
            raise OSError("the power fails")
        replace(source, target)
        return target

    monkeypatch.setattr(Path, "replace", replace_until_tokenizer)
    with pytest.raises(OSError, match="the power fails"):
        publish_files(repository, "b", "fp32", FP32)
    assert not (repository / MANIFEST).exists()
    with pytest.raises(TritonError, match="interrupted export"):
        check_repository(repository)


def test_exported_models_distinguish_utterances(exported: Path) -> None:
    """The small model has different answers for different utterances, so the parity tests above are meaningful."""
    answers = parity.OnnxModels(exported)
    random = np.random.default_rng(0)
    utterances = [
        parity.Utterance(random.normal(-2, 2, (2, 96, 64)).astype(np.float32), random.integers(5, 30_000, 9))
        for _ in range(2)
    ]
    tensors = answers(utterances)
    assert all(np.ptp(tensors[name], axis=0).max() > 1e-3 for name in ("AUDIO_EMBEDDING", "TEXT_EMBEDDING"))


# ---- absent modalities and zero elements


COMBINATIONS = [(audio, text) for audio in (True, False) for text in (True, False)]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_models_in_a_batch_with_absent_modalities_answer_as_alone(
    narrow_repository: Callable[[str], Path], precision: str
) -> None:
    """The batches are all combinations of three utterances with audio, text, both or neither."""
    repository = narrow_repository(precision)
    models = parity.OnnxModels(repository, precision)
    random = np.random.default_rng(3)

    def utterance(number: int, has_audio: bool, has_text: bool) -> parity.Utterance:
        patches = random.normal(-2, 2, (1 + number, 96, 64)).astype(np.float32)
        ids = random.integers(5, 30_000, 3 + number)
        return parity.Utterance(patches[: len(patches) * has_audio], ids[: len(ids) * has_text])

    for batch in itertools.product(COMBINATIONS, repeat=3):
        utterances = [utterance(number, *modalities) for number, modalities in enumerate(batch)]
        together = models(utterances)
        assert all(np.isfinite(tensor).all() for tensor in together.values())
        for row, (each, (has_audio, has_text)) in enumerate(zip(utterances, batch, strict=True)):
            alone = models([each])
            assert together["PATCHES_USED"][row] == len(each.patches) * has_audio
            assert together["TOKENS_USED"][row] == len(each.ids) * has_text
            for name, tensor in alone.items():
                np.testing.assert_allclose(together[name][row], tensor[0], atol=2e-3 if precision == "fp16" else 1e-5)


def run_vggish(repository: Path, rows: list[int], counts: list[int]) -> NDArray[np.float32]:
    """Return AUDIO_EMBEDDING [batch, 128] of utterances with `rows` patches each that claim to use `counts` patches."""
    session = onnxruntime.InferenceSession(model_file(repository, "vggish", "fp32"), providers=["CPUExecutionProvider"])
    patches = [np.full((count, 96, 64), number, np.float32) for number, count in enumerate(rows)]
    inputs = {
        "PATCHES": np.concatenate(patches).reshape(-1),
        "PATCH_COUNT": np.array(counts, np.int32)[:, None],
        "PATCHES_SHAPE": np.array([each.shape for each in patches], np.int32),
    }
    [embedding] = session.run(["AUDIO_EMBEDDING"], inputs)
    return np.asarray(embedding)


def test_vggish_with_a_request_of_zero_elements_returns_nan_for_it_and_later_ones(exported: Path) -> None:
    """Triton's native backend copies no request behind such a request, so their data may be another caller's."""
    embedding = run_vggish(exported, [2, 0, 1], [2, 0, 1])
    assert np.isfinite(embedding[0]).all()
    assert np.isnan(embedding[1:]).all()
    np.testing.assert_allclose(embedding[0], run_vggish(exported, [2], [2])[0], atol=1e-5)


@pytest.mark.parametrize("counts", [[0, 0], [-7, 0], [-(2**31), -1]])
def test_vggish_without_used_patches_returns_zero(exported: Path, counts: list[int]) -> None:
    assert not run_vggish(exported, [1, 2], counts).any()


def test_vggish_with_a_count_above_its_patches_uses_all_patches(exported: Path) -> None:
    np.testing.assert_allclose(run_vggish(exported, [1, 2], [9, 2**31 - 1]), run_vggish(exported, [1, 2], [1, 2]))
