"""The text front-end."""

import numpy as np
import pytest
from tokenizers import Tokenizer

from emotion.checkpoint import Checkpoint
from emotion.errors import InputError
from emotion.text import MAX_BYTES, WordPiece, clean, decode


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("He was not an ill-disposed young man,", "he was not an ill-disposed young man,"),
        ("  WHAT?!\t\n No… ", "what?! no..."),
        ("Don\u2019t \u201cpanic\u201d", "don't panic"),
        ("\uff26\uff55\uff4c\uff4c width", "full width"),
        ("cafe\u0301", "caf\u00e9"),
        ("z\u0336\u0321alg\u0334o", "zalgo"),
        ("\u1105\u0356\u1162", "\ub798"),  # jamo with a mark between them are a syllable all the same
        ("a_b <i>c</i> #d @e", "a b i c i d e"),
        ("x\u202e\u200by", "x y"),
        ("\U0001f642 fine \U0001f642", "fine"),
        ("Привет, 42", "привет, 42"),
        ("\U0001f642\U0001f642", ""),
        ("...!?", ""),
        ("   ", ""),
        ("", ""),
    ],
)
def test_clean(raw: str, cleaned: str) -> None:
    assert clean(raw) == cleaned


def test_clean_is_idempotent() -> None:
    once = clean("Ｉ'm — NOT \u201csure\u201d… İstanbul ﬁne!")
    assert clean(once) == once


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"caf\xe9", "not valid UTF-8 (byte 0xe9 at position 3)"),
        (b"\xed\xa0\x80", "not valid UTF-8"),
        (b"a\0b", "NUL character at position 1"),
        (b"a" * 1_000_000, f"1000000 bytes; at most {MAX_BYTES}"),
    ],
)
def test_text_that_cannot_be_used(data: bytes, reason: str) -> None:
    with pytest.raises(InputError, match="TEXT") as caught:
        decode(data)
    assert reason in str(caught.value)


def test_ids_are_the_tokenizers_own_without_padding_or_truncation(checkpoint: Checkpoint) -> None:
    word_piece = WordPiece(checkpoint.tokenizer)
    ids = word_piece.encode("he was not an ill-disposed young man,")
    assert ids.dtype == np.int64
    assert (ids[0], ids[-1]) == (101, 102)  # [CLS], [SEP] of the bert-base-uncased vocabulary
    assert Tokenizer.from_file(str(checkpoint.tokenizer)).decode(list(ids)) == "he was not an ill - disposed young man,"
    assert len(word_piece.encode("word " * 300)) == 302
    assert len(word_piece.encode("")) == 0


def test_more_tokens_than_positions(checkpoint: Checkpoint) -> None:
    with pytest.raises(InputError, match="TEXT has 602 tokens; at most 512"):
        WordPiece(checkpoint.tokenizer).encode("word " * 600)
