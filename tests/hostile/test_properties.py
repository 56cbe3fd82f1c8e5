"""Test properties of both front-ends that hold for any bytes and any string, with hypothesis."""

import itertools
import re
import unicodedata

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from emotion import audio, decoding, text
from emotion.audio import MIN_SAMPLES, PATCH_FRAMES, PATCH_SHAPE, SAMPLE_RATE
from emotion.checkpoint import Checkpoint
from emotion.errors import InputError
from tests.encoding import encode
from tests.hostile.corpus import ACCEPTED, FORMATS, UNCOMPRESSED, file

settings.register_profile(
    "hostile",
    derandomize=True,  # the same examples in every run
    deadline=None,  # because machines are shared
    database=None,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("hostile")

SENTENCE = re.compile(r"(AUDIO|TEXT) [^\n]+")
LOSSLESS = ("wav", "float.wav", "wavex", "rf64", "w64", "aiff", "au", "flac")


@pytest.fixture(scope="module")
def word_piece(checkpoint: Checkpoint) -> text.WordPiece:
    return text.WordPiece(checkpoint.tokenizer)


def waveform_or_sentence(data: bytes) -> NDArray[np.float32] | str:
    """Decode bytes, and return valid samples or the sentence of the InputError."""
    try:
        waveform = decoding.decode(data)
    except InputError as error:
        assert SENTENCE.fullmatch(str(error)), str(error)
        return str(error)
    assert waveform.dtype == np.float32 and waveform.ndim == 1
    assert 0 < waveform.size <= decoding.MAX_SECONDS * SAMPLE_RATE + SAMPLE_RATE
    assert np.isfinite(waveform).all()
    return waveform


def decoded(data: bytes) -> NDArray[np.float32]:
    """Return the samples of a valid file."""
    waveform = waveform_or_sentence(data)
    assert not isinstance(waveform, str), waveform
    return waveform


# --- audio: any bytes


@settings(max_examples=300)
@given(st.binary(max_size=400))
def test_decode_of_any_bytes_returns_samples_or_a_sentence(data: bytes) -> None:
    waveform_or_sentence(data)


@settings(max_examples=300)
@given(
    st.sampled_from(
        [b"RIFF", b"RIFX", b"RF64", b"riff", b"FORM", b".snd", b"fLaC", b"OggS", b"ID3\x04", b"\xff\xfb", b"caff"]
    ),
    st.lists(
        st.sampled_from([b"WAVE", b"fmt ", b"data", b"AIFF", b"COMM", b"SSND", b"\0", b"\xff"]) | st.binary(max_size=20)
    ),
)
def test_decode_of_any_bytes_behind_a_magic_number_returns_samples_or_a_sentence(
    magic: bytes, parts: list[bytes]
) -> None:
    waveform_or_sentence(magic + b"".join(parts))


@st.composite
def edited(draw: st.DrawFn) -> bytes:
    """Draw a valid file of any format, and apply a few edits: set, remove, insert or truncate bytes."""
    data = bytearray(file(draw(st.sampled_from(sorted(ACCEPTED)))))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, 100) | st.integers(0, len(data)))
        match draw(st.sampled_from(["set", "cut", "insert", "end"])):
            case "set":
                data[at : at + 4] = draw(st.binary(min_size=1, max_size=8))
            case "cut":
                del data[at : at + draw(st.integers(1, 2000))]
            case "insert":
                data[at:at] = draw(st.binary(max_size=200))
            case "end":
                del data[at:]
    return bytes(data)


@settings(max_examples=500)
@given(edited())
def test_decode_of_an_edited_file_returns_samples_or_a_sentence(data: bytes) -> None:
    waveform_or_sentence(data)


@settings(max_examples=150)
@given(st.sampled_from(sorted(FORMATS)), st.floats(0, 1, exclude_max=True))
def test_decode_of_a_truncated_file_is_rejected(ending: str, share: float) -> None:
    data = file(ending)
    cut = data[: int(share * (0.94 if ending in UNCOMPRESSED else 1) * len(data))]
    assert isinstance(waveform_or_sentence(cut), str)


# --- audio: valid files


def samples(count: int, channels: int = 1) -> NDArray[np.float32]:
    """Return random 16-bit samples as float32 [count, channels] in [-0.9, 0.9]."""
    values = np.random.default_rng(count).integers(-29_000, 29_000, (count, channels))
    return (values / 32_768).astype(np.float32)


@settings(max_examples=100)
@given(st.integers(1, 3000), st.integers(1, 8), st.sampled_from(LOSSLESS))
def test_decode_of_lossless_containers_returns_the_samples(count: int, channels: int, ending: str) -> None:
    wanted = samples(count) @ np.linspace(1, 0.5, channels, dtype=np.float32)[None]  # must not cancel out
    wanted = np.round(wanted * 32_768) / 32_768
    found = decoded(encode(wanted, *FORMATS[ending]))
    np.testing.assert_allclose(found, wanted.mean(axis=1), atol=2e-7)


@settings(max_examples=50)
@given(st.integers(1, 3000), st.permutations(range(5)))
def test_decode_does_not_depend_on_the_order_of_channels(count: int, order: list[int]) -> None:
    wanted = samples(count, 5)
    found, turned = (decoded(encode(each)) for each in (wanted, wanted[:, order]))
    np.testing.assert_allclose(found, turned, atol=2e-7)


@settings(max_examples=60)
@given(st.integers(1, 20_000), st.integers(4_000, 384_000))
def test_decode_of_any_sample_rate_keeps_the_duration(count: int, rate: int) -> None:
    found = waveform_or_sentence(encode(samples(count), rate=rate))
    if isinstance(found, str):
        assert count * SAMPLE_RATE < rate and "shorter than a sample" in found
    else:
        assert abs(len(found) - count * SAMPLE_RATE / rate) <= 1


@settings(max_examples=80)
@given(st.integers(1, 80_000), st.floats(0, decoding.MAX_PEAK))
def test_log_mel_patches_of_any_length_and_loudness_are_finite(count: int, loudness: float) -> None:
    waveform = (samples(count)[:, 0] * loudness).astype(np.float32)
    patches = audio.log_mel_patches(waveform)
    frames = 1 + (max(count, MIN_SAMPLES) - 400) // 160
    assert patches.shape == (frames // PATCH_FRAMES, *PATCH_SHAPE) and len(patches) >= 1
    assert patches.dtype == np.float32 and np.isfinite(patches).all()


@settings(max_examples=80)
@given(st.integers(1, 80_000), st.floats(0, decoding.MAX_PEAK))
def test_sound_patches_of_any_length_and_loudness_are_finite(count: int, loudness: float) -> None:
    waveform = (samples(count)[:, 0] * loudness).astype(np.float32)
    found = audio.sound_patches(waveform)
    assert found.shape[1:] == PATCH_SHAPE and found.dtype == np.float32 and np.isfinite(found).all()
    assert len(found) <= 1 + len(audio.log_mel_patches(waveform))


@settings(max_examples=30)
@given(st.integers(MIN_SAMPLES, 60_000), st.integers(0, 50_000))
def test_log_mel_patches_do_not_depend_on_later_samples(count: int, more: int) -> None:
    waveform = samples(count + more)[:, 0]
    alone = audio.log_mel_patches(waveform[:count])
    np.testing.assert_allclose(audio.log_mel_patches(waveform)[: len(alone)], alone, atol=1e-5)


# --- text

ANY_TEXT = st.text(max_size=300) | st.text(st.characters(categories=["M", "Cf", "Zs", "P", "Lm"]), max_size=300)


@settings(max_examples=300)
@given(st.binary(max_size=300))
def test_text_decode_of_any_bytes_returns_text_or_a_sentence(data: bytes) -> None:
    try:
        found = text.decode(data)
    except InputError as error:
        assert SENTENCE.fullmatch(str(error)), str(error)
    else:
        assert found.encode() == data and "\0" not in found


@settings(max_examples=500)
@given(ANY_TEXT)
def test_clean_is_idempotent(sentence: str) -> None:
    once = text.clean(sentence)
    assert text.clean(once) == once


@settings(max_examples=300)
@given(ANY_TEXT)
def test_clean_keeps_only_words_and_punctuation(sentence: str) -> None:
    cleaned = text.clean(sentence)
    assert cleaned == " ".join(cleaned.split())
    for before, character in itertools.pairwise(" " + cleaned):
        if unicodedata.category(character)[0] == "M":  # a mark of a script after a letter, and no accent
            assert before.isalnum() or unicodedata.category(before)[0] == "M"
            assert not "\u0300" <= character <= "\u036f" and not "\u20d0" <= character <= "\u20ff"
        else:
            assert character.isalnum() or character in " .,!?'-"
    assert not cleaned or any(character.isalnum() for character in cleaned)


@settings(max_examples=200)
@given(ANY_TEXT)
def test_clean_of_canonically_equal_texts_is_equal(sentence: str) -> None:
    assert text.clean(unicodedata.normalize("NFD", sentence)) == text.clean(unicodedata.normalize("NFC", sentence))


def test_encode_of_any_string_returns_tokens_or_a_sentence(word_piece: text.WordPiece) -> None:
    @settings(max_examples=300)
    @given(ANY_TEXT | st.text(min_size=400, max_size=2000))
    def check(sentence: str) -> None:
        cleaned = text.clean(sentence)
        try:
            ids = word_piece.encode(cleaned)
        except InputError as error:
            assert SENTENCE.fullmatch(str(error)), str(error)
            assert len(cleaned) > word_piece.max_tokens - 2
            return
        assert ids.dtype == np.int64
        if not cleaned:
            assert len(ids) == 0
            return
        assert 3 <= len(ids) <= min(word_piece.max_tokens, len(cleaned) + 2)
        assert (ids[0], ids[-1]) == (101, 102) and ids.min() >= 0 and ids.max() < 30_522

    check()


def test_encode_does_not_depend_on_earlier_calls(word_piece: text.WordPiece) -> None:
    @settings(max_examples=50)
    @given(st.lists(st.text(max_size=100), min_size=2, max_size=8))
    def check(sentences: list[str]) -> None:
        cleaned = [text.clean(sentence) for sentence in sentences]
        together = [list(word_piece.encode(sentence)) for sentence in cleaned]
        assert together[::-1] == [list(word_piece.encode(sentence)) for sentence in reversed(cleaned)]

    check()
