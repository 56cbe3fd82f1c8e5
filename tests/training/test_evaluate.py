"""Test that evaluation gives the same metrics in torch and through a served Triton."""

import io
import json
import re
import socket
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from runs import error_of, forked, write_manifest

from emotion import checkpoint as checkpoints
from emotion.checkpoint import CheckpointError
from emotion.labels import EMOTIONS
from emotion.model import VIEWS
from serving import Triton
from training import splits
from training.errors import TrainingError
from training.evaluate import EvaluationSettings, evaluate
from training.predictions import Predictions
from training.splits import Split

SPEECH = Path(__file__).parents[2] / "examples" / "speech"


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory, transcripts: dict[str, str]) -> Path:
    """Return a manifest of examples/speech with transcripts, one recording without text, and one text alone."""
    rows = [
        {"id": name, "audio": str(SPEECH / name), "text": text, "emotion": EMOTIONS[number % 5]}
        for number, (name, text) in enumerate(transcripts.items())
    ]
    rows.append({"id": "text", "text": rows[0]["text"], "emotion": "anger"})
    rows.append({"id": "audio", "audio": rows[1]["audio"], "emotion": "sadness"})
    return write_manifest(tmp_path_factory.mktemp("examples") / "examples.jsonl", rows)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def ask(
    checkpoint: Path, manifest: Path, output: Path, cache: Path, split: str = "all", endpoint: str | None = None
) -> str:
    """Evaluate a checkpoint and return what is printed."""
    console = Console(file=io.StringIO(), width=200)
    settings = EvaluationSettings(checkpoint, "manifest", manifest, split=split, endpoint=endpoint)
    page = evaluate(settings, output, cache, console)
    assert page == output / "report.html"
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_evaluate_served_equals_offline(
    demo_checkpoint: Path, manifest: Path, server: Triton, tmp_path: Path, cache: Path
) -> None:
    offline = ask(demo_checkpoint, manifest, tmp_path / "offline", cache)
    assert "served and offline answers" not in offline
    served = ask(demo_checkpoint, manifest, tmp_path / "served", cache, endpoint=server.grpc_url)
    lines = re.findall(r"(\w+): accuracy ([\d.]+) % offline, ([\d.]+) % served; .* by (\S+) at most", served)
    assert [line[0] for line in lines] == list(VIEWS)
    for _, ours, theirs, difference in lines:
        assert ours == theirs and float(difference) < 1e-4
    answers = [Predictions.load(tmp_path / name / "predictions.json") for name in ("offline", "served")]
    assert answers[0].ids == answers[1].ids and len(answers[0].ids) == 7
    for view in VIEWS:
        one, other = (each.probabilities[view] for each in answers)
        np.testing.assert_array_equal(one.any(axis=1), other.any(axis=1))
        np.testing.assert_allclose(other, one, atol=1e-4)
        assert (one != other).any()  # computed twice, not copied
    assert "served by Triton" in (tmp_path / "served" / "report.html").read_text()


@pytest.mark.usefixtures("narrow_models")
def test_evaluate_report_names_untrained_parts(
    small_checkpoint: Path, manifest: Path, tmp_path: Path, cache: Path
) -> None:
    ask(small_checkpoint, manifest, tmp_path, cache)
    record = json.loads((tmp_path / "report.json").read_text())
    assert "Untrained: vggish, fusion." in record["warnings"]
    assert record["run"]["folds"][0]["digest"] == checkpoints.digest(small_checkpoint)
    assert record["figures"]["modalities"] == {"both": 5, "audio alone": 1, "text alone": 1}


@pytest.mark.usefixtures("narrow_models")
def test_evaluate_with_a_runs_split_uses_its_test_part(
    small_checkpoint: Path, manifest: Path, tmp_path: Path, cache: Path
) -> None:
    path = tmp_path / "split.json"
    splits.save(Split("random-1", ("austen-0870.flac",), (), ("text", "austen-0880.flac"), True), path)
    ask(small_checkpoint, manifest, tmp_path / "out", cache, split=str(path))
    assert sorted(Predictions.load(tmp_path / "out" / "predictions.json").ids) == ["austen-0880.flac", "text"]
    record = json.loads((tmp_path / "out" / "report.json").read_text())
    assert record["run"]["shares_speakers"] and record["run"]["folds"][0]["name"] == "random-1"


@pytest.mark.usefixtures("narrow_models")
def test_evaluate_with_a_split_of_another_corpus_is_rejected(
    small_checkpoint: Path, manifest: Path, tmp_path: Path, cache: Path
) -> None:
    path = tmp_path / "split.json"
    splits.save(Split("session-1", (), (), ("text", "Ses01F_impro01_F000", "Ses01F_impro01_F001"), False), path)
    with pytest.raises(TrainingError, match=r"2 of the 3 test utterances of .*split\.json are not in manifest; give"):
        ask(small_checkpoint, manifest, tmp_path / "out", cache, split=str(path))
    with pytest.raises(TrainingError, match=r"split .*absent\.json can't be read: No such file"):
        ask(small_checkpoint, manifest, tmp_path / "out", cache, split=str(tmp_path / "absent.json"))
    with pytest.raises(TrainingError, match="manifest can't have a published split"):
        ask(small_checkpoint, manifest, tmp_path / "out", cache, split="published")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("narrow_models")
def test_evaluate_with_an_unreachable_endpoint_names_it(
    small_checkpoint: Path, manifest: Path, tmp_path: Path, cache: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but never listening
        endpoint = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(TrainingError, match=re.escape(endpoint)):
            ask(small_checkpoint, manifest, tmp_path / "out", cache, endpoint=endpoint)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("narrow_models")
def test_evaluate_with_an_unreadable_recording_names_it(small_checkpoint: Path, tmp_path: Path, cache: Path) -> None:
    (tmp_path / "a.wav").write_text("nothing")
    manifest = write_manifest(tmp_path / "m.jsonl", [{"id": "a", "audio": "a.wav", "emotion": "anger"}])
    with pytest.raises(TrainingError, match=r"a\.wav is text, not an audio file"):
        ask(small_checkpoint, manifest, tmp_path / "out", cache)


def test_evaluate_without_a_checkpoint_is_rejected(manifest: Path, tmp_path: Path, cache: Path) -> None:
    with pytest.raises(CheckpointError, match="is missing"):
        ask(tmp_path, manifest, tmp_path / "out", cache)


@pytest.mark.usefixtures("narrow_models")
def test_command_evaluate_writes_a_report(small_checkpoint: Path, manifest: Path, tmp_path: Path, cache: Path) -> None:
    command = ["evaluate", str(small_checkpoint), "--corpus", "manifest", "--root", str(manifest)]
    command += ["--cache", str(cache)]
    done = forked(*command, "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "report.html").is_file() and "accuracy" in done.stdout.lower()
    error = error_of(forked(*command, "--output", tmp_path / "other", "--endpoint", "127.0.0.1:1"))
    assert "127.0.0.1:1" in error
