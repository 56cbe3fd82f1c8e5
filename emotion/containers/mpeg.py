"""MPEG audio without a container: the frames of MP3 (layers II and III) and of AAC in ADTS, one after the other."""

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from emotion.errors import InputError

DECODER_DELAY = 529  # samples that an MP3 decoder is late (LAME's technical FAQ; FFmpeg's libavformat/mp3dec.c)
MAX_TAGS = 16  # before the first frame; some programs add another instead of changing one
MAX_STRAY_BYTES = 1 << 16  # behind the last frame, or zeros before the first

# bit rates in kbit/s by index (ISO/IEC 11172-3 and 13818-3): layer III and layer II of MPEG-1, both of MPEG-2 and 2.5
_RATES_1_3 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_RATES_1_2 = (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384)
_RATES_2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_SAMPLE_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_ADTS_RATES = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350)
DECODERS = {3: "mp3float", 2: "mp2float", 0: "aac"}  # FFmpeg's, by layer; 0 is AAC
_MPEG_SYNC = re.compile(rb"\xff[\xe2-\xe5\xf2-\xf5\xfa-\xfd]")
_ADTS_SYNC = re.compile(rb"\xff[\xf0\xf1\xf8\xf9]")


@dataclass(frozen=True)
class Frame:
    """A frame of MPEG audio.

    Attributes:
        at: where its header begins.
        size: bytes, with its header.
        samples: of each channel.
        rate: samples per second.
        layer: 2 or 3; 0 for AAC.
    """

    at: int
    size: int
    samples: int
    rate: int
    layer: int


@dataclass(frozen=True)
class Gapless:
    """What the first frame of an MP3 says of the others, where it is a Xing, Info or VBRI header.

    Attributes:
        frames: that follow; 0 where it does not say.
        is_gapless: whether it says what the encoder put before and behind the sound.
        delay, padding: the samples of it.
    """

    frames: int
    is_gapless: bool = False
    delay: int = 0
    padding: int = 0


Header = Callable[[bytes, int], Frame | None]


def mp3_header(data: bytes, at: int) -> Frame | None:
    """Read the header of an MPEG audio frame, layers II and III; None where there is none."""
    if len(data) < at + 4 or data[at] != 0xFF or data[at + 1] & 0xE0 != 0xE0:
        return None
    version, layer = data[at + 1] >> 3 & 3, 4 - (data[at + 1] >> 1 & 3)
    bit_rate, rate, padding = data[at + 2] >> 4, data[at + 2] >> 2 & 3, data[at + 2] >> 1 & 1
    if version == 1 or layer not in (2, 3) or bit_rate in (0, 15) or rate == 3:
        return None
    samples = 1152 if version == 3 or layer == 2 else 576
    kbits = (_RATES_1_3 if layer == 3 else _RATES_1_2) if version == 3 else _RATES_2
    hertz = _SAMPLE_RATES[version][rate]
    return Frame(at, samples // 8 * 1000 * kbits[bit_rate] // hertz + padding, samples, hertz, layer)


def adts_header(data: bytes, at: int) -> Frame | None:
    """Read the header of an ADTS frame (ISO/IEC 13818-7, section 6.2); None where there is none."""
    if (
        len(data) < at + 7
        or data[at] != 0xFF
        or data[at + 1] & 0xF6 != 0xF0
        or data[at + 2] >> 2 & 15 >= len(_ADTS_RATES)
    ):
        return None
    size = (data[at + 3] & 3) << 11 | data[at + 4] << 3 | data[at + 5] >> 5
    return Frame(at, size, 1024, _ADTS_RATES[data[at + 2] >> 2 & 15], 0) if size > 7 else None


NAMES: dict[Header, str] = {mp3_header: "MP3", adts_header: "AAC"}


def frames(data: bytes, header: Header) -> Iterator[Frame]:
    """Yield the frames of a file, past its tags.

    Args:
        data: the file.
        header: `mp3_header` or `adts_header`.

    Raises:
        InputError: the last frame is cut, or something else is between frames.
    """
    name = NAMES[header]
    at = first_frame(data, header)
    if at is None:
        raise InputError(f"AUDIO is a truncated or damaged {name} file: it has no frames; send it whole")
    start = at
    while at < len(data):
        frame = header(data, at)
        if frame is None:
            following = _skip_tag(data, at)
            if following == at and _is_cut_header(data, at, start, header):
                raise InputError(f"AUDIO is a truncated {name} file: its last frame is cut; send it whole")
            if following == at:  # stray bytes behind the last frame, or damage before the next?
                found = _next_frame(data, at, header)
                if found is None and len(data) - at <= MAX_STRAY_BYTES:
                    return
                if found is None or data[at:found].strip(b"\0"):
                    raise InputError(f"AUDIO is a damaged {name} file: no frame begins at byte {at}; send it whole")
                following = found
            at = following
            continue
        if at + frame.size > len(data):
            raise InputError(f"AUDIO is a truncated {name} file: its last frame is cut; send it whole")
        yield frame
        at += frame.size


def first_frame(data: bytes, header: Header) -> int | None:
    """Return where the first frame begins: past tags and zeros, where others follow; None where there is none."""
    at = len(data) - len(data[after_id3(data) :].lstrip(b"\0"))
    seen, following = _row(data, at, header)
    if seen and following > len(data) - 128:  # few, the last of which is cut or before a tag
        return at
    return _next_frame(data, at, header)


def after_id3(data: bytes) -> int:
    """Return how long the ID3v2 tags are that a file begins with."""
    at = 0
    for _ in range(MAX_TAGS):
        at = _skip_id3(data, at)
    return at


def gapless(data: bytes, frame: Frame) -> Gapless | None:
    """Read the Xing, Info or VBRI header in an MP3's first frame; None where it holds sound instead."""
    body = data[frame.at : frame.at + frame.size]
    if body[36:40] == b"VBRI" and len(body) >= 54:
        return Gapless(int(struct.unpack_from(">I", body, 50)[0]))
    at = max(body.find(b"Xing", 4, 48), body.find(b"Info", 4, 48))
    if at < 0 or len(body) < at + 8:
        return None
    flags = body[at + 7]
    count = int(struct.unpack_from(">I", body, at + 8)[0]) if flags & 1 and len(body) >= at + 12 else 0
    encoder = at + 8 + 4 * (flags & 1) + 4 * (flags >> 1 & 1) + 100 * (flags >> 2 & 1) + 4 * (flags >> 3 & 1)
    if body[encoder : encoder + 4] not in (b"LAME", b"Lavf", b"Lavc") or len(body) < encoder + 24:
        return Gapless(count)
    padding = int.from_bytes(body[encoder + 21 : encoder + 24], "big")
    return Gapless(count, True, padding >> 12, padding & 0xFFF)


def _skip_id3(data: bytes, at: int) -> int:
    if data[at : at + 3] != b"ID3" or len(data) < at + 10:
        return at
    size = data[at + 6] << 21 | data[at + 7] << 14 | data[at + 8] << 7 | data[at + 9]  # 4 x 7 bits
    return at + 10 + size + 10 * (data[at + 5] >> 4 & 1)  # a footer


def _skip_tag(data: bytes, at: int) -> int:
    """Return where the tag at `at` ends: ID3v2, ID3v1, APE or Lyrics3."""
    if data[at : at + 3] == b"TAG":
        return at + (227 if data[at + 3 : at + 4] == b"+" else 128)
    if data[at : at + 8] == b"APETAGEX" and len(data) >= at + 32:
        size, is_header = struct.unpack_from("<I", data, at + 12)[0], data[at + 23] & 0x20
        return at + 32 + (size if is_header else 0)
    if data[at : at + 11] == b"LYRICSBEGIN":
        end = max(data.find(b"LYRICS200", at), data.find(b"LYRICSEND", at))
        return end + 9 if end >= 0 else at
    return _skip_id3(data, at)


def _next_frame(data: bytes, at: int, header: Header) -> int | None:
    """Return where the first of three frames in a row begins, or of fewer that end where the file does."""
    sync = _MPEG_SYNC if header is mp3_header else _ADTS_SYNC
    end = min(len(data), at + MAX_STRAY_BYTES)
    while found := sync.search(data, at, end):
        at = found.start()
        seen, following = _row(data, at, header)
        if seen == 3 or (seen and following == len(data)):
            return at
        at += 1
    return None


def _row(data: bytes, at: int, header: Header) -> tuple[int, int]:
    """Count the frames in a row that begin at `at`, up to three; and where the last of them ends."""
    seen = 0
    while seen < 3 and (frame := header(data, at)) is not None:
        seen, at = seen + 1, at + frame.size
    return seen, at


def _is_cut_header(data: bytes, at: int, start: int, header: Header) -> bool:
    """Tell whether the file ends within the header of another frame like the first."""
    rest = data[at:]
    length = 4 if header is mp3_header else 7
    mask = (0xFF, 0xFE, 0x0C, 0, 0, 0, 0)[: len(rest)]
    return len(rest) < length and all(a & m == b & m for a, b, m in zip(rest, data[start:], mask, strict=False))
