"""Tells whether an encoded audio file ends before it should.

Decoders conceal a missing tail (libsndfile shortens a cut WAV to what is there), and an answer computed from half an
utterance looks like any other. Each container says in its own way how much was meant to be there.
"""

import re
import struct

import soundfile

# Layer III bit rates in kbit/s by index (ISO/IEC 11172-3 and 13818-3, table B.1): MPEG-1, then MPEG-2 and 2.5
_BIT_RATES = (
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)
_SAMPLE_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
# what libsndfile's parser notes of a chunk's size that the file's length contradicts (other fields may lie unharmed)
_CUT_CHUNK = re.compile(r"^(?:.{4}|  Riff size|  Data Size *) : \d+ \(should be \d+\)", re.MULTILINE)
_STREAMED_WAV = 0xFFFFFFFF  # both sizes of a WAV written to a pipe, where the length was not known beforehand


def ends_early(data: bytes, file: soundfile.SoundFile) -> bool:
    """Whether `data`, opened as `file`, lacks a part that its container promises (FLAC shows it while decoding)."""
    match file.format:
        case "MP3":
            return _mp3_ends_early(data)
        case "OGG":
            return _ogg_ends_early(data)
        case _:
            return _CUT_CHUNK.search(file.extra_info) is not None and not _is_streamed_wav(data)


def _is_streamed_wav(data: bytes) -> bool:
    at = data.find(b"data", 12)
    return (
        data[:4] == b"RIFF"
        and len(data) >= at + 8
        and struct.unpack_from("<I", data, 4)[0] == _STREAMED_WAV
        and struct.unpack_from("<I", data, at + 4)[0] == _STREAMED_WAV
    )


def _ogg_ends_early(data: bytes) -> bool:
    """The last Ogg page must be whole and carry the end-of-stream flag (RFC 3533, section 6)."""
    at = data.rfind(b"OggS")
    if at < 0 or len(data) < at + 27:
        return True
    flags, segments = data[at + 5], data[at + 26]
    table = data[at + 27 : at + 27 + segments]
    return not flags & 0x04 or len(table) < segments or len(data) < at + 27 + segments + sum(table)


def _mp3_ends_early(data: bytes) -> bool:
    """Walk the frames: the last must be whole, and there must be as many as a Xing/Info header counts."""
    at = _first_mp3_frame(data)
    promised = frames = 0
    while (length := _mp3_frame_length(data, at)) is not None:
        if at + length > len(data):
            return True
        if frames == 0:
            promised = _xing_frames(data[at : at + length])
        frames += 1
        at += length
    return frames < promised or 0 < len(data) - at < 4


def _first_mp3_frame(data: bytes) -> int:
    """Offset of the first frame: past an ID3v2 tag, at the first header that another header follows."""
    start = 0
    if data[:3] == b"ID3" and len(data) >= 10:
        size = data[6] << 21 | data[7] << 14 | data[8] << 7 | data[9]  # 4 x 7 bits
        start = 10 + size
    at = data.find(b"\xff", start)
    while at >= 0:
        length = _mp3_frame_length(data, at)
        if length is not None and (at + length >= len(data) or _mp3_frame_length(data, at + length) is not None):
            return at
        at = data.find(b"\xff", at + 1)
    return len(data)


def _mp3_frame_length(data: bytes, at: int) -> int | None:
    """Bytes of the Layer III frame whose header starts at `at`, or None where there is no such header."""
    if len(data) < at + 4 or data[at] != 0xFF or data[at + 1] & 0xE0 != 0xE0:
        return None
    version, layer = data[at + 1] >> 3 & 3, data[at + 1] >> 1 & 3
    bit_rate, rate, padding = data[at + 2] >> 4, data[at + 2] >> 2 & 3, data[at + 2] >> 1 & 1
    if version == 1 or layer != 1 or bit_rate in (0, 15) or rate == 3:
        return None
    is_mpeg1 = version == 3
    samples_per_8_bits = 144 if is_mpeg1 else 72
    return samples_per_8_bits * 1000 * _BIT_RATES[not is_mpeg1][bit_rate] // _SAMPLE_RATES[version][rate] + padding


def _xing_frames(frame: bytes) -> int:
    """Frames that a Xing/Info header counts, itself included; 0 where the frame has none or it doesn't say."""
    for marker in (b"Xing", b"Info"):
        at = frame.find(marker, 4, 48)
        if at >= 0 and len(frame) >= at + 12 and frame[at + 7] & 1:
            return int(struct.unpack_from(">I", frame, at + 8)[0]) + 1
    return 0
