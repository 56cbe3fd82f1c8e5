"""Test the model configurations: Triton's format, agreement with the ONNX files, and the ensemble's tensors."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from onnx import TensorProto
from tritonclient.grpc.model_config_pb2 import BatchInput, DataType, ModelConfig, ModelInstanceGroup

from emotion.labels import EMOTIONS
from export.repository import ENCODERS, FILE_NAMES, TEMPLATE
from stages.admission import MAX_WAIT_S

Tensor = tuple[int, tuple[int, ...]]  # data type and dims, as in a configuration

CONFIGS = sorted(TEMPLATE.glob("*/config.pbtxt")) + sorted(TEMPLATE.glob("*/configs/*.pbtxt"))
ONNX_MODELS = ("vggish", "bert", "fusion")
PYTHON_MODELS = ("preprocess", "queue")
GPU = {"gpu.pbtxt", "tensorrt.pbtxt"}
MODELS = ("bert", "emotion", "fusion", "preprocess", "queue", "vggish")
ONNX_TYPES = {
    DataType.TYPE_FP32: TensorProto.FLOAT,
    DataType.TYPE_INT32: TensorProto.INT32,
    DataType.TYPE_INT64: TensorProto.INT64,
}


def config_id(path: Path) -> str:
    return path.relative_to(TEMPLATE).as_posix()


def model_name(path: Path) -> str:
    return path.relative_to(TEMPLATE).parts[0]


@cache
def parse(path: Path) -> Any:
    """Parse a configuration; an unknown or repeated field is an error."""
    return text_format.Parse(path.read_text(), ModelConfig())


def config(name: str) -> Any:
    return parse(TEMPLATE / name / "config.pbtxt")


def tensors(values: Any) -> dict[str, Tensor]:
    return {value.name: (value.data_type, tuple(value.dims)) for value in values}


every_config = pytest.mark.parametrize("path", CONFIGS, ids=config_id)
every_composing_config = pytest.mark.parametrize(
    "path", [path for path in CONFIGS if model_name(path) != "emotion"], ids=config_id
)
every_python_config = pytest.mark.parametrize(
    "path", [path for path in CONFIGS if model_name(path) in PYTHON_MODELS], ids=config_id
)
every_queue_config = pytest.mark.parametrize(
    "path", [path for path in CONFIGS if model_name(path) == "queue"], ids=config_id
)
every_onnx_config = pytest.mark.parametrize(
    "path", [path for path in CONFIGS if model_name(path) in ONNX_MODELS], ids=config_id
)
every_encoder_config = pytest.mark.parametrize(
    "path", [path for path in CONFIGS if model_name(path) in ENCODERS], ids=config_id
)


def test_configs_are_complete() -> None:
    default = {f"{name}/config.pbtxt" for name in MODELS}
    on_gpu = ("gpu", "tensorrt")
    named = {f"{model}/configs/{name}.pbtxt" for model in ENCODERS for name in (*on_gpu, "int8")}
    named |= {f"{model}/configs/{name}.pbtxt" for model in ("fusion", "queue") for name in on_gpu}
    named |= {"emotion/configs/parallel.pbtxt", "bert/configs/int8-bert.pbtxt"}
    assert {config_id(path) for path in CONFIGS} == default | named


@every_config
def test_config_name_is_that_of_its_directory(path: Path) -> None:
    assert parse(path).name == model_name(path)


@every_config
def test_config_serves_one_version(path: Path) -> None:
    assert parse(path).version_policy.WhichOneof("policy_choice") == "latest"
    assert parse(path).version_policy.latest.num_versions == 1


@every_config
def test_config_accepts_batches_of_32_utterances(path: Path) -> None:
    assert parse(path).max_batch_size >= config("emotion").max_batch_size == 32


@every_composing_config
def test_config_sets_kind_and_number_of_instances(path: Path) -> None:
    (group,) = parse(path).instance_group
    on_gpu = path.name in GPU and model_name(path) in ENCODERS
    assert group.kind == (ModelInstanceGroup.KIND_GPU if on_gpu else ModelInstanceGroup.KIND_CPU)
    doubled = (on_gpu and path.name == "gpu.pbtxt") or model_name(path) == "preprocess"
    assert group.count == (2 if doubled else 1)


@every_python_config
def test_python_config_limits_the_size_and_wait_of_its_own_queue(path: Path) -> None:
    parameters = parse(path).parameters
    assert parse(path).max_batch_size < int(parameters["max_queue_size"].string_value) <= 4096
    assert float(parameters["max_wait_seconds"].string_value) == MAX_WAIT_S


@every_python_config
def test_python_config_has_no_dynamic_batching(path: Path) -> None:
    """A truncated string fails its whole batch in the Python backend, and Triton's queue policies delay requests."""
    assert not parse(path).HasField("dynamic_batching")


@every_onnx_config
def test_onnx_config_has_no_queue_policies(path: Path) -> None:
    """With any policy, Triton prepares no batch while one runs, and a native backend does not wake the batcher."""
    assert parse(path).HasField("dynamic_batching")
    batching = parse(path).dynamic_batching
    assert not batching.HasField("default_queue_policy")
    assert not batching.priority_queue_policy
    assert not batching.priority_levels


@every_composing_config
def test_config_has_no_queue_delay(path: Path) -> None:
    """With a delay and several instances, Triton before 26.08 loses idle instances (server#8870)."""
    assert not parse(path).dynamic_batching.max_queue_delay_microseconds


@every_queue_config
def test_queue_config_lets_one_batch_wait_for_each_instance_of_the_first_model(path: Path) -> None:
    parameters = {key: value.string_value for key, value in parse(path).parameters.items()}
    assert parameters["models"].split(",") == list(ONNX_MODELS)
    vggish = parse(TEMPLATE / "vggish" / path.relative_to(TEMPLATE / "queue"))
    batch = max(vggish.dynamic_batching.preferred_batch_size, default=vggish.max_batch_size)
    assert int(parameters["max_waiting"]) == batch * vggish.instance_group[0].count
    on_cpu = vggish.instance_group[0].kind == ModelInstanceGroup.KIND_CPU
    assert parameters.get("max_bulk_waiting") == (str(batch // 2) if on_cpu else None)


@every_encoder_config
def test_encoder_config_on_a_cpu_has_a_rate_limiter_if_one_instance_uses_all_cores(path: Path) -> None:
    [group] = parse(path).instance_group
    resources = [(each.name, getattr(each, "global"), each.count) for each in group.rate_limiter.resources]
    assert group.rate_limiter.priority == (1_000_000 if resources else 0)  # the lowest priority
    on_cpu = group.kind == ModelInstanceGroup.KIND_CPU
    assert resources == ([("cores", True, 1)] if on_cpu and group.count == 1 else [])


@every_encoder_config
def test_encoder_config_ragged_inputs_are_those_of_variable_length(path: Path) -> None:
    ragged = {tensor.name for tensor in parse(path).input if tensor.allow_ragged_batch}
    assert ragged == {tensor.name for tensor in parse(path).input if -1 in tensor.dims}
    assert ragged == {"PATCHES" if model_name(path) == "vggish" else "INPUT_IDS"}


@every_encoder_config
def test_encoder_config_lets_triton_write_the_shapes(path: Path) -> None:
    """Otherwise a request could claim the patches and tokens of other requests."""
    shapes = {tuple(entry.source_input): tuple(entry.target_name) for entry in parse(path).batch_input}
    source = "PATCHES" if model_name(path) == "vggish" else "INPUT_IDS"
    assert shapes == {(source,): (f"{source}_SHAPE",)}
    assert {entry.kind for entry in parse(path).batch_input} == {BatchInput.BATCH_ITEM_SHAPE}


@every_onnx_config
def test_warm_up_inputs_match_the_declared_inputs(path: Path) -> None:
    declared = tensors(parse(path).input)
    for warm_up in parse(path).model_warmup:
        assert 1 <= warm_up.batch_size <= parse(path).max_batch_size
        assert set(warm_up.inputs) == set(declared)
        for name, value in warm_up.inputs.items():
            data_type, dims = declared[name]
            assert value.data_type == data_type
            assert len(value.dims) == len(dims)
            assert all(dim in (-1, given) and given > 0 for dim, given in zip(dims, value.dims, strict=True))


@every_onnx_config
def test_warm_up_counts_use_all_elements(path: Path) -> None:
    """The counts are not zero, so that the models run; their files are in warmup/."""
    counted = {"PATCH_COUNT": "PATCHES", "TOKEN_COUNT": "INPUT_IDS"}
    for warm_up in parse(path).model_warmup:
        files = {name: value.input_data_file for name, value in warm_up.inputs.items() if value.input_data_file}
        assert files
        for name, file in files.items():
            content = (TEMPLATE / model_name(path) / "warmup" / file).read_bytes()
            (count,) = np.frombuffer(content, "<i4")
            assert count == (warm_up.inputs[counted[name]].dims[0] if name in counted else 1)


@every_encoder_config
def test_warm_up_on_a_gpu_has_several_shapes(path: Path) -> None:
    assert (len(parse(path).model_warmup) > 1) == (path.name in GPU)


def test_warm_up_files_are_all_used() -> None:
    for model in ONNX_MODELS:
        paths = [path for path in CONFIGS if model_name(path) == model]
        used = {
            value.input_data_file
            for path in paths
            for each in parse(path).model_warmup
            for value in each.inputs.values()
        }
        assert {file.name for file in (TEMPLATE / model / "warmup").iterdir()} == used - {""}


@pytest.mark.parametrize("path", [path for path in CONFIGS if path.parent.name == "configs"], ids=config_id)
def test_named_config_has_the_interface_of_the_default_one(path: Path) -> None:
    named, default = parse(path), config(model_name(path))
    assert list(named.input) == list(default.input)
    assert list(named.output) == list(default.output)
    assert list(named.batch_input) == list(default.batch_input)
    assert (named.backend, named.platform) == (default.backend, default.platform)


@pytest.mark.parametrize(("name", "file"), [("vggish", "int8"), ("bert", "int8"), ("bert", "int8-bert")])
def test_int8_config_differs_only_in_its_file(name: str, file: str) -> None:
    int8 = parse(TEMPLATE / name / "configs" / f"{file}.pbtxt")
    assert int8.default_model_filename == "model.int8.onnx"
    plain = ModelConfig.FromString(int8.SerializeToString())
    plain.ClearField("default_model_filename")
    assert plain == config(name)


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("file", sorted(GPU))
def test_gpu_config_overrides_unsuitable_defaults_of_the_native_backend(name: str, file: str) -> None:
    """The defaults are doubling arenas, all cores for each instance, and an exhaustive search for each convolution."""
    gpu = parse(TEMPLATE / name / "configs" / file)
    parameters = {key: value.string_value for key, value in gpu.parameters.items()}
    search = {"cudnn_conv_algo_search": "1"} if name == "vggish" else {}
    assert parameters == {"arena_extend_strategy": "1", "intra_op_thread_count": "1", **search}


@every_onnx_config
def test_onnx_config_names_a_file_of_the_export(path: Path) -> None:
    precisions = {"gpu": "fp16", "tensorrt": "fp16", "int8": "int8", "int8-bert": "int8"}
    precision = precisions.get(path.stem, "fp32")
    if model_name(path) not in ENCODERS:
        precision = "fp32"
    name = parse(path).default_model_filename or "model.onnx"  # Triton's own default
    assert name == FILE_NAMES[precision]


@every_onnx_config
def test_onnx_config_tensors_equal_those_of_the_exported_file(path: Path, repository: Path) -> None:
    """The dims equal those of the file without the batch; a ragged input has one dimension in the file."""
    graph = onnx.load(repository / model_name(path) / "1" / "model.onnx").graph
    answers = list(graph.output)
    shapes = {name for entry in parse(path).batch_input for name in entry.target_name}
    assert shapes <= {value.name for value in graph.input}
    asked = [value for value in graph.input if value.name not in shapes]
    for declared, values in ((parse(path).input, asked), (parse(path).output, answers)):
        assert [tensor.name for tensor in declared] == [value.name for value in values]
        for tensor, value in zip(declared, values, strict=True):
            shape = [dim.dim_value or -1 for dim in value.type.tensor_type.shape.dim]
            ragged = getattr(tensor, "allow_ragged_batch", False)
            assert shape == ([-1] if ragged else [-1, *tensor.dims])
            assert value.type.tensor_type.elem_type == ONNX_TYPES[tensor.data_type]


@every_config
def test_config_probabilities_have_the_labels(path: Path) -> None:
    outputs = {tensor.name: tensor for tensor in parse(path).output}
    probabilities = [name for name in outputs if name.endswith("PROBABILITIES")]
    assert len(probabilities) == (3 if model_name(path) in ("emotion", "fusion") else 0)
    for name in probabilities:
        assert list(outputs[name].dims) == [len(EMOTIONS)]
        labels = TEMPLATE / model_name(path) / outputs[name].label_filename
        assert tuple(labels.read_text().splitlines()) == EMOTIONS


@pytest.mark.parametrize("name", PYTHON_MODELS)
def test_python_model_has_its_code(name: str) -> None:
    assert config(name).backend == "python"
    assert "class TritonPythonModel" in (TEMPLATE / name / "1" / "model.py").read_text()


# ---- the ensemble


def steps(path: Path = TEMPLATE / "emotion" / "config.pbtxt") -> list[Any]:
    return list(parse(path).ensemble_scheduling.step)


def test_ensemble_contains_all_other_models() -> None:
    assert config("emotion").platform == "ensemble"
    assert sorted([*(step.model_name for step in steps()), "emotion"]) == list(MODELS)
    assert {step.model_version for step in steps()} == {-1}


def test_ensemble_has_the_documented_inputs_and_outputs() -> None:
    text, scores = (DataType.TYPE_STRING, (1,)), (DataType.TYPE_FP32, (5,))
    assert tensors(config("emotion").input) == {"AUDIO": text, "TEXT": text}
    assert tensors(config("emotion").output) == {
        "PROBABILITIES": scores,
        "AUDIO_PROBABILITIES": scores,
        "TEXT_PROBABILITIES": scores,
        "CONFIDENCE": (DataType.TYPE_FP32, (1,)),
        "CHECKPOINT": text,
    }


def test_ensemble_steps_map_all_inputs_and_only_existing_outputs() -> None:
    for step in steps():
        model = config(step.model_name)
        assert set(step.input_map) == set(tensors(model.input))
        assert set(step.output_map) <= set(tensors(model.output))


def test_ensemble_tensors_have_equal_types_in_all_steps() -> None:
    """Each tensor of the ensemble has one producer, whose data type and dims every consumer expects."""
    produced = tensors(config("emotion").input)
    for step in steps():
        outputs = tensors(config(step.model_name).output)
        for name, tensor in step.output_map.items():
            assert tensor not in produced
            produced[tensor] = outputs[name]
    for step in steps():
        inputs = tensors(config(step.model_name).input)
        for name, tensor in step.input_map.items():
            assert produced[tensor] == inputs[name], (step.model_name, name)
    for name, tensor in tensors(config("emotion").output).items():
        assert produced[name] == tensor


def started_together(path: Path) -> list[list[str]]:
    """Return the models that Triton starts at the same time, in order; a step starts when its inputs are available."""
    available = set(tensors(parse(path).input))
    waiting = steps(path)
    order: list[list[str]] = []
    while waiting:
        ready = [step for step in waiting if set(step.input_map.values()) <= available]
        assert ready
        order.append(sorted(step.model_name for step in ready))
        for step in ready:
            waiting.remove(step)
            available |= set(step.output_map.values())
    return order


def test_ensemble_runs_one_step_at_a_time() -> None:
    """In Triton before 26.05, a failure of one of two parallel steps can crash the server."""
    order = started_together(TEMPLATE / "emotion" / "config.pbtxt")
    assert order == [["preprocess"], ["queue"], ["vggish"], ["bert"], ["fusion"]]


def test_parallel_config_starts_both_encoders_at_the_same_time() -> None:
    order = started_together(TEMPLATE / "emotion" / "configs" / "parallel.pbtxt")
    assert order == [["preprocess"], ["queue"], ["bert", "vggish"], ["fusion"]]
