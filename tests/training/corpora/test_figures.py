"""Test the summary and the picture of a corpus."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from emotion.text import WordPiece
from training.corpora import Corpus, Utterance
from training.corpora.figures import draw, summary


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    rows = []
    for number, seconds in enumerate((0.5, 1.0, 2.0, 4.5)):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, np.zeros(int(seconds * 8000)), 8000)
        text = " ".join(["word"] * (number + 1))
        rows.append(Utterance(str(number), path, text, ("anger", "neutral")[number % 2], speaker=f"s{number % 2}"))
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    rows.append(Utterance("broken", tmp_path / "broken.wav", "word " * 9, "sadness", speaker="s1"))
    return Corpus("mine", tuple(rows), {})


@pytest.fixture
def tokenizer(tmp_path: Path) -> WordPiece:
    words = Tokenizer(WordLevel({"word": 0, "[UNK]": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    return WordPiece(tmp_path / "tokenizer.json", max_tokens=8)


def test_summary_counts_emotions_durations_and_tokens(corpus: Corpus, tokenizer: WordPiece) -> None:
    numbers = summary(corpus, tokenizer)
    assert numbers["emotions"] == {"neutral": 2, "frustration": 0, "anger": 2, "sadness": 1, "excitement": 0}
    assert numbers["recordings"] == 5
    assert numbers["hours"] == pytest.approx(8 / 3600)
    assert numbers["seconds"] == pytest.approx({"median": 1.5, "p95": 4.125, "longest": 4.5})
    assert numbers["under_one_patch"] == 1
    assert [Path(name).name for name in numbers["unreadable"]] == ["broken.wav"]
    assert numbers["texts"] == 5
    assert numbers["tokens"] == pytest.approx({"median": 2.5, "p95": 3.85, "longest": 4})
    assert numbers["too_long"] == 1
    assert "tokens" not in summary(corpus)


def test_draw_has_a_panel_for_each_quantity(corpus: Corpus, tokenizer: WordPiece, tmp_path: Path) -> None:
    figure = draw(corpus, tokenizer)
    emotions, durations, tokens = figure.axes
    legend = emotions.get_legend()
    assert legend is not None
    assert legend.get_title().get_text() == "speaker"
    assert [text.get_text() for text in legend.get_texts()] == ["s0", "s1"]
    assert (durations.get_xlabel(), tokens.get_xlabel()) == ("duration (s)", "WordPiece tokens")
    figure.savefig(tmp_path / "corpus.png")
    assert (tmp_path / "corpus.png").read_bytes().startswith(b"\x89PNG")


def test_draw_without_audio_leaves_out_durations() -> None:
    assert len(draw(Corpus("mine", (Utterance("a", None, "Well.", "neutral"),), {})).axes) == 1
