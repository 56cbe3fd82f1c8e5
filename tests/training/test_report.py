"""Test the HTML report and its JSON record."""

import dataclasses
import io
import json
import math
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from rich.console import Console
from runs import tone
from scipy.special import softmax

from emotion.audio import SAMPLE_RATE
from emotion.labels import EMOTIONS
from emotion.loudness import FRAME, SOUND_MARGIN
from training import metrics, plots, report
from training.corpora import Utterance
from training.errors import TrainingError
from training.predictions import Predictions
from training.recordings import Recordings, decode_all
from training.report import Fold, RunRecord

VOID = {"meta", "path", "use", "br"}


class Page(HTMLParser):
    """The tags, ids, loaded resources and text of a page. Parsing fails if tags are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.loads: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href", "srcset", "data"):
                self.loads.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data


def answers(n: int = 60, has: tuple[str, ...] = ("audio", "text"), prefix: str = "u", seed: int = 0) -> Predictions:
    """Return random predictions; the fused view is the most accurate."""
    random = np.random.default_rng(seed)
    truth = np.arange(n) % 5
    probabilities = {}
    for view, skill in (("fused", 3), ("audio", 1), ("text", 2)):
        logits = random.normal(size=(n, 5)) + skill * np.eye(5)[truth]
        probabilities[view] = softmax(logits, axis=1) * (view == "fused" or view in has)
    return Predictions([f"{prefix}{place}" for place in range(n)], truth, probabilities, [None] * n)


def fold(name: str, predictions: Predictions, **changes: Any) -> Fold:
    counts = {emotion: int((predictions.truth == index).sum()) for index, emotion in enumerate(EMOTIONS)}
    history = [
        {"epoch": epoch, "train_loss": 1 / (epoch + 1), "validation_loss": 1.2 / (epoch + 1), "validation_uar": 0.5}
        for epoch in range(4)
    ]
    values: dict[str, Any] = {
        "class_counts": {"train": counts, "validation": counts, "test": counts},
        "test_ids": predictions.ids,
        "temperatures": {"fused": 1.5, "audio": 1.25, "text": 1.125},
        "digest": "0123abcd",
        "history": history,
        "chosen_epoch": 2,
    }
    return Fold(name, **(values | changes))


def record(*folds: Fold, **changes: Any) -> RunRecord:
    values: dict[str, Any] = {
        "name": "A <run>",
        "corpus": "manifest",
        "split": "session",
        "planned_folds": len(folds),
        "shares_speakers": False,
        "seed": 7,
        "settings": {"batch size": 16, "root": Path("corpus")},
        "versions": {"torch": "2.13.0"},
        "hardware": "2 cores",
        "seconds": 3725.0,
    }
    return RunRecord(folds=folds, **(values | changes))


def read(path: Path) -> tuple[Page, dict[str, Any]]:
    """Return the page and the numbers, after checking that the page is self-contained and the JSON is valid."""
    text = path.read_text()
    page = Page(text)
    links = {load for load in page.loads if not load.startswith("data:image/png;base64,")}
    assert all(load.startswith("#") for load in links)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert not re.search(r"@import|url\((?!#)", text)
    assert len(set(page.ids)) == len(page.ids)
    assert {link.removeprefix("#") for link in links} <= set(page.ids)
    assert not re.search(r"\bnan\b|\bNone\b|\binf\b", page.text)
    assert not list(path.parent.glob(".*"))

    def reject_constant(constant: str) -> None:
        raise AssertionError(constant)

    return page, json.loads(path.with_name("report.json").read_text(), parse_constant=reject_constant)


def test_write_with_known_confidence_shows_sure_answers(tmp_path: Path) -> None:
    predictions = answers()
    predictions.confidence = {"fused": predictions.probabilities["fused"].max(1)}
    page, numbers = read(report.write(tmp_path, record(fold("session-1", predictions)), predictions))
    assert "Sure answers" in page.text
    judged = metrics.of_view(predictions, "fused")
    assert judged is not None and judged.sure is not None and 0 < judged.sure.n < 60
    assert numbers["figures"]["views"]["fused"]["sure"] == vars(judged.sure)
    assert f"Fused{judged.sure.n}{judged.sure.share:.3f}{judged.sure.precision:.3f}" in page.text
    assert numbers["figures"]["views"]["audio"]["sure"] is None


def test_write_of_a_single_split_shows_its_metrics(tmp_path: Path) -> None:
    predictions = answers()
    page, numbers = read(report.write(tmp_path / "new" / "run", record(fold("session-1", predictions)), predictions))
    assert "Sure answers" not in page.text
    for view in ("audio", "text", "fused"):
        judged = metrics.of_view(predictions, view)
        assert judged is not None
        assert numbers["figures"]["views"][view] == json.loads(json.dumps(judged.as_dict()))
        assert f"{judged.uar.value:.3f} [{judged.uar.low:.3f}, {judged.uar.high:.3f}]" in page.text
    assert "A <run>" in page.text
    assert "1 h 2 min" in page.text
    assert "0123abcd" in page.text
    assert numbers["warnings"] == []
    assert numbers["reference"] is None
    assert numbers["run"]["settings"] == {"batch size": 16, "root": "corpus"}
    assert page.tags.count("svg") == 3 + 3 + 2 + 1  # confusions, reliability, curves, classes


def test_write_of_folds_pools_their_test_utterances(tmp_path: Path) -> None:
    parts = [answers(40, prefix=f"{name}-", seed=name) for name in range(3)]
    run = record(*(fold(f"session-{place}", part) for place, part in enumerate(parts)), planned_folds=5)
    page, numbers = read(report.write(tmp_path, run, Predictions.join(parts)))
    assert numbers["figures"]["views"]["fused"]["n"] == 120
    accuracies = [numbers["figures"]["folds"][f"session-{place}"]["fused"]["accuracy"]["value"] for place in range(3)]
    assert accuracies == [np.mean(part.probabilities["fused"].argmax(1) == part.truth) for part in parts]
    assert f"{np.mean(accuracies):.3f} ± {np.std(accuracies, ddof=1):.3f}" in page.text
    assert numbers["warnings"] == ["3 of 5 folds were run; the metrics use their test utterances alone."]


@pytest.mark.parametrize(("has", "lacks"), [("text", "audio"), ("audio", "text")])
def test_write_of_an_evaluation_with_one_modality_leaves_out_the_rest(tmp_path: Path, has: str, lacks: str) -> None:
    predictions = answers(has=(has,))
    only_test = fold("published", predictions, history=(), chosen_epoch=None, temperatures={})
    only_test = dataclasses.replace(only_test, class_counts={"test": only_test.class_counts["test"]})
    page, numbers = read(
        report.write(tmp_path, record(only_test, seconds=None), predictions, None, answers(), answers())
    )
    assert numbers["figures"]["views"][lacks] is None
    assert numbers["figures"]["modalities"] == {"both": 0, "audio alone": 0, "text alone": 0} | {f"{has} alone": 60}
    assert numbers["figures"]["modality_ablation"] == {}
    assert f"no utterance has {lacks}" in page.text
    assert "Training time" not in page.text
    assert page.tags.count("svg") == 2 + 2 + 1  # nothing for the absent view, no curves


@dataclasses.dataclass
class FullReport:
    """The inputs of a report with every section, its page and its numbers."""

    predictions: Predictions
    without_audio: Predictions
    page: Page
    numbers: dict[str, Any]

    @property
    def figures(self) -> dict[str, Any]:
        figures: dict[str, Any] = self.numbers["figures"]
        return figures


@pytest.fixture(scope="module")
def full_report(tmp_path_factory: pytest.TempPathFactory) -> FullReport:
    """Write a report on sixty utterances: ten have no audio, every other one is improvised."""
    predictions, without_audio = answers(seed=1), answers(seed=5)
    predictions.probabilities["audio"][:10] = 0
    predictions.styles[:] = ["improvised", "scripted"] * 30
    predictions.groups[:] = ["female", "male", None] * 20
    path = report.write(
        tmp_path_factory.mktemp("run"),
        record(fold("session-1", predictions), corpus="iemocap"),
        predictions,
        uncalibrated=answers(seed=2),
        without_audio=without_audio,
        baselines=[("always neutral", metrics.of_decisions(predictions.truth, np.zeros(60, np.int64)))],
    )
    return FullReport(predictions, without_audio, *read(path))


def test_write_for_iemocap_shows_the_reference(full_report: FullReport) -> None:
    assert full_report.numbers["reference"]["fused"] == {"accuracy": 0.766, "weighted_f1": 0.772}
    assert "0.601" in full_report.page.text
    assert "random splits" in full_report.page.text


def test_write_shows_improvised_utterances_separately(full_report: FullReport) -> None:
    predictions = full_report.predictions
    right = predictions.probabilities["text"][::2].argmax(1) == predictions.truth[::2]
    assert full_report.figures["improvised"]["text"]["n"] == 30
    assert full_report.figures["improvised"]["text"]["accuracy"]["value"] == pytest.approx(right.mean())


def test_write_shows_metrics_by_group_of_speakers(full_report: FullReport) -> None:
    predictions = full_report.predictions
    right = predictions.probabilities["text"].argmax(1) == predictions.truth
    assert set(full_report.figures["groups"]) == {"female", "male"}
    for place, group in enumerate(("female", "male")):
        found = full_report.figures["groups"][group]["text"]
        assert found["n"] == 20
        assert found["accuracy"]["value"] == pytest.approx(right[place::3].mean())
    assert "Female, text" in full_report.page.text


def test_write_shows_calibration_before_and_after(full_report: FullReport) -> None:
    errors = [full_report.figures[key]["fused"]["calibration"]["error"] for key in ("uncalibrated", "views")]
    for when, error in zip(("before", "after"), errors, strict=True):
        assert f"Fused, {when} temperature: ECE {error:.3f}" in full_report.page.text
    assert errors[0] != errors[1]


def test_modality_ablation_uses_the_same_utterances_for_every_model(full_report: FullReport) -> None:
    ablation = full_report.figures["modality_ablation"]
    assert {name: found["n"] for name, found in ablation.items()} == dict.fromkeys(
        ("fused, both given", "fused, audio taken away", "text model", "audio model"), 50
    )
    right = full_report.without_audio.probabilities["fused"][10:].argmax(1) == full_report.without_audio.truth[10:]
    assert ablation["fused, audio taken away"]["accuracy"]["value"] == pytest.approx(right.mean())
    assert "When a modality is missing" in full_report.page.text


def test_write_shows_baselines(full_report: FullReport) -> None:
    assert "always neutral" in full_report.page.text
    assert full_report.figures["baselines"]["always neutral"]["uar"]["value"] == pytest.approx(0.2)


def test_write_shows_warnings(tmp_path: Path) -> None:
    predictions = answers()
    predictions.truth[predictions.truth == 1] = 0
    without_anger = fold("random-1", predictions, class_counts={"train": dict.fromkeys(EMOTIONS, 3) | {"anger": 0}})
    run = record(without_anger, shares_speakers=True, warnings=["Audio is untrained."])
    page, numbers = read(report.write(tmp_path, run, predictions))
    sharing, untaught, untested, given = numbers["warnings"]
    assert "Speakers of the test utterances are, or may be, in training too" in sharing
    assert untaught == "No training utterance is labelled anger: the model can't have learned it."
    assert untested.startswith("No test utterance is labelled frustration")
    assert given == "Audio is untrained."
    assert all(warning in page.text for warning in numbers["warnings"])


def test_write_of_a_history_with_nan_leaves_a_gap(tmp_path: Path) -> None:
    predictions = answers()
    history = [{"epoch": 0, "train_loss": math.nan}, {"epoch": 1, "train_loss": 0.5}]
    run = record(fold("session-1", predictions, history=history, chosen_epoch=1))
    _, numbers = read(report.write(tmp_path, run, predictions))
    assert [row["train_loss"] for row in numbers["run"]["folds"][0]["history"]] == [None, 0.5]


def test_write_of_the_same_run_gives_the_same_page(tmp_path: Path) -> None:
    predictions = answers()
    run = record(fold("session-1", predictions))
    first = report.write(tmp_path / "a", run, predictions).read_text()
    assert report.write(tmp_path / "b", run, predictions).read_text() == first


def recorded(folder: Path, lengths: Mapping[str, float]) -> tuple[list[Utterance], Recordings]:
    """Return a corpus of tones and its recordings; `lengths` gives seconds by id, and an id begins with its emotion."""
    utterances = []
    for id_, seconds in lengths.items():
        soundfile.write(folder / f"{id_}.wav", tone(300, seconds), SAMPLE_RATE)
        utterances.append(Utterance(id_, folder / f"{id_}.wav", None, id_.split("-")[0]))
    return utterances, decode_all([each.audio for each in utterances if each.audio], folder / "cache")[0]


def test_example_recordings_chooses_the_median_length_of_each_emotion(tmp_path: Path) -> None:
    lengths = {"anger-a": 3.0, "anger-b": 1.0, "anger-c": 2.0, "sadness-a": 0.5}
    utterances, recordings = recorded(tmp_path, lengths)
    utterances.append(Utterance("neutral-a", None, "No recording.", "neutral"))
    examples = report.example_recordings(reversed(utterances), recordings)
    assert list(examples) == ["anger: anger-c, 2.0 s", "sadness: sadness-a, 0.5 s"]
    sizes = [waveform.size - 2 * SOUND_MARGIN for waveform in examples.values()]
    assert sizes == pytest.approx([2 * SAMPLE_RATE, SAMPLE_RATE // 2], abs=2 * FRAME)


def test_write_with_examples_shows_spectrograms(tmp_path: Path) -> None:
    predictions = answers()
    run = record(fold("session-1", predictions))
    examples = {"anger: a, 9.0 s": tone(300, 9.0), "sadness: <b>, 0.5 s": tone(300, 0.5)}
    page, _ = read(report.write(tmp_path, run, predictions, examples=examples))
    assert "Example recordings" in page.text and "anger: a, 9.0 s" in page.text and "sadness: <b>, 0.5 s" in page.text
    assert page.tags.count("svg") == 3 + 3 + 2 + 1 + 1
    assert page.tags.count("image") == 2 + 1  # two spectrograms and the colour scale
    assert plots.spectrograms(examples) == plots.spectrograms(examples)


def test_write_without_predictions_is_rejected(tmp_path: Path) -> None:
    predictions = answers()
    for rows in predictions.probabilities.values():
        rows[:] = 0
    with pytest.raises(TrainingError, match="nothing to report"):
        report.write(tmp_path, record(fold("session-1", predictions)), predictions)


def test_write_to_an_unwritable_directory_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    predictions = answers()
    with pytest.raises(TrainingError, match="can't be written"):
        report.write(tmp_path / "file" / "run", record(fold("session-1", predictions)), predictions)


def test_summary_table_fits_a_terminal() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    predictions = answers(1000, has=("text",))
    console.print(report.summary_table(predictions))
    text = console.export_text()
    fused = metrics.of_view(predictions, "fused")
    assert fused is not None
    assert f"{fused.macro_f1.low:.3f}–{fused.macro_f1.high:.3f}" in text
    assert "…" not in text
    assert re.search(r"audio +0\s", text)
