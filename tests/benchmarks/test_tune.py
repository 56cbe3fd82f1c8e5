"""Tuning: configurations edited as text, the space, the choice among noisy measurements, and a real search."""

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

from benchmarks import tune
from benchmarks.errors import BenchmarkError
from benchmarks.tune import FAILED, Base, Measurement, Space, Stage
from export.repository import ENCODERS, ONNX_MODELS, TEMPLATE

ENSEMBLE_BATCH = 32


def text(model: str) -> str:
    return (TEMPLATE / model / "config.pbtxt").read_text()


def other_settings(model: str) -> list[Stage]:
    threads, waiting = 5 if model in ENCODERS else None, 3 if model == "queue" else None
    return [
        Stage(3, threads, 64, waiting),
        Stage(3, threads, 4, waiting),
        replace(tune.read(text(model)), instances=7),
    ]


def without_tuned(config: Any) -> Any:
    """A configuration without what tuning may change."""
    config.max_batch_size = 0
    config.instance_group[0].count = 0
    config.instance_group[0].ClearField("rate_limiter")
    for name in (tune.THREADS, tune.MAX_WAITING):
        config.parameters.pop(name, None)
    config.dynamic_batching.ClearField("preferred_batch_size")
    return config


@pytest.fixture
def base(tmp_path: Path) -> Base:
    """The template's configurations beside small files in place of weights."""
    repository = tmp_path / "model_repository"
    shutil.copytree(TEMPLATE, repository, ignore=shutil.ignore_patterns("*.onnx", "export.json", "tuned.pbtxt"))
    for model in ONNX_MODELS:
        (repository / model / "1").mkdir(exist_ok=True)
        (repository / model / "1" / "model.onnx").write_text("weights")
    (repository / "export.json").write_text(json.dumps({"checkpoint": "0", "files": {}}))
    return Base.load(repository, "fp32")


def arguments(repository: Path, **options: Any) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    tune.add_arguments(parser)
    given = parser.parse_args(["--p99-ms", "60000", "--users", "2", "--repository", str(repository)])
    return argparse.Namespace(**(vars(given) | options))


# --- configurations


@pytest.mark.parametrize("model", tune.TUNED)
def test_edited_configuration_has_the_settings_and_nothing_else_changes(model: str) -> None:
    for stage in other_settings(model):
        edited = tune.edit(text(model), stage, ENSEMBLE_BATCH)
        assert tune.read(edited) == stage
        assert tune.parse(edited).max_batch_size >= ENSEMBLE_BATCH
        assert without_tuned(tune.parse(edited)) == without_tuned(tune.parse(text(model)))
        takes_turns = tune.parse(edited).instance_group[0].HasField("rate_limiter")
        before = tune.read(text(model))
        same_cores = (stage.instances, stage.threads) == (before.instances, before.threads)
        assert takes_turns == (model in ENCODERS and same_cores)


@pytest.mark.parametrize("model", tune.TUNED)
def test_lines_that_stay_keep_their_comments_and_the_others_say_that_they_are_tuned(model: str) -> None:
    for stage in other_settings(model):
        original = text(model).splitlines()
        edited = tune.edit(text(model), stage, ENSEMBLE_BATCH).splitlines()
        new = [line for line in edited if line not in original]
        assert new
        assert all("# tuned" in line for line in new)
        assert len([line for line in original if line not in edited]) <= 8  # one a setting, and the rate limiter's
        assert [line for line in edited if line in original] == [line for line in original if line in edited]


@pytest.mark.parametrize("model", tune.TUNED)
def test_editing_back_gives_the_same_configuration(model: str) -> None:
    for stage in other_settings(model):
        edited = tune.edit(text(model), stage, ENSEMBLE_BATCH)
        back = tune.parse(tune.edit(edited, tune.read(text(model)), ENSEMBLE_BATCH))
        assert tune.read(str(back)) == tune.read(text(model))
        assert back.max_batch_size == tune.parse(text(model)).max_batch_size


def test_read_takes_the_largest_preferred_batch_size_or_else_the_largest_batch() -> None:
    assert [tune.read(text(model)).batch for model in ("preprocess", "vggish", "bert")] == [1, 8, 8]
    two = text("vggish").replace("preferred_batch_size: [ 8 ]", "preferred_batch_size: [ 8, 16 ]")
    assert tune.read(two).batch == 16
    unlimited = tune.edit(two, replace(tune.read(two), batch=ENSEMBLE_BATCH), ENSEMBLE_BATCH)
    assert "preferred_batch_size" not in unlimited
    assert tune.read(unlimited).batch == tune.parse(unlimited).max_batch_size == ENSEMBLE_BATCH


def test_a_spelling_that_is_not_understood_is_refused_and_not_half_done() -> None:
    reordered = (
        text("vggish")
        .replace("dynamic_batching {", "dynamic_batching: <")
        .replace("\n}\n\nmodel_warmup", "\n>\n\nmodel_warmup")
    )
    with pytest.raises(BenchmarkError, match="configuration of vggish"):
        tune.edit(reordered, Stage(1, 0, 4, None), ENSEMBLE_BATCH)


def test_trial_repository_links_files_and_has_its_own_configurations(base: Base, tmp_path: Path) -> None:
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
    assert tune.read((directory / "bert/config.pbtxt").read_text()) == stages["bert"]


def test_digest_follows_what_is_served_and_nothing_else(base: Base) -> None:
    digest = base.digest()
    (base.repository / "vggish/1/model.int8.onnx").write_text("another precision")
    assert base.digest() == digest
    (base.repository / "fusion/1/model.onnx").write_text("other weights")
    assert base.digest() != digest


def test_winner_is_written_where_it_differs_and_an_older_one_removed(base: Base) -> None:
    stages = base.stages
    queue, vggish = (base.repository / model / "configs/tuned.pbtxt" for model in ("queue", "vggish"))
    changed = stages | {"queue": replace(stages["queue"], max_waiting=16)}
    assert tune.write(base, changed, "tuned", f"{tune.MADE_BY}`\n") == [queue]
    assert tune.read(queue.read_text()).max_waiting == 16
    changed = stages | {"vggish": replace(stages["vggish"], instances=3)}
    assert tune.write(base, changed, "tuned", f"{tune.MADE_BY}`\n") == [vggish]
    assert not queue.exists()
    assert vggish.read_text().startswith(tune.MADE_BY)
    assert tune.read(vggish.read_text()).instances == 3


def test_other_precision_is_written_even_where_tuning_changed_nothing(base: Base) -> None:
    with pytest.raises(BenchmarkError, match="export"):
        for path in base.repository.glob("*/configs/int8.pbtxt"):
            path.unlink()
        Base.load(base.repository, "int8")
    int8 = base.texts["bert"] + 'default_model_filename: "model.int8.onnx"\n'
    (base.repository / "bert/configs/int8.pbtxt").write_text(int8)
    loaded = Base.load(base.repository, "int8")
    (written,) = tune.write(loaded, loaded.stages, "tuned", f"{tune.MADE_BY}`\n")
    assert written.read_text().endswith(int8)


# --- the space


@pytest.mark.parametrize(("cores", "users"), [(1, 1), (2, 32), (6, 64), (64, 256)])
def test_every_combination_is_sensible_and_the_current_one_comes_first(cores: int, users: int) -> None:
    current = {model: tune.read(text(model)) for model in tune.TUNED}
    searched = tune.search_parameters(current, ENSEMBLE_BATCH, cores, users)
    assert [(one.model, one.name) for one in searched] == [
        ("preprocess", "instances"),
        ("queue", "max_waiting"),
        ("vggish", "instances x threads"),
        ("vggish", "batch"),
        ("bert", "instances x threads"),
        ("bert", "batch"),
    ]
    for one in searched:
        first, *others = [replace(current[one.model], **fields) for fields in one.choices.values()]
        assert first == current[one.model]
        assert others or users == 1
        for stage in others:
            assert stage.instances * (stage.threads or 1) <= 2 * cores
            assert stage.batch < 2 * max(users, current[one.model].batch)
            assert (stage.max_waiting or 0) < 2 * max(users, current["queue"].max_waiting or 0)
            assert tune.read(tune.edit(text(one.model), stage, ENSEMBLE_BATCH)) == stage


# --- the choice

Settings = dict[str, str]


def measured(study: optuna.Study, space: Space, settings: Settings, result: Measurement, p99_ms: float) -> None:
    study.enqueue_trial(settings)
    trial = study.ask()
    assert space.suggest(trial) == settings
    tune.record(study, trial, result, p99_ms)


def test_fastest_that_holds_wins_and_luck_does_not(base: Base) -> None:
    """Leaders are measured again in turn with the current configuration, until the best three have all their rounds."""
    space = Space(base, cores=2, users=128)
    waiting = "queue max_waiting"
    settings = [space.current | {waiting: label} for label in list(space.searched[waiting].choices)[1:6]]
    lucky, good, late, failing, slow = settings
    first = {"lucky": (20, 900), "good": (12, 950), "late": (30, 1001), "slow": (8, 100)}
    study = optuna.create_study(direction="maximize")
    measured(study, space, space.current, Measurement(10, 400, 800), 1000)
    for name, one in (("lucky", lucky), ("good", good), ("late", late), ("slow", slow)):
        throughput, p99 = first[name]
        measured(study, space, one, Measurement(throughput, 400, p99), 1000)
    measured(study, space, failing, FAILED, 1000)

    assert tune.ranking(tune.candidates(study), 1000)[0].parameters == lucky
    order = []
    for step in count():
        due = tune.to_repeat(tune.candidates(study), space.current, 1000)
        if not due:
            break
        order.append(settings.index(due[0].parameters) if due[0].parameters in settings else -1)
        throughput = {-1: 10, 0: 9, 1: 12}[order[-1]]
        measured(study, space, due[0].parameters, Measurement(throughput, 400, 900 + step), 1000)
    assert order == [-1, 0, 1] * tune.ROUNDS
    ranked = tune.ranking(tune.candidates(study), 1000)
    assert [one.parameters for one in ranked] == [good, space.current, lucky, slow]
    assert len(ranked[0].judged) == tune.ROUNDS


def test_choose_among_equally_fast_takes_the_fewest_instances(base: Base) -> None:
    space = Space(base, cores=2, users=32)
    vggish, bert = "vggish instances x threads", "bert instances x threads"
    four = space.current | {vggish: "1x2", bert: "4x1"}
    two, slow = (space.current | {vggish: label, bert: label} for label in ("2x1", "1x1"))

    def candidate(parameters: dict[str, str], throughput: float) -> tune.Candidate:
        return tune.Candidate(parameters, [Measurement(throughput, 400, 800)] * (1 + tune.ROUNDS))

    once = tune.Candidate(space.current, [Measurement(14.9, 400, 800)])  # perhaps by luck
    ranked = [candidate(four, 15.0), once, candidate(two, 14.5), candidate(slow, 8.0)]
    assert tune.choose(ranked, space.stages).parameters == two
    assert tune.choose([once, candidate(slow, 8.0)], space.stages).parameters == slow
    assert tune.choose([once], space.stages).parameters == space.current


def test_settings_that_fail_once_never_hold(base: Base) -> None:
    runs = [Measurement(10, 1, 1)] * 3
    assert tune.Candidate({}, [*runs, FAILED]).result == FAILED
    assert not tune.ranking([tune.Candidate({}, [*runs, FAILED])], p99_ms=1e9)
    assert tune.ranking([tune.Candidate({}, runs)], p99_ms=1)
    assert math.isinf(FAILED.p99)


def test_nothing_holds_says_so_and_writes_nothing(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tune, "STATE", tmp_path / "state")
    question = tune.identify(base, 50.0, 2, "fp32")
    space = Space(base, question["cores"], users=2)
    measured(tune.open_study(tmp_path / "state/tuned.db", question), space, space.current, Measurement(9, 60, 70), 50.0)
    assert tune.run(arguments(base.repository, p99_ms=50.0, trials=1)) == 1
    assert "the best is 70 ms" in capsys.readouterr().out
    assert not list(base.repository.glob("*/configs/tuned.pbtxt"))


# --- going on


def test_trials_that_were_cut_short_are_given_up_and_other_searches_refused(base: Base, tmp_path: Path) -> None:
    path, space = tmp_path / "search.db", Space(base, cores=2, users=32)
    study = tune.open_study(path, {"p99_ms": 1000, "cores": 2})
    measured(study, space, space.current, FAILED, 1000)
    study.ask()  # and killed
    again = tune.open_study(path, {"p99_ms": 1000, "cores": 2})
    assert [trial.state for trial in again.trials] == [TrialState.COMPLETE, TrialState.FAIL]
    assert tune.candidates(again) == [tune.Candidate(space.current, [FAILED])]
    with pytest.raises(BenchmarkError, match=r"cores was 2, is 4\): delete it"):
        tune.open_study(path, {"p99_ms": 1000, "cores": 4})


def test_hand_written_configurations_are_not_overwritten(base: Base) -> None:
    with pytest.raises(BenchmarkError, match=r"gpu\.pbtxt was not made by tuning"):
        tune.run(arguments(base.repository, name="gpu"))


def test_search_goes_on_where_it_was_interrupted(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two trials with a real Triton under load, Ctrl-C between them."""
    tuned = tmp_path / "model_repository"  # configurations of its own: tests leave the shared repository as it is
    shutil.copytree(repository, tuned, copy_function=lambda source, target: Path(target).symlink_to(source))
    monkeypatch.setattr(tune, "STATE", tmp_path / "state")
    for name, value in {"REQUESTS": 4, "REQUESTS_PER_USER": 1, "WARM_UP_PER_USER": 1, "ROUNDS": 0}.items():
        monkeypatch.setattr(tune, name, value)
    measure, calls = tune.measure, count()

    def interrupted_once(*given: Any) -> Measurement:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return measure(*given)

    monkeypatch.setattr(tune, "measure", interrupted_once)
    assert tune.run(arguments(tuned, trials=2)) == 130
    assert "repeat the command" in capsys.readouterr().err
    assert tune.run(arguments(tuned, trials=2)) == 0

    study = optuna.load_study(study_name="tune", storage=f"sqlite:///{tmp_path}/state/tuned.db")
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE]
    loaded = Base.load(tuned, "fp32")
    space = Space(loaded, tune.identify(loaded, 60000, 2, "fp32")["cores"], users=2)
    assert study.trials[0].params == space.current
    winner = tune.choose(tune.ranking(tune.candidates(study), 60000), space.stages)
    assert winner.result.throughput > 0
    assert f"winner: {space.sentence(winner.parameters)}" in capsys.readouterr().out
    for model, stage in space.stages(winner.parameters).items():
        written = tuned / model / "configs/tuned.pbtxt"
        assert written.exists() == (stage != space.base.stages[model])
        assert not written.exists() or tune.read(written.read_text()) == stage
