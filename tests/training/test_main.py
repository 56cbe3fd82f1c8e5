"""Test exit statuses and error messages of the command line."""

import re
import subprocess
from pathlib import Path

import pytest
from runs import add_tones, error_of, text_rows, train, write_manifest

from training.__main__ import main

pytestmark = pytest.mark.usefixtures("narrow_models")


def failing(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Run a command that fails in this process, and return its error message."""
    code = main(list(map(str, arguments)))
    return error_of(subprocess.CompletedProcess([], code, *capsys.readouterr()))


@pytest.mark.parametrize("corpus", ["iemocap", "goemotions", "emodb", "meld", "manifest"])
def test_main_with_a_missing_corpus_names_its_folder(
    corpus: str, small_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ["--root", str(tmp_path / "absent"), "--output", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    for command in (["fit", "--start", str(small_checkpoint)], ["corpus"]):
        assert str(tmp_path / "absent") in failing(capsys, *command, "--corpus", corpus, *places)


def test_main_with_a_missing_fold_names_the_folds(
    small_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = write_manifest(tmp_path / "m.jsonl", text_rows())
    options = ["--corpus", "manifest", "--root", str(manifest), "--start", str(small_checkpoint)]
    for fold in ("0", "6"):
        error = failing(capsys, "fit", *options, "--output", tmp_path / "run", "--cache", tmp_path, "--fold", fold)
        assert error == f"there is no fold {fold}; this split has the folds 1 to 5"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--start", "absent"], "there is no checkpoint directory absent"),
        (["--split", "session"], "can't have a session split"),
        (["--split", "speaker"], "can't have a speaker split"),
        (["--folds", "1"], "1 folds leave nothing to test against"),
        (["--only-fusion"], "--only-fusion needs utterances with both audio and text"),
        (["--text-encoder", "./absent"], r"there is no text encoder directory \./absent"),
        (["--vggish", "absent.pth"], r"absent\.pth is missing"),
    ],
)
def test_main_with_invalid_settings_prints_one_error_line(
    options: list[str],
    expected: str,
    small_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    manifest = write_manifest(tmp_path / "m.jsonl", text_rows())
    if not {"--start", "--text-encoder", "--vggish"} & set(options):
        options = [*options, "--start", str(small_checkpoint)]
    places = ["--root", str(manifest), "--output", str(tmp_path / "run"), "--cache", str(tmp_path)]
    error = failing(capsys, "fit", "--corpus", "manifest", *places, *options)
    assert re.search(expected, error), error


@pytest.mark.parametrize("arguments", [[], ["fit"], ["fit", "--corpus", "ravdess", "--root", "x"], ["train"]])
def test_main_with_wrong_usage_exits_with_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: python -m training" in capsys.readouterr().err


def test_command_with_a_missing_corpus_prints_one_error_line(tmp_path: Path) -> None:
    error = error_of(train("fit", "--corpus", "iemocap", "--root", tmp_path / "absent", "--output", tmp_path / "run"))
    assert "absent" in error


def test_main_corpus_prints_counts_and_draws_a_picture(
    small_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = write_manifest(tmp_path / "m.jsonl", add_tones(text_rows(2), tmp_path))
    options = ["--root", manifest, "--checkpoint", small_checkpoint, "--output", tmp_path / "out"]
    assert main(list(map(str, ["corpus", "--corpus", "manifest", *options]))) == 0
    printed = capsys.readouterr().out
    assert "manifest: 10 utterances kept (audio and text 10" in printed
    assert "corpus.png" in printed
    picture = (tmp_path / "out" / "corpus.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 10_000
