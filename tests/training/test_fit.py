"""Test `python -m training fit` from a release to a report, with kills and faults.

Code that causes a fault at a chosen moment runs in the command's own process, before the command (`code`).
"""

import json
import re
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from iemocap_release import Release
from runs import add_tones, error_of, forked, start, text_rows, train, write_manifest

from emotion import checkpoint as checkpoints
from emotion.model import VIEWS
from emotion.text import WordPiece
from tests.narrow import narrow_program
from training import corpora, splits
from training.datasets import Utterances, tokenise
from training.predictions import Predictions, predict
from training.recordings import Recordings
from training.report import REFERENCE

KILL = """
import os, signal
def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def at_step(epoch: int, index: int, name: str = "SIGKILL") -> str:
    """Return code that sends the process a signal when a training step begins; epochs count from 0."""
    return f"""
import os, signal
from training.learner import Learner
step = Learner.training_step
def stepping(self, batch, index):
    if (self.current_epoch, index) == ({epoch}, {index}):
        os.kill(os.getpid(), signal.{name})
    return step(self, batch, index)
Learner.training_step = stepping
"""


# -- from release to report


@dataclass
class Run:
    """A finished run and the command that made it."""

    command: list[str]
    output: Path
    printed: str

    @property
    def fold(self) -> Path:
        return self.output / "session-1"


@pytest.fixture(scope="module")
def fitted(iemocap_release: Release, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run `fit` on the synthetic release with session 1 as test set.

    VGGish has random weights; VGGish and MiniLM are frozen until the last epoch.
    """
    folder = tmp_path_factory.mktemp("fit")
    command = ["fit", "--corpus", "iemocap", "--root", str(iemocap_release.root), "--fold", "1"]
    command += [
        "--epochs",
        "7",
        "--patience",
        "7",
        "--freeze-epochs",
        "6",
        "--lora-rank",
        "4",
        "--batch-size",
        "16",
        "--head-lr",
        "6e-3",
    ]
    command += ["--output", str(folder / "run"), "--cache", str(folder / "cache")]
    done = train(*command)
    assert done.returncode == 0, done.stderr
    return Run(command, folder / "run", done.stdout)


class TestFromReleaseToReport:
    def test_fit_trains_each_view_above_chance(self, fitted: Run) -> None:
        answers = Predictions.load(fitted.fold / "predictions.json")
        recall = {}
        for view in VIEWS:
            right = answers.probabilities[view].argmax(1) == answers.truth
            recall[view] = np.mean([right[answers.truth == emotion].mean() for emotion in range(5)])
        assert recall["text"] > 0.8 and recall["fused"] > 0.8, recall
        # VGGish has random weights, and the text is learned within two or three epochs; chance is 0.2
        assert recall["audio"] > 0.3, recall

    def test_fit_prints_kept_and_dropped_utterances(self, fitted: Run, iemocap_release: Release) -> None:
        assert f"iemocap: {len(iemocap_release.kept)} utterances kept" in fitted.printed
        assert "no majority among the annotators" in fitted.printed

    def test_fit_report_has_the_three_views_and_the_reference(self, fitted: Run) -> None:
        page = (fitted.output / "report.html").read_text()
        record = json.loads((fitted.output / "report.json").read_text())
        assert str(fitted.output / "report.html") in fitted.printed.replace("\n", "")
        for view, (accuracy, f1) in REFERENCE.items():
            assert record["reference"][view] == {"accuracy": accuracy, "weighted_f1": f1}
            assert view in page.lower()
        assert set(record["reference"]) == set(VIEWS)
        found = Predictions.load(fitted.fold / "predictions.json")
        for view in VIEWS:
            accuracy = np.mean(found.probabilities[view].argmax(1) == found.truth)
            assert record["figures"]["views"][view]["accuracy"]["value"] == pytest.approx(accuracy)
        assert any("1 of 5 folds were run" in warning for warning in record["warnings"])
        assert len(record["run"]["folds"][0]["history"]) == 7

    def test_fit_checkpoint_is_complete_and_described(self, fitted: Run) -> None:
        checkpoint = checkpoints.load(fitted.fold / "checkpoint")
        begun = checkpoints.load(fitted.output / "start")
        assert begun.config.untrained == ["vggish", "fusion"]
        assert checkpoint.config.untrained == []
        assert all(source.endswith("trained on iemocap") for source in checkpoint.config.sources.values())
        result = json.loads((fitted.fold / "result.json").read_text())
        assert checkpoint.config.temperatures == result["temperatures"]
        assert checkpoint.digest == result["digest"]
        assert all(value != 1.0 for value in result["temperatures"].values())
        temperatures = torch.tensor([result["temperatures"][view] for view in VIEWS])
        torch.testing.assert_close(checkpoint.model.head.temperature, temperatures)
        assert checkpoint.config.confidence == result["confidence"]
        assert all(pair != [1.0, 0.0] for pair in result["confidence"].values())
        assert not (fitted.fold / "state").exists()

    def test_fit_parts_share_no_speaker(self, fitted: Run, iemocap_release: Release) -> None:
        split = splits.load(fitted.fold / "split.json")
        speaker = {turn.id: turn.speaker for turn in iemocap_release.kept}
        heard = [{speaker[name] for name in part} for part in (split.train, split.validation, split.test)]
        assert heard[2] == {"Ses01F", "Ses01M"} and len(heard[0]) == 6 and len(heard[1]) == 2
        assert len(set().union(*heard)) == 10
        assert {*split.train, *split.validation, *split.test} == set(speaker)
        assert Predictions.load(fitted.fold / "predictions.json").ids == list(split.test)

    def test_fit_saves_its_settings(self, fitted: Run, iemocap_release: Release) -> None:
        saved = json.loads((fitted.output / "settings.json").read_text())
        assert (saved["root"], saved["split"], saved["lora_rank"]) == (str(iemocap_release.root), "session", 4)

    def test_fit_writes_tensorboard_logs(self, fitted: Run) -> None:
        assert list((fitted.fold / "tensorboard").glob("events.out.tfevents.*"))

    def test_fit_again_skips_training_and_rejects_other_settings(self, fitted: Run) -> None:
        before = json.loads((fitted.output / "report.json").read_text())
        digest = checkpoints.digest(fitted.fold / "checkpoint")
        again = forked(*fitted.command, narrow=False)
        assert again.returncode == 0, again.stderr
        assert "epoch 1:" not in again.stderr
        after = json.loads((fitted.output / "report.json").read_text())
        del before["run"]["date"], after["run"]["date"]
        assert after == before
        assert checkpoints.digest(fitted.fold / "checkpoint") == digest
        error = error_of(forked(*fitted.command, "--seed", "2", narrow=False))
        assert "other settings: seed 1 (now 2)" in error and "another --output" in error


# -- kill and resume


@pytest.fixture(scope="module")
def sayings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a manifest of 50 sentences; training on it takes seconds."""
    return write_manifest(tmp_path_factory.mktemp("sayings") / "sayings.jsonl", text_rows())


def quick(manifest: Path, checkpoint: Path, output: Path, *options: str) -> list[str | Path]:
    """Return the command of a small run of three epochs."""
    command: list[str | Path] = ["fit", "--corpus", "manifest", "--root", manifest, "--fold", "1"]
    command += ["--start", checkpoint, "--output", output, "--cache", output.parent / "cache"]
    return [
        *command,
        "--epochs",
        "3",
        "--batch-size",
        "8",
        "--lora-rank",
        "2",
        "--text-lr",
        "1e-3",
        "--averaging",
        "0.5",
        *options,
    ]


def test_fit_on_too_few_utterances_leaves_no_run_behind(small_checkpoint: Path, tmp_path: Path) -> None:
    few = write_manifest(tmp_path / "few.jsonl", text_rows(2)[:4])
    command = quick(few, small_checkpoint, tmp_path / "run", "--split", "random")
    assert "ask for fewer parts with --folds" in error_of(forked(*command))
    assert not (tmp_path / "run").exists()


def same(one: Path, other: Path) -> None:
    """Assert that two runs have the same history, predictions, temperatures and weights, bit for bit."""
    results = [json.loads((run / "random-1" / "result.json").read_text()) for run in (one, other)]
    for result in results:
        del result["seconds"]
    assert results[0] == results[1]  # the checkpoint's digest among them
    answers = [(run / "random-1" / "predictions.json").read_bytes() for run in (one, other)]
    assert answers[0] == answers[1]
    reports = [json.loads((run / "report.json").read_text()) for run in (one, other)]
    assert reports[0]["figures"] == reports[1]["figures"]


@pytest.fixture(scope="module")
def undisturbed(sayings: Path, small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed") / "run"
    done = forked(*quick(sayings, small_checkpoint, output))
    assert done.returncode == 0, done.stderr
    return output


HALF_WAY_THROUGH_LAST = (
    KILL
    + """
from pathlib import Path
opening = Path.open
class Half:
    def __init__(self, file):
        self.file = file
    def __enter__(self):
        return self
    def __exit__(self, *_):
        self.file.close()
    def write(self, data):
        self.file.write(data[: len(data) // 2])
        self.file.flush()
        kill()
def open_(self, mode="r", *others, **more):
    file = opening(self, mode, *others, **more)
    return Half(file) if "last.ckpt" in self.name and mode == "wb" else file
Path.open = open_
"""
)
BEFORE_THE_RESULT = KILL + "from training import fold\nfold.calibrate = kill\n"


def killed(command: list[str | Path], code: str | None) -> None:
    done = forked(*command, code=code)
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr


class TestKilled:
    def test_fit_killed_four_times_equals_an_uninterrupted_run(
        self, sayings: Path, small_checkpoint: Path, undisturbed: Path, tmp_path: Path
    ) -> None:
        command = quick(sayings, small_checkpoint, tmp_path / "run")
        last = tmp_path / "run" / "random-1" / "state" / "last.ckpt"
        # killed from outside, as soon as the first epoch is saved
        process = start(*command, program=narrow_program("training"))
        try:
            while not last.exists():
                assert process.poll() is None
                time.sleep(0.01)
        finally:
            process.kill()
            process.communicate()
        assert process.returncode == -signal.SIGKILL
        killed(command, at_step(2, 2))
        saved = last.read_bytes()
        killed(command, HALF_WAY_THROUGH_LAST)
        assert last.read_bytes() == saved
        killed(command, BEFORE_THE_RESULT)
        done = forked(*command)
        assert done.returncode == 0, done.stderr
        assert "epoch 3:" not in done.stderr  # training had ended
        same(tmp_path / "run", undisturbed)

    def test_fit_killed_with_audio_frozen_encoders_and_modality_dropout_resumes(
        self, small_checkpoint: Path, tmp_path: Path
    ) -> None:
        manifest = write_manifest(tmp_path / "corpus" / "both.jsonl", add_tones(text_rows(5), tmp_path / "corpus"))
        options = ["--epochs", "4", "--freeze-epochs", "2", "--modality-dropout", "0.5", "--folds", "3"]
        command = quick(manifest, small_checkpoint, tmp_path / "killed", *options)
        killed(command, at_step(1, 1))
        killed(command, at_step(3, 0))
        for output in ("killed", "whole"):
            done = forked(*quick(manifest, small_checkpoint, tmp_path / output, *options))
            assert done.returncode == 0, done.stderr
        same(tmp_path / "killed", tmp_path / "whole")
        shutil.rmtree(tmp_path / "killed")

    @pytest.mark.parametrize(("averaging", "chosen"), [("0", 1), ("0.5", 2)])
    def test_fit_killed_after_early_stopping_stays_stopped(
        self, sayings: Path, small_checkpoint: Path, tmp_path: Path, averaging: str, chosen: int
    ) -> None:
        """Without averaging the best epoch is chosen, with averaging the last one."""
        options = ["--patience", "1", "--epochs", "9", "--text-lr", "1e-9", "--head-lr", "1e-9"]  # learns nothing
        options += ["--averaging", averaging]
        command = quick(sayings, small_checkpoint, tmp_path / "run", *options)
        killed(command, BEFORE_THE_RESULT)
        state = torch.load(tmp_path / "run" / "random-1" / "state" / "last.ckpt", weights_only=False)
        assert len(state["history"]) == 2
        done = forked(*command)
        assert done.returncode == 0, done.stderr
        result = json.loads((tmp_path / "run" / "random-1" / "result.json").read_text())
        assert len(result["history"]) == 2 and result["chosen_epoch"] == chosen


def test_fit_interrupted_prints_how_to_resume(
    sayings: Path, small_checkpoint: Path, undisturbed: Path, tmp_path: Path
) -> None:
    command = quick(sayings, small_checkpoint, tmp_path / "run")
    done = forked(*command, code=at_step(1, 2, "SIGINT"))
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert "interrupted; everything up to the last whole epoch is saved: repeat the command to go on" in done.stderr
    done = forked(*command)
    assert done.returncode == 0, done.stderr
    assert "epoch 1:" not in done.stderr and "epoch 2:" in done.stderr
    same(tmp_path / "run", undisturbed)


# -- faults


def test_fit_on_a_full_disk_keeps_the_last_whole_state(
    sayings: Path, small_checkpoint: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """The disk is first too small for the training state, then for the finished checkpoint alone."""
    command = quick(sayings, small_checkpoint, tmp_path / "run")
    state = tmp_path / "run" / "random-1" / "state"
    killed(command, at_step(1, 2))
    saved = (state / "last.ckpt").read_bytes()
    error = error_of(forked(*command, largest_file=len(saved) // 2))
    assert re.match(
        rf"{re.escape(str(state))} can't be written \(File too large\); the last whole state is kept", error
    )
    assert (state / "last.ckpt").read_bytes() == saved
    assert sorted(path.name for path in state.iterdir()) == ["best.ckpt", "last.ckpt"]
    error = error_of(forked(*command, largest_file=len(saved) * 3))
    assert "checkpoint can't be written" in error and "File too large" in error
    assert not (tmp_path / "run" / "random-1" / "checkpoint").exists()
    done = forked(*command)
    assert done.returncode == 0, done.stderr
    same(tmp_path / "run", undisturbed)


def test_fit_without_room_for_the_start_names_its_directory(sayings: Path, tmp_path: Path) -> None:
    command = ["fit", "--corpus", "manifest", "--root", str(sayings), "--output", str(tmp_path / "run")]
    error = error_of(forked(*command, "--cache", tmp_path, largest_file=1_000_000))
    assert f"{tmp_path / 'run' / 'start'} can't be written" in error and "File too large" in error
    assert not (tmp_path / "run" / "start").exists()


def test_fit_with_a_loss_that_is_not_finite_keeps_finished_epochs(
    sayings: Path, small_checkpoint: Path, tmp_path: Path
) -> None:
    options = ["--text-lr", "1e30", "--head-lr", "1e30", "--freeze-epochs", "0", "--batch-size", "40"]
    command = quick(sayings, small_checkpoint, tmp_path / "run", *options)
    error = error_of(forked(*command))
    found = re.match(r"the loss became (nan|inf) in epoch (\d); the epochs before it are saved: lower", error)
    assert found and found[2] == "2", error  # the first epoch has one step, computed with finite weights
    state = torch.load(tmp_path / "run" / "random-1" / "state" / "last.ckpt", weights_only=False)
    assert len(state["history"]) == 1


@pytest.mark.usefixtures("narrow_models")
def test_fit_with_a_class_without_examples_warns_and_trains(small_checkpoint: Path, tmp_path: Path) -> None:
    rows = [row for row in text_rows(6) if row["emotion"] != "sadness"]
    manifest = write_manifest(tmp_path / "four.jsonl", rows)
    done = forked(*quick(manifest, small_checkpoint, tmp_path / "run", "--epochs", "1"))
    assert done.returncode == 0, done.stderr
    assert "random-1: no train utterance is labelled sadness" in done.stdout
    assert "random-1: no test utterance is labelled sadness" in done.stdout
    record = json.loads((tmp_path / "run" / "report.json").read_text())
    assert any("No training utterance is labelled sadness" in warning for warning in record["warnings"])
    assert "No training utterance is labelled sadness" in (tmp_path / "run" / "report.html").read_text()
    config = checkpoints.load(tmp_path / "run" / "random-1" / "checkpoint").config
    assert config.untrained == ["vggish", "fusion"]  # the corpus has no audio
    assert config.temperatures["audio"] == config.temperatures["fused"] == 1.0
    assert config.confidence["audio"] == config.confidence["fused"] == [1.0, 0.0]


def test_fit_with_a_corrupt_recording_names_it_or_skips_it(small_checkpoint: Path, tmp_path: Path) -> None:
    rows = add_tones(text_rows(4), tmp_path)
    corrupt = tmp_path / rows[3]["audio"]
    corrupt.write_bytes(corrupt.read_bytes()[:5000])
    manifest = write_manifest(tmp_path / "corpus.jsonl", rows)
    options = ["--folds", "3", "--epochs", "1", "--freeze-epochs", "1"]
    command = quick(manifest, small_checkpoint, tmp_path / "run", *options)
    error = error_of(forked(*command))
    assert f"1 of 20 recordings of manifest can't be used ({corrupt} is a truncated WAV file" in error
    assert "--skip-unreadable" in error
    done = forked(*quick(manifest, small_checkpoint, tmp_path / "other", *options, "--skip-unreadable"))
    assert done.returncode == 0, done.stderr
    assert f"skipped {corrupt}" in done.stdout.replace("\n", "")
    assert "manifest: 19 utterances kept" in done.stdout
    assert re.search(r"1\s+recording can't be decoded", done.stdout)
    split = splits.load(tmp_path / "other" / "random-1" / "split.json")
    assert rows[3]["id"] not in {*split.train, *split.validation, *split.test}
    record = json.loads((tmp_path / "other" / "report.json").read_text())
    assert record["run"]["dropped"] == {"recording can't be decoded": 1}


@pytest.mark.usefixtures("narrow_models")
def test_fit_checkpoint_gives_the_reported_predictions(sayings: Path, undisturbed: Path) -> None:
    fold = undisturbed / "random-1"
    checkpoint = checkpoints.load(fold / "checkpoint")
    wanted = splits.load(fold / "split.json").test
    rows = [row for row in corpora.load("manifest", sayings).utterances if row.id in wanted]
    tokens = tokenise(rows, WordPiece(checkpoint.tokenizer))
    asked = predict(checkpoint.model, Utterances(rows, Recordings(np.empty(0, np.float32), {}), tokens))
    reported = Predictions.load(fold / "predictions.json")
    assert asked.ids == reported.ids
    for view in VIEWS:
        np.testing.assert_allclose(asked.probabilities[view], reported.probabilities[view], atol=1e-5)
        np.testing.assert_allclose(asked.confidence[view], reported.confidence[view], atol=1e-5)
