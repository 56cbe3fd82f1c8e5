"""Create Ogg Vorbis files of a few hundred bytes that declare codebooks of any size."""

import struct


class Bits:
    """A writer of numbers with any number of bits, lowest bit first."""

    def __init__(self) -> None:
        self._value, self._length = 0, 0

    def put(self, *fields: tuple[int, int]) -> None:
        """Append (value, bits)."""
        for value, bits in fields:
            self._value |= value << self._length
            self._length += bits

    def __bytes__(self) -> bytes:
        return self._value.to_bytes((self._length + 7) // 8, "little")


def page(number: int, flags: int, *packets: bytes, granule: int = 0) -> bytes:
    """Return an Ogg page of complete packets (RFC 3533, section 6)."""
    table = b"".join(bytes([255] * (len(packet) // 255) + [len(packet) % 255]) for packet in packets)
    start = b"OggS\0" + struct.pack("<BqII", flags, granule, 1, number)
    rest = bytes([len(table)]) + table + b"".join(packets)
    crc = 0
    for byte in start + bytes(4) + rest:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C11DB7 if crc & 0x80000000 else 0)) & 0xFFFFFFFF
    return start + struct.pack("<I", crc) + rest


def codebooks(count: int, bits: int) -> bytes:
    """Return a valid file with `count` codebooks of 2**bits entries with words of `bits` bits, and an empty packet."""
    identification = b"\x01vorbis" + struct.pack("<IBIiiiBB", 0, 1, 16_000, 0, 0, 0, 0xB8, 1)
    comment = b"\x03vorbis" + bytes(8) + b"\x01"
    setup = Bits()
    setup.put((count - 1, 8))
    for _ in range(count):
        ordered = ((1, 1), (bits - 1, 5), (1 << bits, bits + 1))
        setup.put((0x564342, 24), (1, 16), (1 << bits, 24), *ordered, (0, 4))
    time, floor = ((0, 6), (0, 16)), ((0, 6), (1, 16), (0, 5), (0, 2), (4, 4))
    residue = ((0, 6), (0, 16), (0, 24), (0, 24), (0, 24), (0, 6), (0, 8), (0, 3), (0, 1))
    mapping = ((0, 6), (0, 16), (0, 1), (0, 1), (0, 2), (0, 8), (0, 8), (0, 8))
    mode = ((0, 6), (0, 1), (0, 16), (0, 16), (0, 8), (1, 1))
    setup.put(*time, *floor, *residue, *mapping, *mode)
    return page(0, 2, identification) + page(1, 0, comment, b"\x05vorbis" + bytes(setup)) + page(2, 4, b"\0", granule=4)
