"""What the size fields of uncompressed files mean, and how much of what they promise may be missing."""

from emotion.errors import InputError

TAIL_S = 0.05  # s that may be missing at the end: a recorder's last buffer
PLACEHOLDER = 0x7FFFF000  # bytes: 32-bit sizes from here on mean "not known yet" (sox, FFmpeg, recorders of phones)
PLACEHOLDERS = range(2_000_000_000 - 65_536, 2_000_000_001)  # bytes: the same, of other writers


def is_placeholder(size: int, bits: int = 32) -> bool:
    """Tell whether a size in bytes, from a field of 32 or 64 bits, stands for "until the end of the file"."""
    if bits == 64 and size > 0xFFFFFFFF:
        return size >= 1 << 62
    return size == 0 or size >= PLACEHOLDER or size in PLACEHOLDERS


def tolerance(rate: int, block: int) -> int:
    """Return the bytes that may be missing of uncompressed samples: TAIL_S, and at least one sample of each channel.

    Args:
        rate: samples per second.
        block: bytes of one sample of each channel.
    """
    return max(block, int(TAIL_S * rate) * block)


def available(name: str, claimed: int, there: int, missing: int, bits: int = 32) -> int:
    """Return how many bytes of samples to read.

    Args:
        name: the container's.
        claimed: by the header, in a field of `bits` bits.
        there: from the samples' beginning to the end of the file.
        missing: that may be missing.

    Raises:
        InputError: more is missing.
    """
    if is_placeholder(claimed, bits):
        return there
    if claimed > there + missing:
        raise InputError(
            f"AUDIO is a truncated {name} file: its header promises {claimed} bytes of samples, {there} are there; "
            "send it whole"
        )
    return min(claimed, there)
