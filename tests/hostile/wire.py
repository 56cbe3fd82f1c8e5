"""Protocol violations of HTTP/2 (gRPC) and of HTTP/1.1, sent over sockets."""

import contextlib
import random
import socket
import struct
from collections.abc import Callable

from tests.hostile.corpus import SEED

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RESET, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, END_HEADERS, PADDED = 1, 4, 8
METHOD = b"/inference.GRPCInferenceService/ModelInfer"

Attack = Callable[[socket.socket], None]


def frame(kind: int, payload: bytes = b"", flags: int = 0, stream: int = 0, length: int | None = None) -> bytes:
    """Return an HTTP/2 frame; `length` is a wrong length."""
    size = len(payload) if length is None else length
    return struct.pack(">I", size)[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def header(name: bytes, value: bytes) -> bytes:
    """Return a literal header field without indexing (RFC 7541, 6.2.2)."""
    return b"\0" + _string(name) + _string(value)


def _string(value: bytes) -> bytes:
    if len(value) < 127:
        return bytes([len(value)]) + value
    rest, digits = len(value) - 127, bytearray([127])
    while rest >= 128:
        digits.append(rest & 127 | 128)
        rest >>= 7
    return bytes([*digits, rest]) + value


CALL = b"".join(
    header(*pair)
    for pair in (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", METHOD),
        (b":authority", b"localhost"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    )
)
OPEN = PREFACE + frame(SETTINGS)


def call(stream: int, flags: int = END_HEADERS) -> bytes:
    """Return the headers of a call of ModelInfer."""
    return frame(HEADERS, CALL, flags, stream)


def send(*parts: bytes) -> Attack:
    """Return a function that sends the parts over a connection."""

    def attack(connection: socket.socket) -> None:
        for part in parts:
            connection.sendall(part)

    return attack


def send_byte_by_byte(connection: socket.socket) -> None:
    """Send a body one byte at a time."""
    connection.sendall(OPEN + call(1))
    for byte in b"\0\0\0\x10\0" + bytes(20):
        connection.sendall(frame(DATA, bytes([byte]), stream=1))


def _streams(count: int, *frames: Callable[[int], bytes]) -> bytes:
    """Return the frames of `count` streams, one stream after the other."""
    return b"".join(make(stream) for stream in range(1, 2 * count, 2) for make in frames)


_CHANCE = random.Random(SEED)
_MESSAGE = b"\0" + struct.pack(">I", 5) + b"\x0a\x03abc"  # a gRPC message: not compressed, length, content

GRPC: dict[str, Attack] = {
    "nothing": send(),
    "random bytes instead of a preface": send(_CHANCE.randbytes(4096)),
    "half a preface": send(PREFACE[:12]),
    "HTTP/1.1": send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    "TLS": send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + _CHANCE.randbytes(500)),
    "1 MB of random bytes after a preface": send(PREFACE, _CHANCE.randbytes(1 << 20)),
    "a frame of 16 MB": send(OPEN, frame(DATA, b"x", stream=1, length=(1 << 24) - 1)),
    "truncated settings": send(PREFACE + frame(SETTINGS, b"\0\1\0")),
    "settings on a stream": send(PREFACE + frame(SETTINGS, stream=1)),
    "10,000 settings": send(PREFACE + frame(SETTINGS, struct.pack(">HI", 4, 65535)) * 10_000),
    "settings of every value": send(
        PREFACE + frame(SETTINGS, b"".join(struct.pack(">HI", i, 2**32 - 1) for i in range(9)))
    ),
    "an initial window of 0": send(
        PREFACE + frame(SETTINGS, struct.pack(">HI", 4, 0)) + call(1), frame(DATA, _MESSAGE, 1, 1)
    ),
    "a maximum frame size of 1": send(PREFACE + frame(SETTINGS, struct.pack(">HI", 5, 1)) + call(1)),
    "10,000 pings": send(OPEN + frame(PING, bytes(8)) * 10_000),
    "pings of a wrong size": send(OPEN + frame(PING, b"x")),
    "10,000 window updates": send(OPEN + frame(WINDOW, struct.pack(">I", 1)) * 10_000),
    "window updates over 2^31": send(OPEN + frame(WINDOW, struct.pack(">I", 2**31 - 1)) * 2),
    "a window update of 0": send(OPEN + frame(WINDOW, bytes(4))),
    "10,000 priorities": send(OPEN + _streams(10_000, lambda n: frame(PRIORITY, struct.pack(">IB", 0, 0), stream=n))),
    "a stream that depends on itself": send(OPEN + frame(PRIORITY, struct.pack(">IB", 1, 0), stream=1)),
    "unknown frames": send(OPEN + frame(0xEE, b"x" * 100) * 1000),
    "a push promise": send(OPEN + frame(PUSH, bytes(4), END_HEADERS, 1)),
    "GOAWAY before a call": send(OPEN + frame(GOAWAY, bytes(8)) + call(1)),
    "5,000 calls opened and reset": send(
        OPEN + _streams(5000, call, lambda n: frame(RESET, struct.pack(">I", 8), stream=n))
    ),
    "5,000 calls with a message, reset": send(
        OPEN
        + _streams(
            5000,
            call,
            lambda n: frame(DATA, _MESSAGE, END_STREAM, n),
            lambda n: frame(RESET, struct.pack(">I", 8), stream=n),
        )
    ),
    "1,000 calls without an end": send(OPEN + _streams(1000, call)),
    "headers without an end": send(OPEN + call(1, 0) + frame(CONTINUATION, header(b"x", b"y" * 100), 0, 1) * 2000),
    "empty header frames without an end": send(OPEN + call(1, 0) + frame(CONTINUATION, b"", 0, 1) * 20_000),
    "headers truncated within a name": send(OPEN + frame(HEADERS, CALL[:15], END_HEADERS, 1)),
    "a header of 1 MB": send(
        OPEN
        + frame(HEADERS, CALL, 0, 1)
        + b"".join(
            frame(CONTINUATION, part, END_HEADERS if last else 0, 1)
            for value in [header(b"x", b"y" * (1 << 20))]
            for at in range(0, len(value), 16_000)
            for part, last in [(value[at : at + 16_000], at + 16_000 >= len(value))]
        )
    ),
    "1,000 headers": send(
        OPEN + frame(HEADERS, CALL + header(b"x-header", b"value") * 1000, END_HEADERS, 1)[: 1 << 14]
    ),
    "10,000 references to a large header": send(
        OPEN + frame(HEADERS, CALL + b"\x40\x01x" + _string(b"y" * 3000) + b"\xbe" * 10_000, END_HEADERS, 1)
    ),
    "a header table of 2^31 bytes": send(OPEN + frame(HEADERS, b"\x3f\xe1\xff\xff\xff\x07" + CALL, END_HEADERS, 1)),
    "an unknown header index": send(OPEN + frame(HEADERS, b"\xff\x80\x80\x80\x80\x80\x80\x80", END_HEADERS, 1)),
    "an invalid Huffman code": send(OPEN + frame(HEADERS, CALL + b"\0\x01x\x8a" + b"\xff" * 10, END_HEADERS, 1)),
    "upper-case header names and NULs": send(OPEN + frame(HEADERS, CALL + header(b"X-\0", b"\r\n\0"), END_HEADERS, 1)),
    "no path": send(OPEN + frame(HEADERS, header(b":method", b"POST"), END_HEADERS, 1)),
    "two paths": send(OPEN + frame(HEADERS, CALL + header(b":path", b"/other"), END_HEADERS, 1)),
    "a call of GET": send(OPEN + frame(HEADERS, header(b":method", b"GET") + CALL, END_HEADERS | END_STREAM, 1)),
    "a stream of an even number": send(OPEN + call(2)),
    "decreasing stream numbers": send(OPEN + call(9) + call(3)),
    "data on stream 0": send(OPEN + frame(DATA, b"x")),
    "data on a stream that is not open": send(OPEN + frame(DATA, b"x", stream=1)),
    "data after the end of the stream": send(OPEN + call(1) + frame(DATA, _MESSAGE, END_STREAM, 1) * 2),
    "padding longer than the frame": send(OPEN + call(1) + frame(DATA, b"\xff" + b"x", PADDED, 1)),
    "10,000 empty frames of data": send(OPEN + call(1) + frame(DATA, b"", 0, 1) * 10_000),
    "a message with a declared length of 4 GB": send(
        OPEN + call(1) + frame(DATA, b"\0\xff\xff\xff\xff" + b"x" * 1000, 0, 1)
    ),
    "an invalid compressed message": send(OPEN + call(1) + frame(DATA, b"\1\0\0\0\x03abc", END_STREAM, 1)),
    "a truncated message": send(OPEN + call(1) + frame(DATA, b"\0\0\0\0\xff" + b"abc", END_STREAM, 1)),
    "a body sent byte by byte": send_byte_by_byte,
    "an invalid deadline": send(OPEN + frame(HEADERS, CALL + header(b"grpc-timeout", b"soon"), END_HEADERS, 1)),
    "a deadline of 0": send(
        OPEN + frame(HEADERS, CALL + header(b"grpc-timeout", b"0n"), END_HEADERS, 1) + frame(DATA, _MESSAGE, 1, 1)
    ),
    "an unknown encoding": send(
        OPEN + frame(HEADERS, CALL + header(b"grpc-encoding", b"bomb"), END_HEADERS, 1) + frame(DATA, _MESSAGE, 1, 1)
    ),
}

_POST = b"POST /v2/models/emotion/infer HTTP/1.1\r\nHost: x\r\n"
HTTP: dict[str, Attack] = {
    "nothing": send(),
    "random bytes": send(_CHANCE.randbytes(65536)),
    "a preface of HTTP/2": send(OPEN),
    "TLS": send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + _CHANCE.randbytes(500)),
    "a request line without an end": send(b"GET /" + b"x" * (1 << 20)),
    "headers without an end": send(_POST, *[b"x-%d: y\r\n" % n for n in range(2000)]),
    "a header of 1 MB": send(_POST + b"x: " + b"y" * (1 << 20)),
    "a header without a name": send(_POST + b": x\r\n\r\n"),
    "NULs in headers": send(_POST + b"x\0: y\0\r\n\r\n"),
    "folded headers": send(_POST + b"x: y\r\n z\r\n\r\n"),
    "no host": send(b"GET /v2 HTTP/1.1\r\n\r\n"),
    "HTTP/0.9": send(b"GET /v2\r\n"),
    "HTTP/9.9": send(b"GET /v2 HTTP/9.9\r\nHost: x\r\n\r\n"),
    "a method of 10,000 letters": send(b"X" * 10_000 + b" /v2 HTTP/1.1\r\n\r\n"),
    "a Content-Length of 2^63 - 1": send(_POST + b"Content-Length: 9223372036854775807\r\n\r\nx"),
    "a Content-Length of 10^30": send(_POST + b"Content-Length: 1" + b"0" * 30 + b"\r\n\r\nx"),
    "a negative Content-Length": send(_POST + b"Content-Length: -1\r\n\r\nx"),
    "a Content-Length that is a word": send(_POST + b"Content-Length: ten\r\n\r\n"),
    "two Content-Lengths": send(_POST + b"Content-Length: 1\r\nContent-Length: 100\r\n\r\nx"),
    "a Content-Length and chunks": send(
        _POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\n\r\n"
    ),
    "a body that is never sent": send(_POST + b"Content-Length: 100\r\n\r\n"),
    "a chunk of 2^64": send(_POST + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nx"),
    "a negative chunk": send(_POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\nx"),
    "a chunk size that is not a number": send(_POST + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n"),
    "chunks of one byte": send(_POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 10_000),
    "an extension of 100 kB": send(_POST + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"x" * 100_000 + b"\r\n"),
    "trailers without an end": send(_POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"x: y\r\n" * 10_000),
    "an unknown transfer encoding": send(_POST + b"Transfer-Encoding: bomb\r\n\r\nx"),
    "an expectation": send(_POST + b"Expect: 100-continue\r\nContent-Length: 4\r\n\r\n"),
    "an unknown expectation": send(_POST + b"Expect: the worst\r\nContent-Length: 4\r\n\r\n{}{}"),
    "an upgrade": send(_POST + b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n"),
    "1,000 requests at once": send(b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n" * 1000),
}


def run_attack(attack: Attack, address: tuple[str, int], patience: float = 0.2) -> socket.socket:
    """Connect, run an attack, read for `patience` seconds, and return the open connection.

    The server may close the connection at any time.
    """
    connection = socket.create_connection(address, timeout=5)
    with contextlib.suppress(ConnectionError):
        attack(connection)
    connection.settimeout(patience)
    with contextlib.suppress(OSError):
        while connection.recv(1 << 16):
            pass
    return connection
