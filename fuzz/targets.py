"""The fuzzing targets: for any bytes, the result must be valid or a one-line InputError, in limited time.

A target is a function of the bytes that raises an exception if this is violated. A crash of the process is a failure
too.
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

CPU_LIMIT_S = 2.0  # CPU time for one input
TOKENIZER = Path("build/model_repository/preprocess/1/tokenizer.json")  # `make export` writes it
_SENTENCE = re.compile(r"[A-Z][^\n]{10,400}")


def check(name: str, data: bytes) -> None:
    """Run a target on an input.

    Args:
        name: a key of TARGETS.
        data: the input.

    Raises:
        Exception: the input fails: its result is invalid, it takes too long, or an unexpected exception is raised.
    """
    started = time.process_time()
    TARGETS[name](data)
    spent = time.process_time() - started
    assert spent < CPU_LIMIT_S, f"{len(data)} bytes took {spent:.1f} s"


def _audio(data: bytes) -> None:
    """Decode an audio file as Triton's audio front-end and the page's gateway do, and check the result."""
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
    """Clean and tokenize a text as Triton's text front-end does, and check the result."""
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
