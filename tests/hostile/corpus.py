"""Invalid and unusual utterances with their expected outcomes.

They are the same in every run, apart from the serial numbers in Ogg files.

Groups are generators of `Case`s, and `utterances()` yields all groups.
"""

import io
import random
import struct
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import soundfile
from numpy.typing import NDArray

from emotion.audio import SAMPLE_RATE
from emotion.decoding import MAX_SAMPLES
from emotion.text import MAX_BYTES
from tests.encoding import CONTAINERS, encode, encode_with_ffmpeg
from tests.hostile import vorbis

SEED = 7
Outcome = Literal["answered", "rejected", "either"]  # either: random damage decides

LONGEST = "the longest recording at the highest rate"

FORMATS = {  # file name ending: format and subtype of libsndfile
    "wav": ("WAV", "PCM_16"),
    "float.wav": ("WAV", "FLOAT"),
    "adpcm.wav": ("WAV", "MS_ADPCM"),
    "gsm.wav": ("WAV", "GSM610"),
    "wavex": ("WAVEX", "PCM_24"),
    "rf64": ("RF64", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "vorbis.ogg": ("OGG", "VORBIS"),
    "opus.ogg": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}
UNCOMPRESSED = ("wav", "float.wav", "wavex", "rf64", "w64", "aiff", "au")  # the last 50 ms may be missing
ACCEPTED = (*FORMATS, *CONTAINERS)
# formats of libsndfile in which truncation can't be detected
UNSUPPORTED = {
    "avr": ("AVR", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "alac.caf": ("CAF", "ALAC_16"),
    "htk": ("HTK", "PCM_16"),
    "svx": ("SVX", "PCM_16"),
    "mat4": ("MAT4", "PCM_16"),
    "mat5": ("MAT5", "FLOAT"),
    "mpc2k": ("MPC2K", "PCM_16"),
    "paf": ("PAF", "PCM_16"),
    "pvf": ("PVF", "PCM_16"),
    "sds": ("SDS", "PCM_16"),
    "ircam": ("IRCAM", "PCM_16"),
    "voc": ("VOC", "PCM_16"),
    "nist": ("NIST", "PCM_16"),
    "xi": ("XI", "DPCM_16"),
}


@dataclass(frozen=True)
class Case:
    """An utterance and its expected outcome.

    Attributes:
        group, name: description of the case.
        audio, text: the bytes that are sent.
        expected: the outcome.
        says: words that the error message of a rejection must contain.
    """

    group: str
    name: str
    audio: bytes
    text: bytes
    expected: Outcome
    says: str = ""


@cache
def voice(seconds: float = 1.0, rate: int = SAMPLE_RATE) -> NDArray[np.float32]:
    """Return a voice-like sound with pitch and noise, float32 [n]; it is the same in every call."""
    time = np.arange(int(seconds * rate)) / rate
    breath = np.random.default_rng(SEED).standard_normal(time.size)
    pitch = np.sin(2 * np.pi * 140 * time) * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * time))
    return (0.3 * pitch + 0.03 * breath).astype(np.float32)


@cache
def file(ending: str) -> bytes:
    """Return a valid file of one second."""
    return (
        encode_with_ffmpeg(voice(), ending)
        if ending in CONTAINERS
        else encode(voice(), *(FORMATS | UNSUPPORTED)[ending])
    )


def silence(seconds: int, kind: str, subtype: str, rate: int, channels: int) -> bytes:
    """Return a small file with long silence."""
    buffer = io.BytesIO()
    block = np.zeros((rate, channels), np.int16)
    with soundfile.SoundFile(buffer, "w", rate, channels, subtype, format=kind) as out:
        for _ in range(seconds):
            out.write(block)
    return buffer.getvalue()


def patched(data: bytes, at: int, layout: str, *values: int) -> bytes:
    """Return the file with overwritten header fields."""
    changed = bytearray(data)
    struct.pack_into(layout, changed, at, *values)
    return bytes(changed)


def utterances() -> Iterator[Case]:
    """Yield the cases of all groups."""
    for group in (
        valid,
        truncated,
        unsupported_formats,
        damaged,
        invalid_wav_headers,
        invalid_other_headers,
        bombs,
        numbers,
        rates,
        channel_counts,
        not_audio,
        unicode_text,
        raw_text,
    ):
        yield from group()


def valid() -> Iterator[Case]:
    """Yield a valid file of every accepted format, as a control."""
    for ending in ACCEPTED:
        yield Case("valid", ending, file(ending), b"he was not an ill-disposed young man", "answered")


def truncated() -> Iterator[Case]:
    """Yield every format, truncated in its magic number, header, samples and end."""
    for ending in ACCEPTED:
        data = file(ending)
        shares = (
            0.03,
            0.1,
            0.25,
            0.5,
            0.75,
            0.9,
            0.94 if ending in UNCOMPRESSED else 0.99,
        )  # 50 ms may be missing there
        cuts = {1, 4, 8, 12, 22, 30, 43, *(int(len(data) * share) for share in shares), len(data) - 2}
        if ending in UNCOMPRESSED:
            cuts.remove(len(data) - 2)
            yield Case("truncated", f"{ending} without its last bytes", data[:-2], b"hello", "answered")
        for cut in sorted(cuts):
            yield Case("truncated", f"{ending} at {cut} of {len(data)}", data[:cut], b"hello", "rejected", "send")


def unsupported_formats() -> Iterator[Case]:
    """Yield complete and truncated files of unsupported formats."""
    for ending in UNSUPPORTED:
        data = file(ending)
        for name, part in ((ending, data), (f"half of {ending}", data[: len(data) // 2])):
            yield Case("unsupported formats", name, part, b"hello", "rejected", "send")


def damaged() -> Iterator[Case]:
    """Yield every format with changed, removed or repeated bytes in its header or anywhere."""
    chance = random.Random(SEED)
    for ending in ACCEPTED:
        for number in range(10):
            data = bytearray(file(ending))
            reach = min(len(data), 64 if number % 2 else len(data))
            match number // 2:
                case 0 | 1 | 2:
                    for _ in range(1 << number):
                        data[chance.randrange(reach)] = chance.randrange(256)
                case 3:
                    at = chance.randrange(reach)
                    del data[at : at + chance.randrange(1, 64)]
                case 4:
                    at = chance.randrange(reach)
                    data[at:at] = data[at : at + 512]
            yield Case("damaged", f"{ending}, variant {number}", bytes(data), b"", "either")


def invalid_wav_headers() -> Iterator[Case]:
    """Yield WAV files with invalid values in every field of the header."""
    data = file("wav")  # RIFF size at 4; fmt: tag 20, channels 22, rate 24, bytes/s 28, block 32, bits 34; data size 40
    largest = 0xFFFFFFFF
    for name, at, layout, values in (
        ("RIFF size", 4, "<I", (0, 1, 0x7FFFFFFF, largest)),
        ("fmt size", 16, "<I", (0, 2, 15, 0x7FFFFFFF, largest)),
        ("format tag", 20, "<H", (0, 2, 3, 6, 7, 17, 0x31, 0x55, 0xFFFE, 0xFFFF)),
        ("channels", 22, "<H", (0, 3, 1025, 0xFFFF)),
        ("bytes per second", 28, "<I", (0, largest)),
        ("block", 32, "<H", (0, 1, 0xFFFF)),
        ("bits", 34, "<H", (0, 1, 7, 33, 64, 0xFFFF)),
    ):
        for value in values:
            yield Case("invalid WAV headers", f"{name} {value}", patched(data, at, layout, value), b"", "either")
    for value in (len(data) + 2000, 10_000_000, 0x40000000):  # more than the file has
        changed = patched(data, 40, "<I", value)
        yield Case("invalid WAV headers", f"data size {value}", changed, b"hello", "rejected", "truncated WAV")
    for value in (0, len(data), 2_000_000_000, 0x7FFFF000, 0x7FFFFFFF, largest):  # placeholders that recorders leave
        yield Case("invalid WAV headers", f"data size {value}", patched(data, 40, "<I", value), b"hello", "answered")
    for name, changed in (
        ("no fmt chunk", data[:12] + data[36:]),
        ("no data chunk", data[:36]),
        ("data before fmt", data[:12] + data[36:] + data[12:36]),
        ("two fmt chunks", data[:36] + data[12:]),
        ("200 fmt chunks", data[:12] + data[12:36] * 200 + data[36:]),
        ("100,000 empty chunks", data[:36] + b"junk\0\0\0\0" * 100_000 + data[36:]),
        ("a LIST of 4 GB", data[:36] + b"LIST\xff\xff\xff\xff" + data[36:]),
        ("a chunk of negative size", data[:36] + b"bext\x00\x00\x00\x80" + data[36:]),
        ("RIFF in RIFF in RIFF", data[:12] * 1000 + data[12:]),
    ):
        yield Case("invalid WAV headers", name, changed, b"", "either")


def invalid_other_headers() -> Iterator[Case]:
    """Yield invalid lengths, rates and counts in the other containers."""
    aiff, au, flac = file("aiff"), file("au"), file("flac")
    common = aiff.index(b"COMM")
    for value in (0, 1, 17_000, 0x7FFFFFFF, 0xFFFFFFFF):
        yield Case(
            "other invalid headers", f"AIFF frames {value}", patched(aiff, common + 10, ">I", value), b"", "either"
        )
        yield Case("other invalid headers", f"AU data offset {value}", patched(au, 4, ">I", value), b"", "either")
        yield Case("other invalid headers", f"AU channels {value}", patched(au, 20, ">I", value), b"", "either")
        yield Case("other invalid headers", f"AU encoding {value}", patched(au, 12, ">I", value), b"", "either")
    for name, exponent, mantissa in (
        ("NaN", 0x7FFF, 2**64 - 1),
        ("infinite", 0x7FFF, 0),
        ("negative", 0xC00C, 0xFA << 56),
        ("2 to the 16383", 0x7FFE, 1 << 63),
        ("denormal", 0, 1),
    ):
        changed = patched(aiff, common + 16, ">HQ", exponent, mantissa)
        yield Case("other invalid headers", f"AIFF rate {name}", changed, b"", "rejected", "AUDIO")
    # STREAMINFO: 20 bits of rate, 3 of channels, 5 of bits, 36 of samples, at 18
    for name, bits in (
        ("2^36 - 1 samples", 16_000 << 44 | 15 << 36 | (1 << 36) - 1),
        ("one sample", 16_000 << 44 | 15 << 36 | 1),
        ("an unknown number of samples", 16_000 << 44 | 15 << 36),
        ("rate 0", 15 << 36 | 16_000),
        ("8 channels", 16_000 << 44 | 7 << 41 | 15 << 36 | 16_000),
        ("32 bits", 16_000 << 44 | 31 << 36 | 16_000),
        ("1 bit", 16_000 << 44 | 16_000),
    ):
        yield Case("other invalid headers", f"FLAC of {name}", patched(flac, 18, ">Q", bits), b"", "either")
    for smallest, largest in ((0, 0), (1, 1), (0xFFFF, 0xFFFF), (0xFFFF, 16)):
        changed = patched(flac, 8, ">HH", smallest, largest)
        yield Case("other invalid headers", f"FLAC blocks of {smallest} to {largest}", changed, b"", "either")
    for ending in ("vorbis.ogg", "opus.ogg"):
        ogg = file(ending)
        last, second = ogg.rindex(b"OggS"), ogg.index(b"OggS", 4)
        for name, changed in (
            ("last granule is negative", patched(ogg, last + 6, "<q", -1)),
            ("last granule is huge", patched(ogg, last + 6, "<Q", 2**62)),
            ("last granule is 1", patched(ogg, last + 6, "<Q", 1)),
            ("another serial number", patched(ogg, second + 14, "<I", 1)),
            ("a checksum of 0", patched(ogg, second + 22, "<I", 0)),
            ("no end of stream", patched(ogg, last + 5, "B", 0)),
            ("two streams in a row", ogg + ogg),
            ("its first page only", ogg[:second]),
            ("its first page a thousand times", ogg[:second] * 1000 + ogg[second:]),
        ):
            yield Case("other invalid headers", f"{ending}: {name}", changed, b"", "either")
    mp3 = file("mp3")
    for name, changed in (
        ("Xing count 2^32 - 1", patched(mp3, max(mp3.find(b"Xing"), mp3.find(b"Info")) + 8, ">I", 0xFFFFFFFF)),
        ("Xing count 0", patched(mp3, max(mp3.find(b"Xing"), mp3.find(b"Info")) + 8, ">I", 0)),
        ("ID3 of 256 MB", b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + mp3),
        ("ID3 of 64 KB of zeros", b"ID3\x04\0\0\0\x04\0\0" + bytes(1 << 16) + mp3),
        ("a megabyte of sync bytes", b"\xff" * (1 << 20)),
        ("200,000 headers without frames", mp3[:4] * 200_000),
        ("junk between frames", mp3[:1000] + b"\xff\xfb" * 500 + mp3[1000:]),
    ):
        yield Case("other invalid headers", f"MP3: {name}", changed, b"", "either")
    w64, rf64 = file("w64"), file("rf64")
    for value in (0, 23, 2**31, 2**63 - 1, 2**64 - 1):
        yield Case("other invalid headers", f"W64 size {value}", patched(w64, 16, "<Q", value), b"", "either")
        yield Case("other invalid headers", f"W64 fmt size {value}", patched(w64, 56, "<Q", value), b"", "either")
        yield Case(
            "other invalid headers", f"RF64 sizes {value}", patched(rf64, 20, "<QQ", value, value), b"", "either"
        )


def bombs() -> Iterator[Case]:
    """Yield small files that are expensive to decode."""
    too_long, too_many = "at most 60 s are accepted", f"at most {MAX_SAMPLES} are accepted"
    for kind, subtype, seconds, rate, channels, says in (
        ("FLAC", "PCM_16", 3600, 8_000, 1, too_long),
        ("FLAC", "PCM_16", 62, 48_000, 8, too_long),
        ("MP3", "MPEG_LAYER_III", 300, 8_000, 1, too_long),
        ("OGG", "VORBIS", 900, 8_000, 1, too_long),
        ("OGG", "OPUS", 120, 8_000, 1, too_long),
        ("WAV", "GSM610", 300, 8_000, 1, too_long),
        ("FLAC", "PCM_16", 10, 384_000, 8, too_many),
        ("OGG", "VORBIS", 30, 8_000, 100, "at most 8 are accepted"),
        ("AIFF", "IMA_ADPCM", 1800, 8_000, 1, too_long),
    ):
        name = f"{seconds} s of {subtype} in {kind}, {rate} Hz, {channels} channels"
        yield Case("bombs", name, silence(seconds, kind, subtype, rate, channels), b"", "rejected", says)
    for count, bits in ((1, 20), (8, 22), (256, 22)):  # libvorbis crashes or needs gigabytes
        name = f"{count} codebooks of 2^{bits} entries"
        yield Case("bombs", name, vorbis.codebooks(count, bits), b"", "rejected", "codebooks")
        tagged = b"ID3\x04\0\0\0\0\0\x0a" + bytes(10) + vorbis.codebooks(count, bits)
        yield Case("bombs", f"{name} after an ID3 tag", tagged, b"", "rejected", "codebooks")
        chained = file("vorbis.ogg") + vorbis.codebooks(count, bits)
        yield Case("bombs", f"{name} after another stream", chained, b"", "either")
    mp3 = silence(90, "MP3", "MPEG_LAYER_III", 16_000, 1)
    without_count = mp3[mp3.index(mp3[:2], 4) :]
    yield Case("bombs", "90 s of MP3 without a declared length", without_count, b"", "rejected", too_long)
    flac = silence(90, "FLAC", "PCM_16", 16_000, 1)
    unknown = patched(flac, 18, ">Q", 16_000 << 44 | 15 << 36)
    yield Case("bombs", "90 s of FLAC without a declared length", unknown, b"", "rejected", too_long)
    short = patched(flac, 18, ">Q", 16_000 << 44 | 15 << 36 | 16_000)
    yield Case("bombs", "90 s of FLAC with a declared length of 1 s", short, b"", "either")
    largest = silence(60, "FLAC", "PCM_16", 384_000, 1)
    yield Case("bombs", LONGEST, largest, b"hello", "answered")
    yield Case("bombs", "16 MB of zeros", bytes(16 << 20), b"", "rejected", "not an audio file")
    yield Case("bombs", "16 MB of noise", random.Random(SEED).randbytes(16 << 20), b"", "rejected", "not an audio file")


def numbers() -> Iterator[Case]:
    """Yield unusual floating-point samples."""
    for kind in ("WAV", "AIFF", "AU", "W64", "RF64"):
        for subtype, dtype in (("FLOAT", np.float32), ("DOUBLE", np.float64)):
            for name, value, expected, says in (
                ("NaN", np.nan, "rejected", "NaN or infinite"),
                ("infinite", np.inf, "rejected", "NaN or infinite"),
                ("minus infinite", -np.inf, "rejected", "NaN or infinite"),
                ("1e38", 1e38, "rejected", "full scale is 1.0"),
                ("denormal", 1e-40, "answered", ""),
            ):
                samples = voice().astype(dtype)
                samples[5000] = value
                case = f"one sample is {name} in {subtype} {kind}"
                yield Case("numbers", case, encode(samples, kind, subtype), b"", expected, says)  # type: ignore[arg-type]
    for name, samples in (
        ("denormals only", np.full(16_000, 1e-40)),
        ("minus zeros only", np.full(16_000, -0.0)),
        ("a constant", np.ones(16_000)),
        ("one sample", np.ones(1)),
        ("two samples", np.ones(2)),
    ):
        data = encode(samples, "WAV", "FLOAT")
        yield Case("numbers", name, data, b"", "rejected", "AUDIO has no sound above -60 dB of full scale")
        yield Case("numbers", f"{name}, with text", data, b"hello", "answered")
    square = encode(np.sign(voice()), "WAV", "FLOAT")
    yield Case("numbers", "a square wave of full scale", square, b"", "answered")
    loud = encode(np.full(16_000, 1e300), "WAV", "DOUBLE")
    yield Case("numbers", "too large for single precision", loud, b"", "rejected", "NaN or infinite")
    opposite = np.full((16_000, 2), 3e38) * [1, -1]
    yield Case("numbers", "channels that cancel out", encode(opposite, "WAV", "FLOAT"), b"", "rejected", "full scale")
    infinite = np.full((16_000, 2), np.inf) * [1, -1]
    yield Case("numbers", "infinities that cancel out", encode(infinite, "WAV", "FLOAT"), b"", "rejected", "NaN")


def rates() -> Iterator[Case]:
    """Yield sample rates from 0 to 2^32 - 1 Hz."""
    data = file("wav")
    for rate in (0, 1, 2, 50, 999, 3_999, 384_001, 1_000_000, 10_000_000, 2**31 - 1, 2**31, 2**32 - 1):
        yield Case("rates", f"WAV of {rate} Hz", patched(data, 24, "<I", rate), b"hello", "rejected", "AUDIO")
    for rate in (4_000, 4_001, 7_919, 22_050, 44_101, 191_999, 384_000):
        yield Case("rates", f"WAV of {rate} Hz", patched(data, 24, "<I", rate), b"hello", "answered")


def channel_counts() -> Iterator[Case]:
    """Yield files with 2 to 1,024 channels, which are averaged."""
    for channels in (2, 3, 6, 8, 64, 255, 1024):
        samples = np.repeat(voice()[:2000, None], channels, axis=1)
        yield Case("channels", f"WAV of {channels}", encode(samples), b"", "answered")
    for kind, subtype, channels in (
        ("FLAC", "PCM_16", 8),
        ("OGG", "VORBIS", 6),
        ("OGG", "OPUS", 2),
        ("AU", "PCM_16", 64),
    ):
        samples = np.repeat(voice()[:8000, None], channels, axis=1)
        yield Case("channels", f"{subtype} in {kind} of {channels}", encode(samples, kind, subtype), b"", "answered")


def not_audio() -> Iterator[Case]:
    """Yield files of other types, and almost empty files."""
    chance = random.Random(SEED)
    for name, data in {
        "a byte": b"x",
        "a NUL": b"\0",
        "a PNG": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "a ZIP": b"PK\x03\x04" + bytes(100),
        "a gzip": b"\x1f\x8b\x08" + bytes(100),
        "a PDF": b"%PDF-1.7\n" + bytes(100),
        "an ELF program": b"\x7fELF\x02\x01\x01" + bytes(100),
        "HTML": b"<!doctype html><script>alert(1)</script>",
        "JSON": b'{"audio": "UklGRg=="}',
        "base64 of a WAV": b"UklGRiQAAABXQVZFZm10IBAAAAABAAEA",
        "a path": b"/etc/passwd",
        "a URL": b"http://169.254.169.254/latest/meta-data/",
        "a pickle": b"\x80\x04\x95\x0b\0\0\0\0\0\0\0\x8c\x07builtins\x94.",
        "RIFF alone": b"RIFF",
        "an AVI": b"RIFF\xff\0\0\0AVI LIST" + bytes(200),
        "MIDI": b"MThd\0\0\0\x06\0\x01\0\x01\0\x60MTrk\0\0\0\0",
        "a playlist": b"#EXTM3U\nhttp://localhost:8000/v2\n",
        "16-bit samples without a header": (voice() * 32767).astype(np.int16).tobytes(),
        **{f"{size} bytes of noise": chance.randbytes(size) for size in (10, 100, 1000, 10_000, 100_000)},
    }.items():
        yield Case("not audio", name, data, b"hello", "rejected", "send")
    zero = encode(voice()[:0])
    yield Case("not audio", "a WAV of zero samples", zero, b"hello", "rejected", "zero samples")
    yield Case("not audio", "no audio and no text", b"", b"", "rejected", "both empty")


def unicode_text() -> Iterator[Case]:
    """Yield valid UTF-8 that is difficult for tokenizers."""
    nothing, many = "no letter or digit", "tokens; at most 512"
    texts: dict[str, tuple[str, Outcome, str]] = {
        "900 combining marks on one letter": ("Z" + "\u0300\u0489\u20dd" * 300 + "algo", "answered", ""),
        "60 combining marks on every letter": (
            "".join(c + "\u0336\u0321\u0334" * 20 for c in "he was not well"),
            "answered",
            "",
        ),
        "combining marks alone": ("\u0301" * 2000, "rejected", nothing),
        "1,000 emoji with joiners": ("\U0001f468\u200d" * 1000, "answered", ""),
        "4,000 times the same emoji": ("\U0001f600" * 4000, "answered", ""),
        "different emoji": ("".join(map(chr, range(0x1F400, 0x1F640))), "rejected", many),
        "emoji between letters": ("a\U0001f600" * 1000, "rejected", many),
        "flags": ("\U0001f1e9\U0001f1ea" * 500, "answered", ""),
        "skin tones alone": ("\U0001f3fd" * 1000, "rejected", nothing),
        "emoticons": (":( <3 :D " * 20, "answered", ""),
        "asterisks": ("*" * MAX_BYTES, "rejected", nothing),
        "masked words": ("f*ck " * 200, "answered", ""),
        "opening brackets": ("([{<" * 4000, "rejected", nothing),
        "tags without an end": ("<a " * 5000, "rejected", many),
        "annotations alone": ("[LAUGHTER] (sighs) <noise>" * 100, "rejected", nothing),
        "entities": ("&amp;" * 3000, "rejected", nothing),
        "an entity of 4,000 digits": ("hello &#" + "9" * 4000 + ";", "answered", ""),
        "keycaps": ("1\ufe0f\u20e3" * 100, "answered", ""),
        "bidi overrides": ("\u202eevil\u202c \u2066isolated\u2069 \u200fright\u200e", "answered", ""),
        "bidi controls alone": ("\u202a\u202b\u202d\u202e\u2066\u2067\u2068" * 100, "rejected", nothing),
        "bidi overrides without an end": ("\u202e" * 1000 + "hello", "answered", ""),
        "zero-width characters between letters": ("h\u200be\u200cl\u200dl\u2060o\ufeff", "answered", ""),
        "a byte-order mark": ("\ufeffhello", "answered", ""),
        "variation selectors": ("hello" + "\ufe0f\U000e0100" * 400, "answered", ""),
        "tags": ("hello" + "".join(chr(0xE0000 + 0x20 + i % 90) for i in range(600)), "answered", ""),
        "ligatures that NFKC expands to 18 characters": ("\ufdfa" * 20, "answered", ""),
        "5,000 ligatures that NFKC expands": ("\ufdfa" * 5000, "rejected", "either"),
        "Hangul jamo": ("\u1112\u1161\u11ab" * 100, "either", ""),
        "Hangul fillers": ("\u3164\uffa0\u115f" * 100, "either", ""),
        "mathematical letters": ("\U0001d4d7\U0001d4ee\U0001d4ee\U0001d4ee\U0001d4ee hi", "answered", ""),
        "full width": ("\uff28\uff25\uff2c\uff2c\uff2f", "answered", ""),
        "dotted I": ("\u0130" * 300, "answered", ""),
        "sharp s and final sigma": ("STRA\u1e9eE \u03a3\u03a3\u03a3 \ufb03", "answered", ""),
        "private use": ("\ue000\U000f0000\U0010fffd" * 100, "rejected", nothing),
        "non-characters": ("\ufffe\uffff\U0001fffe hello", "answered", ""),
        "replacement characters": ("\ufffd" * 3000, "rejected", nothing),
        "control characters": ("".join(map(chr, range(1, 32))) + "hello\x7f\x80\x9f", "answered", ""),
        "control characters alone": ("".join(map(chr, range(1, 32))) * 50, "rejected", nothing),
        "terminal escapes": ("\x1b[31mred\x1b[0m \x1b]0;title\x07", "answered", ""),
        "line separators": ("one\u2028two\u2029three\x0b\x0cfour\x85five", "answered", ""),
        "every kind of space": ("a\u00a0b\u1680c\u2003d\u202fe\u205ff\u3000g", "answered", ""),
        "spaces": (" " * 10_000, "rejected", nothing),
        "SQL": ("'; DROP TABLE users; --", "answered", ""),
        "a template": ("{{7*7}} ${jndi:ldap://x/a} %s%s%n", "answered", ""),
        "HTML": ("<script>alert('x')</script>", "answered", ""),
        "special tokens of BERT": ("[CLS] [SEP] [MASK] [PAD] [UNK]" * 20, "rejected", nothing),
        "a word of 5,000 letters": ("a" * 5000, "answered", ""),
        "a word of the maximum length": ("a" * MAX_BYTES, "answered", ""),
        "dots": ("." * 5000, "rejected", nothing),
        "apostrophes in words": ("'" * 400 + "a", "answered", ""),
        "500 words too many": ("word " * 1010, "rejected", many),
        "Chinese": ("\u4f60\u597d" * 100, "answered", ""),
        "too much Chinese": ("\u4f60\u597d" * 300, "rejected", many),
        "Arabic": ("\u0645\u0631\u062d\u0628\u0627 " * 20, "answered", ""),
        "Hebrew with points": ("\u05e9\u05b8\u05c1\u05dc\u05d5\u05b9\u05dd " * 20, "answered", ""),
        "Devanagari": ("\u0928\u092e\u0938\u094d\u0924\u0947 " * 20, "answered", ""),
        "Tibetan stacks": ("\u0f66\u0fb2\u0f92\u0fb1" * 100, "either", ""),
        "cuneiform": ("\U00012000" * 400, "either", ""),
        "digits of every script": ("\u0661\u0967\u09e7\uff11\U0001d7d8", "answered", ""),
        "fractions and Roman numerals": ("\u00bd \u216b \u2460 \u33a5", "answered", ""),
        "underscores": ("_" * 1000, "rejected", nothing),
        "soft hyphens": ("he\u00adllo" * 50, "answered", ""),
    }
    for name, (text, expected, says) in texts.items():
        rejected = expected == "rejected"
        outcome: Outcome = "either" if says == "either" else expected
        yield Case("Unicode", name, b"", text.encode(), outcome, says if rejected and says != "either" else "")
    for block in range(0x80, 0x3000, 0x100):  # blocks of 256 code points of the scripts in use
        characters = "".join(chr(block + i) for i in range(256) if unicodedata.category(chr(block + i)) != "Cs")
        yield Case("Unicode", f"U+{block:04X} to U+{block + 255:04X}", b"", characters.encode(), "either")
    chance = random.Random(SEED)
    for number in range(20):
        points = [chance.choice((chance.randrange(1, 0xD800), chance.randrange(0xE000, 0x110000))) for _ in range(300)]
        yield Case("Unicode", f"random code points, {number}", b"", "".join(map(chr, points)).encode(), "either")


def raw_text() -> Iterator[Case]:
    """Yield bytes that are not valid text, and too long texts."""
    for name, data in {
        "Latin-1": b"caf\xe9",
        "a lone continuation byte": b"hello \x80",
        "a lone high surrogate": b"\xed\xa0\x80",
        "a lone low surrogate": b"hello\xed\xbf\xbf",
        "a pair of surrogates (CESU-8)": b"\xed\xa0\xbd\xed\xb8\x80",
        "an overlong slash": b"\xc0\xaf",
        "an overlong NUL": b"hello\xc0\x80",
        "beyond U+10FFFF": b"\xf4\x90\x80\x80",
        "a sequence of five bytes": b"\xf8\x88\x80\x80\x80",
        "0xFE and 0xFF": b"\xfe\xff\xff\xfe",
        "a truncated character": "hello \U0001f642".encode()[:-1],
        "UTF-16": "hello".encode("utf-16"),
        "noise": random.Random(SEED).randbytes(1000),
    }.items():
        yield Case("raw text", name, b"", data, "rejected", "not valid UTF-8")
    for name, data in {
        "a NUL": b"\0",
        "NUL within": b"he\0llo",
        "1,000 NULs": bytes(1000),
        "UTF-16LE": b"h\0i\0",
    }.items():
        yield Case("raw text", name, b"", data, "rejected", "NUL character")
    for name, data in {
        "one byte too many": b"a" * (MAX_BYTES + 1),
        "1 MB of one letter": b"a" * 1_000_000,
        "1 MB of words": b"word " * 200_000,
        "1 MB of spaces": b" " * 1_000_000,
        "1 MB of NULs": bytes(1_000_000),
        "1 MB of emoji": "\U0001f642".encode() * 250_000,
        "1 MB of continuation bytes": b"\x80" * 1_000_000,
        "1 MB of combining marks": b"a" + "\u0301".encode() * 500_000,
        "8 MB": b"word " * 1_600_000,
    }.items():
        yield Case("raw text", name, b"", data, "rejected", f"bytes; at most {MAX_BYTES}")
