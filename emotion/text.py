"""The text front-end: UTF-8 bytes -> cleaned sentence -> WordPiece ids."""

import re
import unicodedata
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from emotion.errors import InputError

MAX_BYTES = 16 * 1024  # refused before any work is spent; no utterance of 512 WordPieces comes near it

_QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u02bc": "'"})
_UNWANTED = re.compile(r"[^\w\s.,!?'-]|_")  # \w keeps the letters and digits of every script
_SPACE = re.compile(r"\s+")


def decode(data: bytes) -> str:
    """The string in a request's bytes.

    Raises:
        InputError: too long, not UTF-8, or holding a NUL character.
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
    """Normalise (NFKC), lower the case, and keep letters, digits and the punctuation that carries tone (.,!?'-).

    Everything else becomes a space. A text in which no letter or digit is left is empty: it says nothing.
    """
    text = unicodedata.normalize("NFKC", text).translate(_QUOTES).lower()
    # marks that NFKC could not compose are accents the vocabulary lacks: uncased BERT strips them too
    text = "".join(character for character in text if not unicodedata.combining(character))
    text = unicodedata.normalize("NFC", text)  # letters that marks had kept apart, such as those of a Hangul syllable
    text = _SPACE.sub(" ", _UNWANTED.sub(" ", text)).strip()
    return text if any(character.isalnum() for character in text) else ""


class WordPiece:
    """A Hugging Face `tokenizer.json`, without the padding and truncation that it may carry along."""

    def __init__(self, path: str | PathLike[str], max_tokens: int = 512) -> None:
        """
        Args:
            path: the tokenizer.json file.
            max_tokens: the encoder's number of positions; longer texts are refused rather than cut.
        """
        self._tokenizer = Tokenizer.from_file(str(Path(path)))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.max_tokens = max_tokens

    def encode(self, text: str) -> NDArray[np.int64]:
        """Ids of a cleaned text, int64 [tokens], [CLS] and [SEP] included; int64 [0] for the empty text.

        Raises:
            InputError: more tokens than the encoder has positions.
        """
        if not text:
            return np.empty(0, np.int64)
        ids = self._tokenizer.encode(text).ids
        if len(ids) > self.max_tokens:
            raise InputError(
                f"TEXT has {len(ids)} tokens; at most {self.max_tokens} are accepted: send one utterance at a time"
            )
        return np.asarray(ids, np.int64)
