"""What is fuzzed, and what must hold for any bytes: an answer of the promised form or one sentence, in bounded time.

A target is a function of the bytes that raises where a promise is broken. A crash of the process is one, too.
"""

import re
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from unicodedata import category

import numpy as np

from emotion import audio, decoding, text
from emotion.errors import InputError

CPU_LIMIT = 2.0  # s of the processor for one input
TOKENIZER = Path("build/model_repository/preprocess/1/tokenizer.json")  # where `make export` puts it
_SENTENCE = re.compile(r"[A-Z][^\n]{10,400}")


def check(name: str, data: bytes) -> None:
    """Give `data` to the target `name`.

    Raises:
        AssertionError, or whatever it lets through: a promise is broken.
    """
    begun = time.process_time()
    TARGETS[name](data)
    spent = time.process_time() - begun
    assert spent < CPU_LIMIT, f"{len(data)} bytes took {spent:.1f} s"


def _audio(data: bytes) -> None:
    """Decode a file as Triton's audio front-end and the page's gateway do."""
    try:
        waveform = decoding.decode(data)
    except InputError as error:
        assert _SENTENCE.fullmatch(str(error)), str(error)
        return
    assert waveform.dtype == np.float32 and waveform.ndim == 1
    assert 0 < waveform.size <= (decoding.MAX_SECONDS + 1) * audio.SAMPLE_RATE
    assert np.isfinite(waveform).all()
    patches = audio.sound_patches(waveform)
    assert patches.dtype == np.float32 and patches.shape[1:] == audio.PATCH_SHAPE
    assert np.isfinite(patches).all()


def _text(data: bytes) -> None:
    """A text as Triton's text front-end gets it."""
    try:
        cleaned = text.clean(text.decode(data))
        ids = _word_piece().encode(cleaned)
    except InputError as error:
        assert _SENTENCE.fullmatch(str(error)), str(error)
        return
    assert text.clean(cleaned) == cleaned
    assert cleaned == " ".join(cleaned.split()) and "_" not in cleaned
    assert all(character.isalnum() or character in " .,!?'-" or category(character)[0] == "M" for character in cleaned)
    assert ids.dtype == np.int64 and ids.ndim == 1 and len(ids) <= _word_piece().max_tokens
    assert bool(len(ids)) == bool(cleaned)


@cache
def _word_piece() -> text.WordPiece:
    return text.WordPiece(TOKENIZER)


TARGETS: dict[str, Callable[[bytes], None]] = {"audio": _audio, "text": _text}
