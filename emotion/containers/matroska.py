"""Check that a WebM or Matroska file is complete, because FFmpeg decodes truncated files without an error.

Matroska is EBML (RFC 8794): elements of an ID, a size and a body. Segments and clusters contain other elements. Their
size may be unknown if they were streamed, as browsers do; elements in a cluster have sizes.
"""

from emotion.errors import InputError

MAGIC = b"\x1a\x45\xdf\xa3"
_SEGMENT, _CLUSTER, _EBML = 0x18538067, 0x1F43B675, 0x1A45DFA3
_BLOCKS = (0xA3, 0xA0)  # SimpleBlock, BlockGroup
_UNKNOWN = -1  # size
MAX_ELEMENTS = 200_000  # a minute of Opus in blocks of 2.5 ms has 24,000


def check(data: bytes) -> None:
    """Check the elements of a file.

    Raises:
        InputError: an element is cut, the data are two joined files, or the file has no blocks of sound.
    """
    at, blocks, files = 0, 0, 0
    truncated = InputError("AUDIO is a truncated WebM file: its last element is cut; send it whole")
    for _ in range(MAX_ELEMENTS):
        if not data[at : at + 8].strip(b"\0\r\n"):  # the end, or stray bytes after it
            break
        element, at = _number(data, at, marked=True)
        size, at = _number(data, at, marked=False)
        if element is None or size is None:
            raise truncated
        blocks += element in _BLOCKS
        files += element == _EBML
        if element not in (_SEGMENT, _CLUSTER):
            if size == _UNKNOWN:
                raise InputError(
                    f"AUDIO is a damaged WebM file: the element before byte {at} has no size; send it whole"
                )
            at += size
        elif at + size > len(data):
            raise truncated
    else:
        raise InputError(f"AUDIO is a WebM file of over {MAX_ELEMENTS} elements; send one utterance at a time")
    if at > len(data) or not blocks:
        raise truncated
    if files > 1:
        raise InputError("AUDIO is two or more WebM files joined; send them one at a time")


def _number(data: bytes, at: int, marked: bool) -> tuple[int | None, int]:
    """Read a number of variable length.

    The leading zero bits of the first byte give the number of bytes that follow. An ID (`marked`) includes the one bit
    after them, a size does not. A size of only one bits means unknown.

    Returns:
        The number, None if the data end first, _UNKNOWN for an unknown size; and the position behind it.
    """
    if at >= len(data) or not data[at]:
        return None, at
    length = 9 - data[at].bit_length()
    if at + length > len(data):
        return None, at
    value = int.from_bytes(data[at : at + length], "big")
    if marked:
        return value, at + length
    ones = (1 << 7 * length) - 1
    return (_UNKNOWN if value & ones == ones else value & ones), at + length
