"""The gate beside parity's, for precisions that round: are the decisions still the same?

Without labels: on the parity gate's utterances, no clear answer may change. With labels (`--labelled FILE.csv`):
macro-F1 and unweighted average recall of every view may fall by at most half a point against the PyTorch model.
"""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emotion import text
from emotion.checkpoint import Checkpoint, CheckpointError
from emotion.errors import InputError
from emotion.labels import EMOTIONS
from export.parity import Comparison, OnnxModels, Tensors, Utterance, eager, front_ends, stack

VIEWS = {"fused": "PROBABILITIES", "audio": "AUDIO_PROBABILITIES", "text": "TEXT_PROBABILITIES"}
CLEAR = 0.3  # an answer counts as clear where its two most probable emotions are so far apart
MEAN_CHANGE = 0.02  # of a probability, over all utterances
LARGEST_LOSS = 0.005  # of macro-F1 and of unweighted average recall


def agreement(expected: Tensors, found: Tensors) -> list[Comparison]:
    """How far the probabilities moved on average, and how many clear answers became others.

    Args:
        expected, found: probabilities [utterances, 5] by tensor name, of the reference and of the rounded model.
    """
    comparisons = []
    for view, name in VIEWS.items():
        answered = expected[name].any(axis=1)  # all zero: the modality is absent
        before, after = expected[name][answered], found[name][answered]
        top = np.sort(before, axis=1)
        clear = top[:, -1] - top[:, -2] >= CLEAR
        changed = float((clear & (before.argmax(1) != after.argmax(1))).sum())
        mean = float(np.abs(after - before).mean())
        comparisons += [
            Comparison(f"clear answers changed, {view} view", changed, 0.0, name, f"{clear.sum()} clear answers"),
            Comparison(f"mean change, {view} view", mean, MEAN_CHANGE, name, f"{len(before)} utterances"),
        ]
    return comparisons


def labelled(
    checkpoint: Checkpoint, models: OnnxModels, path: Path, advance: Callable[[], None] = lambda: None
) -> list[Comparison]:
    """What rounding costs on the user's own utterances: one Comparison per view and figure.

    Args:
        models: the exported files.
        path: a CSV file with the columns emotion, and audio (relative to it), text, or both: a manifest of training.
        advance: called after each utterance, for a progress display.

    Raises:
        CheckpointError: the file can't be read as such; says in which line.
    """
    utterances, truth = read_labelled(path, checkpoint)
    expected, found = [], []
    for utterance in utterances:
        expected.append(eager(checkpoint, utterance))
        found.append(models([utterance]))
        advance()
    before, after = stack(expected), stack(found)
    comparisons = []
    for view, name in VIEWS.items():
        answered = before[name].any(axis=1)
        if not answered.any():
            continue
        old, new = (scores(truth[answered], each[name][answered].argmax(1)) for each in (before, after))
        for figure in old:
            comparisons.append(
                Comparison(
                    f"{figure} lost, {view} view",
                    max(0.0, old[figure] - new[figure]),
                    LARGEST_LOSS,
                    name,
                    f"{answered.sum()} labelled utterances ({old[figure]:.4f} before, {new[figure]:.4f} after)",
                )
            )
    return comparisons


def scores(truth: NDArray[np.int64], decided: NDArray[np.int64]) -> dict[str, float]:
    """Macro-F1 and unweighted average recall over the emotions that occur in the truth."""
    recalls, f1s = [], []
    for emotion in np.unique(truth):
        hits = int(((truth == emotion) & (decided == emotion)).sum())
        occurs, said = int((truth == emotion).sum()), int((decided == emotion).sum())
        recalls.append(hits / occurs)
        f1s.append(2 * hits / (occurs + said))
    return {"macro-F1": float(np.mean(f1s)), "recall": float(np.mean(recalls))}


def read_labelled(path: Path, checkpoint: Checkpoint) -> tuple[list[Utterance], NDArray[np.int64]]:
    """Front-end output and emotion (its index) of each row of a manifest; see `labelled`."""
    if not path.is_file():
        raise CheckpointError(f"there is no {path}; give a CSV file with the columns emotion and audio, text or both")
    tokenizer = text.WordPiece(checkpoint.tokenizer, checkpoint.model.text_encoder.config.max_position_embeddings)
    utterances: list[Utterance] = []
    truth: list[int] = []
    with path.open(newline="", encoding="utf-8-sig") as file:
        for line, row in enumerate(csv.DictReader(file), start=2):
            if row.get("emotion") not in EMOTIONS:
                raise CheckpointError(
                    f"{path}, line {line}: emotion is {row.get('emotion')!r}; accepted are {', '.join(EMOTIONS)}"
                )
            try:
                utterances.append(_utterance(row, path.parent, tokenizer))
            except (InputError, OSError) as error:
                raise CheckpointError(f"{path}, line {line}: {error}") from None
            truth.append(EMOTIONS.index(row["emotion"]))
    if not utterances:
        raise CheckpointError(f"{path} has no rows; give one labelled utterance a row")
    return utterances, np.array(truth)


def _utterance(row: dict[str, str], directory: Path, tokenizer: text.WordPiece) -> Utterance:
    recording = row.get("audio")
    data = (directory / recording).read_bytes() if recording else b""
    utterance = front_ends(data, row.get("text") or "", tokenizer)
    if not len(utterance.patches) and not len(utterance.ids):
        raise InputError("neither audio nor text; give at least one of them")
    return utterance
