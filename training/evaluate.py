"""`python -m training evaluate`: figures of a checkpoint, asked in torch and, if wanted, through a served Triton."""

from collections import Counter
from pathlib import Path

import numpy as np
from rich.console import Console

from emotion import checkpoint as checkpoints
from emotion.labels import EMOTIONS
from emotion.model import VIEWS
from emotion.text import WordPiece
from training import corpora, splits
from training.corpora import Corpus, Utterance
from training.datasets import Utterances, tokenise
from training.environment import hardware, versions
from training.errors import TrainingError
from training.predictions import Predictions, at_temperatures, predict, predict_served
from training.recordings import decode_all
from training.report import Fold, RunRecord, example_recordings, summary_table, write


def evaluate(
    checkpoint: Path,
    corpus_name: str,
    root: Path,
    happy: str,
    split: str,
    endpoint: str | None,
    output: Path,
    cache: Path,
    console: Console,
) -> Path:
    """Answer a corpus's utterances and report on them.

    Args:
        split: "all", "published" (its test part) or the path of a run's split.json (its test part).
        endpoint: HOST:PORT of a served ensemble. Its answers then are the report's, and are held to the model's own.

    Returns:
        The path of the report's page.

    Raises:
        TrainingError, CheckpointError: what the user can mend.
    """
    loaded = checkpoints.load(checkpoint)
    corpus = corpora.load(corpus_name, root, happy, cache)
    name, chosen, shares_speakers = _choose(corpus, split)
    recordings, unreadable = decode_all([each.audio for each in chosen if each.audio is not None], cache)
    if unreadable:
        path, reason = next(iter(unreadable.items()))
        raise TrainingError(f"{len(unreadable)} recordings can't be used; {path} {reason}")
    tokenizer = WordPiece(loaded.tokenizer, loaded.model.text_encoder.config.max_position_embeddings)
    temperatures = dict(loaded.config.temperatures)
    answers = predict(loaded.model, Utterances(chosen, recordings, tokenise(chosen, tokenizer)))
    warnings = [f"Untrained: {', '.join(loaded.config.untrained)}."] if loaded.config.untrained else []
    if endpoint is not None:
        served = predict_served(endpoint, chosen)
        console.print(_compare(answers, served), highlight=False)
        answers = served
    console.print(summary_table(answers))
    counts = Counter(utterance.emotion for utterance in chosen)
    fold = Fold(
        name=name,
        class_counts={"test": {emotion: counts[emotion] for emotion in EMOTIONS}},
        test_ids=answers.ids,
        temperatures=temperatures,
        digest=loaded.digest,
    )
    run = RunRecord(
        name=f"{checkpoint.name} on {corpus_name}" + (", served by Triton" if endpoint else ""),
        corpus=corpus_name,
        split=name,
        folds=[fold],
        planned_folds=1,
        shares_speakers=shares_speakers,
        seed=0,
        settings={
            "checkpoint": checkpoint.name,
            "split": split,
            "happy": happy,
            "asked": "Triton" if endpoint else "torch",
        },
        versions=versions(),
        hardware=hardware(),
        seconds=None,
        dropped=corpus.dropped,
        warnings=warnings,
    )
    # dividing by 1 / T takes a temperature back
    uncalibrated = at_temperatures(answers, {view: 1 / value for view, value in temperatures.items()})
    page = write(
        output,
        run,
        answers,
        uncalibrated=uncalibrated,
        without_audio=answers.without("audio"),
        without_text=answers.without("text"),
        examples=example_recordings(chosen, recordings),
    )
    answers.save(output / "predictions.json")
    console.print(f"report: {page}")
    return page


def _choose(corpus: Corpus, split: str) -> tuple[str, list[Utterance], bool]:
    """Name of the choice, its utterances, and whether they share, or may share, speakers with the training's."""
    if split == "all":
        return "all", list(corpus.utterances), True
    found = splits.make(corpus, "published")[0] if split == "published" else splits.load(Path(split))
    wanted = set(found.test)
    chosen = [utterance for utterance in corpus.utterances if utterance.id in wanted]
    if len(chosen) < len(wanted):
        raise TrainingError(
            f"{len(wanted) - len(chosen)} of the {len(wanted)} test utterances of {split} are not in {corpus.name}; "
            "give the corpus and the --happy that it was made with"
        )
    return found.name, chosen, found.shares_speakers


def _compare(offline: Predictions, served: Predictions) -> str:
    """How far the served answers are from the model's own."""
    lines = ["served and offline answers:"]
    for view in VIEWS:
        rows = offline.probabilities[view].any(axis=1)
        if not rows.any():
            continue
        ours, theirs = offline.probabilities[view][rows], served.probabilities[view][rows]
        right = [np.mean(each.argmax(1) == offline.truth[rows]) for each in (ours, theirs)]
        lines.append(
            f"  {view}: accuracy {100 * right[0]:.2f} % offline, {100 * right[1]:.2f} % served; probabilities differ "
            f"by {np.abs(ours - theirs).max():.1e} at most"
        )
    return "\n".join(lines)
