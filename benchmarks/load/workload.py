"""Utterances to load a server with: real speech and sentences with the lengths of IEMOCAP's.

Durations are log-normal piece by piece: the logarithm is a standard normal variable, interpolated through IEMOCAP's
quantiles. (A plain log-normal through the median and p95 has its p99 at 17.5 s instead of 15.6 s, and no maximum.)
Numbers of WordPieces are duration times a log-normal speaking rate (correlation 0.88). One seed determines everything,
and a shorter workload is the start of a longer one.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from benchmarks.errors import BenchmarkError
from emotion import audio, text
from export import speech

# standard normal variable -> seconds: shortest, 22 of 5531 clips are shorter, median, p95, p99, longest
DURATIONS = {-3.6: 0.5, -2.65: 0.975, 0.0: 3.6, 1.645: 11.0, 2.326: 15.6, 3.6: 34.0}
SPEAKING_RATE = 2.7  # WordPieces/s, median; makes a mean of 15 tokens with [CLS] and [SEP]
SPEAKING_RATE_SPREAD = 0.3  # standard deviation of its logarithm
MAX_TOKENS = 120
SPECIAL_TOKENS = 2  # [CLS] and [SEP]
AUDIO_ONLY, TEXT_ONLY = 3, 7  # positions in every ten utterances, from 0


@dataclass(frozen=True, slots=True)
class Utterance:
    """The input of a request."""

    audio: bytes  # a WAV file, 16 kHz, 16 bits, mono; b"" where absent
    text: str  # the words; "" where absent
    seconds: float  # of audio; 0.0 where absent
    tokens: int  # WordPieces of the text with [CLS] and [SEP]; 0 where absent
    patches: int  # log-mel patches of the audio; 0 where absent

    @property
    def kind(self) -> str:
        """The modalities: "both", "audio" or "text"."""
        return "both" if self.audio and self.text else "audio" if self.audio else "text"


def tokenizer_file(repository: Path) -> Path:
    """Return the path of the tokenizer in an exported repository."""
    return repository / "preprocess" / "1" / "tokenizer.json"


def lengths(count: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return seconds float64 [count] (0.5 to 34) and WordPieces int64 [count] (3 to 120) of utterances."""
    # one generator each, so that the first values do not depend on the count
    durations, rates = np.random.default_rng(seed).spawn(2)
    seconds = np.exp(np.interp(durations.standard_normal(count), list(DURATIONS), np.log(list(DURATIONS.values()))))
    rate = SPEAKING_RATE * np.exp(SPEAKING_RATE_SPREAD * rates.standard_normal(count))
    tokens = SPECIAL_TOKENS + np.maximum(1, np.rint(rate * seconds))
    return seconds, np.minimum(tokens, MAX_TOKENS).astype(np.int64)


def mixed(count: int, tokenizer: Path, seed: int = 4) -> list[Utterance]:
    """Return utterances with IEMOCAP's lengths; one in ten has audio only, one in ten text only.

    Raises BenchmarkError if the tokenizer does not exist.
    """
    seconds, tokens = lengths(count, seed)
    places = np.arange(count) % 10
    return _cut(np.where(places == TEXT_ONLY, 0.0, seconds), np.where(places == AUDIO_ONLY, 0, tokens), tokenizer, seed)


def uniform(count: int, tokenizer: Path, seconds: float, tokens: int, seed: int = 4) -> list[Utterance]:
    """Return utterances of one length; 0 seconds, or 0 tokens, leaves the modality out.

    Raises BenchmarkError if the tokenizer does not exist, or no utterance has such lengths.
    """
    if seconds < 0 or tokens < 0 or (not seconds and not tokens):
        raise BenchmarkError(f"an utterance can't have {seconds:g} s and {tokens} tokens: give at least one of both")
    if 0 < tokens <= SPECIAL_TOKENS:
        raise BenchmarkError(f"{tokens} tokens are [CLS] and [SEP] alone: give at least 3, or 0 for no text")
    return _cut(np.full(count, seconds), np.full(count, tokens), tokenizer, seed)


def _cut(seconds: NDArray[np.float64], tokens: NDArray[np.int64], tokenizer: Path, seed: int) -> list[Utterance]:
    """Return one utterance of each length, from random places in the recordings and their transcripts."""
    recordings, words = _speech(), _words(tokenizer)
    _, _, starts = np.random.default_rng(seed).spawn(3)  # lengths() uses the first two
    places = starts.random((len(seconds), 2)) * (len(recordings), len(words))
    utterances = []
    for (first, word), length, count in zip(places.astype(int), seconds, tokens.tolist(), strict=True):
        samples = round(length * audio.SAMPLE_RATE)
        cut = recordings.take(np.arange(first, first + samples), mode="wrap")
        data = encode(cut) if samples else b""
        patches = len(audio.sound_patches(cut * np.float32(1 / 32768))) if samples else 0
        sentence = _sentence(words, word, count) if count else ""
        utterances.append(Utterance(data, sentence, samples / audio.SAMPLE_RATE, count, patches))
    return utterances


def encode(samples: NDArray[Any], rate: int = audio.SAMPLE_RATE, subtype: str = "PCM_16", file: str = "WAV") -> bytes:
    """Return an audio file with the samples of one channel: int16, or float from -1 to 1."""
    data = io.BytesIO()
    soundfile.write(data, samples, rate, subtype, format=file)
    return data.getvalue()


def _sentence(words: Sequence[tuple[str, int]], start: int, tokens: int) -> str:
    """Return words from `start` on that make exactly this number of tokens."""
    chosen, missing = [], tokens - SPECIAL_TOKENS
    while missing:
        word, pieces = words[start % len(words)]
        if pieces <= missing:
            chosen.append(word)
            missing -= pieces
        start += 1
    return " ".join(chosen)


@cache
def _speech() -> NDArray[np.int16]:
    """Return all recordings, joined: int16 [n] at 16 kHz."""
    return np.rint(32767 * np.clip(speech.waveform(), -1, 1)).astype(np.int16)


def _words(tokenizer: Path) -> list[tuple[str, int]]:
    """Return the words of all transcripts with their numbers of WordPieces, which add up as BERT splits at spaces."""
    if not tokenizer.is_file():
        raise BenchmarkError(
            f"no tokenizer at {tokenizer}: give the preprocess/1/tokenizer.json of an exported repository "
            "(`make export` makes one)"
        )
    pieces = text.WordPiece(tokenizer)
    words = " ".join(speech.transcripts().values()).split()
    return [(word, len(pieces.encode(text.clean(word))) - SPECIAL_TOKENS) for word in words]
