"""Run `python -m training tune`: search learning rates and regularisation with Optuna.

Finished trials are saved in OUTPUT/trials.db, so the same command resumes an interrupted search. Trials far below the
median are pruned after an epoch or two. Only validation utterances score a trial; the test set is not used.
"""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import lightning
import optuna
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.table import Table

from training import splits
from training.data import check_folds, load_training_data
from training.errors import TrainingError
from training.files import write_atomically
from training.fit import initial_checkpoint
from training.fold import train_fold
from training.learner import MONITOR
from training.settings import Settings


class Pruning(Callback):
    """Callback that reports each epoch's score to the trial and stops a trial that Optuna prunes."""

    def __init__(self, trial: optuna.Trial) -> None:
        self.trial = trial

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Report the score after validation."""
        self.trial.report(float(trainer.callback_metrics[MONITOR]), trainer.current_epoch)
        if self.trial.should_prune():
            raise optuna.TrialPruned


def suggest(settings: Settings, trial: optuna.Trial) -> Settings:
    """Return the settings of a trial; ranges are around the published recipes of BERT and AdamW."""
    return replace(
        settings,
        text_lr=trial.suggest_float("text_lr", 1e-5, 1e-3, log=True),
        audio_lr=trial.suggest_float("audio_lr", 1e-5, 1e-3, log=True),
        head_lr=trial.suggest_float("head_lr", 1e-4, 5e-3, log=True),
        class_weight_power=trial.suggest_float("class_weight_power", 0.0, 1.0),
        label_smoothing=trial.suggest_float("label_smoothing", 0.0, 0.2),
        modality_dropout=trial.suggest_float("modality_dropout", 0.0, 0.5),
        weight_decay=trial.suggest_float("weight_decay", 1e-3, 0.3, log=True),
    )


def tune(settings: Settings, output: Path, cache: Path, fold: int, trials: int, console: Console) -> Path:
    """Run trials until `trials` are finished, and write the best settings.

    Args:
        settings: of all trials, apart from the searched ones.
        output: directory of the search.
        cache: directory for tables, decoded recordings and the teacher's features.
        fold: number of the fold whose validation utterances score the trials, from 1.
        trials: total number, including finished ones.
        console: prints the progress.

    Returns:
        The path of best.json: Settings as JSON.

    Raises:
        TrainingError: the corpus or a setting is wrong, or no trial finished.
    """
    check_folds(settings, cache)
    settings.save(output)
    start = initial_checkpoint(settings, output)
    data = load_training_data(settings, start, cache, console)
    folds = splits.make(data.corpus, settings.split, settings.folds, settings.seed)
    if not 1 <= fold <= len(folds):
        raise TrainingError(f"there is no fold {fold}; this split has the folds 1 to {len(folds)}")
    split = replace(folds[fold - 1], test=())
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=f"{split.name}",
        storage=f"sqlite:///{(output / 'trials.db').absolute()}",
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=1),
        load_if_exists=True,
    )

    # a new seed for each call, because a resumed search would otherwise repeat its first suggestions
    study.sampler = optuna.samplers.TPESampler(seed=settings.seed + len(study.get_trials(deepcopy=False)))

    def objective(trial: optuna.Trial) -> float:
        directory = output / f"trial-{trial.number}"
        console.rule(f"trial {len(finished()) + 1} of {trials}")
        try:
            return train_fold(suggest(settings, trial), split, data, start, directory, cache, [Pruning(trial)])
        finally:
            shutil.rmtree(directory, ignore_errors=True)  # a checkpoint of each trial would fill the disk

    def finished() -> list[optuna.trial.FrozenTrial]:
        states = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
        return study.get_trials(deepcopy=False, states=states)

    for left in output.glob("trial-*"):  # left by a killed search
        shutil.rmtree(left)
    while len(finished()) < trials:
        study.optimize(objective, n_trials=1)
        console.print(_table(study))
    try:
        best = suggest(settings, optuna.trial.FixedTrial(study.best_params))  # type: ignore[arg-type]
    except ValueError:
        raise TrainingError("no trial finished: ask for more --trials") from None
    path = output / "best.json"
    write_atomically(path, json.dumps(asdict(best), indent=2) + "\n")
    options = " ".join(f"--{name.replace('_', '-')} {value:.3g}" for name, value in study.best_params.items())
    console.print(f"best {MONITOR} {study.best_value:.3f}: {path}\ntrain with it: python -m training fit ... {options}")
    return path


def _table(study: optuna.Study) -> Table:
    table = Table(title="best trials so far")
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.value is not None]
    best = sorted(trials, key=lambda trial: -(trial.value or 0.0))[:5]
    names = list(best[0].params) if best else []
    for heading in ("trial", MONITOR, *names):
        table.add_column(heading, justify="right")
    for trial in best:
        table.add_row(str(trial.number + 1), f"{trial.value:.3f}", *(f"{trial.params[name]:.2g}" for name in names))
    return table
