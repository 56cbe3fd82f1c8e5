"""Test that a search resumes, counts and prunes trials, and writes settings for `fit`."""

import json
import signal
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from runs import error_of, forked, text_rows, write_manifest

from training.learner import MONITOR
from training.settings import Settings
from training.tune import Pruning, suggest

KILL_IN_THE_SECOND_TRIAL = """
import os, signal
from training import tune
from training.learner import Learner
train_fold, calls = tune.train_fold, []
def training(*arguments):
    calls.append(arguments)
    if len(calls) == 2:
        Learner.validation_step = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    return train_fold(*arguments)
tune.train_fold = training
"""


def trials(output: Path) -> list[optuna.trial.FrozenTrial]:
    [name] = optuna.get_all_study_names(f"sqlite:///{output / 'trials.db'}")
    return optuna.load_study(study_name=name, storage=f"sqlite:///{output / 'trials.db'}").get_trials()


def test_tune_killed_resumes_to_the_requested_number_of_trials(small_checkpoint: Path, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path / "sayings.jsonl", text_rows(6))
    output = tmp_path / "tuning"
    command: list[str | Path] = ["tune", "--corpus", "manifest", "--root", manifest, "--start", small_checkpoint]
    command += ["--epochs", "1", "--lora-rank", "2", "--batch-size", "16", "--trials", "3"]
    command += ["--output", output, "--cache", tmp_path / "cache"]
    assert forked(*command, code=KILL_IN_THE_SECOND_TRIAL).returncode == -signal.SIGKILL
    assert [trial.state.name for trial in trials(output)] == ["COMPLETE", "RUNNING"]
    assert not (output / "best.json").exists()
    assert (output / "trial-1").exists()

    done = forked(*command)
    assert done.returncode == 0, done.stderr
    found = trials(output)
    assert [trial.state.name for trial in found] == ["COMPLETE", "RUNNING", "COMPLETE", "COMPLETE"]
    assert len({trial.params["text_lr"] for trial in found if trial.params}) == len([t for t in found if t.params])
    best = max((trial for trial in found if trial.value is not None), key=lambda trial: trial.value or 0.0)
    settings = Settings(**json.loads((output / "best.json").read_text()))
    assert {name: getattr(settings, name) for name in best.params} == best.params
    assert (settings.epochs, settings.lora_rank, settings.root) == (1, 2, str(manifest))
    assert "train with it: python -m training fit" in done.stdout
    assert f"{MONITOR} {best.value:.3f}" in done.stdout
    assert not list(output.glob("trial-*"))  # trial directories are removed; results stay in the database

    again = forked(*command)
    assert again.returncode == 0 and len(trials(output)) == 4
    error = error_of(forked(*command, "--fold", "9"))
    assert "there is no fold 9; this split has the folds 1 to 5" in error


def test_suggest_changes_searched_settings_alone(tmp_path: Path) -> None:
    settings = Settings("manifest", "m.csv", epochs=7, lora_rank=3)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    seen = []
    for _ in range(30):
        trial = study.ask()
        suggested = asdict(suggest(settings, trial))
        assert {name: suggested[name] for name in trial.params} == trial.params
        rest = {name: value for name, value in suggested.items() if name not in trial.params}
        assert rest == {name: value for name, value in asdict(settings).items() if name in rest}
        seen.append(trial.params)
    for name in seen[0]:
        assert len({params[name] for params in seen}) == 30


def test_pruning_stops_trials_below_the_median_alone() -> None:
    pruner = optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=1)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    module: Any = None

    def run(figures: list[float]) -> int:
        """Return the number of epochs after which a trial with these scores stops."""
        trial = study.ask()
        pruning = Pruning(trial)
        for epoch, figure in enumerate(figures):
            trainer: Any = SimpleNamespace(callback_metrics={MONITOR: figure}, current_epoch=epoch)
            try:
                pruning.on_train_epoch_end(trainer, module)
            except optuna.TrialPruned:
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                return epoch + 1
        study.tell(trial, figures[-1])
        return len(figures)

    assert [run([0.5, 0.6, 0.7]), run([0.5, 0.6, 0.7])] == [3, 3]
    assert run([0.1, 0.2, 0.3]) == 2  # the first epoch warms up
    assert run([0.5, 0.7, 0.8]) == 3
    assert study.best_value == pytest.approx(0.8)
