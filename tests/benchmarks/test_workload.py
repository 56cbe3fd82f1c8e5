"""Test the lengths, contents and seeds of the workload's utterances."""

import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from benchmarks.errors import BenchmarkError
from benchmarks.load.workload import lengths, mixed, uniform
from emotion import decoding, text
from emotion.audio import sound_patches


@pytest.fixture(scope="module")
def tokenizer(repository: Path) -> Path:
    return repository / "preprocess" / "1" / "tokenizer.json"


def test_lengths_have_the_quantiles_of_iemocap() -> None:
    seconds, tokens = lengths(20_000, seed=4)
    assert np.percentile(seconds, [50, 95, 99]) == pytest.approx([3.6, 11.0, 15.6], rel=0.05)
    assert 0.5 <= seconds.min() < 0.975 and 25 < seconds.max() < 34.001
    assert tokens.mean() == pytest.approx(15, abs=0.5)
    assert tokens.min() == 3 and 100 < tokens.max() <= 120
    assert np.corrcoef(seconds, tokens)[0, 1] > 0.8


def test_mixed_utterances_have_the_lengths_they_state(tokenizer: Path) -> None:
    pieces = text.WordPiece(tokenizer)
    utterances = mixed(100, tokenizer)
    for utterance in utterances:
        assert len(pieces.encode(text.clean(utterance.text))) == utterance.tokens
        assert bool(utterance.audio) == (utterance.kind != "text")
        if utterance.audio:
            info = soundfile.info(io.BytesIO(utterance.audio))
            assert (info.samplerate, info.channels, info.subtype, info.format) == (16_000, 1, "PCM_16", "WAV")
            assert info.frames / 16_000 == utterance.seconds
            samples, _ = soundfile.read(io.BytesIO(utterance.audio))
            assert np.abs(samples).max() > 0.01  # speech, not silence
            assert len(sound_patches(decoding.decode(utterance.audio))) == utterance.patches >= 1
        else:
            assert utterance.patches == 0
    assert Counter(utterance.kind for utterance in utterances) == {"both": 80, "audio": 10, "text": 10}


def test_mixed_with_one_seed_is_reproducible(tokenizer: Path) -> None:
    utterances = mixed(64, tokenizer, seed=5)
    assert mixed(16, tokenizer, seed=5) == utterances[:16]
    assert mixed(16, tokenizer, seed=6) != utterances[:16]
    assert len({utterance.audio for utterance in utterances if utterance.audio}) > 50


@pytest.mark.parametrize(("seconds", "tokens", "kind"), [(1.5, 512, "both"), (60.0, 0, "audio"), (0.0, 4, "text")])
def test_uniform_utterances_have_one_length(tokenizer: Path, seconds: float, tokens: int, kind: str) -> None:
    for utterance in uniform(3, tokenizer, seconds, tokens):
        assert (utterance.seconds, utterance.tokens, utterance.kind) == (seconds, tokens, kind)
        assert len(text.WordPiece(tokenizer).encode(text.clean(utterance.text))) == tokens


@pytest.mark.parametrize(("seconds", "tokens"), [(0.0, 0), (-1.0, 5), (3.0, 2)])
def test_uniform_with_invalid_lengths_raises(tokenizer: Path, seconds: float, tokens: int) -> None:
    with pytest.raises(BenchmarkError, match="give at least"):
        uniform(1, tokenizer, seconds, tokens)


def test_mixed_without_a_tokenizer_names_it(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"no tokenizer at .*tokenizer\.json.*`make export` makes one"):
        mixed(1, tmp_path / "tokenizer.json")
