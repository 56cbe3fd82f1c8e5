"""Test the accuracy gate of fp16 and int8 exports: its calculations, and labelled utterances."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import f1_score, recall_score

from emotion.checkpoint import Checkpoint, CheckpointError
from export import accuracy
from export.accuracy import VIEWS
from export.parity import OnnxModels

ROOT = Path(__file__).parent.parent.parent


def answers(*rows: list[float]) -> dict[str, NDArray[np.float32]]:
    return {name: np.array(rows, np.float32) for name in VIEWS.values()}


def test_agreement_counts_only_changed_clear_answers() -> None:
    before = answers([0.8, 0.2, 0, 0, 0], [0.51, 0.49, 0, 0, 0], [0, 0, 0, 0, 0])
    after = answers([0.4, 0.6, 0, 0, 0], [0.49, 0.51, 0, 0, 0], [0, 0, 0, 0, 0])
    changed, mean = accuracy.agreement(before, after)[:2]
    assert (changed.difference, changed.tolerance, changed.utterance) == (1.0, 0.0, "1 clear answers")
    assert mean.difference == pytest.approx((0.4 + 0.4 + 0.02 + 0.02) / 10)
    assert mean.utterance == "2 utterances"  # the third utterance lacks the modality


def test_scores_equal_those_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    truth, decided = random.integers(0, 4, 200), random.integers(0, 4, 200)
    found = accuracy.scores(truth, decided)
    assert found["macro-F1"] == pytest.approx(f1_score(truth, decided, average="macro"))
    assert found["recall"] == pytest.approx(recall_score(truth, decided, average="macro"))


def test_labelled_compares_each_view(checkpoint: Checkpoint, repository: Path, tmp_path: Path) -> None:
    recording = ROOT / "examples" / "speech" / "austen-0880.flac"
    table = tmp_path / "labelled.csv"
    table.write_text(f"audio,text,emotion\n{recording},so it is,sadness\n,how very good,excitement\n")
    comparisons = accuracy.labelled(checkpoint, OnnxModels(repository), table)
    assert [each.difference for each in comparisons] == [0.0] * 6  # fp32 files against the same model
    assert {each.name for each in comparisons} == {
        f"{metric} lost, {view} view" for metric in ("macro-F1", "recall") for view in VIEWS
    }
    assert "1 labelled utterances" in comparisons[2].utterance  # one utterance has audio


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ("so it is,bored", "line 2: emotion is 'bored'; accepted are neutral, frustration"),
        ("so it is,anger\n...,anger", "line 3: neither audio nor text; give at least one of them"),
        ("", "has no rows"),
    ],
)
def test_read_labelled_of_an_invalid_table_names_the_line(
    checkpoint: Checkpoint, tmp_path: Path, rows: str, sentence: str
) -> None:
    table = tmp_path / "labelled.csv"
    table.write_text(f"text,emotion\n{rows}\n")
    with pytest.raises(CheckpointError, match=sentence):
        accuracy.read_labelled(table, checkpoint)
