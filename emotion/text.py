"""Turn UTF-8 bytes into a cleaned sentence and into WordPiece ids."""

import html
import re
import unicodedata
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from emotion.annotations import remove_annotations
from emotion.emoticons import spell_out_emoji, spell_out_emoticons
from emotion.errors import InputError
from emotion.masking import replace_bleeps, unmask

MAX_BYTES = 16 * 1024  # longer texts are rejected before any work; 512 WordPieces have far fewer bytes

# Characters that are typed as an apostrophe. Quotation marks and dashes become spaces here because it is faster.
_PLAIN = str.maketrans(
    dict.fromkeys("\u2018\u2019\u201b\u02b9\u02bb\u02bc\u02bd\u2032\u2035\u00b4", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u2013\u2014", " ")
)
_MOJIBAKE = "\u00e2\u20ac\u2122"  # U+2019 in UTF-8 that was read as Windows-1252
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}(?![0-9]);?|#[xX][0-9a-fA-F]{1,6}(?![0-9a-fA-F]);?|[A-Za-z][A-Za-z0-9]{1,31};)")
_UNWANTED = re.compile(r"[\x00-\x08\x0e-\x1f\x7f\"#$%&()*+/:;<=>@\[\\\]^_`{|}~]+")  # the rest of ASCII
_REPEATED = re.compile(r"([.,!?'-])\1{3,}")
_SHOUTED = re.compile(r"([!?]{4})[!?]+")
_HANGUL_FILLERS = "\u115f\u1160"  # invisible characters in the category of letters; NFKC maps two others to them
# Accents of any script. The marks of other blocks are a script's own: vowel signs, viramas, points.
_ACCENTS = (
    range(0x0300, 0x0370),
    range(0x0483, 0x048A),
    range(0x1AB0, 0x1B00),
    range(0x1DC0, 0x1E00),
    range(0x20D0, 0x2100),
    range(0xFE00, 0xFE10),  # variation selectors
    range(0xFE20, 0xFE30),
    range(0xE0100, 0xE01F0),  # variation selectors
)


def decode(data: bytes) -> str:
    """Return the string in a request's bytes.

    Raises:
        InputError: the text is too long, not UTF-8, or contains a NUL character.
    """
    if len(data) > MAX_BYTES:
        raise InputError(f"TEXT has {len(data)} bytes; at most {MAX_BYTES} are accepted: send one utterance at a time")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"TEXT is not valid UTF-8 (byte 0x{data[error.start]:02x} at position {error.start}); encode it as UTF-8"
        ) from None
    if "\0" in text:
        raise InputError(f"TEXT has a NUL character at position {text.index(chr(0))}; send plain text without any")
    return text


def clean(text: str) -> str:
    """Return a text in lower case with words and digits of every script, and the punctuation that shows tone (.,!?'-).

    In this order: HTML entities are decoded, emoji become words, the text is normalised (NFKC), characters that only
    format are dropped, annotations and markup are taken out, masked swear words and emoticons become words, and
    everything else becomes a space. A text without any letter or digit becomes empty.
    """
    if "&" in text:
        text = _decode_entities(_decode_entities(text))  # pages that escape twice contain &amp;#39;
    if not text.isascii():
        text = _normalise(text)
    text = unmask(remove_annotations(replace_bleeps(text.replace("`", "'"))))
    text = _UNWANTED.sub(" ", spell_out_emoticons(text)).lower()
    text = " ".join(_SHOUTED.sub(r"\1", _REPEATED.sub(r"\1\1\1", text)).split())
    return text if any(map(str.isalnum, text)) else ""


def _decode_entities(text: str) -> str:
    return _ENTITY.sub(lambda entity: html.unescape(entity[0]), text)


def _normalise(text: str) -> str:
    """Return a text whose characters outside ASCII are letters, digits, and the marks of their script."""
    text = unicodedata.normalize("NFC", text).replace(_MOJIBAKE, "'")
    text = unicodedata.normalize("NFKC", spell_out_emoji(text).translate(_PLAIN)).replace("\u02bc", "'")  # of U+0149
    if text.isascii():
        return text
    kept: list[str] = []
    attached = False  # whether a mark may follow
    for character in text:
        if character.isascii():
            kept.append(character)
            attached = character.isalnum()
        elif character.isalnum():
            if character not in _HANGUL_FILLERS:
                kept.append("I" if character == "\u0130" else character)  # lower() would give an i with an accent
                attached = True
        else:
            category = unicodedata.category(character)
            if category[0] == "M":
                if category != "Me" and not any(ord(character) in accents for accents in _ACCENTS):
                    kept.append(character if attached else " ")
            elif category != "Cf":
                kept.append(" ")
                attached = False
    # again, for letters that removed marks had separated, such as those of a Hangul syllable
    return unicodedata.normalize("NFC", "".join(kept))


class WordPiece:
    """WordPiece tokenizer from a Hugging Face `tokenizer.json`, without its padding and truncation."""

    def __init__(self, path: str | PathLike[str], max_tokens: int = 512) -> None:
        """Load a tokenizer.

        Args:
            path: the tokenizer.json file.
            max_tokens: the encoder's number of positions; longer texts are rejected, not cut.
        """
        self._tokenizer = Tokenizer.from_file(str(Path(path)))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.max_tokens = max_tokens

    def encode(self, text: str) -> NDArray[np.int64]:
        """Return the ids of a cleaned text: int64 [tokens] with [CLS] and [SEP]; int64 [0] for the empty text.

        Raises:
            InputError: the text has more tokens than the encoder has positions.
        """
        if not text:
            return np.empty(0, np.int64)
        ids = self._tokenizer.encode(text).ids
        if len(ids) > self.max_tokens:
            raise InputError(
                f"TEXT has {len(ids)} tokens; at most {self.max_tokens} are accepted: send one utterance at a time"
            )
        return np.asarray(ids, np.int64)
