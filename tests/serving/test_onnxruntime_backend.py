"""The backend `onnxruntime` in a real Triton: which models it rejects, and how it runs the others.

One Triton loads all models of this file, including faulty ones; its repository index has the reason of each failure.
"""

import ctypes.util
import re
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import tritonclient.grpc as grpc
from onnx import TensorProto, helper
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from serving import Triton
from serving.installation import OUR_BACKENDS, find_triton
from tests.conftest import Administrator, running_triton

Array = np.ndarray[Any, Any]
FLOAT, BF16, INT64, STRING = TensorProto.FLOAT, TensorProto.BFLOAT16, TensorProto.INT64, TensorProto.STRING


def tensor(name: str, shape: list[Any], dtype: int = FLOAT) -> onnx.ValueInfoProto:
    """Return an input or output of an ONNX graph."""
    return helper.make_tensor_value_info(name, dtype, shape)


def onnx_model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    constants: list[onnx.TensorProto] | None = None,
    opset: int = 20,
    ir_version: int = 10,
) -> bytes:
    """Return a serialized ONNX file."""
    graph = helper.make_graph(nodes, "graph", inputs, outputs, constants or [])
    imports = [helper.make_opsetid("", opset)]
    return bytes(helper.make_model(graph, opset_imports=imports, ir_version=ir_version).SerializeToString())


def copy_model(shape: list[Any], dtype: int = FLOAT, **options: Any) -> bytes:
    """Return a model Y = X."""
    node = helper.make_node("Identity", ["X"], ["Y"])
    return onnx_model([node], [tensor("X", shape, dtype)], [tensor("Y", shape, dtype)], **options)


def add_model(default: list[float] | None = None) -> bytes:
    """Return a model Y = X + B, both [-1, 3]; with a default value B is an overridable initializer, [3]."""
    inputs = [tensor("X", ["n", 3]), tensor("B", ["n", 3] if default is None else [3])]
    constants = None if default is None else [helper.make_tensor("B", FLOAT, [3], default)]
    return onnx_model([helper.make_node("Add", ["X", "B"], ["Y"])], inputs, [tensor("Y", ["n", 3])], constants)


def sequence_model() -> bytes:
    """Return a model Y = X with a second output that is not a tensor."""
    nodes = [helper.make_node("Identity", ["X"], ["Y"]), helper.make_node("SequenceConstruct", ["X"], ["LIST"])]
    outputs = [tensor("Y", ["n", 3]), helper.make_tensor_sequence_value_info("LIST", FLOAT, ["n", 3])]
    return onnx_model(nodes, [tensor("X", ["n", 3])], outputs)


def sum_model() -> bytes:
    """Return a model: SUM [-1, 1] of the next COUNT of VALUES for each row, DOUBLED = 2 COUNT (INT64 [-1, 1])."""
    nodes = [
        helper.make_node("Concat", ["zero", "VALUES"], ["padded"], axis=0),
        helper.make_node("CumSum", ["padded", "axis"], ["prefix"]),
        helper.make_node("CumSum", ["COUNT", "axis"], ["end"]),
        helper.make_node("Sub", ["end", "COUNT"], ["start"]),
        helper.make_node("Gather", ["prefix", "end"], ["upto_end"]),
        helper.make_node("Gather", ["prefix", "start"], ["upto_start"]),
        helper.make_node("Sub", ["upto_end", "upto_start"], ["SUM"]),
        helper.make_node("Add", ["COUNT", "COUNT"], ["DOUBLED"]),
    ]
    constants = [helper.make_tensor("zero", FLOAT, [1], [0.0]), helper.make_tensor("axis", INT64, [], [0])]
    inputs = [tensor("VALUES", ["total"]), tensor("COUNT", ["n", 1], INT64)]
    return onnx_model(nodes, inputs, [tensor("SUM", ["n", 1]), tensor("DOUBLED", ["n", 1], INT64)], constants)


def shapes_model() -> bytes:
    """Return a model Y = SHAPE [-1, 2] that ignores the values of X [-1]."""
    nodes = [helper.make_node("Identity", ["SHAPE"], ["Y"]), helper.make_node("Identity", ["X"], ["SAME"])]
    inputs = [tensor("X", ["total"]), tensor("SHAPE", ["n", 2], TensorProto.INT32)]
    return onnx_model(nodes, inputs, [tensor("Y", ["n", 2], TensorProto.INT32), tensor("SAME", ["total"])])


def total_model() -> bytes:
    """Return a model TOTAL [] = SCALE [] * sum(X [-1])."""
    nodes = [
        helper.make_node("ReduceSum", ["X"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "SCALE"], ["TOTAL"]),
    ]
    return onnx_model(nodes, [tensor("X", ["n"]), tensor("SCALE", [])], [tensor("TOTAL", [])])


def first_row_model() -> bytes:
    """Return a model that violates the batching contract: Y is the first row of X for every batch size."""
    node = helper.make_node("Slice", ["X", "zero", "one"], ["Y"])
    constants = [helper.make_tensor("zero", INT64, [1], [0]), helper.make_tensor("one", INT64, [1], [1])]
    return onnx_model([node], [tensor("X", ["n", 3])], [tensor("Y", ["m", 3])], constants)


def matmul_model() -> bytes:
    """Return a model Y = X @ W, which uses the thread pool."""
    weights = helper.make_tensor("W", FLOAT, [3, 3], [1.0] * 9)
    node = helper.make_node("MatMul", ["X", "W"], ["Y"])
    return onnx_model([node], [tensor("X", ["n", 3])], [tensor("Y", ["n", 3])], [weights])


COPY = copy_model(["n", 3])
X = "name: 'X' data_type: TYPE_FP32 dims: [3]"
Y = "name: 'Y' data_type: TYPE_FP32 dims: [3]"
B = "name: 'B' data_type: TYPE_FP32 dims: [3]"


@dataclass
class Model:
    """A model of the repository; a model with the default values loads."""

    onnx: bytes = COPY
    inputs: list[str] = field(default_factory=lambda: [X])
    outputs: list[str] = field(default_factory=lambda: [Y])
    max_batch_size: int = 8
    rest: str = ""
    parameters: dict[str, str] = field(default_factory=dict)

    def write(self, directory: Path) -> None:
        """Write config.pbtxt and 1/model.onnx."""
        lines = [
            "backend: 'onnxruntime'",
            f"max_batch_size: {self.max_batch_size}",
            *(f"input {{ {entry} }}" for entry in self.inputs),
            *(f"output {{ {entry} }}" for entry in self.outputs),
            *(f"parameters {{ key: '{k}' value {{ string_value: '{v}' }} }}" for k, v in self.parameters.items()),
            self.rest or "instance_group { kind: KIND_CPU count: 1 }",
        ]
        (directory / "1").mkdir(parents=True)
        (directory / "1" / "model.onnx").write_bytes(self.onnx)
        (directory / "config.pbtxt").write_text("\n".join(lines))


def dims(name: str, shape: str, rest: str = "", dtype: str = "TYPE_FP32") -> str:
    """Return an input or output entry of config.pbtxt."""
    return f"name: '{name}' data_type: {dtype} dims: [{shape}] {rest}"


ITEM_SHAPE = "batch_input { kind: BATCH_ITEM_SHAPE target_name: 'SHAPE' data_type: TYPE_INT32 source_input: 'X' }"

# Faulty models, with a pattern of Triton's reason: the tensor or parameter, and both sides of a mismatch.
FAULTS: dict[str, tuple[Model, str]] = {
    "input_unknown": (Model(inputs=[dims("WRONG", "3")]), r"input 'WRONG' .* \['X'\]"),
    "input_missing": (Model(add_model()), r"inputs \['B'\] are missing"),
    "input_extra": (Model(inputs=[X, B]), r"input 'B' .* \['X'\]"),
    "output_unknown": (Model(outputs=[dims("WRONG", "3")]), r"output 'WRONG' .* \['Y'\]"),
    "input_type": (Model(inputs=[dims("X", "3", dtype="TYPE_FP64")]), r"'X' is TYPE_FP64 .* tensor\(float\)"),
    "output_type": (Model(outputs=[dims("Y", "3", dtype="TYPE_INT64")]), r"'Y' is TYPE_INT64 .* tensor\(float\)"),
    "bf16": (
        Model(
            copy_model(["n", 3], BF16),
            inputs=[dims("X", "3", dtype="TYPE_BF16")],
            outputs=[dims("Y", "3", dtype="TYPE_BF16")],
        ),
        "'X' is TYPE_BF16",
    ),
    "input_rank": (Model(inputs=[dims("X", "3, 1")]), r"'X' .* \[3, 1\] .* \[-1, 3\]"),
    "output_rank": (Model(outputs=[dims("Y", "3, 1")]), r"'Y' .* \[3, 1\] .* \[-1, 3\]"),
    "input_fixed": (Model(inputs=[dims("X", "4")]), r"'X' .* \[4\] .* \[-1, 3\]"),
    "input_variable": (Model(inputs=[dims("X", "-1")]), r"'X' .* \[-1\] .* \[-1, 3\]"),
    "output_variable": (Model(outputs=[dims("Y", "-1")]), r"'Y' .* \[-1\] .* \[-1, 3\]"),
    "output_narrowed": (Model(copy_model(["n", "m"])), r"output 'Y' .* \[3\] .* \[-1, -1\]"),
    "reshape": (Model(inputs=[dims("X", "3", "reshape: { shape: [3, 1] }")]), r"'X' .* \[3, 1\] .* \[-1, 3\]"),
    "batch_fixed": (Model(copy_model([2, 3])), r"'X' .* \[2, 3\] .* max_batch_size is 8"),
    "batch_scalar": (
        Model(total_model(), [dims("X", "1", "reshape: { shape: [] }"), dims("SCALE", "1")], [dims("TOTAL", "1")]),
        r"'SCALE' .* \[\] .* max_batch_size is 8",
    ),
    "scalar": (
        Model(total_model(), [dims("X", "-1"), dims("SCALE", "2")], [dims("TOTAL", "1")], max_batch_size=0),
        r"'SCALE' .* \[2\] .* scalar",
    ),
    "not_a_tensor": (Model(sequence_model()), r"'LIST' is seq\("),
    "optional_with_batching": (Model(add_model([0, 0, 0]), [X, dims("B", "3", "optional: true")]), "'B' is optional"),
    "optional_but_required": (
        Model(
            add_model(),
            [dims("X", "-1, 3"), dims("B", "-1, 3", "optional: true")],
            [dims("Y", "-1, 3")],
            max_batch_size=0,
        ),
        "optional input 'B'",
    ),
    "ragged_rank": (Model(inputs=[dims("X", "3", "allow_ragged_batch: true")]), r"'X' is ragged .* \[-1, 3\]"),
    "ragged_fixed": (
        Model(copy_model([3]), [dims("X", "3", "allow_ragged_batch: true")], [dims("Y", "3")]),
        r"'X' is ragged .* \[3\]",
    ),
    "ragged_optional": (
        Model(
            onnx_model(
                [helper.make_node("Add", ["X", "B"], ["Y"])],
                [tensor("X", ["n"]), tensor("B", ["m"])],
                [tensor("Y", ["n"])],
                [helper.make_tensor("B", FLOAT, [1], [0])],
            ),
            [dims("X", "-1"), dims("B", "-1", "optional: true allow_ragged_batch: true")],
            [dims("Y", "-1")],
            max_batch_size=0,
        ),
        "'B' is both optional and ragged",
    ),
    "no_inputs": (Model(inputs=[]), r"inputs \['X'\] are missing"),
    "no_outputs": (Model(outputs=[]), r"no output; the model's are \['Y'\]"),
    "threads_word": (Model(parameters={"intra_op_thread_count": "two"}), "'intra_op_thread_count' is 'two'"),
    "threads_negative": (Model(parameters={"inter_op_thread_count": "-1"}), "'inter_op_thread_count' is '-1'"),
    "execution_mode": (Model(parameters={"execution_mode": "2"}), "'execution_mode' is '2'"),
    "mem_arena": (Model(parameters={"enable_mem_arena": "maybe"}), "'enable_mem_arena' is 'maybe'"),
    "mem_pattern": (Model(parameters={"enable_mem_pattern": "yes"}), "'enable_mem_pattern' is 'yes'"),
    "share_session": (
        Model(parameters={"share_session_between_instances": "2"}),
        "'share_session_between_instances' is '2'",
    ),
    "no_file": (Model(rest="default_model_filename: 'model.fp16.onnx'"), "names 'model.fp16.onnx'"),
    "no_onnx": (Model(b"not a protobuf"), "can't load 'model.onnx'"),
    "opset": (Model(copy_model(["n", 3], opset=22)), "opset 22.* at most 21"),
    "ir_version": (Model(copy_model(["n", 3], ir_version=11)), "IR version 11.* at most 10"),
    "batch_input": (
        Model(
            add_model(),
            rest="batch_input [{ kind: BATCH_ELEMENT_COUNT target_name: 'B' data_type: TYPE_FP32 source_input: 'X' }]",
        ),
        "BATCH_ELEMENT_COUNT of TYPE_FP32 .* BATCH_ITEM_SHAPE of TYPE_INT32",
    ),
    "batch_input_unknown": (Model(rest=ITEM_SHAPE), r"batch_input 'SHAPE' .* \['X'\]"),
    "batch_input_type": (
        Model(
            onnx_model(
                [helper.make_node("Identity", ["X"], ["Y"])],
                [tensor("X", ["n", 3]), tensor("SHAPE", ["n", 1], INT64)],
                [tensor("Y", ["n", 3])],
            ),
            rest=ITEM_SHAPE,
        ),
        r"'SHAPE' is TYPE_INT32 .* tensor\(int64\)",
    ),
    "batch_output": (
        Model(rest="batch_output [{ target_name: 'Y' kind: BATCH_SCATTER_WITH_INPUT_SHAPE source_input: 'X' }]"),
        "batch_output is set",
    ),
    "sequence_batching": (Model(rest="sequence_batching { }"), "sequence_batching is set"),
    "decoupled": (Model(rest="model_transaction_policy { decoupled: true }"), "decoupled .* is set"),
    "accelerators": (
        Model(rest="optimization { execution_accelerators { cpu_execution_accelerator: [{ name: 'openvino' }] } }"),
        "execution_accelerators is set",
    ),
    "operator_library": (
        Model(rest="model_operations { op_library_filename: ['custom_ops.so'] }"),
        "model_operations is set",
    ),
}

COUNT = dims("COUNT", "1", dtype="TYPE_INT64")
SERVED = {
    "sum": Model(
        sum_model(),
        [dims("VALUES", "-1", "allow_ragged_batch: true"), COUNT],
        [dims("SUM", "1"), dims("DOUBLED", "1", dtype="TYPE_INT64")],
        rest="dynamic_batching { max_queue_delay_microseconds: 200000 } instance_group { kind: KIND_CPU count: 1 }",
        parameters={"enable_mem_arena": "0", "enable_mem_pattern": "Off", "unknown_key": "is ignored"},
    ),
    "text": Model(
        copy_model(["n", 1], STRING),
        [dims("X", "1", dtype="TYPE_STRING")],
        [dims("Y", "1", dtype="TYPE_STRING")],
        rest="dynamic_batching { max_queue_delay_microseconds: 200000 } instance_group { kind: KIND_CPU count: 1 }",
    ),
    "unbatched": Model(
        add_model([1, 2, 3]),
        [dims("X", "-1, 3"), dims("B", "3", "optional: true")],
        [dims("Y", "-1, 3")],
        max_batch_size=0,
        parameters={"memory.enable_memory_arena_shrinkage": "cpu:0", "execution_mode": "1"},
    ),
    "scalars": Model(total_model(), [dims("X", "-1"), dims("SCALE", "1")], [dims("TOTAL", "1, 1")], max_batch_size=0),
    "reshaped": Model(
        copy_model(["n"]),
        [dims("X", "1", "reshape: { shape: [] }")],
        [dims("Y", "1", "reshape: { shape: [] }")],
    ),
    "shapes": Model(
        shapes_model(),
        [dims("X", "-1, 2", "allow_ragged_batch: true")],
        [dims("Y", "2", dtype="TYPE_INT32")],
        rest=f"{ITEM_SHAPE} dynamic_batching {{ max_queue_delay_microseconds: 200000 }} "
        "instance_group { kind: KIND_CPU count: 1 }",
    ),
    "first_row": Model(first_row_model()),
    "no_shrinkage": Model(
        parameters={"memory.enable_memory_arena_shrinkage": "cpu:0", "enable_mem_arena": "false"},
    ),
    "threads_1": Model(matmul_model(), parameters={"intra_op_thread_count": "1"}),
    "threads_4": Model(matmul_model(), parameters={"intra_op_thread_count": "4"}),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    """Yield a Triton that has tried to load every model."""
    repository = tmp_path_factory.mktemp("repository")
    for name, model in SERVED.items():
        model.write(repository / name)
    for name, (model, _) in FAULTS.items():
        model.write(repository / name)
    arguments = ("--exit-on-error=false", "--strict-readiness=false")
    with running_triton(repository, log_level="error", arguments=arguments) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Triton) -> Iterator[grpc.InferenceServerClient]:
    """Yield a client of that Triton."""
    with grpc.InferenceServerClient(server.grpc_url) as connected:
        connected.register_plugin(Administrator(server))
        yield connected


@pytest.fixture(scope="module")
def index(client: grpc.InferenceServerClient) -> dict[str, Any]:
    """Return the repository index, with the state and reason of each model."""
    models = client.get_model_repository_index(as_json=True)["models"]
    return {model["name"]: model for model in models}


def request_inputs(arrays: dict[str, Array]) -> list[grpc.InferInput]:
    """Return arrays as a request's inputs; object arrays become BYTES."""
    inputs = []
    for name, array in arrays.items():
        tensor_input = grpc.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        inputs.append(tensor_input.set_data_from_numpy(array))
    return inputs


def infer(client: grpc.InferenceServerClient, model: str, **arrays: Array) -> dict[str, Array]:
    """Return all outputs of one request."""
    result = client.infer(model, request_inputs(arrays))
    return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


@dataclass
class Batch:
    """The answers to concurrent requests in their order, and the number of runs of the model."""

    answers: list[dict[str, Array] | InferenceServerException]
    runs: int


def infer_together(
    client: grpc.InferenceServerClient,
    model: str,
    requests: list[dict[str, Array]],
    asked: list[list[str]] | None = None,
) -> Batch:
    """Send requests at the same time; each asks for its own outputs, or for all outputs if `asked` is None."""

    def executions() -> int:
        statistics = client.get_inference_statistics(model, as_json=True)["model_stats"][0]
        # the statistics omit failed runs, and the client omits zeros
        return int(statistics.get("execution_count", 0))

    before = executions()
    futures: list[Future[dict[str, Array] | InferenceServerException]] = [Future() for _ in requests]

    def settle(future: Future[Any]) -> Callable[..., None]:
        def callback(result: grpc.InferResult | None, error: InferenceServerException | None) -> None:
            if result is None:
                future.set_result(error)
            else:
                future.set_result({o.name: result.as_numpy(o.name) for o in result.get_response().outputs})

        return callback

    for row, (request, future) in enumerate(zip(requests, futures, strict=True)):
        outputs = [grpc.InferRequestedOutput(name) for name in asked[row]] if asked else None
        client.async_infer(model, request_inputs(request), settle(future), outputs=outputs)
    answers = [future.result(timeout=20) for future in futures]
    time.sleep(0.2)  # Triton counts a request after it has sent the answer
    return Batch(answers, executions() - before)


def values(*rows: list[float]) -> dict[str, Array]:
    """Return a request of the model `sum` with rows of equal length."""
    return {
        "VALUES": np.array(rows, dtype=np.float32).reshape(len(rows), -1),
        "COUNT": np.array([[len(row)] for row in rows], dtype=np.int64),
    }


@pytest.fixture(scope="module")
def backend() -> Iterator[ModuleType]:
    """Yield the backend's file as a module, for tests of its functions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(find_triton().backends / "python")
        specification = spec_from_file_location("onnxruntime_backend", OUR_BACKENDS / "onnxruntime" / "model.py")
        assert specification is not None and specification.loader is not None
        module = module_from_spec(specification)
        specification.loader.exec_module(module)
        yield module
        del sys.modules["triton_python_backend_utils"]


@pytest.mark.parametrize("name", FAULTS)
def test_load_of_a_faulty_model_is_rejected(index: dict[str, Any], name: str) -> None:
    assert index[name]["state"] == "UNAVAILABLE"
    assert re.search(FAULTS[name][1], index[name]["reason"]), index[name]["reason"]
    assert f"model '{name}': " in index[name]["reason"]


@pytest.mark.parametrize("name", SERVED)
def test_load_of_a_valid_model_succeeds(index: dict[str, Any], name: str) -> None:
    assert index[name]["state"] == "READY", index[name]


def test_requests_of_different_lengths_run_as_one_batch(client: grpc.InferenceServerClient) -> None:
    requests = [
        values([1, 2, 3]),
        values([4, 5, 6, 7, 8]),
        values([9]),
        values([10, 11], [12, 13]),  # a rectangular batch of two
        values([14, 15, 16, 17]),
    ]
    batch = infer_together(client, "sum", requests)
    assert batch.runs < len(requests)
    sums = [answer["SUM"].tolist() for answer in batch.answers]
    assert sums == [[[6]], [[30]], [[9]], [[21], [25]], [[62]]]
    for request, answer in zip(requests, batch.answers, strict=True):
        alone = infer(client, "sum", **request)
        assert alone.keys() == answer.keys() == {"SUM", "DOUBLED"}
        for name, array in alone.items():
            np.testing.assert_array_equal(array, answer[name])


def test_batch_with_a_request_of_zero_elements_fails_only_that_request(client: grpc.InferenceServerClient) -> None:
    """NVIDIA's native backend answers it, and computes the requests behind it from stale memory."""
    batch = infer_together(client, "sum", [values([1, 2, 3]), values([]), values([4, 5]), values([]), values([9])])
    assert batch.runs < 3
    for rejected in (batch.answers.pop(1), batch.answers.pop(2)):
        assert isinstance(rejected, InferenceServerException)
        assert rejected.status() == "StatusCode.INVALID_ARGUMENT"
        assert "input 'VALUES' has the shape [1, 0], which has no elements; send at least one" in rejected.message()
    assert [answer["SUM"].tolist() for answer in batch.answers] == [[[6]], [[9]], [[9]]]


def test_batch_returns_to_each_request_its_requested_outputs(client: grpc.InferenceServerClient) -> None:
    asked = [["SUM"], ["DOUBLED"], ["DOUBLED", "SUM"]]
    batch = infer_together(client, "sum", [values([1]), values([2, 3]), values([4, 5, 6])], asked)
    assert batch.runs < 3
    assert [set(answer) for answer in batch.answers] == [set(names) for names in asked]
    assert batch.answers[1]["DOUBLED"].tolist() == [[4]] and batch.answers[2]["SUM"].tolist() == [[15]]


def test_batch_item_shape_is_the_shape_of_each_request(client: grpc.InferenceServerClient) -> None:
    shapes = [(1, 3, 2), (2, 1, 2), (1, 5, 2)]
    batch = infer_together(client, "shapes", [{"X": np.zeros(shape, np.float32)} for shape in shapes])
    assert batch.runs < len(shapes)
    assert [answer["Y"].tolist() for answer in batch.answers] == [[[3, 2]], [[1, 2], [1, 2]], [[5, 2]]]


def test_batch_with_a_failing_request_fails_only_that_request(client: grpc.InferenceServerClient) -> None:
    good, bad = values([1, 2]), values([3, 4])
    bad["COUNT"][:] = 100  # beyond the end of VALUES
    batch = infer_together(client, "sum", [good, bad, good])
    assert batch.runs < 3
    answer = batch.answers.pop(1)
    assert isinstance(answer, InferenceServerException)
    assert answer.status() == "StatusCode.INTERNAL"
    assert "Gather" in answer.message() and "\n" not in answer.message()
    assert [answer["SUM"].tolist() for answer in batch.answers] == [[[3]], [[3]]]
    assert client.is_server_live() and client.is_model_ready("sum")
    assert infer(client, "sum", **good)["SUM"].tolist() == [[3]]


def test_infer_with_a_model_that_drops_rows_fails(client: grpc.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match=r"output 'Y' has the shape \[1, 3\] for a batch of 2"):
        infer(client, "first_row", X=np.zeros((2, 3), np.float32))


def test_infer_without_batching_uses_the_default_of_an_optional_input(client: grpc.InferenceServerClient) -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(infer(client, "unbatched", X=x)["Y"], x + np.array([1, 2, 3], np.float32))
    given = np.array([10, 20, 30], np.float32)
    np.testing.assert_array_equal(infer(client, "unbatched", X=x, B=given)["Y"], x + given)


def test_infer_scalars_have_the_configured_dims(client: grpc.InferenceServerClient) -> None:
    total = infer(client, "scalars", X=np.array([1, 2, 3], np.float32), SCALE=np.array([2], np.float32))["TOTAL"]
    assert total.shape == (1, 1) and total.item() == 12


def test_infer_with_reshape_restores_the_configured_dims(client: grpc.InferenceServerClient) -> None:
    assert infer(client, "reshaped", X=np.array([[1], [2]], np.float32))["Y"].tolist() == [[1], [2]]


def test_infer_strings_are_cut_at_nul(client: grpc.InferenceServerClient) -> None:
    texts = [b"plain", b"", "Gr\u00fc\u00dfe".encode(), b"cut\0here"]
    batch = infer_together(client, "text", [{"X": np.array([[text]], dtype=np.object_)} for text in texts])
    assert batch.runs < len(texts)
    assert [answer["Y"].item() for answer in batch.answers] == [*texts[:3], b"cut"]


def test_infer_string_that_is_not_utf8_fails(client: grpc.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="input 'X' is not UTF-8"):
        infer(client, "text", X=np.array([[b"\xff"]], dtype=np.object_))


def test_load_memory_parameters_reach_onnx_runtime(client: grpc.InferenceServerClient) -> None:
    # ONNX Runtime can't shrink an arena that enable_mem_arena has disabled
    with pytest.raises(InferenceServerException, match="arena"):
        infer(client, "no_shrinkage", X=np.zeros((1, 3), np.float32))


def threads(instance: str) -> int:
    """Return the number of threads of the process that has the model instance among its arguments."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if instance.encode() in (process / "cmdline").read_bytes().split(b"\0"):
                return len(list((process / "task").iterdir()))
        except OSError:  # the process has ended
            continue
    raise AssertionError(f"no process runs {instance}")


def test_load_intra_op_thread_count_sets_the_number_of_threads(index: dict[str, Any]) -> None:
    assert index["threads_4"]["state"] == "READY"
    assert threads("threads_4_0_0") - threads("threads_1_0_0") == 3  # the calling thread is the first of each pool


def test_session_options_follow_the_parameters(backend: ModuleType) -> None:
    parameters = {
        "intra_op_thread_count": "3",
        "inter_op_thread_count": "2",
        "execution_mode": "1",
        "enable_mem_arena": "FALSE",
        "enable_mem_pattern": "0",
    }
    config = {"parameters": {name: {"string_value": value} for name, value in parameters.items()}}
    options = backend.session_options(config)
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 2)
    assert options.execution_mode == ort.ExecutionMode.ORT_PARALLEL
    assert not options.enable_cpu_mem_arena and not options.enable_mem_pattern
    for pool in ("intra", "inter"):
        assert options.get_session_config_entry(f"session.{pool}_op.allow_spinning") == "0"


@pytest.mark.parametrize(
    ("level", "expected"), [(-1, "ENABLE_BASIC"), (0, "ENABLE_ALL"), (1, "ENABLE_EXTENDED"), (2, "DISABLE_ALL")]
)
def test_session_options_follow_the_graph_level(backend: ModuleType, level: int, expected: str) -> None:
    options = backend.session_options({"optimization": {"graph": {"level": level}}})
    assert options.graph_optimization_level == getattr(ort.GraphOptimizationLevel, f"ORT_{expected}")


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="this onnxruntime has CUDA")
def test_open_session_on_gpu_with_the_cpu_package_is_rejected(backend: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(COPY)
    with pytest.raises(backend.ModelError, match=r"KIND_GPU.*onnxruntime [\d.]+ is for CPUs only.*'gpu'.*KIND_CPU"):
        backend.open_session(tmp_path / "model.onnx", {}, "GPU", 1)


def test_check_packages_with_both_packages_is_rejected(
    backend: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("onnxruntime", "onnxruntime-gpu"):
        directory = tmp_path / f"{package.replace('-', '_')}-1.31.1.dist-info"
        directory.mkdir()
        (directory / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.31.1\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(backend.ModelError, match=r"both installed.*pip uninstall --yes onnxruntime onnxruntime-gpu"):
        backend.check_packages()


def cuda_config(**parameters: str) -> dict[str, Any]:
    """Return a model configuration with only these parameters."""
    return {"parameters": {name: {"string_value": value} for name, value in parameters.items()}}


def test_cuda_options_follow_the_parameters(backend: ModuleType) -> None:
    config = cuda_config(
        cudnn_conv_algo_search="1",
        arena_extend_strategy="1",
        do_copy_in_default_stream="0",
        gpu_mem_limit=str(2**33),
        intra_op_thread_count="1",
    )
    assert backend.cuda_options(config) == {
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
        "do_copy_in_default_stream": "0",
        "gpu_mem_limit": "8589934592",
    }
    assert backend.cuda_options({}) == {}  # the native backend's defaults are ONNX Runtime's


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("cudnn_conv_algo_search", "HEURISTIC", r"0 \(EXHAUSTIVE\), 1 \(HEURISTIC\), 2 \(DEFAULT\)"),
        ("arena_extend_strategy", "2", r"0 \(kNextPowerOfTwo\), 1 \(kSameAsRequested\)"),
        ("do_copy_in_default_stream", "yes", "one of 0, 1"),
        ("gpu_mem_limit", "8 GiB", "a number of bytes"),
        ("gpu_mem_limit", str(2**64), r"less than 2\^64"),
    ],
)
def test_cuda_options_with_an_invalid_value_are_rejected(
    backend: ModuleType, name: str, value: str, accepted: str
) -> None:
    with pytest.raises(backend.ModelError, match=f"'{name}' is '{re.escape(value)}' in the config.*{accepted}"):
        backend.cuda_options(cuda_config(**{name: value}))


def test_session_options_include_the_device_allocator(backend: ModuleType) -> None:
    options = backend.session_options(cuda_config(**{backend.DEVICE_ALLOCATOR: "1"}))
    assert options.get_session_config_entry(backend.DEVICE_ALLOCATOR) == "1"
    with pytest.raises(backend.ModelError, match=f"'{backend.DEVICE_ALLOCATOR}' is 'on'"):
        backend.session_options(cuda_config(**{backend.DEVICE_ALLOCATOR: "on"}))


@dataclass
class Driver:
    """A fake of the functions of libcuda.so.1 that the backend calls, with results as NVIDIA documents them."""

    status: int = 0
    version: int = 13000
    count: int = 1

    def cuInit(self, flags: int) -> int:
        return self.status

    def cuDriverGetVersion(self, pointer: Any) -> int:
        pointer._obj.value = self.version
        return 0

    def cuDeviceGetCount(self, pointer: Any) -> int:
        pointer._obj.value = self.count
        return 0


@pytest.mark.parametrize(
    ("driver", "message"),
    [
        (Driver(status=100), r"error 100 from cuInit \(100: no GPU is visible\).*nvidia-smi"),
        (Driver(version=12040), r"supports CUDA 12\.4 and onnxruntime-gpu .* needs CUDA 13; update the driver"),
        (Driver(count=1), "asks for the GPU 1, but there are 1, counted from 0"),
    ],
)
def test_check_driver_that_can_not_run_the_model_is_rejected(
    backend: ModuleType, monkeypatch: pytest.MonkeyPatch, driver: Driver, message: str
) -> None:
    monkeypatch.setattr(ort, "cuda_version", "13.0")
    with pytest.raises(backend.ModelError, match=message):
        backend.check_driver(driver, device=1)


def test_check_driver_with_the_device_is_accepted(backend: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "cuda_version", "13.0")
    backend.check_driver(Driver(version=13020, count=2), device=1)


@pytest.mark.skipif(ctypes.util.find_library("cuda") is not None, reason="this machine has NVIDIA's driver")
def test_load_driver_without_a_driver_is_rejected(backend: ModuleType) -> None:
    with pytest.raises(backend.ModelError, match=r"driver is missing \(libcuda\.so\.1.*--gpus all"):
        backend.load_driver()


@pytest.mark.skipif(ctypes.util.find_library("cudnn") is not None, reason="this machine has cuDNN")
def test_check_libraries_names_missing_libraries(backend: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "cuda_version", "13.0")
    with pytest.raises(backend.ModelError, match=r"libcublasLt\.so\.13.*libcudnn\.so\.9 can't be loaded.*'gpu'"):
        backend.check_libraries()
