"""Find the frames of MPEG audio without a container: MP3 (layers II and III) and AAC in ADTS."""

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from emotion.errors import InputError

DECODER_DELAY = 529  # samples of delay of an MP3 decoder (LAME's technical FAQ; FFmpeg's libavformat/mp3dec.c)
MAX_TAGS = 16  # before the first frame; some programs add a tag instead of changing one
MAX_STRAY_BYTES = 1 << 16  # after the last frame, or zeros before the first

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
        at: byte offset of its header.
        size: in bytes, including its header.
        samples: per channel.
        rate: in Hz.
        layer: 2 or 3; 0 for AAC.
    """

    at: int
    size: int
    samples: int
    rate: int
    layer: int


@dataclass(frozen=True)
class Gapless:
    """The Xing, Info or VBRI header in the first frame of an MP3.

    Attributes:
        frames: number of frames that follow; 0 if the header does not give it.
        is_gapless: whether the header gives the encoder's delay and padding.
        delay, padding: samples that the encoder added before and after the sound.
    """

    frames: int
    is_gapless: bool = False
    delay: int = 0
    padding: int = 0


Header = Callable[[bytes, int], Frame | None]


def mp3_header(data: bytes, at: int) -> Frame | None:
    """Return the frame whose MPEG audio header (layer II or III) is at a byte offset, or None."""
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
    """Return the frame whose ADTS header (ISO/IEC 13818-7, section 6.2) is at a byte offset, or None."""
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
    """Yield the frames of a file without its tags.

    Args:
        data: the file.
        header: `mp3_header` or `adts_header`.

    Raises:
        InputError: the last frame is cut, or other data lie between frames.
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
    """Return the byte offset of the first frame after tags and zeros that other frames follow, or None."""
    at = len(data) - len(data[after_id3(data) :].lstrip(b"\0"))
    seen, following = _row(data, at, header)
    if seen and following > len(data) - 128:  # a short file, whose last frame is cut or before a tag
        return at
    return _next_frame(data, at, header)


def after_id3(data: bytes) -> int:
    """Return the total size in bytes of the ID3v2 tags at the beginning of a file."""
    at = 0
    for _ in range(MAX_TAGS):
        at = _skip_id3(data, at)
    return at


def gapless(data: bytes, frame: Frame) -> Gapless | None:
    """Return the Xing, Info or VBRI header in an MP3's first frame, or None if the frame is sound."""
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
    """Return the end of the ID3v2, ID3v1, APE or Lyrics3 tag at a byte offset, or the offset itself."""
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
    """Return the byte offset of the first of three consecutive frames, or of fewer at the end of the file, or None."""
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
    """Return the number of consecutive frames from a byte offset, at most three, and the end of the last one."""
    seen = 0
    while seen < 3 and (frame := header(data, at)) is not None:
        seen, at = seen + 1, at + frame.size
    return seen, at


def _is_cut_header(data: bytes, at: int, start: int, header: Header) -> bool:
    """Return whether the file ends within the header of a frame like the first."""
    rest = data[at:]
    length = 4 if header is mp3_header else 7
    mask = (0xFF, 0xFE, 0x0C, 0, 0, 0, 0)[: len(rest)]
    return len(rest) < length and all(a & m == b & m for a, b, m in zip(rest, data[start:], mask, strict=False))
