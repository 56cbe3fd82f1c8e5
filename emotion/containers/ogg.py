"""Check the pages of an Ogg file (RFC 3533), and split chained streams into one file each."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from emotion.errors import InputError

MAX_PAGES = 100_000  # a minute of Opus with a page per packet of 2.5 ms has 24,000
MAX_LINKS = 64  # chained streams
_HEADER = struct.Struct("<4sBBqIIIB")  # OggS, version, flags, granule, stream, number, checksum, segments
_FIRST = 2  # flag of the first page of a stream
_MIRRORED_BYTES = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_CODECS = (b"\x01vorbis", b"OpusHead", b"\x7fFLAC")  # first bytes of Vorbis, Opus and FLAC streams


@dataclass(frozen=True)
class _Page:
    """A page of an Ogg stream."""

    body: bytes
    segments: bytes  # length of each piece of a packet; after 255 the packet continues
    is_first: bool
    stream: int
    number: int
    whole: bytes


def links(data: bytes) -> Iterator[bytes]:
    """Yield each chained stream of sound as a file, in playing order.

    Raises:
        InputError: a page is missing, damaged or cut, the last packet is not complete, or there is no sound.
    """
    chain: list[dict[int, list[_Page]]] = []
    is_head = False
    for page in _pages(data):
        if page.is_first and not is_head:
            chain.append({})
        is_head = page.is_first
        streams = chain[-1] if chain else {}
        if page.is_first:
            streams[page.stream] = [page]
        elif page.stream not in streams:
            raise InputError("AUDIO is a damaged Ogg file: a page belongs to no stream; send it whole")
        elif page.number != streams[page.stream][-1].number + 1:
            raise InputError("AUDIO is a truncated or damaged Ogg file: a page is missing; send it whole")
        else:
            streams[page.stream].append(page)
        if len(chain) > MAX_LINKS:
            raise InputError(f"AUDIO is an Ogg file of over {MAX_LINKS} chained streams; send one utterance at a time")
    for streams in chain:
        yield _link(streams)


def _link(streams: dict[int, list[_Page]]) -> bytes:
    """Return the first stream of sound among simultaneous streams as a file."""
    for pages in streams.values():
        if not pages[0].body.startswith(_CODECS):
            continue
        if pages[-1].segments.endswith(b"\xff"):
            raise InputError("AUDIO is a truncated Ogg file: its last packet is cut; send it whole")
        return b"".join(page.whole for page in pages)
    what = "Speex" if any(pages[0].body.startswith(b"Speex   ") for pages in streams.values()) else "no sound"
    raise InputError(f"AUDIO is an Ogg file with {what} in it; Opus, Vorbis and FLAC are accepted there")


def _pages(data: bytes) -> Iterator[_Page]:
    """Yield the pages; zeros and stray bytes after the last one are ignored."""
    at = 0
    for _ in range(MAX_PAGES):
        if at >= len(data):
            return
        if data[at : at + 4] != b"OggS"[: len(data) - at]:
            if data.find(b"OggS", at) >= 0:
                raise InputError(f"AUDIO is a damaged Ogg file: no page begins at byte {at}; send it whole")
            return
        body = at + _HEADER.size + (data[at + 26] if at + 26 < len(data) else 0)
        segments = data[at + _HEADER.size : body]
        end = body + sum(segments)
        if len(data) < max(at + _HEADER.size, end):
            raise InputError("AUDIO is a truncated Ogg file: its last page is cut; send it whole")
        _, _, flags, _, stream, number, checksum, _ = _HEADER.unpack_from(data, at)
        if page_checksum(data[at:end]) != checksum:
            raise InputError(f"AUDIO is a damaged Ogg file: the checksum of page {number} is wrong; send it whole")
        whole = data[at:end]
        yield _Page(data[body:end], segments, bool(flags & _FIRST), stream, number, whole)
        at = end
    raise InputError(f"AUDIO is an Ogg file of over {MAX_PAGES} pages; send one utterance at a time")


def page_checksum(page: bytes) -> int:
    """Return the CRC-32 of a page (RFC 3533, section 6), whatever its checksum field holds.

    Ogg's CRC uses zlib's polynomial 0x04C11DB7 with mirrored bits, and inverts nothing.
    """
    zeroed = page[:22] + bytes(4) + page[26:]
    crc = zlib.crc32(zeroed.translate(_MIRRORED_BYTES), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{crc:032b}"[::-1], 2)
