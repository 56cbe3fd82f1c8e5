"""Rewrite the headers of WAV files and of their 64-bit forms RF64, BW64 and W64 with correct sizes.

Many recorders leave wrong sizes: they write to a pipe, crash, or count the header.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from emotion.containers.sizes import available, tolerance
from emotion.errors import InputError

MAX_CHUNKS = 1000
MPEG_TAGS = (0x50, 0x55)  # format tags of MPEG audio: layers I and II, and layer III
_LINEAR_TAGS = (1, 3, 6, 7, 0xFFFE)  # PCM, floating point, A-law, mu-law, extensible: a block is one sample per channel
_UNREADABLE = {0x45: "G.726", 0x64: "G.726", 0xFF: "AAC", 0x160: "WMA", 0x161: "WMA", 0x162: "WMA", 0x2000: "AC-3"}
_W64_RIFF = bytes.fromhex("726966662e91cf11a5d628db04c10000")
# names of chunks that follow the samples
_CHUNK_NAMES = frozenset(
    b"LIST,fact,PEAK,cue ,smpl,inst,bext,iXML,axml,junk,JUNK,PAD ,FLLR,id3 ,ID3 ,acid,cart,DISP,afsp,umid,_PMX".split(
        b","
    )
)


@dataclass(frozen=True)
class Wav:
    """A WAV file reduced to what decoding needs.

    Attributes:
        tag: the format tag of its fmt chunk; 1 is PCM.
        payload: the encoded samples.
        file: a RIFF file with the same format and payload, and with correct sizes.
    """

    tag: int
    payload: bytes
    file: bytes


@dataclass(frozen=True)
class _Chunk:
    """A chunk of a WAV file."""

    name: bytes
    at: int  # byte offset of its body
    size: int  # of its body in bytes, by its header
    next: int  # byte offset of the following chunk


@dataclass(frozen=True)
class _Riff:
    """A file of chunks; a chunk's header is a name and a size, 4 + 4 bytes in RIFF, 16 + 8 bytes in W64."""

    data: bytes
    order: str  # byte order: "<" or ">"
    is_w64: bool

    def chunks(self, at: int) -> Iterator[_Chunk]:
        """Yield the chunks from a byte offset on; the last one may extend beyond the end."""
        header = 24 if self.is_w64 else 8
        for _ in range(MAX_CHUNKS):
            if at + header > len(self.data):
                return
            name, body = self.data[at : at + 4], at + header
            if self.is_w64:  # the size counts the header; chunks begin at multiples of 8
                size = max(0, int(struct.unpack_from("<Q", self.data, at + 16)[0]) - header)
                following = body + size + -size % 8
            else:
                size = int(struct.unpack_from(self.order + "I", self.data, at + 4)[0])
                following = body + size
                if self.data[following : following + 1] == b"\0":  # some writers omit the padding of an odd size
                    following += size & 1
            yield _Chunk(name, body, size, following)
            at = following
        raise InputError(f"AUDIO is a WAV file of over {MAX_CHUNKS} chunks; write it again")

    def are_chunks(self, at: int) -> bool:
        """Return whether chunks begin at a byte offset: a known one, or chunks that end at the end of the file."""
        found = list(self.chunks(at))
        if not found or not all(chunk.name.isascii() and chunk.name.decode().isprintable() for chunk in found):
            return False
        return found[0].name in _CHUNK_NAMES or 0 <= len(self.data) - found[-1].next < 8


def is_wav(data: bytes) -> bool:
    """Return whether data begin like a WAV, RF64, BW64 or W64 file."""
    if data[:16] == _W64_RIFF:
        return b"wave".startswith(data[24:28])
    return data[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and b"WAVE".startswith(data[8:12])


def read(data: bytes) -> Wav:
    """Find the samples of a WAV file and rewrite its header.

    Raises:
        InputError: a chunk or samples are missing, or the file contains several recordings.
    """
    riff = _Riff(data, ">" if data[:4] == b"RIFX" else "<", data[:4] == b"riff")
    bodies: dict[bytes, bytes] = {}
    sound = None
    for chunk in riff.chunks(40 if riff.is_w64 else 12):
        if chunk.name == b"data":
            sound = chunk
            break
        if chunk.name in (b"fmt ", b"fact", b"ds64"):
            bodies.setdefault(chunk.name, data[chunk.at : chunk.at + chunk.size])
    if sound is None:
        raise InputError("AUDIO is a truncated WAV file: it has no data chunk; send it whole")
    if len(bodies.get(b"fmt ", b"")) < 16:
        raise InputError("AUDIO is a damaged WAV file: no fmt chunk comes before its samples; send it whole")
    tag, _, rate, _, block = struct.unpack_from(riff.order + "HHIIH", bodies[b"fmt "])
    if tag in _UNREADABLE:
        raise InputError(f"AUDIO is {_UNREADABLE[tag]} in a WAV file, which is not accepted; send PCM in WAV, or FLAC")
    missing = tolerance(rate, block) if tag in _LINEAR_TAGS else 0
    claimed, bits = sound.size, 64 if riff.is_w64 else 32
    if claimed == 0xFFFFFFFF and not riff.is_w64 and len(bodies.get(b"ds64", b"")) >= 16:
        claimed, bits = int(struct.unpack_from("<Q", bodies[b"ds64"], 8)[0]), 64
    payload = data[sound.at : sound.at + _payload_size(riff, sound.at, claimed, bits, missing)]
    return Wav(tag, payload, _write(riff.order, bodies, payload))


def _payload_size(riff: _Riff, at: int, claimed: int, bits: int, missing: int) -> int:
    """Return the number of bytes of samples from a byte offset on.

    Args:
        riff: the file.
        at: byte offset of the first sample.
        claimed: bytes of samples by the header.
        bits: of the header's size field.
        missing: bytes that may be missing.
    """
    there = len(riff.data) - at
    if claimed == 0 and riff.are_chunks(at):
        return 0
    size = available("WAV", claimed, there, missing, bits)
    if size == there:
        return there
    end = at + size
    for after in (end, end + (-size % 8 if riff.is_w64 else size & 1)):
        if is_wav(riff.data[after : after + 64]):
            raise InputError("AUDIO is two or more WAV files joined; send them one at a time")
        if riff.are_chunks(after):
            if any(chunk.name == b"data" for chunk in riff.chunks(after)):
                raise InputError("AUDIO is a WAV file with several data chunks; send one recording at a time")
            return size
    rest = riff.data[end:]
    if len(rest) <= missing or not rest.strip(b"\0") or rest.startswith((b"TAG", b"APETAGEX")):
        return size
    return there  # the writer did not update the size before it ended


def _write(order: str, bodies: dict[bytes, bytes], payload: bytes) -> bytes:
    parts = [b"WAVE"]
    for name in (b"fmt ", b"fact"):
        if name in bodies:
            parts += [name, struct.pack(order + "I", len(bodies[name])), bodies[name], bytes(len(bodies[name]) & 1)]
    parts += [b"data", struct.pack(order + "I", len(payload)), payload, bytes(len(payload) & 1)]
    form = b"RIFX" if order == ">" else b"RIFF"
    return b"".join([form, struct.pack(order + "I", sum(map(len, parts))), *parts])
