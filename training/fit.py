"""Run `python -m training fit`: train a corpus's folds, calibrate them, and write a report.

A run is a directory:

    settings.json  start/           the settings; the checkpoint that training starts from
    report.html  report.json        metrics over the test utterances of all folds
    FOLD/                           one fold
        split.json                  ids of the utterances that train, validate and test
        state/                      Lightning's checkpoints: last.ckpt to resume from, best.ckpt
        tensorboard/
        checkpoint/                 the chosen epoch, calibrated on validation utterances, ready to export
        predictions.json            predictions for the test utterances
        result.json                 history, chosen epoch, calibration

At the end of each call all finished folds are calibrated together (training/shared_calibration.py), so a fold's
checkpoint is final when the last fold is trained.

Each step is skipped where its result exists, so the same command resumes an interrupted run.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from emotion import checkpoint as checkpoints
from emotion.labels import EMOTIONS
from training import baselines, splits
from training.data import TrainingData, check_folds, load_training_data
from training.environment import versions
from training.errors import TrainingError
from training.files import resumable_write
from training.fold import train_fold
from training.metrics import Metrics
from training.predictions import Predictions, at_temperatures
from training.report import Fold, RunRecord, example_recordings, summary_table, write
from training.settings import Settings
from training.shared_calibration import calibrate_folds
from training.splits import Split


def fit(
    settings: Settings, output: Path, cache: Path, fold: int | None, with_baselines: bool, console: Console
) -> Path:
    """Train one fold or all of them, or resume an earlier call with the same settings.

    Args:
        settings: of the run; saved in its directory.
        output: the run's directory.
        cache: directory for tables, decoded recordings and the teacher's features.
        fold: number of the fold to train, from 1; None trains all.
        with_baselines: whether the report compares with conventional classifiers trained on the same folds.
        console: prints progress and warnings.

    Returns:
        The path of report.html.

    Raises:
        TrainingError, CheckpointError: the user can fix the cause; finished folds and epochs are kept.
    """
    check_folds(settings, cache)
    settings.save(output)
    start = initial_checkpoint(settings, output)
    data = load_training_data(settings, start, cache, console)
    folds = splits.make(data.corpus, settings.split, settings.folds, settings.seed)
    if fold is not None and not 1 <= fold <= len(folds):
        raise TrainingError(f"there is no fold {fold}; this split has the folds 1 to {len(folds)}")
    chosen = folds if fold is None else [folds[fold - 1]]
    for split in chosen:
        for part, missing in splits.missing_classes(data.corpus, split).items():
            console.print(f"[yellow]{split.name}: no {part} utterance is labelled {' or '.join(missing)}[/]")
        if warning := splits.warning(split):
            console.print(f"[yellow]{warning}[/]")
    for number, split in enumerate(chosen, 1):
        console.rule(f"{split.name} ({number} of {len(chosen)})")
        train_fold(settings, split, data, start, fold_directory(output, split), cache)
    done = [split for split in folds if (fold_directory(output, split) / "result.json").exists()]
    calibrate_folds([(split, fold_directory(output, split)) for split in done], data)
    compared = baselines.judge(data.corpus, done, data.recordings) if with_baselines else []
    page = _report(settings, data, done, len(folds), compared, output)
    console.print(f"report: {page}")
    return page


def fold_directory(output: Path, split: Split) -> Path:
    """Return the directory of a fold; characters of its name that are unsafe in file names become hyphens."""
    return output / re.sub(r"[^\w+.-]+", "-", split.name)


def initial_checkpoint(settings: Settings, output: Path) -> Path:
    """Return the checkpoint that training starts from: the given one, or a new one in the run's directory.

    Raises:
        TrainingError: the new checkpoint can't be written.
        CheckpointError: a source of weights can't be used.
    """
    if settings.start is not None:
        return Path(settings.start)
    start = output / "start"
    if not (start / "config.json").exists():
        with resumable_write(start):
            checkpoints.create(start, settings.text_encoder, settings.vggish, settings.seed)
    return start


def _report(
    settings: Settings,
    data: TrainingData,
    done: Sequence[Split],
    planned: int,
    compared: Sequence[tuple[str, Metrics]],
    output: Path,
) -> Path:
    """Write the report over the finished folds and return the path of report.html."""
    corpus = data.corpus
    record, answers, uncalibrated, results = [], [], [], []
    emotion = {utterance.id: utterance.emotion for utterance in corpus.utterances}
    for split in done:
        directory = fold_directory(output, split)
        result = json.loads((directory / "result.json").read_text())
        predictions = Predictions.load(directory / "predictions.json")
        answers.append(predictions)
        # dividing by 1 / T undoes a temperature
        uncalibrated.append(at_temperatures(predictions, {view: 1 / t for view, t in result["temperatures"].items()}))
        results.append(result)
        parts = {"train": split.train, "validation": split.validation, "test": split.test}
        record.append(
            Fold(
                name=split.name,
                class_counts={
                    part: {name: Counter(emotion[each] for each in ids)[name] for name in EMOTIONS}
                    for part, ids in parts.items()
                },
                test_ids=split.test,
                temperatures=result["temperatures"],
                digest=result["digest"],
                history=result["history"],
                chosen_epoch=result["chosen_epoch"],
            )
        )
    joined = Predictions.join(answers)
    ids = set(joined.ids)
    tested = [utterance for utterance in corpus.utterances if utterance.id in ids]
    Console().print(summary_table(joined))
    run = RunRecord(
        name=f"{corpus.name}, {settings.split} split",
        corpus=corpus.name,
        split=settings.split,
        folds=record,
        planned_folds=planned,
        shares_speakers=any(split.shares_speakers for split in done),
        seed=settings.seed,
        settings={name: value for name, value in asdict(settings).items() if name != "root"},
        versions=versions(),
        hardware=results[0]["hardware"],
        seconds=sum(result["seconds"] for result in results),
        dropped=corpus.dropped,
    )
    return write(
        output,
        run,
        joined,
        uncalibrated=Predictions.join(uncalibrated),
        without_audio=joined.without("audio"),
        without_text=joined.without("text"),
        baselines=compared,
        examples=example_recordings(tested, data.recordings),
    )
