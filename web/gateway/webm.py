"""Tells whether a WebM (Matroska) file was cut: FFmpeg decodes what is there and says nothing.

Matroska is EBML (RFC 8794): elements of an ID, a size and a body. Segments and clusters hold other elements, and may be
of unknown size where they were written as they came, as browsers do; everything in a cluster has its size.
"""

_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675
_BLOCKS = (0xA3, 0xA0)  # SimpleBlock, BlockGroup
_UNKNOWN = -1  # size


def ends_early(data: bytes) -> bool:
    """Whether an element goes on behind the end of `data`, or no sound was written."""
    at, blocks = 0, 0
    while at < len(data):
        element, at = _number(data, at, marked=True)
        size, at = _number(data, at, marked=False)
        if element is None or size is None:
            return True
        blocks += element in _BLOCKS
        if element not in (_SEGMENT, _CLUSTER):
            at += size
        elif at + size > len(data):
            return True
    return at > len(data) or not blocks


def _number(data: bytes, at: int, marked: bool) -> tuple[int | None, int]:
    """A number of variable length, and where it ends: None where the data end before it does.

    Leading zero bits of the first byte say how many bytes follow. An ID keeps the bit that ends them; a size does not,
    and one of ones alone stands for unknown.
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
