"""Test decoding of all accepted formats, and rejection of damaged, truncated and other files."""

import base64
import io
import random
import struct
import time
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from emotion.audio import SAMPLE_RATE
from emotion.containers import mpeg, ogg
from emotion.decoding import decode
from emotion.errors import InputError
from fuzz.mutators import with_ogg_checksums
from tests.conftest import ROOT
from tests.encoding import CONTAINERS, encode, encode_with_ffmpeg

DATA = ROOT / "tests" / "data"
FORMATS = [
    ("WAV", "PCM_16"),
    ("WAV", "FLOAT"),
    ("WAVEX", "PCM_24"),
    ("RF64", "PCM_16"),
    ("W64", "PCM_16"),
    ("FLAC", "PCM_16"),
    ("MP3", "MPEG_LAYER_III"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("AIFF", "PCM_16"),
    ("AU", "PCM_16"),
]
ALL = [*(f"{kind} {subtype}" for kind, subtype in FORMATS), *CONTAINERS]
PLACEHOLDERS = [0, 0x7FFFF000, 0x7FFFFFFF - 36, 0x7FFFFFFF, 0x80000000, 2_000_000_000, 0xFFFFFFFF - 44, 0xFFFFFFFF]


@pytest.fixture(scope="module")
def speech(recordings: dict[str, bytes]) -> NDArray[np.float32]:
    return decode(recordings["austen-0880.flac"])


@pytest.fixture(scope="module")
def files(speech: NDArray[np.float32]) -> dict[str, bytes]:
    """Return one second of speech in every format of ALL."""
    return {name: made(speech[:SAMPLE_RATE], name) for name in ALL}


def made(samples: NDArray[Any], name: str) -> bytes:
    """Return a file in the format of that name in ALL."""
    if name in CONTAINERS:
        return encode_with_ffmpeg(samples, name)
    kind, subtype = name.split(" ")
    return encode(samples, kind, subtype)


def refusal(data: bytes, **options: float) -> str:
    with pytest.raises(InputError) as caught:
        decode(data, **options)
    message = str(caught.value)
    assert message.startswith("AUDIO ") and "\n" not in message
    return message


def seconds(data: bytes) -> float:
    return len(decode(data)) / SAMPLE_RATE


def with_field(data: bytes, at: int, layout: str, value: int) -> bytes:
    changed = bytearray(data)
    struct.pack_into(layout, changed, at, value)
    return bytes(changed)


def chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + bytes(len(body) & 1)


# --- whole files


@pytest.mark.parametrize("name", ALL)
def test_decode_of_every_format_returns_all_samples(
    name: str, files: dict[str, bytes], speech: NDArray[np.float32]
) -> None:
    decoded = decode(files[name])
    assert decoded.dtype == np.float32
    assert len(decoded) == pytest.approx(SAMPLE_RATE, abs=0.06 * SAMPLE_RATE)  # AAC is padded to whole frames
    length = min(len(decoded), SAMPLE_RATE) // 800 * 800
    envelopes = [np.abs(samples[:length]).reshape(-1, 800).mean(1) for samples in (decoded, speech)]
    assert np.corrcoef(*envelopes)[0, 1] > 0.85  # AAC in ADTS has 43 ms of delay
    assert envelopes[0].mean() == pytest.approx(envelopes[1].mean(), rel=0.1)  # the level is the same in all formats


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vbr-without-xing.mp3", 7.03),
        ("chained-vorbis.ogg", 5.0),
        ("xing-counts-itself.mp3", 2.5),
        ("opus-without-end-of-stream.ogg", 2.5),
        ("opus-granule-40-ms-high.ogg", 2.5),
        ("flac.ogg", 2.5),
        ("comment-holds-data.wav", 2.0),
        ("aac.m4a", 2.5),
    ],
)
def test_decode_of_files_that_decoders_truncate_returns_all_samples(name: str, expected: float) -> None:
    assert seconds((DATA / name).read_bytes()) == pytest.approx(expected, abs=0.06)


def test_decode_of_an_mp4_cut_between_packets_is_rejected() -> None:
    assert "truncated MP4" in refusal((DATA / "cut-at-packet-boundary.m4a").read_bytes())


def test_decode_of_16_bits_equals_libsndfile(speech: NDArray[np.float32]) -> None:
    data = encode(speech, "WAV")
    np.testing.assert_array_equal(decode(data), soundfile.read(io.BytesIO(data), dtype="float32")[0])


@pytest.mark.parametrize("kind", ["FLAC", "RF64", "W64", "AIFF", "AU", "WAVEX"])
def test_decode_of_lossless_formats_gives_equal_samples(kind: str, speech: NDArray[np.float32]) -> None:
    np.testing.assert_array_equal(decode(encode(speech, kind)), decode(encode(speech, "WAV")))


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
def test_decode_of_any_rate_returns_16_khz(rate: int) -> None:
    times = np.arange(2 * rate) / rate
    decoded = decode(encode((0.5 * np.sin(2 * np.pi * 440 * times)).astype(np.float32), "WAV", "FLOAT", rate))
    assert len(decoded) == 2 * SAMPLE_RATE
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE)
    # the resampling filter rings at the ends
    np.testing.assert_allclose(decoded[800:-800], expected[800:-800], atol=1e-3)


def test_decode_of_a_high_tone_does_not_alias() -> None:
    whistle = np.sin(2 * np.pi * 15_000 * np.arange(48_000) / 48_000).astype(np.float32)
    assert np.abs(decode(encode(whistle, "WAV", "FLOAT", 48_000))[800:-800]).max() < 1e-3


# --- WAV: wrong sizes and extra chunks


@pytest.mark.parametrize("size", PLACEHOLDERS)
@pytest.mark.parametrize("riff", ["placeholder", "right", "header alone"])
def test_decode_with_a_placeholder_size_reads_to_the_end(size: int, riff: str, speech: NDArray[np.float32]) -> None:
    data = with_field(encode(speech), 40, "<I", size)
    data = with_field(data, 4, "<I", {"placeholder": size, "right": len(data) - 8, "header alone": 36}[riff])
    np.testing.assert_array_equal(decode(data), decode(encode(speech)))


@pytest.mark.parametrize(
    ("kind", "layout", "name", "offset", "sizes"),
    [
        ("RF64", "<Q", b"ds64", 16, [0, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1]),
        ("W64", "<Q", b"data", 16, [0, 24, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1]),
        ("AIFF", ">I", b"SSND", 4, [0, 0x7FFFF000, 0xFFFFFFFF]),
        ("AU", ">I", b".snd", 8, [0, 0x7FFFF000, 0xFFFFFFFF]),
    ],
)
def test_decode_with_a_placeholder_size_in_related_formats_reads_to_the_end(
    kind: str, layout: str, name: bytes, offset: int, sizes: list[int], speech: NDArray[np.float32]
) -> None:
    data = encode(speech, kind)
    for size in sizes:
        changed = with_field(data, data.index(name) + offset, layout, size)
        np.testing.assert_array_equal(decode(changed)[: len(speech)], decode(data))


@pytest.mark.parametrize("size", [0, 1, 44, 1000, 0x7FFFFFFF])
def test_decode_with_a_wrong_riff_size_ignores_it(size: int, speech: NDArray[np.float32]) -> None:
    np.testing.assert_array_equal(decode(with_field(encode(speech), 4, "<I", size)), decode(encode(speech)))


def test_decode_ignores_chunks_around_the_samples(speech: NDArray[np.float32]) -> None:
    wav, comment = encode(speech), chunk(b"LIST", b"INFOICMT" + chunk(b"x", b"some data and odd"))
    whole = decode(wav)
    for before, after in ((b"LIST", b""), (b"JUNK", b""), (b"bext", b"LIST"), (b"", b"LIST"), (b"", b"id3 ")):
        data = wav[:36] + (before and comment) + wav[36:] + (after and chunk(after, bytes(4000) + b"end"))
        np.testing.assert_array_equal(decode(data), whole)
    for tail in (b"\n", b"\r\n", bytes(5000), b"TAG" + b" " * 125):
        np.testing.assert_array_equal(decode(wav + tail)[: len(whole)], whole)
        assert len(decode(wav + tail)) <= len(whole) + 1
    unpadded = wav[:36] + b"note" + struct.pack("<I", 3) + b"odd" + wav[36:]
    np.testing.assert_array_equal(decode(unpadded), whole)


def test_decode_with_an_outdated_size_reads_to_the_end(speech: NDArray[np.float32]) -> None:
    np.testing.assert_array_equal(decode(with_field(encode(speech), 40, "<I", 32_000)), decode(encode(speech)))


def test_decode_with_an_empty_data_chunk_before_others_is_rejected() -> None:
    assert "zero samples" in refusal(encode(np.zeros(0)) + chunk(b"LIST", bytes(4000)))


@pytest.mark.parametrize("missing", [1, 2, 100, 1599])
def test_decode_tolerates_a_missing_last_buffer(missing: int, speech: NDArray[np.float32]) -> None:
    data = encode(speech)
    np.testing.assert_array_equal(decode(data[:-missing]), decode(data)[: len(speech) - (missing + 1) // 2])


@pytest.mark.parametrize("extra", [2000, 2**30])
def test_decode_with_too_large_a_size_is_rejected(speech: NDArray[np.float32], extra: int) -> None:
    data = encode(speech)
    assert "truncated WAV" in refusal(with_field(data, 40, "<I", len(data) - 44 + extra))


def test_decode_of_mp3_in_wav_returns_all_samples(files: dict[str, bytes]) -> None:
    mp3 = files["MP3 MPEG_LAYER_III"]
    form = struct.pack("<HHIIHHHHIHHH", 0x55, 1, SAMPLE_RATE, 4000, 1, 0, 12, 1, 2, 576, 1, 1393)
    wav = chunk(b"fmt ", form) + chunk(b"fact", bytes(4)) + chunk(b"data", mp3)
    np.testing.assert_array_equal(decode(b"RIFF" + struct.pack("<I", 4 + len(wav)) + b"WAVE" + wav), decode(mp3))


# --- FLAC


@pytest.mark.parametrize("total", [0, 0x7FFFF000 // 2, (0x7FFFFFFF - 36) // 2, (0xFFFFFFFF - 44) // 2])
def test_decode_of_a_flac_from_a_pipe_needs_its_last_frame(speech: NDArray[np.float32], total: int) -> None:
    data = encode(speech, "FLAC")
    fields = int.from_bytes(data[18:26], "big") >> 36 << 36 | total
    piped = data[:18] + fields.to_bytes(8, "big") + bytes(16) + data[42:]
    np.testing.assert_array_equal(decode(piped), decode(data))
    for cut in (1, 2, 100, 1000):
        assert "FLAC" in refusal(piped[:-cut])


# --- MP3


def test_decode_ignores_tags_zeros_and_stray_bytes_around_an_mp3(files: dict[str, bytes]) -> None:
    data = files["MP3 MPEG_LAYER_III"]
    id3v2 = b"ID3\x04\x00\x00\x00\x00\x01\x00" + bytes(128)
    id3v1 = b"TAG" + bytes(125)
    ape = b"APETAGEX" + struct.pack("<IIII", 2000, 64, 0, 0xA0000000) + bytes(8) + b"\xff\xfb\x90" + bytes(61)
    for before, after in ((id3v2, id3v1), (bytes(417), b""), (b"", b"\n"), (b"", ape + id3v1), (id3v2 * 2, b"\r\n\0")):
        np.testing.assert_array_equal(decode(before + data + after), decode(data))


@pytest.mark.parametrize("name", ALL)
def test_decode_with_an_id3_tag_in_front_gives_the_same_waveform(files: dict[str, bytes], name: str) -> None:
    id3v2 = b"ID3\x04\x00\x00\x00\x00\x01\x00" + bytes(128)
    np.testing.assert_array_equal(decode(id3v2 + files[name]), decode(files[name]))


@pytest.mark.parametrize("name", ["OGG VORBIS", "OGG OPUS"])
def test_page_checksum_of_an_encoders_page_is_the_one_in_its_header(files: dict[str, bytes], name: str) -> None:
    data = files[name]
    page = data[: data.index(b"OggS", 4)]
    assert ogg.page_checksum(page) == struct.unpack_from("<I", page, 22)[0]
    assert ogg.page_checksum(page[:22] + b"\xff" * 4 + page[26:]) == ogg.page_checksum(page)
    assert ogg.page_checksum(page[:-1] + bytes([page[-1] ^ 1])) != ogg.page_checksum(page)


def test_decode_of_joined_mp3s_reads_to_the_end(files: dict[str, bytes], speech: NDArray[np.float32]) -> None:
    one, stereo = files["MP3 MPEG_LAYER_III"], np.stack([speech, speech], axis=1)[:SAMPLE_RATE]
    other = encode(stereo, "MP3", "MPEG_LAYER_III", 44_100)  # another rate and channel mode
    id3v1 = b"TAG" + bytes(125)
    assert seconds(one + one) == pytest.approx(2.0, abs=0.15)
    assert seconds(one + id3v1 + one) == pytest.approx(2.0, abs=0.15)
    assert seconds(one + other) == pytest.approx(1 + SAMPLE_RATE / 44_100, abs=0.15)
    assert seconds(other + one) == pytest.approx(1 + SAMPLE_RATE / 44_100, abs=0.15)
    assert decode(one + other).std() == pytest.approx(decode(one).std(), rel=0.1)


def test_decode_of_an_mp3_that_begins_within_a_frame_skips_it(files: dict[str, bytes]) -> None:
    # without the frame that contains the count, the encoder's padding is not removed
    assert seconds(files["MP3 MPEG_LAYER_III"][700:]) == pytest.approx(0.9, abs=0.15)


def test_decode_of_an_mp3_with_lost_bytes_is_rejected(files: dict[str, bytes]) -> None:
    data = files["MP3 MPEG_LAYER_III"]
    assert "MP3" in refusal(data[:2000] + data[2100:])


def test_decode_of_a_truncated_mp3_without_a_count_is_rejected(files: dict[str, bytes]) -> None:
    data = files["MP3 MPEG_LAYER_III"]
    bare = data[data.index(b"\xff\xf3", 4) :]  # from the second frame: the first holds the count
    assert decode(bare).size
    assert "truncated MP3" in refusal(bare[:-50])


def test_decode_of_an_mp3_with_fewer_frames_than_its_count_is_rejected(files: dict[str, bytes]) -> None:
    data = files["MP3 MPEG_LAYER_III"]
    last = list(mpeg.frames(data, mpeg.mp3_header))[-3]
    assert "truncated MP3" in refusal(data[: last.at])


# --- Ogg


def test_decode_of_chained_streams_of_other_rates_and_codecs_reads_all(files: dict[str, bytes]) -> None:
    vorbis, opus = files["OGG VORBIS"], files["OGG OPUS"]
    assert decode(vorbis + opus).std() == pytest.approx(decode(opus).std(), rel=0.1)
    assert seconds(vorbis + opus + (DATA / "flac.ogg").read_bytes() + vorbis) == pytest.approx(5.5, abs=0.06)


def test_decode_with_a_missing_or_damaged_ogg_page_is_rejected() -> None:
    data = (DATA / "opus-without-end-of-stream.ogg").read_bytes()
    pages = [b"OggS" + page for page in data.split(b"OggS")[1:]]
    assert "a page is missing" in refusal(b"".join(pages[:3] + pages[4:]))
    assert "checksum" in refusal(data[:-5] + b"\0" + data[-4:])
    assert "truncated Ogg" in refusal(b"".join(pages[:-1]) + pages[-1][:20])
    np.testing.assert_array_equal(decode(data + b"\n"), decode(data))


# --- MP4, WebM: headers that are expensive to parse


@pytest.mark.parametrize(
    ("name", "box", "offset", "value"),
    [
        ("mp4", b"stsz", 12, 0xFFFFFF),
        ("mp4 in fragments", b"trun", 8, 0xFFFFFF),
        ("mp4", b"elst", 8, 100_000),
        ("quicktime", b"stsz", 12, 0x7FFFFFFF),
    ],
)
def test_decode_with_an_index_larger_than_any_utterance_is_rejected(
    name: str, box: bytes, offset: int, value: int, files: dict[str, bytes]
) -> None:
    data = files[name]
    assert "AUDIO is an MP4 file" in refusal(with_field(data, data.index(box) + offset, ">I", value))


@pytest.mark.parametrize("name", ["mp4", "webm", "WAV PCM_16", "FLAC PCM_16", "AIFF PCM_16", "AU PCM_16"])
def test_decode_of_joined_files_of_other_formats_is_rejected(name: str, files: dict[str, bytes]) -> None:
    assert "two or more" in refusal(files[name] + files[name])


def test_decode_with_wrong_ebml_sizes_is_rejected() -> None:
    """The block in the first cluster has a size of 2^56 - 2."""
    size = struct.pack(">Q", (1 << 56) + (1 << 56) - 2)
    assert "truncated WebM" in refusal(b"\x1a\x45\xdf\xa3\x80" + b"\x18\x53\x80\x67\xff" + b"\xa3" + size)


def test_decode_of_more_planes_than_pyav_supports_is_rejected() -> None:
    voices = np.zeros((SAMPLE_RATE, 9), np.float32)
    assert "at most 8 are accepted in compressed files" in refusal(encode(voices, "OGG", "VORBIS"))


def test_decode_of_many_small_parts_is_rejected_within_a_second(files: dict[str, bytes]) -> None:
    """Each file has 4 MiB; a loop over all its parts would take a second or more."""
    wav, opus, ebml = files["WAV PCM_16"], files["OGG OPUS"], b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67\xff"
    for begin, part in (
        (wav[:36], b"junk\0\0\0\0"),
        (wav, b"junk\0\0\0\0"),
        (b"FORM\0\0\0\0AIFF", b"junk\0\0\0\0"),
        (b"", b"ID3\x04\0\0\0\0\0\0"),
        (b"", b"\0"),
        (opus, opus[: opus.index(b"OggS", 4)]),
        (files["mp4"], b"\0\0\0\x08free"),
        (ebml, b"\xec\x80"),
    ):
        data = begin + part * ((4 << 20) // len(part))
        before = time.process_time()
        refusal(data)
        assert time.process_time() - before < 1


# --- truncation


def is_whole(name: str, data: bytes, cut: int) -> bool:
    """Return whether a truncated file is still complete by the rules of its container."""
    match name.split()[0]:
        case "WAV" | "WAVEX" | "RF64" | "W64" | "AIFF" | "AU":
            return len(data) - cut <= 0.05 * SAMPLE_RATE * (4 if "FLOAT" in name else 3 if "24" in name else 2) + 8
        case "MP3" | "aac":
            header = mpeg.adts_header if name == "aac" else mpeg.mp3_header
            ends = [frame.at + frame.size for frame in mpeg.frames(data, header)]
            return cut in (ends if name == "aac" else ends[-2:])  # the count may include the frame that contains it
        case "mp4" | "alac" | "opus" | "quicktime":
            return cut >= data.rindex(b"mfra") - 4 if b"mfra" in data else False
        case "webm":
            return name != "webm" and data[cut] in (0xA3, 0xA0, 0x1F, 0x1C)  # another block, cluster, or cues
    return False


@pytest.mark.parametrize("name", ALL)
def test_decode_of_a_file_cut_anywhere_is_rejected(name: str, files: dict[str, bytes]) -> None:
    data, chance = files[name], random.Random(0)
    for cut in {*(chance.randrange(1, len(data)) for _ in range(300)), 1, 4, 8, 12, 20, 40, len(data) - 1}:
        if not is_whole(name, data, cut):
            try:
                decode(data[:cut])
            except InputError:
                continue
            pytest.fail(f"{name} cut at {cut} of {len(data)} bytes was decoded")


# --- channels


def test_decode_averages_channels(speech: NDArray[np.float32]) -> None:
    channels = np.stack([speech, speech * 0.5, speech * -0.1], axis=1)
    np.testing.assert_allclose(decode(encode(channels, "WAV", "FLOAT")), speech * 1.4 / 3, atol=1e-6)


@pytest.mark.parametrize("other", [-1.0, -0.8, 0.0])
@pytest.mark.parametrize("order", [1, -1])
def test_decode_of_cancelling_or_empty_channels_gives_the_strongest(
    other: float, order: int, speech: NDArray[np.float32]
) -> None:
    channels = np.stack([speech, speech * other], axis=1)[:, ::order]
    sign = order if other == -1 else 1  # of two equally strong channels, the first is used
    np.testing.assert_allclose(decode(encode(channels, "WAV", "FLOAT")), speech * sign, atol=1e-6)


def test_decode_of_two_speakers_on_two_channels_keeps_both(recordings: dict[str, bytes]) -> None:
    loud, quiet = (decode(recordings[name])[:30_000] for name in ("austen-0880.flac", "austen-0890.flac"))
    channels = np.stack([loud, 0.1 * quiet], axis=1)
    np.testing.assert_allclose(decode(encode(channels, "WAV", "FLOAT")), channels.mean(axis=1), atol=1e-6)


@pytest.mark.parametrize("name", CONTAINERS)
@pytest.mark.parametrize("gains", [(1.0, 1.0), (1.0, 0.0), (0.8, 0.4)])
def test_decode_of_stereo_has_the_same_level_in_every_format(
    name: str, gains: tuple[float, float], speech: NDArray[np.float32]
) -> None:
    channels = np.stack([gain * speech for gain in gains], axis=1)
    wav, other = decode(encode(channels)), decode(encode_with_ffmpeg(channels, name))
    assert 20 * np.log10(other.std() / wav.std()) == pytest.approx(0, abs=0.5)


# --- data of other types


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (base64.b64encode(encode(np.zeros(4000))), "base64 text of a WAV file"),
        (base64.encodebytes(b"fLaC" + bytes(4000)), "base64 text of a FLAC file"),
        (b'"' + base64.b64encode(b"\0\0\0\x20ftypM4A " + bytes(4000)) + b'"', "base64 text of an MP4 file"),
        (b"data:audio/wav;base64,UklGRg==", "a data URL"),
        (b"52494646" * 100, "hexadecimal text"),
        (b"b'RIFF\\x00\\x00'", "Python's text form of bytes"),
        (b"<!DOCTYPE html><html><head><title>404</title>", "an HTML page"),
        (b"\n<html lang='en'>", "an HTML page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "XML or HTML"),
        (b'{"audio": "UklGRg=="}', "JSON"),
        (b"/home/anna/recordings/hello.wav", "the name of a file"),
        (b"C:\\recordings\\hello there.mp3", "the name of a file"),
        (b"https://example.com/hello.wav?x=1", "the name of a file"),
        (b"so angry " * 50, "text, not an audio file; send the bytes of one, or the text as TEXT"),
        ("Ich bin so wütend!".encode(), "text, not an audio file; send the bytes of one, or the text as TEXT"),
        (b"#!AMR\n" + bytes(100), "AMR"),
        (b"#!AMR-WB\n" + bytes(100), "AMR"),
        (b"caff\0\1\0\0" + bytes(100), "CAF"),
        (bytes.fromhex("30 26 b2 75 8e 66 cf 11 a6 d9 00 aa 00 62 ce 6c") + bytes(100), "WMA"),
        (b"RIFF\0\0\0\0AVI LIST" + bytes(100), "AVI"),
        (b"PK\x03\x04" + bytes(100), "a ZIP archive"),
        (b"\x93NUMPY\x01\x00" + bytes(100), "a NumPy array"),
    ],
)
def test_decode_of_data_of_another_type_names_the_type(data: bytes, words: str) -> None:
    message = refusal(data)
    assert words in message and "send" in message


def test_decode_of_an_unknown_codec_names_it(files: dict[str, bytes]) -> None:
    data = files["mp4"]
    kind = data.index(b"\x40\x15", data.index(b"esds"))  # object type and stream type: AAC, sound
    assert "AC3 in MP4, which is not accepted" in refusal(with_field(data, kind, "B", 0xA5))
    assert "WMA in a WAV file, which is not accepted" in refusal(with_field(encode(np.zeros(1000)), 20, "<H", 0x161))
    assert "its coding is not accepted" in refusal(with_field(encode(np.zeros(1000)), 20, "<H", 0x4321))
    assert "Speex" in refusal(with_ogg_checksums(files["OGG OPUS"].replace(b"OpusHead", b"Speex   ")))


@pytest.mark.parametrize("data", [b"\xff\xfe", bytes(1000), b"\x80\x81" * 500])
def test_decode_of_unknown_data_is_rejected(data: bytes) -> None:
    assert "not an audio file that can be read" in refusal(data)


@pytest.mark.parametrize("data", [b"RIFF", b"RIFF\0\0\0\0WA", b"fLaC", b"OggS", b"FORM", b".snd", b"\x1a\x45\xdf\xa3"])
def test_decode_of_a_header_alone_is_rejected(data: bytes) -> None:
    assert "truncated" in refusal(data)


def test_decode_of_zero_samples_is_rejected() -> None:
    assert "zero samples" in refusal(encode(np.zeros(0, np.float32)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_decode_of_samples_that_are_not_finite_is_rejected(speech: NDArray[np.float32], value: float) -> None:
    samples = speech.copy()
    samples[1234] = value
    assert "NaN or infinite" in refusal(encode(samples, "WAV", "FLOAT"))
    assert "NaN or infinite" in refusal(encode(np.stack([samples, speech], axis=1), "WAV", "FLOAT"))


def test_decode_of_samples_far_above_full_scale_is_rejected(speech: NDArray[np.float32]) -> None:
    assert "divide 16-bit integers by 32768" in refusal(encode(speech * 32768, "WAV", "FLOAT"))


@pytest.mark.parametrize("rate", [1, 50, 3_999, 10_000_000])
def test_decode_of_sample_rates_out_of_range_is_rejected(speech: NDArray[np.float32], rate: int) -> None:
    message = refusal(encode(speech[:1000], rate=rate))
    assert f"{rate} Hz" in message
    assert "4000 to 384000 Hz" in message


@pytest.mark.parametrize("name", ["WAV PCM_16", "FLAC PCM_16", "MP3 MPEG_LAYER_III", "OGG VORBIS", *CONTAINERS])
def test_decode_accepts_a_second_over_the_limit(name: str) -> None:
    """Recorders stop late, and encoders add samples."""
    data = made(np.random.default_rng(0).normal(0, 0.1, round(5.9 * SAMPLE_RATE)).astype(np.float32), name)
    assert len(decode(data, max_seconds=5)) == pytest.approx(5.9 * SAMPLE_RATE, abs=0.1 * SAMPLE_RATE)


@pytest.mark.parametrize("name", ["FLAC PCM_16", "MP3 MPEG_LAYER_III", "OGG VORBIS", *CONTAINERS])
def test_decode_of_too_long_a_file_names_the_limit(name: str) -> None:
    silence: NDArray[Any] = np.zeros(65 * SAMPLE_RATE, np.float32)
    data = made(silence, name)
    assert "at most 60 s" in refusal(data)
    assert "at most 5 s" in refusal(data, max_seconds=5)
