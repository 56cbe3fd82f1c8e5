"""Test tuning: edited configurations, search space, choice among noisy measurements, and a search with Triton."""

import argparse
import json
import math
import shutil
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from benchmarks.__main__ import build_parser
from benchmarks.errors import BenchmarkError
from benchmarks.speed import machine, tune
from benchmarks.speed.tune import FAILED, Base, Candidate, Measurement, Space, StageSettings
from export.repository import ENCODERS, ONNX_MODELS, TEMPLATE
from tests.conftest import copy_repository

ENSEMBLE_BATCH = 32


def text(model: str) -> str:
    return (TEMPLATE / model / "config.pbtxt").read_text()


def other_settings(model: str) -> list[StageSettings]:
    threads, waiting = 5 if model in ENCODERS else None, 3 if model == "queue" else None
    return [
        StageSettings(3, threads, 64, waiting),
        StageSettings(3, threads, 4, waiting),
        replace(tune.settings(text(model)), instances=7),
    ]


def without_tuned(config: Any) -> Any:
    """Return a configuration without the fields that tuning may change."""
    config.max_batch_size = 0
    config.instance_group[0].count = 0
    config.instance_group[0].ClearField("rate_limiter")
    for name in (tune.THREADS, tune.MAX_WAITING, tune.MAX_BULK_WAITING):
        config.parameters.pop(name, None)
    config.dynamic_batching.ClearField("preferred_batch_size")
    return config


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory in which searches are kept."""
    monkeypatch.setattr(tune, "STATE", tmp_path / "state")
    return tmp_path / "state"


@pytest.fixture
def base(tmp_path: Path) -> Base:
    """Return the template's configurations, with small files in place of weights."""
    repository = tmp_path / "model_repository"
    shutil.copytree(TEMPLATE, repository, ignore=shutil.ignore_patterns("*.onnx", "export.json", "tuned.pbtxt"))
    for model in ONNX_MODELS:
        (repository / model / "1").mkdir(exist_ok=True)
        (repository / model / "1" / "model.onnx").write_text("weights")
    (repository / "export.json").write_text(json.dumps({"checkpoint": "0", "files": {}}))
    return Base.load(repository, "fp32")


def arguments(repository: Path, **options: Any) -> argparse.Namespace:
    options_of_tune = ["--p99-ms", "60000", "--users", "2", "--repository", str(repository)]
    given = build_parser().parse_args(["tune", *options_of_tune])
    return argparse.Namespace(**(vars(given) | options))


# --- configurations


@pytest.mark.parametrize("model", tune.TUNED)
def test_edit_changes_the_settings_and_nothing_else(model: str) -> None:
    for stage in other_settings(model):
        edited = tune.edit(text(model), stage, ENSEMBLE_BATCH)
        assert tune.settings(edited) == stage
        assert tune.parse(edited).max_batch_size >= ENSEMBLE_BATCH
        assert without_tuned(tune.parse(edited)) == without_tuned(tune.parse(text(model)))
        takes_turns = tune.parse(edited).instance_group[0].HasField("rate_limiter")
        before = tune.settings(text(model))
        same_cores = (stage.instances, stage.threads) == (before.instances, before.threads)
        assert takes_turns == (model in ENCODERS and same_cores)


@pytest.mark.parametrize("model", tune.TUNED)
def test_edit_without_a_change_returns_the_text_with_its_comments(model: str) -> None:
    assert tune.edit(text(model), tune.settings(text(model)), ENSEMBLE_BATCH) == text(model)


@pytest.mark.parametrize("model", tune.TUNED)
def test_edit_back_gives_the_same_configuration(model: str) -> None:
    for stage in other_settings(model):
        edited = tune.edit(text(model), stage, ENSEMBLE_BATCH)
        back = tune.parse(tune.edit(edited, tune.settings(text(model)), ENSEMBLE_BATCH))
        assert tune.settings(str(back)) == tune.settings(text(model))
        assert back.max_batch_size == tune.parse(text(model)).max_batch_size


def test_settings_take_the_largest_preferred_batch_size_or_the_largest_batch() -> None:
    assert [tune.settings(text(model)).batch for model in ("preprocess", "vggish", "bert")] == [32, 16, 16]
    two = text("vggish").replace("preferred_batch_size: [ 16 ]", "preferred_batch_size: [ 16, 24 ]")
    assert tune.settings(two).batch == 24
    unlimited = tune.edit(two, replace(tune.settings(two), batch=ENSEMBLE_BATCH), ENSEMBLE_BATCH)
    assert "preferred_batch_size" not in unlimited
    assert tune.settings(unlimited).batch == tune.parse(unlimited).max_batch_size == ENSEMBLE_BATCH


def test_link_makes_a_repository_with_its_own_configurations(base: Base, tmp_path: Path) -> None:
    stages = base.stages | {"bert": replace(base.stages["bert"], instances=3)}
    directory = tmp_path / "trial"
    directory.mkdir()
    tune.link(base.repository, base.edited(stages), directory)
    for model in base.texts:
        served = (directory / model / "config.pbtxt").read_text()
        assert tune.parse(served).name == model
        assert (served == base.texts[model]) == (model != "bert")
        assert not (directory / model / "configs").exists()
    assert (directory / "bert/1/model.onnx").samefile(base.repository / "bert/1/model.onnx")
    assert tune.settings((directory / "bert/config.pbtxt").read_text()) == stages["bert"]


def test_write_writes_what_differs_and_removes_an_earlier_winner(base: Base) -> None:
    stages = base.stages
    queue, vggish = (base.repository / model / "configs/tuned.pbtxt" for model in ("queue", "vggish"))
    changed = stages | {"queue": replace(stages["queue"], max_waiting=32)}
    assert tune.write(base, changed, "tuned", f"{tune.MADE_BY}`\n") == [queue]
    assert tune.settings(queue.read_text()).max_waiting == 32
    assert tune.parse(queue.read_text()).parameters["max_bulk_waiting"].string_value == "16"
    changed = stages | {"vggish": replace(stages["vggish"], instances=3)}
    assert tune.write(base, changed, "tuned", f"{tune.MADE_BY}`\n") == [vggish]
    assert not queue.exists()
    assert vggish.read_text().startswith(tune.MADE_BY)
    assert tune.settings(vggish.read_text()).instances == 3


def test_write_of_another_precision_writes_its_configurations(base: Base) -> None:
    with pytest.raises(BenchmarkError, match="export"):
        for path in base.repository.glob("*/configs/int8.pbtxt"):
            path.unlink()
        Base.load(base.repository, "int8")
    int8 = base.texts["bert"] + 'default_model_filename: "model.int8.onnx"\n'
    (base.repository / "bert/configs/int8.pbtxt").write_text(int8)
    loaded = Base.load(base.repository, "int8")
    (written,) = tune.write(loaded, loaded.stages, "tuned", f"{tune.MADE_BY}`\n")
    assert written.read_text().endswith(int8)


# --- the search space


@pytest.mark.parametrize(("cores", "users"), [(1, 1), (2, 32), (6, 64), (64, 256)])
def test_space_has_sensible_choices_and_the_current_one_first(base: Base, cores: int, users: int) -> None:
    space = Space(base, cores, users)
    assert list(space.choices) == [
        "preprocess instances",
        "queue max_waiting",
        "vggish instances x threads",
        "vggish batch",
        "bert instances x threads",
        "bert batch",
    ]
    assert space.stages(space.current) == base.stages
    for name, labels in space.choices.items():
        model = name.split()[0]
        assert len(labels) == len(set(labels))
        assert len(labels) > 1 or users == 1
        for label in labels[1:]:
            stage = space.stages(space.current | {name: label})[model]
            assert stage != base.stages[model]
            assert stage.instances * (stage.threads or 1) <= 2 * cores
            assert stage.batch < 2 * max(users, base.stages[model].batch)
            assert (stage.max_waiting or 0) < 2 * max(users, base.stages["queue"].max_waiting or 0)
            assert tune.settings(tune.edit(text(model), stage, ENSEMBLE_BATCH)) == stage


# --- the choice among measurements


def test_measure_again_alternates_candidates_and_drops_the_first_measurement(base: Base) -> None:
    space = Space(base, cores=2, users=128)
    lucky, good = (space.current | {"queue max_waiting": label} for label in space.choices["queue max_waiting"][1:3])
    order = []

    def measured(parameters: dict[str, str]) -> Measurement:
        order.append(parameters)
        return Measurement(9 if parameters == lucky else 12, 400, 900 + len(order))

    first = [Candidate(lucky, [Measurement(20, 400, 900)]), Candidate(good, [Measurement(12, 400, 950)])]
    late = Candidate(space.current, [Measurement(30, 400, 1001)])
    assert [one.parameters for one in tune.ranking([late, *first], 1000)] == [lucky, good]
    again = tune.measure_again(first, measured)
    assert order == [lucky, good] * tune.ROUNDS
    assert [len(one.runs) for one in again] == [tune.ROUNDS] * 2
    ranked = tune.ranking(again, 1000)
    assert [one.parameters for one in ranked] == [good, lucky]
    assert ranked[0].result == Measurement(12, 400, 904)


def test_choose_among_equally_fast_takes_the_fewest_instances(base: Base) -> None:
    space = Space(base, cores=2, users=32)
    vggish, bert = "vggish instances x threads", "bert instances x threads"
    four = space.current | {vggish: "1x0", bert: "4x1"}
    two, slow = (space.current | {vggish: label, bert: label} for label in ("2x1", "1x1"))

    def candidate(parameters: dict[str, str], throughput: float) -> Candidate:
        return Candidate(parameters, [Measurement(throughput, 400, 800)] * tune.ROUNDS)

    ranked = [candidate(four, 15.0), candidate(two, 14.5), candidate(slow, 8.0)]
    assert tune.choose(ranked, space.stages).parameters == two
    assert tune.choose(ranked[2:], space.stages).parameters == slow


def test_candidate_that_failed_once_is_never_ranked(base: Base) -> None:
    runs = [Measurement(10, 1, 1)] * 3
    assert Candidate({}, [*runs, FAILED]).result == FAILED
    assert not tune.ranking([Candidate({}, [*runs, FAILED])], p99_ms=1e9)
    assert tune.ranking([Candidate({}, runs)], p99_ms=1)
    assert math.isinf(FAILED.p99)


def test_run_without_settings_within_the_objective_writes_nothing(
    base: Base, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tune, "measure", lambda *_: Measurement(9, 60, 70))
    assert tune.run(arguments(base.repository, p99_ms=50.0, trials=1)) == 1
    assert "the best is 70 ms" in capsys.readouterr().out
    assert not list(base.repository.glob("*/configs/tuned.pbtxt"))


# --- continuing a search


def test_open_study_with_other_settings_raises_and_names_them(state: Path) -> None:
    asked = {"--p99-ms": 900.0, "--users": 32, "export": ["digest", {"bert": "name: 'bert'"}]}
    study = tune.open_study("tuned", asked)
    study.add_trial(optuna.trial.create_trial(value=1.0))
    assert len(tune.open_study("tuned", asked).trials) == 1
    assert not tune.open_study("other", asked | {"--users": 8}).trials
    with pytest.raises(BenchmarkError, match=r"tuned\.db has .* another --users and another export; delete it, or"):
        tune.open_study("tuned", asked | {"--users": 8, "export": ["other", {}]})
    (state / "tuned.db").unlink()
    assert not tune.open_study("tuned", asked | {"--users": 8}).trials


# --- the command


def test_run_does_not_overwrite_hand_written_configurations(base: Base) -> None:
    with pytest.raises(BenchmarkError, match=r"gpu\.pbtxt was not made by tuning"):
        tune.run(arguments(base.repository, name="gpu"))


def test_run_after_an_interruption_continues(
    repository: Path, tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run two trials with a real Triton under load, and interrupt the search between them."""
    tuned = tmp_path / "model_repository"  # a copy, because tests must not change the shared repository
    copy_repository(repository, tuned)
    for name, value in {"MIN_REQUESTS": 4, "REQUESTS_PER_USER": 1, "WARM_UP_PER_USER": 1, "ROUNDS": 1}.items():
        monkeypatch.setattr(tune, name, value)
    measure, calls, known = tune.measure, count(), dict[str, Measurement]()

    def interrupted_once(base: Base, stages: dict[str, StageSettings], users: int) -> Measurement:
        if next(calls) == 1:
            raise KeyboardInterrupt
        if str(stages) not in known:  # leaders are not measured again
            known[str(stages)] = measure(base, stages, users)
        return known[str(stages)]

    monkeypatch.setattr(tune, "measure", interrupted_once)
    with pytest.raises(KeyboardInterrupt):
        tune.run(arguments(tuned, trials=2))
    assert tune.run(arguments(tuned, trials=2)) == 0

    (study,) = optuna.get_all_study_summaries(storage := f"sqlite:///{state}/tuned.db")
    trials = optuna.load_study(study_name=study.study_name, storage=storage).trials
    found = [trial.params for trial in trials if trial.state == TrialState.COMPLETE]
    space = Space(Base.load(tuned, "fp32"), max(1, int(machine.describe().cores)), users=2)
    assert len(found) == 2 and found[0] == space.current
    printed = capsys.readouterr().out
    (winner,) = [one for one in found if f"winner: {space.describe(one)}: " in printed]
    for model, stage in space.stages(winner).items():
        written = tuned / model / "configs/tuned.pbtxt"
        assert written.exists() == (stage != space.base.stages[model])
        assert not written.exists() or tune.settings(written.read_text()) == stage
