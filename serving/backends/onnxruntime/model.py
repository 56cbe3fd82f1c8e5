"""The Triton backend named ``onnxruntime``, written in Python on the PyPI ``onnxruntime`` package.

Triton runs this file for every model with ``backend: "onnxruntime"`` if NVIDIA's native backend is not installed. It is
as strict as the native backend of Triton 24.10 (ONNX Runtime 1.19.2), so a repository that loads here loads there too.
``RULES`` lists the checks against the ONNX file; ``session_options``, ``run_options`` and ``cuda_options`` read the
parameters.

It is stricter than the native backend in these points:

- The configuration must name every input; nothing is auto-completed.
- ``batch_input`` of another kind than BATCH_ITEM_SHAPE, ``batch_output``, sequence batching, decoupled responses,
  execution accelerators and operator libraries are rejected.
- Strings must be UTF-8.
- A batched request with an input of zero elements is rejected. The native backend answers it, and corrupts the answers
  of other requests in its batch.

It is more lenient in one point: if a batch fails, its requests run one by one, so that only the failing request gets an
error. It can't detect contrib operators that are newer than ONNX Runtime 1.19.2.
"""

import contextlib
import ctypes
import io
import json
import mmap
import re
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils  # Triton provides it in the process that runs this file

from stages import cpu_quota

Config = dict[str, Any]
Array = np.ndarray[Any, Any]

NATIVE_IR_VERSION = 10  # newest IR version that ONNX Runtime 1.19.2 reads
NATIVE_OPSET = 21  # newest opset of the domain ai.onnx that ONNX Runtime 1.19.2 reads

# Session option for the allocator of the weights. The native backend reads it since a release after 24.10.
DEVICE_ALLOCATOR = "session.use_device_allocator_for_initializers"

SAME_NAME = ("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "STRING")
ONNX_TYPES = {f"TYPE_{name}": f"tensor({name.lower()})" for name in SAME_NAME} | {
    "TYPE_FP16": "tensor(float16)",
    "TYPE_FP32": "tensor(float)",
    "TYPE_FP64": "tensor(double)",
}


class ModelError(ValueError):
    """The model can't be served; the message is one sentence without the model's name."""


# --- the file -------------------------------------------------------------------------------------------------------


def onnx_file(config: Config, version_directory: Path) -> Path:
    """Return the path of the ONNX file.

    Args:
        config: the model configuration; its ``default_model_filename`` is ``model.onnx`` by default, and may name a
            directory that contains a ``model.onnx``.
        version_directory: directory of the model version.

    Raises:
        ModelError: the file does not exist.
    """
    path = version_directory / (config.get("default_model_filename") or "model.onnx")
    if path.is_dir():
        path /= "model.onnx"
    if not path.is_file():
        raise ModelError(f"default_model_filename names '{path.name}', but there is no file '{path}'")
    return path


def protobuf_varint(message: memoryview, at: int) -> tuple[int, int]:
    """Return the variable-length integer at a byte position, and the position after it."""
    value = shift = 0
    while message[at] & 0x80:
        value |= (message[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
    return value | message[at] << shift, at + 1


def protobuf_fields(message: memoryview) -> Iterator[tuple[int, Any]]:
    """Yield (field number, value) of each field of a message of integers (wire type 0) and byte strings (type 2)."""
    at = 0
    while at < len(message):
        key, at = protobuf_varint(message, at)
        value, at = protobuf_varint(message, at)
        if key & 7 == 2:
            yield key >> 3, message[at : at + value]
            at += value
        else:
            yield key >> 3, value


def check_onnx_version(path: Path) -> None:
    """Check that the native backend's ONNX Runtime can read the file's IR version and opset.

    Raises:
        ModelError: ModelProto.ir_version or .opset_import is too new.
    """
    with path.open("rb") as file:  # mapped into memory, so that the weights are not read
        fields = list(protobuf_fields(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))))
    ir_version = next((value for number, value in fields if number == 1), 0)
    if ir_version > NATIVE_IR_VERSION:
        raise ModelError(
            f"'{path.name}' has IR version {ir_version}, and the native backend reads at most {NATIVE_IR_VERSION}"
        )
    for opset in (dict(protobuf_fields(value)) for number, value in fields if number == 8):
        if bytes(opset.get(1, b"")) in (b"", b"ai.onnx") and opset[2] > NATIVE_OPSET:
            raise ModelError(f"'{path.name}' has opset {opset[2]}, and the native backend reads at most {NATIVE_OPSET}")


# --- the configuration's parameters ---------------------------------------------------------------------------------


def parameter(config: Config, name: str, pattern: str = ".*", accepted: str = "a string") -> str | None:
    """Return the string value of a config parameter, or None if it is absent.

    Args:
        config: the model configuration.
        name: the key in ``parameters``.
        pattern: regular expression of the accepted values, matched without case.
        accepted: description of ``pattern`` for the error message.

    Raises:
        ModelError: the value does not match.
    """
    if name not in config.get("parameters", {}):
        return None
    value = str(config["parameters"][name].get("string_value", ""))
    if not re.fullmatch(pattern, value, re.IGNORECASE):
        raise ModelError(f"parameter '{name}' is '{value}' in the config, but must be {accepted}")
    return value


def thread_count(config: Config, name: str) -> int:
    """Return the number of threads that a parameter sets; 0, the default, lets ONNX Runtime choose."""
    return int(parameter(config, name, r"\d{1,4}", "a whole number from 0 to 9999") or 0)


def intra_op_threads(config: Config) -> int:
    """Return the number of intra-op threads; 0 lets ONNX Runtime choose.

    The default is the container's CPU limit if there is one, because ONNX Runtime counts the cores of the node.
    """
    return thread_count(config, "intra_op_thread_count") or cpu_quota.limit() or 0


def boolean(config: Config, name: str, default: bool) -> bool:
    """Return the boolean value of a parameter, or the default if it is absent."""
    value = parameter(config, name, "true|on|1|false|off|0", "true, on, 1, false, off or 0")
    return default if value is None else value.lower() in ("true", "on", "1")


def session_options(config: Config) -> ort.SessionOptions:
    """Return ONNX Runtime's session options from ``parameters`` and ``optimization.graph.level``.

    Unknown parameters are ignored, as in the native backend.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = intra_op_threads(config)
    options.inter_op_num_threads = thread_count(config, "inter_op_thread_count")
    parallel = parameter(config, "execution_mode", "[01]", "0 (sequential) or 1 (parallel)") == "1"
    options.execution_mode = ort.ExecutionMode.ORT_PARALLEL if parallel else ort.ExecutionMode.ORT_SEQUENTIAL
    options.enable_cpu_mem_arena = boolean(config, "enable_mem_arena", True)
    options.enable_mem_pattern = boolean(config, "enable_mem_pattern", True)
    device_allocator = parameter(config, DEVICE_ALLOCATOR, "[01]", "0 (the arena) or 1 (the device)")
    if device_allocator is not None:
        options.add_session_config_entry(DEVICE_ALLOCATOR, device_allocator)
    boolean(config, "share_session_between_instances", False)  # checked only: each instance is its own process
    level = config.get("optimization", {}).get("graph", {}).get("level", 0)
    options.graph_optimization_level = {
        -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
        1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
        2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    }.get(level, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
    # each instance is a process, and its spinning threads would take cores from the other processes
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


def run_options(config: Config) -> ort.RunOptions:
    """Return the options of every run.

    The parameter ``memory.enable_memory_arena_shrinkage``, such as ``cpu:0``, frees unused arena memory after each run.
    """
    options = ort.RunOptions()
    shrinkage = parameter(config, "memory.enable_memory_arena_shrinkage")
    if shrinkage is not None:
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", shrinkage)
    return options


def open_session(path: Path, config: Config, kind: str, device: int) -> ort.InferenceSession:
    """Open the ONNX file on the GPU ``device`` for the instance kind ``GPU``, else on the CPU.

    Raises:
        ModelError: the file or a parameter is invalid, or the GPU can't be used. A GPU instance never falls back to
            the CPU.
    """
    options = session_options(config)
    providers: list[Any] = ["CPUExecutionProvider"]
    if kind == "GPU":
        cuda = cuda_options(config) | {"device_id": str(device)}
        check_cuda(device)
        providers.insert(0, ("CUDAExecutionProvider", cuda))
    try:
        session = ort.InferenceSession(path, options, providers=providers, enable_fallback=0)
    except Exception as error:  # ONNX Runtime's exceptions have no base class of their own
        raise ModelError(f"ONNX Runtime can't load '{path.name}': {one_line(error)}") from None
    if kind == "GPU" and "CUDAExecutionProvider" not in session.get_providers():
        raise ModelError(
            f"instance_group asks for KIND_GPU, but ONNX Runtime could not use CUDA on device {device}; its own "
            "message is in the log above"
        )
    session.disable_fallback()  # a failed run returns an error and is not repeated on the CPU
    return session


# --- CUDA -----------------------------------------------------------------------------------------------------------

CUDA_REMEDY = "install the extra 'gpu' into an environment of its own (docs/gpu.md), or use KIND_CPU"
CUDNN = "libcudnn.so.9"  # version 9 for every onnxruntime-gpu since 1.19
CUDA_CHOICES = {  # native backend's name: {native backend's value: ONNX Runtime's value}
    "cudnn_conv_algo_search": {"0": "EXHAUSTIVE", "1": "HEURISTIC", "2": "DEFAULT"},
    "arena_extend_strategy": {"0": "kNextPowerOfTwo", "1": "kSameAsRequested"},
    "do_copy_in_default_stream": {"0": "0", "1": "1"},
}


def cuda_options(config: Config) -> dict[str, str]:
    """Return ONNX Runtime's CUDA options from ``parameters`` with the native backend's names and defaults.

    The native backend overwrites these four options in ``gpu_execution_accelerator`` with their defaults
    (github.com/triton-inference-server/server/issues/8808), so only ``parameters`` works for both backends.

    Raises:
        ModelError: a value is not accepted.
    """
    options = {}
    for name, choices in CUDA_CHOICES.items():
        accepted = ", ".join(f"{value} ({word})" if word != value else value for value, word in choices.items())
        value = parameter(config, name, "|".join(choices), f"one of {accepted}")
        if value is not None:
            options[name] = choices[value]
    limit = parameter(config, "gpu_mem_limit", r"\d{1,20}", "a number of bytes")
    if limit is not None:
        if int(limit) >= 2**64:
            raise ModelError(f"parameter 'gpu_mem_limit' is '{limit}' in the config, but must be less than 2^64 bytes")
        options["gpu_mem_limit"] = limit
    return options


def check_cuda(device: int) -> None:
    """Load the CUDA libraries of NVIDIA's pip packages, and check that CUDA can be used.

    ONNX Runtime itself would log a warning and run the model on the CPU.

    Args:
        device: index of the GPU.

    Raises:
        ModelError: the package, the driver, the GPU or a library is missing or too old.
    """
    check_packages()
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints missing libraries, which check_libraries reports
            ort.preload_dlls()
    check_driver(load_driver(), device)
    check_libraries()


def check_packages() -> None:
    """Check that the installed onnxruntime package supports CUDA.

    Raises:
        ModelError: it does not, or two packages overwrite each other.
    """
    folders = {}
    for package in ("onnxruntime", "onnxruntime-gpu"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            folders[package] = str(metadata.distribution(package).locate_file("onnxruntime"))
    if len(folders) == 2 and len(set(folders.values())) == 1:
        raise ModelError(
            "instance_group asks for KIND_GPU, but the packages onnxruntime and onnxruntime-gpu are both installed and "
            "overwrite each other's files; run: pip uninstall --yes onnxruntime onnxruntime-gpu; then "
            f"{CUDA_REMEDY}"
        )
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        raise ModelError(
            f"instance_group asks for KIND_GPU, but the installed onnxruntime {ort.__version__} is for CPUs only; "
            f"{CUDA_REMEDY}"
        )


def load_driver() -> ctypes.CDLL:
    """Load and return NVIDIA's driver library.

    Raises:
        ModelError: the library is missing.
    """
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise ModelError(
            f"instance_group asks for KIND_GPU, but NVIDIA's driver is missing ({one_line(error)}); install it, start "
            "the container with the GPU (docker run --gpus all), or use KIND_CPU"
        ) from None


def check_driver(driver: Any, device: int) -> None:
    """Check that the driver has the GPU ``device`` and supports the CUDA that onnxruntime-gpu was built with.

    Raises:
        ModelError: it does not.
    """
    status = driver.cuInit(0)
    if status:
        raise ModelError(
            f"instance_group asks for KIND_GPU, but NVIDIA's driver reports error {status} from cuInit (100: no GPU "
            "is visible); run nvidia-smi, and check CUDA_VISIBLE_DEVICES"
        )
    version, count = ctypes.c_int(), ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    driver.cuDeviceGetCount(ctypes.byref(count))
    built = cuda_major()
    if built and version.value // 1000 < built:  # 12040 is CUDA 12.4
        raise ModelError(
            f"instance_group asks for KIND_GPU, but NVIDIA's driver supports CUDA {version.value // 1000}."
            f"{version.value % 1000 // 10} and onnxruntime-gpu {ort.__version__} needs CUDA {built}; update the driver"
        )
    if device >= count.value:
        raise ModelError(
            f"instance_group asks for the GPU {device}, but there are {count.value}, counted from 0; change `gpus`, or "
            "CUDA_VISIBLE_DEVICES"
        )


def check_libraries() -> None:
    """Check that the libraries of CUDA and cuDNN can be loaded.

    onnxruntime-gpu 1.31.1 links the first four. It loads cuDNN when the first operator needs it
    (github.com/microsoft/onnxruntime/pull/29252), which is too late for a clear message.

    Raises:
        ModelError: a library is missing.
    """
    major = cuda_major()
    cuda = [f"libcublasLt.so.{major}", f"libcublas.so.{major}", "libcurand.so.10", f"libcudart.so.{major}"]
    missing = [name for name in [*(cuda if major else []), CUDNN] if not can_load(name)]
    if missing:
        raise ModelError(
            f"instance_group asks for KIND_GPU, but {', '.join(missing)} can't be loaded, which onnxruntime-gpu "
            f"{ort.__version__} needs; {CUDA_REMEDY}"
        )


def cuda_major() -> int:
    """Return the major version of the CUDA that onnxruntime-gpu was built with; 0 if the package does not report it."""
    return int(str(getattr(ort, "cuda_version", "") or "0").split(".")[0])


def can_load(library: str) -> bool:
    """Return whether a shared library can be loaded."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


# --- the rules: each takes (config, session) and raises ModelError --------------------------------------------------


def reject_unsupported(config: Config, _: ort.InferenceSession) -> None:
    """Reject features of a model configuration that this backend does not support."""
    accelerators = config.get("optimization", {}).get("execution_accelerators") or {}
    used = {
        "batch_output": config.get("batch_output"),
        "sequence_batching": "sequence_batching" in config,
        "decoupled model_transaction_policy": config.get("model_transaction_policy", {}).get("decoupled"),
        "optimization.execution_accelerators": any(accelerators.values()),
        "model_operations": config.get("model_operations", {}).get("op_library_filename"),
    }
    for feature in (name for name, value in used.items() if value):
        raise ModelError(f"{feature} is set in the config, but this backend does not support it; remove it")
    for entry in config.get("batch_input") or []:
        if entry["kind"] != "BATCH_ITEM_SHAPE" or entry["data_type"] != "TYPE_INT32" or len(entry["target_name"]) != 1:
            raise ModelError(
                f"batch_input {entry['target_name']} is {entry['kind']} of {entry['data_type']} in the config, but "
                "only BATCH_ITEM_SHAPE of TYPE_INT32 with one target_name is supported here"
            )


def check_tensors(_: Config, session: ort.InferenceSession) -> None:
    """Check that every input and output of the ONNX file is a tensor, even if the configuration does not name it."""
    for node in [*session.get_inputs(), *session.get_overridable_initializers(), *session.get_outputs()]:
        if not node.type.startswith("tensor("):
            raise ModelError(f"'{node.name}' is {node.type} in the model, but only tensors are supported")


def check_names(config: Config, session: ort.InferenceSession) -> None:
    """Check the names of inputs and outputs.

    Required inputs are exactly the model's inputs, optional ones are overridable initializers, and outputs are among
    the model's outputs.
    """
    inputs = {node.name for node in session.get_inputs()}
    initializers = {node.name for node in session.get_overridable_initializers()}
    outputs = {node.name for node in session.get_outputs()}
    for entry in config["input"]:
        if entry.get("optional") and config["max_batch_size"] > 0:
            raise ModelError(f"input '{entry['name']}' is optional in the config, which excludes max_batch_size > 0")
        kind, accepted = ("optional input", initializers) if entry.get("optional") else ("input", inputs)
        if entry["name"] not in accepted:
            raise ModelError(f"{kind} '{entry['name']}' of the config is not one of the model's: {sorted(accepted)}")
    for target in item_shapes(config):
        if target not in inputs:
            raise ModelError(f"batch_input '{target}' of the config is not one of the model's: {sorted(inputs)}")
    missing = inputs - {entry["name"] for entry in config["input"]} - set(item_shapes(config))
    if missing:
        raise ModelError(f"the model's inputs {sorted(missing)} are missing from the config")
    if not config["output"]:
        raise ModelError(f"the config has no output; the model's are {sorted(outputs)}")
    for entry in config["output"]:
        if entry["name"] not in outputs:
            raise ModelError(f"output '{entry['name']}' of the config is not one of the model's: {sorted(outputs)}")


def check_types(config: Config, session: ort.InferenceSession) -> None:
    """Check that data types are equal and that the native backend supports them (it does not support BF16)."""
    for kind, entry, node in configured(config, session):
        if entry["data_type"] not in ONNX_TYPES:
            raise ModelError(f"{kind} '{entry['name']}' is {entry['data_type']} in the config, which is not supported")
        if ONNX_TYPES[entry["data_type"]] != node.type:
            raise ModelError(f"{kind} '{node.name}' is {entry['data_type']} in the config but {node.type} in the model")
    for node in session.get_inputs():
        if node.name in item_shapes(config) and node.type != "tensor(int32)":
            raise ModelError(f"batch_input '{node.name}' is TYPE_INT32 in the config but {node.type} in the model")


def check_shapes(config: Config, session: ort.InferenceSession) -> None:
    """Check that ranks are equal and that dims fit.

    A dim of an output equals the model's dim. A dim of an input equals it too, or the model's dim is -1.
    """
    batching = config["max_batch_size"] > 0
    for kind, entry, node in configured(config, session):
        model = onnx_shape(node)
        dims = config_dims(entry)
        if entry.get("allow_ragged_batch"):
            if entry.get("optional"):
                raise ModelError(f"{kind} '{node.name}' is both optional and ragged in the config; it can be one")
            if model != [-1]:
                raise ModelError(f"{kind} '{node.name}' is ragged in the config but {model} in the model, not [-1]")
        elif batching and model[:1] != [-1]:
            raise ModelError(
                f"{kind} '{node.name}' has the shape {model} in the model, but max_batch_size is "
                f"{config['max_batch_size']} in the config, which takes a first dim of -1"
            )
        elif not model and any(dim != 1 for dim in dims):
            raise ModelError(f"{kind} '{node.name}' has the dims {dims} in the config but is a scalar in the model")
        elif model and not is_compatible([-1, *dims] if batching else dims, model, exact=kind == "output"):
            raise ModelError(
                f"{kind} '{node.name}' has the dims {dims} in the config{' after the batch' if batching else ''} but "
                f"the shape {model} in the model"
            )


Rule = Callable[[Config, ort.InferenceSession], None]
RULES: tuple[Rule, ...] = (reject_unsupported, check_tensors, check_names, check_types, check_shapes)


def configured(config: Config, session: ort.InferenceSession) -> Iterator[tuple[str, Config, ort.NodeArg]]:
    """Yield ("input" or "output", its configuration, its ONNX node) for each configured input and output."""
    inputs = {node.name: node for node in [*session.get_inputs(), *session.get_overridable_initializers()]}
    outputs = {node.name: node for node in session.get_outputs()}
    for kind, nodes in (("input", inputs), ("output", outputs)):
        for entry in config[kind]:
            yield kind, entry, nodes[entry["name"]]


def item_shapes(config: Config) -> dict[str, str]:
    """Return the names of the model's BATCH_ITEM_SHAPE inputs, each with the name of its source input."""
    return {entry["target_name"][0]: entry["source_input"][0] for entry in config.get("batch_input") or []}


def onnx_shape(node: ort.NodeArg) -> list[int]:
    """Return the dims of an ONNX tensor, with -1 for a symbolic or unknown dim."""
    return [dim if isinstance(dim, int) else -1 for dim in node.shape]


def config_dims(entry: Config) -> list[int]:
    """Return the dims that the model receives, without the batch: those of ``reshape`` if the config has one."""
    return [int(dim) for dim in (entry["reshape"]["shape"] if "reshape" in entry else entry["dims"])]


def is_compatible(dims: list[int], model: list[int], exact: bool) -> bool:
    """Return whether a configured shape fits the model's, where -1 accepts every dim unless ``exact``."""
    pairs = zip(dims, model, strict=False)
    return len(dims) == len(model) and all(dim == fixed or (fixed == -1 and not exact) for dim, fixed in pairs)


# --- execution ------------------------------------------------------------------------------------------------------


def one_line(error: Exception) -> str:
    """Return the text of an error without line breaks."""
    return " ".join(str(error).split())


def c_strings(name: str, array: Array) -> Array:
    """Return BYTES as an object array of str, each cut at its first NUL byte as in the native backend.

    Raises:
        ValueError: an element is not UTF-8.
    """
    try:
        texts = [item.split(b"\0", 1)[0].decode() for item in array.flat]
    except UnicodeDecodeError as error:
        raise ValueError(f"input '{name}' is not UTF-8: {error.reason} at byte {error.start}") from None
    return np.array(texts, dtype=np.object_).reshape(array.shape)


def empty_input(request: Any) -> Any:
    """Return the error response for a request with an input of zero elements, else None.

    NVIDIA's backends stop copying a batch at an input of zero bytes, and compute the requests behind it from stale
    memory. A batch dimension of 0 is rejected if the request reaches this file. Triton drops such a request without a
    response if it is alone, and may fail other requests in its batch.
    """
    for tensor in request.inputs():
        if not all(tensor.shape()):
            message = (
                f"input '{tensor.name()}' has the shape {list(tensor.shape())}, which has no elements; send at least "
                "one element, and set the count to 0 if it is not used"
            )
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, pb_utils.TritonError.INVALID_ARG))
    return None


def model_shape(entry: Config, node: ort.NodeArg) -> tuple[int, ...] | None:
    """Return the shape of an input for the model: (-1,) if ragged, () for a scalar, None for the request's shape."""
    if entry.get("allow_ragged_batch"):
        return (-1,)
    return None if onnx_shape(node) else ()


def join(name: str, arrays: list[Array], shape: tuple[int, ...] | None) -> Array:
    """Return one input of all requests, concatenated along axis 0; a single numeric array is not copied."""
    if arrays[0].dtype == np.object_:
        arrays = [c_strings(name, array) for array in arrays]
    if shape is not None:
        arrays = [array.reshape(shape) for array in arrays]
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def shapes_of_rows(arrays: list[Array]) -> Array:
    """Return Triton's BATCH_ITEM_SHAPE, int32 [rows of all requests, dims]: each row's shape without the batch."""
    return np.concatenate([np.full((len(array), array.ndim - 1), array.shape[1:], np.int32) for array in arrays])


def split(name: str, array: Array, sizes: list[int]) -> list[Array]:
    """Return the rows of each request as views.

    Args:
        name: name of the output.
        array: the output for all requests.
        sizes: rows of each request.

    Raises:
        ValueError: the model returned another number of rows than it received.
    """
    if array.shape[:1] != (sum(sizes),):
        raise ValueError(f"output '{name}' has the shape {list(array.shape)} for a batch of {sum(sizes)}")
    return np.split(array, np.cumsum(sizes)[:-1])


class TritonPythonModel:
    """One instance of a model, in its own process."""

    @staticmethod
    def auto_complete_config(config: Any) -> Any:
        """Return the configuration unchanged: config.pbtxt must state all names, types and dims."""
        return config

    def initialize(self, args: dict[str, str]) -> None:
        """Open the ONNX file and check the configuration against it.

        Raises:
            TritonModelException: the model can't be served; the message names the mismatch.
        """
        config = json.loads(args["model_config"])
        try:
            path = onnx_file(config, Path(args["model_repository"], args["model_version"]))
            device = int(args["model_instance_device_id"])
            self.session = open_session(path, config, args["model_instance_kind"], device)
            check_onnx_version(path)
            for rule in RULES:
                rule(config, self.session)
        except ModelError as error:
            raise pb_utils.TritonModelException(f"model '{config['name']}': {error}") from None
        self.run_options = run_options(config)
        self.batching = config["max_batch_size"] > 0
        ios = list(configured(config, self.session))
        self.inputs = {node.name: model_shape(entry, node) for kind, entry, node in ios if kind == "input"}
        self.outputs = {node.name: config_dims(entry) for kind, entry, node in ios if kind == "output"}
        self.item_shapes = item_shapes(config)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Return a response for each request, computed in one run of the model for the batch."""
        if not self.batching:
            return [response for request in requests for response in self.respond([request])]
        rejected = {row: error for row, request in enumerate(requests) if (error := empty_input(request))}
        answered = iter(self.respond([request for row, request in enumerate(requests) if row not in rejected]))
        return [rejected[row] if row in rejected else next(answered) for row in range(len(requests))]

    def respond(self, requests: list[Any]) -> list[Any]:
        """Return the responses of one run; if it fails, run the requests one by one.

        Errors become responses, because an exception would leak shared memory.
        """
        if not requests:
            return []
        try:
            return self.run(requests)
        except Exception as error:
            if len(requests) > 1:
                return [response for request in requests for response in self.respond([request])]
            message = f"the model could not run: {one_line(error)}"
            return [pb_utils.InferenceResponse(error=pb_utils.TritonError(message, pb_utils.TritonError.INTERNAL))]

    def run(self, requests: list[Any]) -> list[Any]:
        """Concatenate the requests' inputs, run the model, and split the requested outputs.

        Raises:
            Exception: the run failed, or an input or output has an invalid shape or text.
        """
        arrays = [{tensor.name(): tensor.as_numpy() for tensor in request.inputs()} for request in requests]
        # batched requests all have the same inputs, because optional inputs exclude batching
        feed = {name: join(name, [row[name] for row in arrays], self.inputs[name]) for name in arrays[0]}
        for name, source in self.item_shapes.items():
            feed[name] = shapes_of_rows([row[source] for row in arrays])
        asked = [set(request.requested_output_names()) for request in requests]
        names = [name for name in self.outputs if any(name in one for one in asked)]
        results = dict(zip(names, self.session.run(names, feed, self.run_options), strict=True))
        if self.batching:
            sizes = [next(iter(row.values())).shape[0] for row in arrays]
            parts = {name: split(name, array, sizes) for name, array in results.items()}
        else:
            parts = {
                name: [array if array.ndim else array.reshape(self.outputs[name])] for name, array in results.items()
            }
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor(name, parts[name][row]) for name in names if name in one])
            for row, one in enumerate(asked)
        ]

    def finalize(self) -> None:
        """Free the session before the process ends."""
        del self.session
