"""Compare the decisions of fp16 and int8 exports with those of the PyTorch model.

Without labels, no clear answer may change on the utterances of the parity gate. With labels (`--labelled FILE.csv`),
macro-F1 and unweighted average recall of each view may fall by at most 0.005 (MAX_LOSS).
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
CLEAR_MARGIN = 0.3  # an answer is clear if its two highest probabilities differ by at least this
MAX_MEAN_CHANGE = 0.02  # mean absolute change of a probability over all utterances
MAX_LOSS = 0.005  # loss of macro-F1 and of unweighted average recall


def agreement(expected: Tensors, found: Tensors) -> list[Comparison]:
    """Return the mean change of the probabilities and the number of changed clear answers, for each view.

    Args:
        expected, found: probabilities [utterances, 5] by tensor name, of the reference and of the exported files.
    """
    comparisons = []
    for view, name in VIEWS.items():
        answered = expected[name].any(axis=1)  # all zero if the modality is absent
        before, after = expected[name][answered], found[name][answered]
        top = np.sort(before, axis=1)
        clear = top[:, -1] - top[:, -2] >= CLEAR_MARGIN
        changed = float((clear & (before.argmax(1) != after.argmax(1))).sum())
        mean = float(np.abs(after - before).mean())
        comparisons += [
            Comparison(f"clear answers changed, {view} view", changed, 0.0, name, f"{clear.sum()} clear answers"),
            Comparison(f"mean change, {view} view", mean, MAX_MEAN_CHANGE, name, f"{len(before)} utterances"),
        ]
    return comparisons


def labelled(
    checkpoint: Checkpoint, models: OnnxModels, path: Path, advance: Callable[[], None] = lambda: None
) -> list[Comparison]:
    """Return the loss of macro-F1 and of recall on labelled utterances, one Comparison for each view and metric.

    Args:
        checkpoint: the reference.
        models: the exported files.
        path: CSV file with the column emotion and one or both of audio (path relative to the file) and text, such as a
            manifest of training.
        advance: called after each utterance, for a progress display.

    Raises:
        CheckpointError: the file can't be read; the message has the line.
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
        for metric in old:
            comparisons.append(
                Comparison(
                    f"{metric} lost, {view} view",
                    max(0.0, old[metric] - new[metric]),
                    MAX_LOSS,
                    name,
                    f"{answered.sum()} labelled utterances ({old[metric]:.4f} before, {new[metric]:.4f} after)",
                )
            )
    return comparisons


def scores(truth: NDArray[np.int64], decided: NDArray[np.int64]) -> dict[str, float]:
    """Return macro-F1 and unweighted average recall over the emotions that occur in the truth.

    Args:
        truth, decided: indices of emotions, int64 [utterances].
    """
    recalls, f1s = [], []
    for emotion in np.unique(truth):
        hits = int(((truth == emotion) & (decided == emotion)).sum())
        occurs, said = int((truth == emotion).sum()), int((decided == emotion).sum())
        recalls.append(hits / occurs)
        f1s.append(2 * hits / (occurs + said))
    return {"macro-F1": float(np.mean(f1s)), "recall": float(np.mean(recalls))}


def read_labelled(path: Path, checkpoint: Checkpoint) -> tuple[list[Utterance], NDArray[np.int64]]:
    """Return the front-end output of each row of a CSV file, and the indices of the emotions, int64 [rows].

    Args:
        path: the file, with the columns that `labelled` describes.
        checkpoint: provides the tokenizer.

    Raises:
        CheckpointError: the file is missing, empty or invalid; the message has the line.
    """
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
        raise CheckpointError(f"{path} has no rows; add one row for each labelled utterance")
    return utterances, np.array(truth)


def _utterance(row: dict[str, str], directory: Path, tokenizer: text.WordPiece) -> Utterance:
    recording = row.get("audio")
    data = (directory / recording).read_bytes() if recording else b""
    utterance = front_ends(data, row.get("text") or "", tokenizer)
    if not len(utterance.patches) and not len(utterance.ids):
        raise InputError("neither audio nor text; give at least one of them")
    return utterance
