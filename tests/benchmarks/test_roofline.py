"""The ways in one process do all of the work, and only that."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest

from benchmarks import roofline, workload
from emotion.errors import InputError
from emotion.text import WordPiece
from export import parity

COUNT = 11


class Recorder:
    """In place of a model: what it was asked."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def __call__(self, utterances: Sequence[parity.Utterance]) -> None:
        self.batches.append([str(utterance) for utterance in utterances])


@pytest.fixture
def tokenizer(repository: Path) -> Path:
    """Of the demo's repository."""
    return repository / "preprocess" / "1" / "tokenizer.json"


@pytest.mark.parametrize("graph_alone", [False, True])
@pytest.mark.parametrize("models", [1, 2])
def test_every_utterance_is_run_once_in_batches_in_order(tokenizer: Path, models: int, graph_alone: bool) -> None:
    utterances, pieces = workload.mixed(COUNT, tokenizer), WordPiece(tokenizer)
    recorders = [Recorder() for _ in range(models)]
    way = roofline._batches(cast("list[parity.OnnxModel]", recorders), 4)
    assert roofline.seconds(way, utterances, pieces, graph_alone) > 0
    expected = [str(parity.front_ends(each.audio, each.text, pieces)) for each in utterances]
    batches = [batch for recorder in recorders for batch in recorder.batches]
    assert sorted(batches) == sorted(expected[start : start + 4] for start in range(0, COUNT, 4))


def test_what_can_not_be_read_ends_the_run(tokenizer: Path) -> None:
    broken = workload.Utterance(audio=b"not audio", text="", seconds=1.0, tokens=0)
    way = roofline._batches(cast("list[parity.OnnxModel]", [Recorder(), Recorder()]), 1)
    with pytest.raises(InputError):
        roofline.seconds(way, [broken, *workload.mixed(3, tokenizer)], WordPiece(tokenizer))


def test_ways_run_the_served_file(repository: Path, tokenizer: Path) -> None:
    ways = roofline.strategies(repository / "classifier" / "1" / "model.onnx", cores=2)
    assert len(ways) == roofline.STRATEGIES
    for way in ways.values():
        assert roofline.seconds(way, workload.mixed(4, tokenizer), WordPiece(tokenizer)) > 0
