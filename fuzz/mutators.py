"""Structured mutations that random bit changes would rarely find: sizes of chunks, and matching checksums."""

import random
import re
import struct

from emotion.containers.ogg import page_checksum

# tags that containers write before or after the size of a chunk
_TAG = re.compile(
    rb"RIFF|RIFX|RF64|ds64|fmt |data|fact|LIST|FORM|COMM|SSND|\.snd|fLaC|OggS|vorbis|OpusHead|ID3|Xing|Info"
    rb"|ftyp|moov|mvhd|trak|edts|elst|mdia|stbl|stsd|stts|stsc|stsz|stco|mp4a|esds|mdat|moof|tfhd|trun|\x1aE\xdf\xa3|\x18S\x80g|\x16T\xaek"
    rb"|\x1fC\xb6u|A_OPUS|A_VORBIS|\xff[\xf1\xf9\xfb]"
)
_ODD = (0, 1, 2, 3, 7, 8, 16, 255, 256, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)


def odd_field(data: bytes, chance: random.Random) -> bytes:
    """Return the file with a number near a container's tag replaced by a boundary value.

    Args:
        data: the file.
        chance: the source of randomness.
    """
    tags = [found.start() for found in _TAG.finditer(data[:65536])]
    at = chance.choice(tags) + chance.randrange(-8, 32) if tags else chance.randrange(len(data))
    size, order = chance.choice((1, 2, 4, 8)), chance.choice("<>")
    value = chance.choice((chance.choice(_ODD), len(data), len(data) - at, chance.randrange(1 << 16)))
    field = struct.pack(order + "Q", value % (1 << 8 * size))
    field = field[:size] if order == "<" else field[-size:]
    at = min(max(at, 0), len(data))
    return data[:at] + field + data[at + size :]


def moved(data: bytes, chance: random.Random) -> bytes:
    """Return the file with the bytes at one tag copied to another tag, replacing its bytes or inserted before them."""
    tags = [found.start() for found in _TAG.finditer(data[:65536])]
    if not tags:
        return data
    source, to = chance.choice(tags), chance.choice(tags)
    piece = data[source : source + chance.randrange(1, 64)]
    return data[:to] + piece + data[to + chance.choice((0, len(piece))) :]


def with_ogg_checksums(data: bytes) -> bytes:
    """Return the file with correct checksums of all Ogg pages, because readers reject others (RFC 3533, section 6)."""
    whole, at = bytearray(data), data.find(b"OggS")
    while 0 <= at <= len(data) - 27:
        table = data[at + 27 : at + 27 + data[at + 26]]
        end = at + 27 + len(table) + sum(table)
        whole[at + 22 : at + 26] = page_checksum(bytes(whole[at:end])).to_bytes(4, "little")
        at = data.find(b"OggS", max(end, at + 4))
    return bytes(whole)


# (first, last) code point of scripts that are difficult for text front-ends
_SCRIPTS = (
    *((0x20, 0x7E), (0x00, 0x1F), (0x80, 0x24F), (0x300, 0x36F), (0x370, 0x6FF), (0x900, 0xDFF), (0xE00, 0x10FF)),
    *((0x1100, 0x11FF), (0x1E00, 0x1FFF), (0x2000, 0x206F), (0x2070, 0x24FF), (0x2600, 0x27BF), (0x3000, 0x33FF)),
    *((0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xE000, 0xE0FF), (0xFB00, 0xFDFF), (0xFE00, 0xFE0F), (0xFE10, 0xFFFF)),
    *((0x10000, 0x105FF), (0x11000, 0x11FFF), (0x1D100, 0x1D7FF), (0x1F100, 0x1FAFF), (0x2F800, 0x2FA1F)),
    *((0xE0000, 0xE01EF), (0x10FF00, 0x10FFFF)),
)


def edited_text(data: bytes, chance: random.Random) -> bytes:
    """Return the text with some characters inserted, removed, repeated or moved, as valid UTF-8."""
    text = data.decode("utf-8", "ignore")
    for _ in range(chance.randrange(1, 8)):
        at, end = sorted(chance.randrange(len(text) + 1) for _ in range(2))
        piece = text[at : min(end, at + 32)]
        match chance.randrange(5):
            case 0 | 1:
                script = chance.choice(_SCRIPTS)
                new = "".join(chr(chance.randint(*script)) for _ in range(chance.randrange(1, 6)))
                text = text[:at] + new + text[at:]
            case 2:
                text = text[:at] + text[at + len(piece) :]
            case 3:
                text = text[:at] + piece * chance.randrange(2, 20) + text[at:]
            case 4:
                text = text[:at] + text[at + len(piece) :] + piece
    return text.encode("utf-8", "ignore")  # without lone surrogates
