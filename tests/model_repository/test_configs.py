"""Every configuration: what Triton parses, what the ONNX files have, how the ensemble's tensors flow."""

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


def identify(path: Path) -> str:
    return path.relative_to(TEMPLATE).as_posix()


def model_name(path: Path) -> str:
    return path.relative_to(TEMPLATE).parts[0]


@cache
def parse(path: Path) -> Any:
    """Strictly: an unknown or repeated field is an error."""
    return text_format.Parse(path.read_text(), ModelConfig())


def config(name: str) -> Any:
    return parse(TEMPLATE / name / "config.pbtxt")


def tensors(values: Any) -> dict[str, Tensor]:
    return {value.name: (value.data_type, tuple(value.dims)) for value in values}


every_config = pytest.mark.parametrize("path", CONFIGS, ids=identify)
every_composing_config = pytest.mark.parametrize(
    "path", [path for path in CONFIGS if model_name(path) != "emotion"], ids=identify
)
every_python_config = pytest.mark.parametrize(
    "path", [path for path in CONFIGS if model_name(path) in PYTHON_MODELS], ids=identify
)
every_queue_config = pytest.mark.parametrize(
    "path", [path for path in CONFIGS if model_name(path) == "queue"], ids=identify
)
every_onnx_config = pytest.mark.parametrize(
    "path", [path for path in CONFIGS if model_name(path) in ONNX_MODELS], ids=identify
)
every_encoder_config = pytest.mark.parametrize(
    "path", [path for path in CONFIGS if model_name(path) in ENCODERS], ids=identify
)


def test_every_model_has_a_configuration_and_some_have_named_ones() -> None:
    default = {f"{name}/config.pbtxt" for name in MODELS}
    on_gpu = ("gpu", "tensorrt")
    named = {f"{model}/configs/{name}.pbtxt" for model in ENCODERS for name in (*on_gpu, "int8")}
    named |= {f"{model}/configs/{name}.pbtxt" for model in ("fusion", "queue") for name in on_gpu}
    named |= {"emotion/configs/parallel.pbtxt"}
    assert {identify(path) for path in CONFIGS} == default | named


@every_config
def test_model_is_named_like_its_directory(path: Path) -> None:
    assert parse(path).name == model_name(path)


@every_config
def test_one_version_is_served(path: Path) -> None:
    assert parse(path).version_policy.WhichOneof("policy_choice") == "latest"
    assert parse(path).version_policy.latest.num_versions == 1


@every_config
def test_several_utterances_fit_a_batch(path: Path) -> None:
    assert parse(path).max_batch_size >= config("emotion").max_batch_size == 32


@every_composing_config
def test_instances_are_chosen_and_not_left_to_the_machine(path: Path) -> None:
    (group,) = parse(path).instance_group
    on_gpu = path.name in GPU and model_name(path) in ENCODERS
    assert group.kind == (ModelInstanceGroup.KIND_GPU if on_gpu else ModelInstanceGroup.KIND_CPU)
    doubled = (on_gpu and path.name == "gpu.pbtxt") or model_name(path) == "preprocess"
    assert group.count == (2 if doubled else 1)


@every_python_config
def test_own_queue_of_a_python_stage_is_bounded_in_size_and_time(path: Path) -> None:
    parameters = parse(path).parameters
    assert parse(path).max_batch_size < int(parameters["max_queue_size"].string_value) <= 4096
    assert float(parameters["max_wait_seconds"].string_value) == MAX_WAIT_S


@every_python_config
def test_python_stages_get_one_request_at_a_time_and_leave_none_in_tritons_queue(path: Path) -> None:
    """A string that is cut fails all that Triton hands over with it, and Triton's queue policies delay requests."""
    assert not parse(path).HasField("dynamic_batching")


@every_onnx_config
def test_onnx_models_have_no_queue_policies(path: Path) -> None:
    """With any of them Triton prepares no batch while one runs, and a native backend wakes nobody when it ends."""
    assert parse(path).HasField("dynamic_batching")
    batching = parse(path).dynamic_batching
    assert not batching.HasField("default_queue_policy")
    assert not batching.priority_queue_policy
    assert not batching.priority_levels


@every_composing_config
def test_no_queue_is_delayed(path: Path) -> None:
    """With a delay and several instances, Triton before 26.08 loses count of those that are idle (its issue 8870)."""
    assert not parse(path).dynamic_batching.max_queue_delay_microseconds


@every_queue_config
def test_requests_before_the_onnx_models_make_the_next_batches(path: Path) -> None:
    parameters = {key: value.string_value for key, value in parse(path).parameters.items()}
    assert parameters["models"].split(",") == list(ONNX_MODELS)
    vggish = parse(TEMPLATE / "vggish" / path.relative_to(TEMPLATE / "queue"))
    batch = max(vggish.dynamic_batching.preferred_batch_size, default=vggish.max_batch_size)
    assert int(parameters["max_waiting"]) == batch * vggish.instance_group[0].count


@every_encoder_config
def test_encoders_on_a_cpu_take_turns_where_one_instance_has_all_cores(path: Path) -> None:
    [group] = parse(path).instance_group
    turns = [(each.name, getattr(each, "global"), each.count) for each in group.rate_limiter.resources]
    assert group.rate_limiter.priority == (1_000_000 if turns else 0)  # last in Triton's order: no model waits for them
    on_cpu = group.kind == ModelInstanceGroup.KIND_CPU
    assert turns == ([("cores", True, 1)] if on_cpu and group.count == 1 else [])


@every_encoder_config
def test_variable_length_inputs_are_ragged_and_no_others(path: Path) -> None:
    ragged = {tensor.name for tensor in parse(path).input if tensor.allow_ragged_batch}
    assert ragged == {tensor.name for tensor in parse(path).input if -1 in tensor.dims}
    assert ragged == {"PATCHES" if model_name(path) == "vggish" else "INPUT_IDS"}


@every_encoder_config
def test_triton_itself_says_what_belongs_to_whom(path: Path) -> None:
    """A request that could say it itself could have others' patches and tokens taken for its own."""
    shapes = {tuple(entry.source_input): tuple(entry.target_name) for entry in parse(path).batch_input}
    source = "PATCHES" if model_name(path) == "vggish" else "INPUT_IDS"
    assert shapes == {(source,): (f"{source}_SHAPE",)}
    assert {entry.kind for entry in parse(path).batch_input} == {BatchInput.BATCH_ITEM_SHAPE}


@every_onnx_config
def test_warm_up_is_an_input_that_the_model_takes(path: Path) -> None:
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
def test_warm_up_uses_all_that_it_has(path: Path) -> None:
    """Counts other than zero, so that the models really run; their files lie in warmup/."""
    counted = {"PATCH_COUNT": "PATCHES", "TOKEN_COUNT": "INPUT_IDS"}
    for warm_up in parse(path).model_warmup:
        files = {name: value.input_data_file for name, value in warm_up.inputs.items() if value.input_data_file}
        assert files
        for name, file in files.items():
            content = (TEMPLATE / model_name(path) / "warmup" / file).read_bytes()
            (count,) = np.frombuffer(content, "<i4")
            assert count == (warm_up.inputs[counted[name]].dims[0] if name in counted else 1)


@every_encoder_config
def test_warm_up_covers_more_shapes_on_a_gpu(path: Path) -> None:
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


@pytest.mark.parametrize("path", [path for path in CONFIGS if path.parent.name == "configs"], ids=identify)
def test_named_configuration_agrees_with_the_default_one(path: Path) -> None:
    named, default = parse(path), config(model_name(path))
    assert list(named.input) == list(default.input)
    assert list(named.output) == list(default.output)
    assert list(named.batch_input) == list(default.batch_input)
    assert (named.backend, named.platform) == (default.backend, default.platform)


@pytest.mark.parametrize("name", ENCODERS)
def test_int8_configuration_differs_in_its_file_alone(name: str) -> None:
    int8 = parse(TEMPLATE / name / "configs" / "int8.pbtxt")
    assert int8.default_model_filename == "model.int8.onnx"
    plain = ModelConfig.FromString(int8.SerializeToString())
    plain.ClearField("default_model_filename")
    assert plain == config(name)


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("file", sorted(GPU))
def test_gpu_configuration_names_what_the_native_backend_gets_wrong_by_default(name: str, file: str) -> None:
    """Arenas that double, all cores of the node for each instance, an exhaustive search for each new convolution."""
    gpu = parse(TEMPLATE / name / "configs" / file)
    parameters = {key: value.string_value for key, value in gpu.parameters.items()}
    search = {"cudnn_conv_algo_search": "1"} if name == "vggish" else {}
    assert parameters == {"arena_extend_strategy": "1", "intra_op_thread_count": "1", **search}


@every_onnx_config
def test_model_file_is_one_that_the_export_writes(path: Path) -> None:
    precision = {"gpu.pbtxt": "fp16", "tensorrt.pbtxt": "fp16", "int8.pbtxt": "int8"}.get(path.name, "fp32")
    if model_name(path) not in ENCODERS:
        precision = "fp32"
    name = parse(path).default_model_filename or "model.onnx"  # Triton's own default
    assert name == FILE_NAMES[precision]


@every_onnx_config
def test_tensors_are_those_of_the_exported_file(path: Path, repository: Path) -> None:
    """The configuration's dims are the file's without the batch; in the file a ragged input has one dimension."""
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
def test_probabilities_carry_the_labels(path: Path) -> None:
    outputs = {tensor.name: tensor for tensor in parse(path).output}
    probabilities = [name for name in outputs if name.endswith("PROBABILITIES")]
    assert len(probabilities) == (3 if model_name(path) in ("emotion", "fusion") else 0)
    for name in probabilities:
        assert list(outputs[name].dims) == [len(EMOTIONS)]
        labels = TEMPLATE / model_name(path) / outputs[name].label_filename
        assert tuple(labels.read_text().splitlines()) == EMOTIONS


@pytest.mark.parametrize("name", PYTHON_MODELS)
def test_python_stage_has_its_code(name: str) -> None:
    assert config(name).backend == "python"
    assert "class TritonPythonModel" in (TEMPLATE / name / "1" / "model.py").read_text()


# ---- the ensemble


def steps(path: Path = TEMPLATE / "emotion" / "config.pbtxt") -> list[Any]:
    return list(parse(path).ensemble_scheduling.step)


def test_service_is_an_ensemble_of_all_the_others() -> None:
    assert config("emotion").platform == "ensemble"
    assert sorted([*(step.model_name for step in steps()), "emotion"]) == list(MODELS)
    assert {step.model_version for step in steps()} == {-1}


def test_service_takes_audio_and_text_and_answers_with_three_views_and_a_confidence() -> None:
    text, scores = (DataType.TYPE_STRING, (1,)), (DataType.TYPE_FP32, (5,))
    assert tensors(config("emotion").input) == {"AUDIO": text, "TEXT": text}
    assert tensors(config("emotion").output) == {
        "PROBABILITIES": scores,
        "AUDIO_PROBABILITIES": scores,
        "TEXT_PROBABILITIES": scores,
        "CONFIDENCE": (DataType.TYPE_FP32, (1,)),
        "CHECKPOINT": text,
    }


def test_steps_map_all_their_models_inputs_and_only_outputs_that_exist() -> None:
    for step in steps():
        model = config(step.model_name)
        assert set(step.input_map) == set(tensors(model.input))
        assert set(step.output_map) <= set(tensors(model.output))


def test_tensors_agree_wherever_they_flow() -> None:
    """By name of the ensemble's tensor: one producer, and the data type and dims that every consumer expects."""
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
    """Models that Triton starts at the same time: each step as soon as its inputs are there."""
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


def test_one_step_is_in_flight_at_a_time() -> None:
    """Two at once, and a failing one can bring a Triton before 26.05 down."""
    order = started_together(TEMPLATE / "emotion" / "config.pbtxt")
    assert order == [["preprocess"], ["queue"], ["vggish"], ["bert"], ["fusion"]]


def test_parallel_configuration_starts_both_encoders_together() -> None:
    order = started_together(TEMPLATE / "emotion" / "configs" / "parallel.pbtxt")
    assert order == [["preprocess"], ["queue"], ["bert", "vggish"], ["fusion"]]
