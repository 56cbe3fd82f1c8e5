"""Requests with invalid tensors, protobuf, JSON or HTTP."""

import json
import math
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as pb

from emotion.audio import PATCH_ELEMENTS, PATCH_SHAPE
from tests.hostile.corpus import SEED, file

TEXT = b"he was not an ill-disposed young man"
INFER = "/v2/models/emotion/infer"
REJECTED = (400, 500)  # Triton 24.10 answers 500 if its JSON parser fails
CLOSED = 0  # the connection was closed without an answer


@dataclass(frozen=True)
class GrpcCase:
    """A serialized message to a gRPC method.

    Attributes:
        name: description of the case.
        message: the bytes of the message.
        statuses: accepted statuses of the answer.
        says: words that the error message must contain.
        method: name of the gRPC method.
    """

    name: str
    message: bytes
    statuses: tuple[str, ...] = ("INVALID_ARGUMENT",)
    says: str = ""
    method: str = "ModelInfer"


@dataclass(frozen=True)
class HttpCase:
    """A request to Triton's HTTP server.

    Attributes:
        name: description of the case.
        body, headers, path, method: the request.
        statuses: accepted statuses of the answer.
    """

    name: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    path: str = INFER
    method: str = "POST"
    statuses: tuple[int, ...] = REJECTED


def elements(*values: bytes) -> bytes:
    """Return BYTES elements in Triton's format, each after its length."""
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


def tensor(
    name: str, shape: tuple[int, ...] = (1, 1), data_type: str = "BYTES"
) -> "pb.ModelInferRequest.InferInputTensor":
    """Return the description of an input."""
    return pb.ModelInferRequest.InferInputTensor(name=name, shape=shape, datatype=data_type)


def request(
    *inputs: "pb.ModelInferRequest.InferInputTensor", raw: tuple[bytes, ...] | None = None, **fields: Any
) -> bytes:
    """Return a serialized ModelInferRequest; without arguments it is valid."""
    inputs = inputs or (tensor("AUDIO"), tensor("TEXT"))
    raw = (elements(b""), elements(TEXT)) if raw is None else raw
    message = pb.ModelInferRequest(**({"model_name": "emotion", "inputs": inputs, "raw_input_contents": raw} | fields))
    return bytes(message.SerializeToString())


def truncated_strings() -> Iterator[GrpcCase]:
    """Yield requests with strings that are shorter than their length, to the ensemble and to `preprocess`."""
    good, cut = elements(TEXT), struct.pack("<I", len(TEXT) + 1) + TEXT
    yield GrpcCase("TEXT", request(raw=(elements(b""), cut)))
    yield GrpcCase("AUDIO", request(raw=(cut, good)))
    yield GrpcCase("preprocess", request(raw=(cut, good), model_name="preprocess"))
    yield GrpcCase("preprocess, TEXT", request(raw=(elements(b""), cut), model_name="preprocess"))


LEAST, MOST = -(2**31), 2**31 - 1  # range of INT32
SILENCE, WORDS = np.zeros(2 * PATCH_ELEMENTS, np.float32), [2, 9, 9, 3]
NUMBERS = (math.nan, math.inf, -math.inf, 3e38, -3e38)


def tensors_for_models() -> Iterator[GrpcCase]:
    """Yield requests to single models of the ensemble, with tensors that no stage has checked."""
    for count in (LEAST, -1, 0, 3, 4000, MOST):
        yield _for_vggish(f"count {count} for two patches", SILENCE, count)
        yield _for_bert(f"count {count} for four tokens", WORDS, count)
        yield _for_fusion(f"count {count} of patches", 0.0, count)
    for token in (-(2**63), -1, 10**9, 2**63 - 1):
        yield _for_bert(f"token {token}", [token] * 4, 4)
    yield _for_bert("a text of 5,000 tokens", [5] * 5000, 5000)
    for number in NUMBERS:
        yield _for_vggish(f"patches of {number}", SILENCE + np.float32(number), 2)
        yield _for_fusion(f"embeddings of {number}", number, 1)
    cut = _for_vggish("half a patch", SILENCE[: PATCH_ELEMENTS // 2], 1)
    yield replace(cut, statuses=("INVALID_ARGUMENT",))
    for counts in (LEAST, -1, MOST):
        inputs = tuple(tensor(name, (1, 1), "INT32") for name in ("PATCH_COUNT", "TOKEN_COUNT"))
        raw = (struct.pack("<i", counts),) * 2
        yield GrpcCase(f"queue: counts of {counts}", request(*inputs, raw=raw, model_name="queue"), ("OK",))


def zero_elements() -> Iterator[GrpcCase]:
    """Yield requests with empty tensors to the ONNX models; NVIDIA's native backend copies no request behind them."""
    for count in (LEAST, 0, 1, MOST):
        yield replace(
            _for_vggish(f"count {count} for zero patches", SILENCE[:0], count), statuses=("INVALID_ARGUMENT",)
        )
        yield replace(_for_bert(f"count {count} for zero tokens", [], count), statuses=("INVALID_ARGUMENT",))


def _for_vggish(name: str, patches: NDArray[np.float32], count: int) -> GrpcCase:
    inputs = (
        tensor("PATCHES", (1, -(-patches.size // PATCH_ELEMENTS), *PATCH_SHAPE), "FP32"),
        tensor("PATCH_COUNT", (1, 1), "INT32"),
    )
    raw = (patches.tobytes(), struct.pack("<i", count))
    return GrpcCase(f"vggish: {name}", request(*inputs, raw=raw, model_name="vggish"), ("OK",))


def _for_bert(name: str, ids: list[int], count: int) -> GrpcCase:
    inputs = (
        tensor("INPUT_IDS", (1, len(ids)), "INT64"),
        tensor("TOKEN_COUNT", (1, 1), "INT32"),
        tensor("AFTER", (1, 1), "INT32"),
    )
    raw = (struct.pack(f"<{len(ids)}q", *ids), struct.pack("<i", count), struct.pack("<i", count))
    return GrpcCase(f"bert: {name}", request(*inputs, raw=raw, model_name="bert"), ("OK",))


def _for_fusion(name: str, number: float, used: int) -> GrpcCase:
    inputs = (
        tensor("AUDIO_EMBEDDING", (1, 128), "FP32"),
        tensor("PATCHES_USED", (1, 1), "INT32"),
        tensor("TEXT_EMBEDDING", (1, 256), "FP32"),
        tensor("TOKENS_USED", (1, 1), "INT32"),
    )
    raw = (
        np.full(128, number, np.float32).tobytes(),
        struct.pack("<i", used),
        np.full(256, number, np.float32).tobytes(),
        struct.pack("<i", used),
    )
    return GrpcCase(f"fusion: {name}", request(*inputs, raw=raw, model_name="fusion"), ("OK",))


def grpc_cases() -> Iterator[GrpcCase]:
    """Yield requests with invalid tensors and invalid messages."""
    yield GrpcCase("a valid request", request(), ("OK",))
    yield from _shapes()
    yield from _contents()
    yield from _names()
    yield from _shared_memory()
    yield from _messages()


def _shapes() -> Iterator[GrpcCase]:
    for shape in (
        (),
        (0,),
        (1,),
        (0, 1),
        (1, 0),
        (0, 0),
        (2, 1),
        (1, 2),
        (33, 1),
        (1, 1, 1),
        (-1, 1),
        (1, -1),
        (-1, -1),
        (-(2**63), 1),
        (2**31, 1),
        (2**32, 1),
        (2**63 - 1, 1),
        (2**32, 2**32),
        (2**62, 4),
        (1,) * 100,
    ):
        for name in ("AUDIO", "TEXT"):
            other = tensor("TEXT" if name == "AUDIO" else "AUDIO")
            pair = sorted((tensor(name, shape), other), key=lambda one: str(one.name))
            # Triton 24.10 keeps 32 bits of the number of rows, and accepts zero rows as one if AUDIO has one
            as_one = name == "TEXT" and len(shape) == 2 and shape[0] % 2**32 == 0 and shape[1] == 1
            statuses = ("OK",) if as_one else ("INVALID_ARGUMENT",)
            yield GrpcCase(f"{name} of shape {str(shape)[:40]}", request(*pair), statuses)
    nothing = request(tensor("AUDIO"), tensor("TEXT", (0, 1)), raw=(elements(file("wav")), b""))
    yield GrpcCase("TEXT of zero rows with AUDIO of one row", nothing)
    both = (tensor("AUDIO", (33, 1)), tensor("TEXT", (33, 1)))
    yield GrpcCase("33 rows", request(*both, raw=(elements(*[b""] * 33), elements(*[TEXT] * 33))), says="<= 32")
    both = (tensor("AUDIO", (0, 1)), tensor("TEXT", (0, 1)))
    yield GrpcCase("zero rows", request(*both, raw=(b"", b"")))
    types = ["BOOL", "UINT8", "UINT64", "INT8", "INT32", "INT64", "FP16", "FP32", "FP64", "BF16", "STRING", "bytes"]
    for data_type in (*types, "", "x" * 5000):
        yield GrpcCase(f"AUDIO of type {data_type[:20]!r}", request(tensor("AUDIO", (1, 1), data_type), tensor("TEXT")))


def _contents() -> Iterator[GrpcCase]:
    good = elements(TEXT)
    for name, raw in {
        "length is one too large": struct.pack("<I", len(TEXT) + 1) + TEXT,
        "length is one too small": struct.pack("<I", len(TEXT) - 1) + TEXT,
        "length is 2^32 - 1": b"\xff\xff\xff\xff" + TEXT,
        "length is 2^31": b"\0\0\0\x80" + TEXT,
        "zero bytes": b"",
        "three bytes of a length": b"\0\0\0",
        "two elements instead of one": good * 2,
        "1,000 elements instead of one": good * 1000,
        "trailing bytes": good + b"x",
    }.items():
        yield GrpcCase(f"TEXT: {name}", request(raw=(elements(b""), raw)))
        yield GrpcCase(f"AUDIO: {name}", request(raw=(raw, good)))
    yield GrpcCase("no contents", request(raw=()))
    yield GrpcCase("contents of one input of two", request(raw=(good,)))
    yield GrpcCase("contents of three inputs for two", request(raw=(good, good, good)))
    typed = tensor("TEXT")
    typed.contents.bytes_contents.append(TEXT)
    audio = tensor("AUDIO")
    audio.contents.bytes_contents.append(b"")
    yield GrpcCase("typed contents", request(audio, typed, raw=()), ("OK",))
    yield GrpcCase("typed and raw contents", request(audio, typed))
    typed = tensor("TEXT")
    typed.contents.fp32_contents.extend([1.0, 2.0])
    yield GrpcCase("typed contents of another type", request(audio, typed, raw=()))
    typed = tensor("TEXT")
    typed.contents.bytes_contents.extend([TEXT] * 5000)
    yield GrpcCase("5,000 typed elements for one", request(audio, typed, raw=()))
    bad_row = elements(TEXT, b"\xff", TEXT)
    three = (tensor("AUDIO", (3, 1)), tensor("TEXT", (3, 1)))
    yield GrpcCase(
        "an invalid row among valid ones", request(*three, raw=(elements(b"", b"", b""), bad_row)), says="UTF-8"
    )
    cut = elements(b"", file("flac")[:5000], b"")
    yield GrpcCase(
        "a truncated file among valid rows", request(*three, raw=(cut, elements(TEXT, TEXT, TEXT))), says="FLAC"
    )


def _names() -> Iterator[GrpcCase]:
    audio, text = tensor("AUDIO"), tensor("TEXT")
    none, good = elements(b""), elements(TEXT)
    for name in ("", "audio", "AUDIO ", "AUDI\u041e", "PATCHES", "TOKEN_COUNT", "../AUDIO", "A" * 5000):
        yield GrpcCase(f"an input named {name[:20]!r}", request(tensor(name), text))
    yield GrpcCase("AUDIO alone", request(audio, raw=(none,)), says="expected 2 inputs")
    yield GrpcCase("TEXT alone", request(text, raw=(good,)), says="expected 2 inputs")
    yield GrpcCase("three inputs", request(audio, text, tensor("MORE"), raw=(none, good, good)))
    yield GrpcCase("TEXT twice", request(audio, text, text, raw=(none, good, good)))
    yield GrpcCase("TEXT twice and no AUDIO", request(text, text, raw=(good, good)))
    yield GrpcCase("500 inputs", request(*[tensor(f"T{i}") for i in range(500)], raw=(good,) * 500))
    for model in ("", "Emotion", "emotion ", "../emotion", "emotion/1", "x" * 5000, "\u0000"):
        yield GrpcCase(f"the model {model[:20]!r}", request(model_name=model), ("NOT_FOUND", "INVALID_ARGUMENT"))
    for version in ("0", "2", "-1", "one", "1.0", "9" * 30, "1 ", "\0"):
        yield GrpcCase(f"version {version!r}", request(model_version=version), ("NOT_FOUND", "INVALID_ARGUMENT", "OK"))
    for output in ("", "probabilities", "PATCHES", "O" * 5000):
        wanted = [pb.ModelInferRequest.InferRequestedOutputTensor(name=output)]
        yield GrpcCase(f"the output {output[:20]!r}", request(outputs=wanted))
    twice = [pb.ModelInferRequest.InferRequestedOutputTensor(name="PROBABILITIES")] * 500
    yield GrpcCase("one output 500 times", request(outputs=twice), ("OK", "INVALID_ARGUMENT"))
    for count in (-1, 6, 2**31, 2**62):
        best = pb.ModelInferRequest.InferRequestedOutputTensor(name="PROBABILITIES")
        best.parameters["classification"].int64_param = count
        yield GrpcCase(f"the best {count} classes", request(outputs=[best]), ("OK", "INVALID_ARGUMENT"))
    best = pb.ModelInferRequest.InferRequestedOutputTensor(name="PROBABILITIES")
    best.parameters["classification"].string_param = "many"
    yield GrpcCase("the best 'many' classes", request(outputs=[best]))
    for key, value in (
        ("sequence_id", pb.InferParameter(int64_param=-1)),
        ("sequence_id", pb.InferParameter(string_param="s" * 100_000)),
        ("sequence_start", pb.InferParameter(bool_param=True)),
        ("priority", pb.InferParameter(int64_param=-1)),
        ("priority", pb.InferParameter(uint64_param=2**64 - 1)),
        ("priority", pb.InferParameter(string_param="first")),
        ("timeout", pb.InferParameter(int64_param=-1)),
        ("timeout", pb.InferParameter(int64_param=2**62)),
        ("binary_data_output", pb.InferParameter(bool_param=True)),
        ("triton_enable_empty_final_response", pb.InferParameter(string_param="yes")),
        ("triton_reserved", pb.InferParameter(bool_param=True)),
        ("x" * 100_000, pb.InferParameter(double_param=float("nan"))),
        ("empty", pb.InferParameter()),
    ):
        case = f"parameter {key[:40]} {str(value).strip()[:40]}"
        # ignored parameters are answered; a very long or past timeout is valid
        statuses = ("OK", "INVALID_ARGUMENT", "UNAVAILABLE", "UNIMPLEMENTED")
        yield GrpcCase(case, request(parameters={key: value}), statuses)
    yield GrpcCase(
        "5,000 parameters",
        request(parameters={f"p{i}": pb.InferParameter(int64_param=i) for i in range(5000)}),
        ("OK", "INVALID_ARGUMENT"),
    )
    yield GrpcCase("an id of 1 MB", request(id="i" * 1_000_000), ("OK", "INVALID_ARGUMENT"))


def _shared_memory() -> Iterator[GrpcCase]:
    """Yield requests with unregistered regions of shared memory, and administration without the admin key."""
    for region in ("nobody's", "", "/dev/shm/x", "triton_python_backend_shm_region_1", "r" * 5000):
        for size, offset in ((8, 0), (0, 0), (-1, 0), (8, -1), (2**62, 2**62)):
            text = tensor("TEXT")
            text.parameters["shared_memory_region"].string_param = region
            text.parameters["shared_memory_byte_size"].int64_param = size
            text.parameters["shared_memory_offset"].int64_param = offset
            case = f"region {region[:20]!r} of {size} bytes at {offset}"
            yield GrpcCase(
                case, request(tensor("AUDIO"), text, raw=(elements(b""),)), ("INVALID_ARGUMENT", "NOT_FOUND")
            )
    output = pb.ModelInferRequest.InferRequestedOutputTensor(name="PROBABILITIES")
    output.parameters["shared_memory_region"].string_param = "nobody's"
    output.parameters["shared_memory_byte_size"].int64_param = 20
    yield GrpcCase("an output in a region", request(outputs=[output]), ("INVALID_ARGUMENT", "NOT_FOUND"))
    for method, message in {
        "SystemSharedMemoryRegister": pb.SystemSharedMemoryRegisterRequest(name="r", key="/etc/passwd", byte_size=8),
        "SystemSharedMemoryUnregister": pb.SystemSharedMemoryUnregisterRequest(),
        "SystemSharedMemoryStatus": pb.SystemSharedMemoryStatusRequest(),
        "CudaSharedMemoryRegister": pb.CudaSharedMemoryRegisterRequest(name="r", raw_handle=b"x", byte_size=8),
        "RepositoryModelUnload": pb.RepositoryModelUnloadRequest(model_name="emotion"),
        "TraceSetting": pb.TraceSettingRequest(),
        "LogSettings": pb.LogSettingsRequest(),
    }.items():
        yield GrpcCase(f"{method} without the key", message.SerializeToString(), ("UNAVAILABLE",), "restricted", method)


def _messages() -> Iterator[GrpcCase]:
    """Yield bytes that are not a ModelInferRequest, and unusual messages."""
    chance = random.Random(SEED)
    good = request(raw=(elements(file("wav")), elements(TEXT)))
    wrong = ("INTERNAL", "INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED")
    for name, message in {
        "zero bytes": b"",
        "text": b"this is not protobuf",
        "half of a valid message": good[: len(good) // 2],
        "a valid message without its last byte": good[:-1],
        "0xFF bytes": b"\xff" * 1000,
        "zero-valued bytes": bytes(1000),
        "a varint without an end": b"\x08" + b"\x80" * 1000,
        "a field of 2 GB": b"\x0a\xff\xff\xff\xff\x07" + b"x",
        "a field of 2^64 - 1 bytes": b"\x0a" + b"\xff" * 9 + b"\x01",
        "groups without an end": b"\x0b" * 10_000,
        "ends of groups without a start": b"\x0c" * 100,
        "field number 0": b"\x02\x00",
        "wire type 7": b"\x0f",
        "a name that is not UTF-8": b"\x0a\x04\xff\xfe\xfd\xfc",
        "inputs within inputs": _nested(200),
        "JSON": b'{"model_name": "emotion"}',
        "HTTP": b"POST /v2/models/emotion/infer HTTP/1.1\r\n\r\n",
        **{f"{size} random bytes": chance.randbytes(size) for size in (1, 2, 5, 10, 50, 100, 1000, 10_000, 1_000_000)},
    }.items():
        yield GrpcCase(f"message: {name}", message, wrong)
    for number in range(30):
        damaged = bytearray(request())
        for _ in range(1 + number % 3):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        yield GrpcCase(f"message with changed bytes, {number}", bytes(damaged), ("OK", *wrong))
    yield GrpcCase("message with an unknown field", request() + b"\xfa\x7f\x03abc", ("OK",))
    yield GrpcCase("message with the model name 1,000 times", b"\x0a\x07emotion" * 1000 + request(), ("OK",))
    yield GrpcCase("32 MB of text", request(raw=(elements(b""), elements(b"x" * (32 << 20)))), says="bytes; at most")
    yield GrpcCase("32 MB of an unknown field", request() + b"\xfa\x7f\x80\x80\x80\x10" + bytes(32 << 20), ("OK",))
    for method in ("ModelMetadata", "ModelConfig", "ModelReady", "ServerMetadata"):
        yield GrpcCase(f"0xFF bytes to {method}", b"\xff" * 100, wrong, "", method)
    yield GrpcCase("an unknown method", b"", ("UNIMPLEMENTED",), "", "Nothing")


def _nested(depth: int) -> bytes:
    """Return nested length-delimited fields."""
    message = b""
    for _ in range(depth):
        message = b"\x2a" + _varint(len(message)) + message
    return message


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def body(header: Any, data: bytes = b"", length: str | None = None) -> tuple[bytes, dict[str, str]]:
    """Return the body (JSON, then tensors) and the headers of Triton's binary extension."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return text + data, {"Inference-Header-Content-Length": str(len(text)) if length is None else length}


def described(**changes: Any) -> dict[str, Any]:
    """Return the JSON of a valid request with changed fields of the input TEXT; None removes a field."""
    text = {"name": "TEXT", "shape": [1, 1], "datatype": "BYTES", "data": [TEXT.decode()]} | changes
    audio = {"name": "AUDIO", "shape": [1, 1], "datatype": "BYTES", "data": [""]}
    return {"inputs": [audio, {key: value for key, value in text.items() if value is not None}]}


def http_cases() -> Iterator[HttpCase]:
    """Yield requests with invalid JSON, lengths and paths."""
    plain = json.dumps(described()).encode()
    yield HttpCase("a valid request", plain, statuses=(200,))
    yield from _json(plain)
    yield from _binary()
    for name, path, method, statuses in (
        ("another model", "/v2/models/nobody/infer", "POST", (400, 404)),
        ("version 2", "/v2/models/emotion/versions/2/infer", "POST", (400, 404)),
        ("version x", "/v2/models/emotion/versions/x/infer", "POST", (400, 404)),
        ("version of 30 digits", f"/v2/models/emotion/versions/{'9' * 30}/infer", "POST", (400, 404)),
        ("a path with ..", "/v2/models/../../etc/passwd", "GET", (400, 404)),
        ("an encoded path with ..", "/v2/models/%2e%2e%2f%2e%2e/infer", "POST", (400, 404)),
        ("a NUL in the path", "/v2/models/emotion%00/infer", "POST", (400, 404)),
        # Triton 24.10 closed the connection without an answer in 1 of 60 passes, three times in a row
        ("a path of 7 kB", "/v2/models/" + "x" * 7000 + "/infer", "POST", (400, 404, 405, CLOSED)),
        ("GET of infer", INFER, "GET", (400, 404, 405)),
        ("PUT of infer", INFER, "PUT", (400, 404, 405)),
        ("DELETE of the model", "/v2/models/emotion", "DELETE", (400, 404, 405)),
        ("TRACE", "/v2", "TRACE", (400, 404, 405, 501)),
        ("generate", "/v2/models/emotion/generate", "POST", (400, 404)),
        ("generate_stream", "/v2/models/emotion/generate_stream", "POST", (400, 404)),
        ("shared memory", "/v2/systemsharedmemory/region/r/register", "POST", (403,)),
        ("model control", "/v2/repository/models/emotion/unload", "POST", (403,)),
        ("logging", "/v2/logging", "POST", (403,)),
        ("model control, path encoded", "/v2/repository/models/emotion/%75nload", "POST", (400, 403, 404)),
        ("model control, slashes doubled", "//v2//repository//index", "POST", (400, 403, 404)),
    ):
        yield HttpCase(name, plain if method in ("POST", "PUT") else b"", {}, path, method, statuses)


def _json(plain: bytes) -> Iterator[HttpCase]:
    for name, text in {
        "zero bytes": b"",
        "a brace": b"{",
        "half of a valid request": plain[: len(plain) // 2],
        "null": b"null",
        "a number": b"1",
        "a list": b"[]",
        "an empty object": b"{}",
        "no quotes": b"{inputs: []}",
        "inputs is null": b'{"inputs": null}',
        "inputs is a word": b'{"inputs": "TEXT"}',
        "inputs is empty": b'{"inputs": []}',
        "inputs of numbers": b'{"inputs": [1, 2]}',
        "inputs of lists": b'{"inputs": [[], []]}',
        "10,000 brackets": b"[" * 10_000,
        "10,000 nested objects": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        "a number of 10,000 digits": b'{"inputs": ' + b"9" * 10_000 + b"}",
        "a lone surrogate": json.dumps(described(data=["\ud800"])).encode(),
        "bytes that are not UTF-8": plain.replace(TEXT, b"\xff\xfe"),
        "a NUL": plain + b"\0",
        "NUL first": b"\0" + plain,
        "UTF-16": plain.decode().encode("utf-16"),
        "text after the JSON": plain + b"{}",
        "inputs twice": plain[:-1] + b', "inputs": []}',
        "random bytes": random.Random(SEED).randbytes(1000),
        "outputs is a word": plain[:-1] + b', "outputs": "all"}',
        "outputs of numbers": plain[:-1] + b', "outputs": [1]}',
        "an output without a name": plain[:-1] + b', "outputs": [{}]}',
        "id is a list": plain[:-1] + b', "id": [1]}',
        "parameters is a list": plain[:-1] + b', "parameters": [1]}',
        "sequence_id is a list": plain[:-1] + b', "parameters": {"sequence_id": []}}',
        "priority is negative": plain[:-1] + b', "parameters": {"priority": -1}}',
        "timeout is a word": plain[:-1] + b', "parameters": {"timeout": "soon"}}',
        "binary_data_output is a word": plain[:-1] + b', "parameters": {"binary_data_output": "yes"}}',
    }.items():
        # Triton answers requests with invalid optional fields
        yield HttpCase(f"JSON: {name}", text, statuses=(200, *REJECTED))
    wrong: dict[str, dict[str, Any]] = {
        "no name": {"name": None},
        "name is a number": {"name": 1},
        "another name": {"name": "WORDS"},
        "no shape": {"shape": None},
        "shape is a word": {"shape": "1"},
        "shape of words": {"shape": ["1", "1"]},
        "shape of fractions": {"shape": [1.5, 1]},
        "shape is empty": {"shape": []},
        "negative shape": {"shape": [-1, 1]},
        "a shape of 2^63": {"shape": [2**63, 1]},
        "a shape of 2^62 by 4": {"shape": [2**62, 4]},
        "33 rows": {"shape": [33, 1]},
        "a shape of two rows for one element": {"shape": [2, 1]},
        "no type": {"datatype": None},
        "type is a number": {"datatype": 7},
        "another type": {"datatype": "FP32"},
        "an unknown type": {"datatype": "TEXT"},
        "no data": {"data": None},
        "data is a word": {"data": "hello"},
        "data is a number": {"data": 1},
        "data is null in a list": {"data": [None]},
        "data of numbers": {"data": [1]},
        "data of objects": {"data": [{}]},
        "data is empty": {"data": []},
        "two elements instead of one": {"data": ["a", "b"]},
        "deep data": {"data": [[[["a"]]]]},
        "a region of shared memory": {
            "data": None,
            "parameters": {"shared_memory_region": "r", "shared_memory_byte_size": 8},
        },
        "a region and data": {"parameters": {"shared_memory_region": "r", "shared_memory_byte_size": 8}},
        "region is a number": {"data": None, "parameters": {"shared_memory_region": 1, "shared_memory_byte_size": "x"}},
    }
    for name, changes in wrong.items():
        as_one = name in ("deep data", "a shape of 2^63")
        statuses = (200,) if as_one else (404,) if name == "a region of shared memory" else REJECTED
        yield HttpCase(f"TEXT: {name}", json.dumps(described(**changes)).encode(), statuses=statuses)


def _binary() -> Iterator[HttpCase]:
    data = elements(TEXT)

    def header(size: Any) -> dict[str, Any]:
        return described(data=None, parameters={"binary_data_size": size})

    sent, headers = body(header(len(data)), data)
    yield HttpCase("binary: a valid request", sent, headers, statuses=(200,))
    for size in (0, 1, len(data) - 1, len(data) + 1, 2**31, 2**32, 2**63 - 1, -1, 1.5, "7", None, [1]):
        sent, headers = body(header(size), data)
        yield HttpCase(f"binary_data_size {size}", sent, headers)
    good, _ = body(header(len(data)), data)
    for length in (
        "0",
        "1",
        "-1",
        str(len(good)),
        str(len(good) + 1),
        str(2**31),
        str(2**63),
        "9" * 40,
        "x",
        "",
        "1.5",
        "0x10",
    ):
        yield HttpCase(f"header length {length!r}", good, {"Inference-Header-Content-Length": length})
    for name, raw in {
        "an element with too large a length": struct.pack("<I", 2**32 - 1) + TEXT,
        "two elements instead of one": data * 2,
        "no element": b"",
        "half a length": b"\0\0",
    }.items():
        sent, headers = body(header(len(raw)), raw)
        yield HttpCase(f"binary: {name}", sent, headers)
    for coding in ("gzip", "deflate", "br", "gzip, gzip"):
        yield HttpCase(f"invalid {coding}", b"not compressed", {"Content-Encoding": coding}, statuses=(400, 501))
