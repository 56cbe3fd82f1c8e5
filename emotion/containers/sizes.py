"""Interpret the size fields of uncompressed files, and decide how many missing bytes are tolerated."""

from emotion.errors import InputError

TAIL_S = 0.05  # seconds that may be missing at the end: a recorder's last buffer
MIN_PLACEHOLDER = 0x7FFFF000  # bytes; larger 32-bit sizes mean "unknown" (sox, FFmpeg, phone recorders)
PLACEHOLDER_RANGE = range(2_000_000_000 - 65_536, 2_000_000_001)  # bytes; other writers' sizes that mean "unknown"


def is_placeholder(size: int, bits: int = 32) -> bool:
    """Return whether a size in bytes, from a field of 32 or 64 bits, means "until the end of the file"."""
    if bits == 64 and size > 0xFFFFFFFF:
        return size >= 1 << 62
    return size == 0 or size >= MIN_PLACEHOLDER or size in PLACEHOLDER_RANGE


def tolerance(rate: int, block: int) -> int:
    """Return the number of missing bytes that are tolerated: TAIL_S of samples, at least one per channel.

    Args:
        rate: in Hz.
        block: bytes of one sample of all channels.
    """
    return max(block, int(TAIL_S * rate) * block)


def available(name: str, claimed: int, there: int, missing: int, bits: int = 32) -> int:
    """Return the number of bytes of samples to read.

    Args:
        name: of the container, for the error message.
        claimed: bytes of samples by the header.
        there: bytes from the first sample to the end of the file.
        missing: bytes that may be missing.
        bits: of the header's size field.

    Raises:
        InputError: more bytes are missing.
    """
    if is_placeholder(claimed, bits):
        return there
    if claimed > there + missing:
        raise InputError(
            f"AUDIO is a truncated {name} file: its header promises {claimed} bytes of samples, {there} are there; "
            "send it whole"
        )
    return min(claimed, there)
