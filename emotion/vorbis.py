"""Tells whether the headers of an Ogg Vorbis file may be given to libvorbis.

A few bytes can describe codebooks of millions of entries: libvorbis takes gigabytes for them, and puts some on the
stack, which ends the process. So the headers are walked here first (RFC 3533; Vorbis I specification, section 3.2.1).
Everything out of the ordinary is refused, for a lenient reader might see other headers than libogg does.
"""

import struct
import zlib
from collections.abc import Iterator

from emotion.errors import InputError

IDENTIFICATION = b"\x01vorbis"  # begins the first packet of every Vorbis stream, in whatever container
MAX_VALUES = 1 << 18  # entries x dimensions over all codebooks; libvorbis writes 90,000 at most
_HEADER = struct.Struct("<4sBBqIIIB")  # of a page: OggS, version, flags, granule, stream, number, checksum, segments
_CONTINUED = 1
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class _Broken(Exception):
    """The headers are not what they should be."""


def check_headers(data: bytes) -> None:
    """Walk the three header packets of a file that holds `IDENTIFICATION`.

    Raises:
        InputError: not plain Ogg Vorbis, damaged headers, or codebooks larger than any encoder's.
    """
    try:
        packets = _packets(data)
        first, _, setup = next(packets), next(packets), next(packets)
        if not first.startswith(IDENTIFICATION) or not setup.startswith(b"\x05vorbis"):
            raise _Broken
        values = _codebook_values(_Bits(setup[7:]))
    except (_Broken, StopIteration, struct.error):
        raise InputError(
            "AUDIO is a truncated or damaged Ogg Vorbis file: its headers can't be read; send it whole"
        ) from None
    if values > MAX_VALUES:
        raise InputError(f"AUDIO is an Ogg Vorbis file with codebooks of over {MAX_VALUES} values; encode it anew")


def _packets(data: bytes) -> Iterator[bytes]:
    """The packets of a file that is one stream without holes."""
    at, packet, stream = 0, bytearray(), None
    for expected in range(1 << 16):
        magic, version, flags, _, serial, number, checksum, count = _HEADER.unpack_from(data, at)
        table = data[at + _HEADER.size : at + _HEADER.size + count]
        end = at + _HEADER.size + count + sum(table)
        whole = len(table) == count and end <= len(data)
        stream = serial if stream is None else stream
        if (magic, version, serial, number) != (b"OggS", 0, stream, expected) or not whole:
            raise _Broken
        if _checksum(data[at : at + 22] + bytes(4) + data[at + 26 : end]) != checksum:
            raise _Broken
        if bool(flags & _CONTINUED) != bool(packet):
            raise _Broken
        body = at + _HEADER.size + count
        for size in table:
            packet += data[body : body + size]
            body += size
            if size < 255:
                yield bytes(packet)
                packet.clear()
        at = end


def _checksum(page: bytes) -> int:
    """Ogg's CRC-32: zlib's polynomial with the bits the other way round, and nothing inverted."""
    crc = zlib.crc32(page.translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{crc:032b}"[::-1], 2)


class _Bits:
    """Numbers of some bits each, the lowest first."""

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
    """Entries x dimensions over all codebooks; the rest is not looked at once they are too many."""
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
    if bits.read(1):  # ordered: how many entries there are of each length
        bits.skip(5)
        left = entries
        for _ in range(32):
            left -= bits.read(left.bit_length())
            if left <= 0:
                break
    elif bits.read(1):  # sparse: some entries are not used
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
    """The largest whole number whose power `dimensions` is at most `entries`."""
    root = int(entries ** (1 / dimensions))
    while (root + 1) ** dimensions <= entries:
        root += 1
    while root**dimensions > entries:
        root -= 1
    return root
