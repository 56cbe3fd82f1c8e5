"""Reject Vorbis headers whose codebooks are too large for a decoder.

A few bytes can describe codebooks of millions of values: FFmpeg allocates 235 MiB for headers of 8 kB. The values are
counted here before decoding (Vorbis I specification, section 3.2.1).
"""

from functools import lru_cache

from emotion.errors import InputError

MAX_VALUES = 1 << 18  # entries x dimensions over all codebooks; libvorbis writes 90,000 at most
HEADER_TYPES = (b"\1", b"\3", b"\5")  # first bytes of header packets; first bytes of sound packets are even


class _Broken(Exception):
    """The headers are damaged."""


@lru_cache(maxsize=16)  # an encoder writes the same headers into every file
def check_headers(extradata: bytes) -> None:
    """Check the headers of a stream.

    Args:
        extradata: the three header packets in the layout of FFmpeg's demuxers: a byte 2, the sizes of the first two
            (each a sum of bytes that ends with one below 255), and the packets.

    Raises:
        InputError: the headers are damaged, or the codebooks have more than MAX_VALUES values.
    """
    try:
        sizes, at = [], 1
        if extradata[:1] != b"\2":
            raise _Broken
        for _ in range(2):
            size = 0
            while extradata[at] == 255:
                size, at = size + 255, at + 1
            sizes.append(size + extradata[at])
            at += 1
        setup = extradata[at + sum(sizes) :]
        if not setup.startswith(b"\x05vorbis"):
            raise _Broken
        values = _codebook_values(_Bits(setup[7:]))
    except (_Broken, IndexError):
        raise InputError("AUDIO is a damaged Vorbis file: its headers can't be read; send it whole") from None
    if values > MAX_VALUES:
        raise InputError(f"AUDIO is a Vorbis file with codebooks of over {MAX_VALUES} values; encode it again")


class _Bits:
    """Reader of integers of a given number of bits, the lowest bit first."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def read(self, count: int) -> int:
        first, last = self._at >> 3, (self._at + count + 7) >> 3
        if last > len(self._data):
            raise _Broken
        value = int.from_bytes(self._data[first:last], "little") >> (self._at & 7) & ((1 << count) - 1)
        self._at += count
        return value

    def skip(self, count: int) -> None:
        self._at += count


def _codebook_values(bits: _Bits) -> int:
    """Return entries x dimensions over all codebooks; reading stops when the sum exceeds MAX_VALUES."""
    total = 0
    for _ in range(bits.read(8) + 1):
        if bits.read(24) != 0x564342:
            raise _Broken
        dimensions, entries = bits.read(16), bits.read(24)
        total += entries * max(1, dimensions)
        if total > MAX_VALUES:
            break
        _skip_lengths(bits, entries)
        _skip_lookup(bits, dimensions, entries)
    return total


def _skip_lengths(bits: _Bits, entries: int) -> None:
    if bits.read(1):  # ordered: the number of entries of each length
        bits.skip(5)
        left = entries
        for _ in range(32):
            left -= bits.read(left.bit_length())
            if left <= 0:
                break
    elif bits.read(1):  # sparse: some entries are unused
        for _ in range(entries):
            if bits.read(1):
                bits.skip(5)
    else:
        bits.skip(5 * entries)


def _skip_lookup(bits: _Bits, dimensions: int, entries: int) -> None:
    kind = bits.read(4)
    if kind == 0:
        return
    if kind > 2 or not dimensions:
        raise _Broken
    bits.skip(64)  # minimum, delta
    width = bits.read(4) + 1
    bits.skip(1)
    count = entries * dimensions if kind == 2 else _root(entries, dimensions)
    bits.skip(width * count)


def _root(entries: int, dimensions: int) -> int:
    """Return the largest integer whose power `dimensions` is at most `entries`."""
    root = int(entries ** (1 / dimensions))
    while (root + 1) ** dimensions <= entries:
        root += 1
    while root**dimensions > entries:
        root -= 1
    return root
