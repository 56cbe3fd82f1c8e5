"""Run `python -m training evaluate`: metrics of a checkpoint, computed in torch or through a served Triton."""

from collections import Counter
from dataclasses import dataclass
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


@dataclass(frozen=True)
class EvaluationSettings:
    """What is evaluated on which utterances.

    Attributes:
        checkpoint: the checkpoint directory.
        corpus: one of CORPORA.
        root: folder of the corpus; file of a manifest.
        happiness_policy: one of HAPPINESS_POLICIES.
        split: "all", "published" (its test part), or the path of a run's split.json (its test part).
        endpoint: HOST:PORT of a served ensemble. The report then uses its predictions, and they are compared with
            those of torch. None evaluates in torch alone.
    """

    checkpoint: Path
    corpus: str
    root: Path
    happiness_policy: str = "merge"
    split: str = "all"
    endpoint: str | None = None


def evaluate(settings: EvaluationSettings, output: Path, cache: Path, console: Console) -> Path:
    """Predict a corpus's utterances and write a report.

    Args:
        settings: checkpoint, utterances and endpoint.
        output: directory for report.html, report.json and predictions.json.
        cache: directory for tables and decoded recordings.
        console: prints the metrics.

    Returns:
        The path of report.html.

    Raises:
        TrainingError, CheckpointError: the user can fix the cause.
    """
    loaded = checkpoints.load(settings.checkpoint)
    corpus = corpora.load(settings.corpus, settings.root, settings.happiness_policy, cache)
    name, chosen, shares_speakers = _choose(corpus, settings.split)
    recordings, unreadable = decode_all([each.audio for each in chosen if each.audio is not None], cache)
    if unreadable:
        path, reason = next(iter(unreadable.items()))
        raise TrainingError(f"{len(unreadable)} recordings can't be used; {path} {reason}")
    tokenizer = WordPiece(loaded.tokenizer, loaded.model.text_encoder.config.max_position_embeddings)
    temperatures = dict(loaded.config.temperatures)
    answers = predict(loaded.model, Utterances(chosen, recordings, tokenise(chosen, tokenizer)))
    warnings = [f"Untrained: {', '.join(loaded.config.untrained)}."] if loaded.config.untrained else []
    if settings.endpoint is not None:
        served = predict_served(settings.endpoint, chosen)
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
        name=f"{settings.checkpoint.name} on {settings.corpus}" + (", served by Triton" if settings.endpoint else ""),
        corpus=settings.corpus,
        split=name,
        folds=[fold],
        planned_folds=1,
        shares_speakers=shares_speakers,
        seed=0,
        settings={
            "checkpoint": settings.checkpoint.name,
            "split": settings.split,
            "happiness_policy": settings.happiness_policy,
            "asked": "Triton" if settings.endpoint else "torch",
        },
        versions=versions(),
        hardware=hardware(),
        seconds=None,
        dropped=corpus.dropped,
        warnings=warnings,
    )
    # dividing by 1 / T undoes a temperature
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
    """Choose the utterances to evaluate.

    Returns:
        The name of the split, its utterances, and whether training may have included their speakers.

    Raises:
        TrainingError: the corpus has no such split, or lacks some of its utterances.
    """
    if split == "all":
        return "all", list(corpus.utterances), True
    found = splits.make(corpus, "published")[0] if split == "published" else splits.load(Path(split))
    wanted = set(found.test)
    chosen = [utterance for utterance in corpus.utterances if utterance.id in wanted]
    if len(chosen) < len(wanted):
        raise TrainingError(
            f"{len(wanted) - len(chosen)} of the {len(wanted)} test utterances of {split} are not in {corpus.name}; "
            "give the corpus and the --happiness-policy that the split was made with"
        )
    return found.name, chosen, found.shares_speakers


def _compare(offline: Predictions, served: Predictions) -> str:
    """Return a text that compares the served predictions with those of torch."""
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
