"""Rewrite the headers of AIFF, AIFF-C and AU files with correct sizes."""

import struct

from emotion.containers.sizes import available, tolerance
from emotion.errors import InputError

MAX_CHUNKS = 1000
_WIDTHS = {
    b"ulaw": 1,
    b"ULAW": 1,
    b"alaw": 1,
    b"ALAW": 1,
}  # bytes of a sample, where the header's bits are those after decoding
_LINEAR = (b"NONE", b"twos", b"sowt", b"raw ", b"in24", b"in32", b"fl32", b"FL32", b"fl64", b"FL64", *_WIDTHS)


def repair_aiff(data: bytes) -> bytes:
    """Return an AIFF or AIFF-C file whose header has the actual number and size of its samples.

    Raises:
        InputError: a chunk or samples are missing, or the data are two joined files.
    """
    common, at = b"", 12
    for _ in range(MAX_CHUNKS):
        if at + 8 > len(data):
            break
        name, size = struct.unpack_from(">4sI", data, at)
        if name == b"COMM":
            common = common or data[at + 8 : at + 8 + size]
        elif name == b"SSND" and len(common) >= 18:
            return _with_sizes(data, common, at)
        at += 8 + size + (size & 1)
    raise InputError("AUDIO is a truncated AIFF file: it has no samples behind a header; send it whole")


def _with_sizes(data: bytes, common: bytes, at: int) -> bytes:
    """Return the rewritten file; `common` is the body of its chunk COMM, and its chunk SSND begins at `at`."""
    kind = common[18:22] if data[8:12] == b"AIFC" else b"NONE"
    channels, frames, bits = struct.unpack_from(">HIH", common)
    block = channels * _WIDTHS.get(kind, (bits + 7) // 8)
    missing = tolerance(_rate(common), block) if kind in _LINEAR else 0
    size = available("AIFF", struct.unpack_from(">I", data, at + 4)[0], len(data) - at - 8, missing)
    if data[at + 8 + size + (size & 1) :][:4] == b"FORM":
        raise InputError("AUDIO is two or more AIFF files joined; send them one at a time")
    if kind in _LINEAR and block:
        held = max(0, size - 8) // block
        available("AIFF", frames * block, held * block, missing)
        common = common[:2] + struct.pack(">I", held) + common[6:]
    chunks = b"".join(
        name + struct.pack(">I", len(body)) + body + bytes(len(body) & 1)
        for name, body in ((b"COMM", common), (b"SSND", data[at + 8 : at + 8 + size]))
    )
    return b"FORM" + struct.pack(">I", 4 + len(chunks)) + data[8:12] + chunks


def _rate(common: bytes) -> int:
    """Return the sample rate, an 80-bit floating-point number, in Hz; 0 if it is not a plausible rate."""
    exponent, mantissa = struct.unpack_from(">HQ", common, 8)
    return mantissa >> 63 - (exponent - 16383) if 0 <= exponent - 16383 < 32 else 0


def repair_au(data: bytes) -> bytes:
    """Return an AU file whose header has the actual size of its samples.

    Raises:
        InputError: samples are missing, or the data are two joined files.
    """
    if len(data) < 24:
        raise InputError("AUDIO is a truncated AU file: its header is cut; send it whole")
    offset, claimed, encoding, rate, channels = struct.unpack_from(">5I", data, 4)
    width = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}.get(encoding, 0)  # bytes of a sample
    missing = tolerance(min(rate, 1 << 20), min(channels, 1024) * width)
    size = available("AU", claimed, max(0, len(data) - offset), missing)
    if data[offset + size :][:4] == b".snd":
        raise InputError("AUDIO is two or more AU files joined; send them one at a time")
    return data[:8] + struct.pack(">I", size) + data[12 : offset + size]
