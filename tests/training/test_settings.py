"""Test that every setting is an option, and that a run keeps its settings."""

import argparse
import json
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest

from training.errors import TrainingError
from training.settings import DEFAULT_SPLITS, Settings, add_arguments, from_arguments


def parse(*options: str) -> Settings:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return from_arguments(parser.parse_args(["--corpus", "manifest", "--root", "m.csv", *options]))


def test_from_arguments_without_options_gives_the_defaults() -> None:
    assert parse() == Settings("manifest", "m.csv")


@pytest.mark.parametrize("setting", [each.name for each in fields(Settings)[2:]])
def test_from_arguments_option_changes_its_setting_alone(setting: str) -> None:
    default = getattr(Settings("manifest", "m.csv"), setting)
    option = "--" + setting.replace("_", "-")
    choice = {"happiness_policy": "drop", "split": "published", "precision": "bf16-mixed"}.get(setting)
    value: Any
    if isinstance(default, bool):
        option, value = (f"--no-{option[2:]}" if default else option), not default
        assert parse(option) == replace(parse(), **{setting: value})
        return
    kinds = {"folds": int, "lora_rank": int, "start": str, "vggish": str, "teacher": str}
    kind = kinds.get(setting, type(default))
    value = choice or kind(0.2 if setting in ("time_stretch", "pitch_shift", "averaging") else 7)
    assert parse(option, str(value)) == replace(parse(), **{setting: value})


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--time-stretch", "0.3"], r"--time-stretch is 0\.3; 0 \(off\) to 0\.25 is accepted"),
        (["--time-stretch", "-0.1"], r"--time-stretch is -0\.1"),
        (["--time-stretch", "nan"], "--time-stretch is nan"),
        (["--pitch-shift", "5"], r"--pitch-shift is 5; 0 \(off\) to 4 semitones is accepted"),
        (["--pitch-shift", "2", "--no-augment"], "--pitch-shift has no effect with --no-augment"),
        (["--only-fusion", "--teacher", "tiny.en"], "--teacher have no effect with --only-fusion"),
        (["--only-fusion", "--auxiliary-weight", "1"], "--auxiliary-weight and --teacher have no effect"),
        (["--averaging", "1"], r"--averaging is 1; 0 \(off\) to below 1 is accepted"),
        (["--averaging", "nan"], "--averaging is nan"),
        (["--auxiliary-weight", "-1"], r"--auxiliary-weight is -1; 0 \(off\) or more is accepted"),
        (["--teacher-weight", "nan"], r"--teacher-weight is nan; 0 \(off\) or more is accepted"),
    ],
)
def test_settings_out_of_range_are_rejected(options: list[str], expected: str) -> None:
    with pytest.raises(TrainingError, match=expected):
        parse(*options)


@pytest.mark.parametrize("corpus", [*DEFAULT_SPLITS, "manifest"])
def test_from_arguments_split_defaults_by_corpus(corpus: str) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    given = ["--corpus", corpus, "--root", "-"]
    assert from_arguments(parser.parse_args(given)).split == DEFAULT_SPLITS.get(corpus, "random")
    assert from_arguments(parser.parse_args([*given, "--split", "random"])).split == "random"


def test_save_with_other_settings_is_rejected(tmp_path: Path) -> None:
    settings = Settings("manifest", "m.csv", epochs=3)
    settings.save(tmp_path)
    saved = (tmp_path / "settings.json").read_text()
    assert Settings(**json.loads(saved)) == settings
    settings.save(tmp_path)
    replace(settings, workers=4).save(tmp_path)  # changes no result
    with pytest.raises(TrainingError, match=r"other settings: seed 1 \(now 2\), epochs 3 \(now 5\); repeat them"):
        replace(settings, epochs=5, seed=2).save(tmp_path)
    assert (tmp_path / "settings.json").read_text() == saved


def test_save_with_settings_of_an_earlier_version_resumes_the_run(tmp_path: Path) -> None:
    settings = Settings("manifest", "m.csv", happiness_policy="drop")
    earlier = {"happy" if name == "happiness_policy" else name: value for name, value in asdict(settings).items()}
    (tmp_path / "settings.json").write_text(json.dumps(earlier))
    settings.save(tmp_path)
    with pytest.raises(TrainingError, match=r"happiness_policy 'drop' \(now 'merge'\)"):
        Settings("manifest", "m.csv").save(tmp_path)


def test_add_arguments_accepts_the_option_of_an_earlier_version() -> None:
    assert parse("--happy", "drop") == parse("--happiness-policy", "drop") == replace(parse(), happiness_policy="drop")
