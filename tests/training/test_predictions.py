"""Answers to sets of utterances are those that single ones get, at whatever temperature, with or without a modality."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from emotion import audio, decoding, text
from emotion.checkpoint import Checkpoint
from emotion.labels import EMOTIONS
from emotion.model import VIEWS, EmotionModel, probabilities
from emotion.text import WordPiece
from training.calibration import fit_temperature
from training.corpora import Utterance
from training.data import Utterances, tokenise
from training.predictions import Predictions, at_temperatures, fit_temperatures, predict
from training.recordings import Recordings

SPEECH = Path(__file__).parents[2] / "examples" / "speech"
TEMPERATURES = {"fused": 0.7, "audio": 2.5, "text": 1.6}


@pytest.fixture(scope="module")
def rows(transcripts: dict[str, str]) -> list[Utterance]:
    """Three with both, one with audio alone, two with text alone."""
    names = list(transcripts)
    emotions = [*EMOTIONS, "anger"]
    both = [Utterance(name, SPEECH / name, transcripts[name], emotions[n]) for n, name in enumerate(names[:3])]
    return [
        *both,
        Utterance("audio", SPEECH / names[3], None, emotions[3], style="scripted"),
        Utterance("text", None, transcripts[names[4]], emotions[4]),
        Utterance("short", None, "No!", emotions[5], style="improvised"),
    ]


def as_tensors(rows: list[Utterance], checkpoint: Checkpoint) -> Utterances:
    waveforms = {str(row.audio): decoding.decode(row.audio.read_bytes()) for row in rows if row.audio is not None}
    ends = np.cumsum([0, *(waveform.size for waveform in waveforms.values())])
    places = {name: (int(start), wave.size) for (name, wave), start in zip(waveforms.items(), ends, strict=False)}
    joined = np.concatenate([np.empty(0, np.float32), *waveforms.values()])
    return Utterances(rows, Recordings(joined, places), tokenise(rows, WordPiece(checkpoint.tokenizer)))


@pytest.fixture(scope="module")
def predictions(rows: list[Utterance], checkpoint: Checkpoint) -> Predictions:
    return predict(checkpoint.model, as_tensors(rows, checkpoint))


def ask(model: EmotionModel, tokenizer: WordPiece, row: Utterance) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    """One utterance, as it is served."""
    patches = torch.zeros(0, 96, 64)
    if row.audio is not None:
        patches = torch.from_numpy(audio.log_mel_patches(decoding.decode(row.audio.read_bytes())))
    ids = torch.from_numpy(tokenizer.encode(text.clean(row.text or "")))[None]
    counts = torch.tensor([len(patches)])
    with torch.inference_mode():
        logits = model(patches, counts, ids, torch.ones_like(ids))
        answer = probabilities(logits, counts > 0, torch.tensor([ids.shape[1] > 0]))
    return {view: getattr(answer, view)[0].double().numpy() for view in VIEWS}


def test_as_single_utterances(rows: list[Utterance], checkpoint: Checkpoint, predictions: Predictions) -> None:
    tokenizer = WordPiece(checkpoint.tokenizer)
    assert predictions.ids == [row.id for row in rows]
    assert [EMOTIONS[index] for index in predictions.truth] == [row.emotion for row in rows]
    assert predictions.styles == [None, None, None, "scripted", None, "improvised"]
    for at, row in enumerate(rows):
        for view, expected in ask(checkpoint.model, tokenizer, row).items():
            np.testing.assert_allclose(predictions.probabilities[view][at], expected, atol=1e-5)
    present = {view: predictions.probabilities[view].any(axis=1).tolist() for view in VIEWS}
    assert present == {"fused": [True] * 6, "audio": [True] * 4 + [False] * 2, "text": [True] * 3 + [False, True, True]}


@pytest.mark.parametrize("modality", ["audio", "text"])
def test_without_a_modality_is_what_the_model_says_without_it(
    rows: list[Utterance], checkpoint: Checkpoint, predictions: Predictions, modality: str
) -> None:
    found = predictions.without(modality)
    for at, row in enumerate(rows):
        bare = replace(row, audio=None) if modality == "audio" else replace(row, text=None)
        if bare.audio is None and bare.text is None:
            assert not any(found.probabilities[view][at].any() for view in VIEWS)
            continue
        for view, expected in ask(checkpoint.model, WordPiece(checkpoint.tokenizer), bare).items():
            np.testing.assert_allclose(found.probabilities[view][at], expected, atol=1e-5)
    assert found.ids == predictions.ids and found.styles == predictions.styles


def test_at_temperatures_is_the_models_own_division(
    rows: list[Utterance], checkpoint: Checkpoint, predictions: Predictions
) -> None:
    temperature = checkpoint.model.head.temperature
    before = temperature.clone()
    try:
        temperature.mul_(torch.tensor([TEMPERATURES[view] for view in VIEWS]))
        asked = predict(checkpoint.model, as_tensors(rows, checkpoint))
    finally:
        temperature.copy_(before)
    cooled = at_temperatures(predictions, TEMPERATURES)
    for view in VIEWS:
        assert np.abs(asked.probabilities[view] - predictions.probabilities[view]).max() > 1e-3
        np.testing.assert_allclose(cooled.probabilities[view], asked.probabilities[view], atol=1e-6)


def test_a_temperature_can_be_taken_back(predictions: Predictions) -> None:
    cooled = at_temperatures(predictions, TEMPERATURES)
    back = at_temperatures(cooled, {view: 1 / value for view, value in TEMPERATURES.items()})
    for view in VIEWS:
        np.testing.assert_allclose(back.probabilities[view], predictions.probabilities[view], atol=1e-12)


def synthetic(n: int = 400) -> Predictions:
    """Answers that are far too sure; the first half have both modalities, then audio alone, text alone."""
    random = np.random.default_rng(1)
    truth = random.integers(0, 5, n)
    logits = {view: random.standard_normal((n, 5)) * scale for view, scale in zip(VIEWS, (4, 6, 8), strict=True)}
    values = {}
    for view in VIEWS:
        logits[view][np.arange(n), truth] += 2
        exponential = np.exp(logits[view] - logits[view].max(1, keepdims=True))
        values[view] = exponential / exponential.sum(1, keepdims=True)
    values["text"][n // 2 : 3 * n // 4] = 0
    values["audio"][3 * n // 4 :] = 0
    values["fused"][n // 2 :] = (values["audio"] + values["text"])[n // 2 :]
    return Predictions([str(number) for number in range(n)], truth, values, [None] * n)


def test_temperatures_are_fitted_on_what_each_view_alone_decides() -> None:
    answers = synthetic()
    fitted = fit_temperatures(answers)
    rows = {"fused": slice(0, 200), "audio": slice(0, 300), "text": np.r_[0:200, 300:400]}
    for view in VIEWS:
        expected = fit_temperature(np.log(answers.probabilities[view][rows[view]]), answers.truth[rows[view]])
        assert fitted[view] == pytest.approx(expected, rel=1e-6) and expected > 1.5
    cooled = fit_temperatures(at_temperatures(answers, fitted))
    assert all(0.9 < temperature < 1.6 for temperature in cooled.values())


def test_no_decision_changes() -> None:
    answers = synthetic()
    cooled = at_temperatures(answers, TEMPERATURES)
    for view in VIEWS:
        before, after = answers.probabilities[view], cooled.probabilities[view]
        np.testing.assert_array_equal(before.argmax(1), after.argmax(1))
        np.testing.assert_array_equal(before.any(1), after.any(1))


def test_save_and_load(predictions: Predictions, tmp_path: Path) -> None:
    predictions.save(tmp_path / "answers.json")
    found = Predictions.load(tmp_path / "answers.json")
    assert (found.ids, found.styles) == (predictions.ids, predictions.styles)
    np.testing.assert_array_equal(found.truth, predictions.truth)
    assert found.truth.dtype == np.int64
    for view in VIEWS:
        np.testing.assert_array_equal(found.probabilities[view], predictions.probabilities[view])


def test_join() -> None:
    answers = synthetic(40)
    parts = [
        Predictions(
            answers.ids[part],
            answers.truth[part],
            {view: values[part] for view, values in answers.probabilities.items()},
            answers.styles[part],
        )
        for part in (slice(0, 10), slice(10, 40))
    ]
    joined = Predictions.join(parts)
    assert joined.ids == answers.ids and joined.styles == answers.styles
    np.testing.assert_array_equal(joined.truth, answers.truth)
    for view in VIEWS:
        np.testing.assert_array_equal(joined.probabilities[view], answers.probabilities[view])
