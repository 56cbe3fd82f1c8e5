"""Check that an MP4, M4A or QuickTime file is complete, because FFmpeg decodes truncated files without an error.

Large packet counts are rejected, because FFmpeg allocates memory for what a header of a few bytes declares.
"""

import re
import struct
from collections.abc import Iterable, Iterator

from emotion.errors import InputError

MAX_PACKETS = 200_000  # over all tracks; a minute of Opus in packets of 2.5 ms has 24,000
MAX_BOXES = 10_000  # at the top level; a minute in fragments of a packet each has 5,600 (AAC)
MAX_EDITS = 64  # entries of an edit list; FFmpeg's index repeats all packets for each entry
MAX_FRAMES = 60 * 384_000  # of PCM, where each frame counts as a packet
_TOP_LEVEL = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot", b"styp")
# boxes that FFmpeg reads a count from at any depth: packets, packets of a fragment, edits
_COUNTS = re.compile(rb"stsz|stz2|trun|elst|cmov")


def is_mp4(data: bytes) -> bool:
    """Return whether the first box is one that MP4 and QuickTime files begin with."""
    return data[4:8] in _TOP_LEVEL


def check(data: bytes) -> None:
    """Check the boxes of a file.

    Raises:
        InputError: a box is cut or missing, the data are two joined files, or a table declares too many packets.
    """
    names, counted = [], []
    for name, start, end in _boxes(data):
        if end > len(data):
            raise InputError(
                f"AUDIO is a truncated MP4 file: its box {name.decode('latin-1')!r} goes beyond its end; send it whole"
            )
        names.append(name)
        if name != b"mdat":
            counted.append(data[start:end])
    if names.count(b"moov") > 1:
        raise InputError("AUDIO is two or more MP4 files joined; send them one at a time")
    if b"moov" not in names:
        raise InputError("AUDIO is a truncated MP4 file: it has no index (moov); end the recording before you send it")
    for box in counted:
        _check_counts(box, len(data))


def check_index(packets: Iterable[tuple[int, int]], length: int) -> None:
    """Check that the file contains each packet that its index lists.

    Args:
        packets: position and size in bytes of each.
        length: of the file in bytes.

    Raises:
        InputError: a packet ends after the end of the file.
    """
    if any(at + size > length for at, size in packets):
        raise InputError("AUDIO is a truncated MP4 file: its index lists packets that are missing; send it whole")


def _boxes(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name, the start and the end of each box at the top level."""
    at = 0
    for _ in range(MAX_BOXES):
        if at >= len(data):
            return
        if len(data) - at < 8:
            if data[at:].strip(b"\0\r\n"):
                yield b"", at, len(data) + 1
            return
        size, name = struct.unpack_from(">I4s", data, at)
        if size == 1 and len(data) >= at + 16:
            size = int(struct.unpack_from(">Q", data, at + 8)[0])
        elif size == 0:  # 0: up to the end of the file
            size = len(data) - at
        if not name.strip(b"\0") and not data[at:].strip(b"\0"):
            return
        if size < 8:
            raise InputError(f"AUDIO is a damaged MP4 file: no box begins at byte {at}; send it whole")
        yield name, at, at + size
        at += size
    raise InputError(f"AUDIO is an MP4 file of over {MAX_BOXES} boxes; send one utterance at a time")


def _check_counts(box: bytes, length: int) -> None:
    packets = 0
    for found in _COUNTS.finditer(box):
        at, name = found.end(), found[0]
        if name == b"cmov":
            raise InputError("AUDIO is a QuickTime file with a compressed index; send M4A, WAV, FLAC or MP3")
        if len(box) < at + 12:
            continue
        first, second = struct.unpack_from(">II", box, at + 4)  # after the version and flags
        if name == b"elst":
            if first <= MAX_EDITS:
                continue
            raise InputError(f"AUDIO is an MP4 file with over {MAX_EDITS} edits; export it again as one piece")
        if name == b"trun":
            packets += first
        elif name == b"stz2" or not first or second > min(MAX_FRAMES, length):
            packets += second
    if packets > MAX_PACKETS:
        raise InputError(f"AUDIO is an MP4 file that promises over {MAX_PACKETS} packets; send one utterance at a time")
