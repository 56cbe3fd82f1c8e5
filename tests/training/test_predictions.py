"""Test predictions of sets of utterances, their calibration, and missing modalities."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from emotion import audio, decoding, text
from emotion.checkpoint import Checkpoint
from emotion.labels import EMOTIONS
from emotion.model import VIEWS, EmotionModel, FusionHead, Logits, confidence, probabilities
from emotion.text import WordPiece
from training.calibration import fit_confidence, fit_temperature
from training.corpora import Utterance
from training.datasets import Utterances, tokenise
from training.predictions import (
    EmbeddedUtterances,
    Embeddings,
    Predictions,
    at_temperatures,
    calibrate,
    decided_by,
    predict,
)
from training.recordings import Recordings

SPEECH = Path(__file__).parents[2] / "examples" / "speech"
TEMPERATURES = {"fused": 0.7, "audio": 2.5, "text": 1.6}


@pytest.fixture(scope="module")
def rows(transcripts: dict[str, str]) -> list[Utterance]:
    """Return three utterances with both modalities, one with audio alone and two with text alone."""
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
    """Return the probabilities and the confidence of one utterance, computed as in serving."""
    patches = torch.zeros(0, 96, 64)
    if row.audio is not None:
        patches = torch.from_numpy(audio.sound_patches(decoding.decode(row.audio.read_bytes())))
    ids = torch.from_numpy(tokenizer.encode(text.clean(row.text or "")))[None]
    counts = torch.tensor([len(patches)])
    with torch.inference_mode():
        logits = model(patches, counts, ids, torch.ones_like(ids))
        answer = probabilities(logits, counts > 0, torch.tensor([ids.shape[1] > 0]))
        sure = confidence(answer, counts > 0, torch.tensor([ids.shape[1] > 0]), model.head.confidence)
    return {view: getattr(answer, view)[0].double().numpy() for view in VIEWS} | {"confidence": sure[0].numpy()}


def test_predict_of_a_batch_equals_single_utterances(
    rows: list[Utterance], checkpoint: Checkpoint, predictions: Predictions
) -> None:
    tokenizer = WordPiece(checkpoint.tokenizer)
    assert predictions.ids == [row.id for row in rows]
    assert [EMOTIONS[index] for index in predictions.truth] == [row.emotion for row in rows]
    assert predictions.styles == [None, None, None, "scripted", None, "improvised"]
    for at, row in enumerate(rows):
        answer = ask(checkpoint.model, tokenizer, row)
        np.testing.assert_allclose(predictions.confidence["fused"][at], answer.pop("confidence"), atol=1e-4)
        for view, expected in answer.items():
            np.testing.assert_allclose(predictions.probabilities[view][at], expected, atol=1e-5)
    present = {view: predictions.probabilities[view].any(axis=1).tolist() for view in VIEWS}
    assert present == {"fused": [True] * 6, "audio": [True] * 4 + [False] * 2, "text": [True] * 3 + [False, True, True]}


@pytest.mark.parametrize("modality", ["audio", "text"])
def test_without_equals_the_model_without_the_modality(
    rows: list[Utterance], checkpoint: Checkpoint, predictions: Predictions, modality: str
) -> None:
    found = predictions.without(modality)
    for at, row in enumerate(rows):
        bare = replace(row, audio=None) if modality == "audio" else replace(row, text=None)
        if bare.audio is None and bare.text is None:
            assert not any(found.probabilities[view][at].any() for view in VIEWS)
            continue
        answer = ask(checkpoint.model, WordPiece(checkpoint.tokenizer), bare)
        np.testing.assert_allclose(found.confidence["fused"][at], answer.pop("confidence"), atol=1e-4)
        for view, expected in answer.items():
            np.testing.assert_allclose(found.probabilities[view][at], expected, atol=1e-5)
    assert found.ids == predictions.ids and found.styles == predictions.styles


@pytest.mark.parametrize("view", VIEWS)
def test_at_temperatures_equals_the_model_with_these_temperatures(
    rows: list[Utterance], checkpoint: Checkpoint, predictions: Predictions, view: str
) -> None:
    temperature = checkpoint.model.head.temperature
    before = temperature.clone()
    try:
        temperature[VIEWS.index(view)] *= TEMPERATURES[view]
        asked = predict(checkpoint.model, as_tensors(rows, checkpoint))
    finally:
        temperature.copy_(before)
    cooled = at_temperatures(predictions, dict.fromkeys(VIEWS, 1.0) | {view: TEMPERATURES[view]})
    assert np.abs(asked.probabilities[view] - predictions.probabilities[view]).max() > 1e-3
    np.testing.assert_allclose(cooled.probabilities[view], asked.probabilities[view], atol=1e-6)
    alone = ~decided_by(predictions)["fused"]
    np.testing.assert_allclose(cooled.probabilities["fused"][alone], asked.probabilities["fused"][alone], atol=1e-6)
    assert not cooled.confidence


def test_at_temperatures_with_the_inverse_restores_the_predictions(predictions: Predictions) -> None:
    cooled = at_temperatures(predictions, TEMPERATURES)
    back = at_temperatures(cooled, {view: 1 / value for view, value in TEMPERATURES.items()})
    for view in VIEWS:
        np.testing.assert_allclose(back.probabilities[view], predictions.probabilities[view], atol=1e-12)


def synthetic(n: int = 400) -> Predictions:
    """Return overconfident predictions: half have both modalities, a quarter audio alone, a quarter text alone."""
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


def answering(answers: Predictions) -> FusionHead:
    """Return a head that gives the logits of these predictions at temperature 1, whatever the embeddings."""
    logits = {view: torch.from_numpy(np.log(np.maximum(answers.probabilities[view], 1e-30))) for view in VIEWS}

    class Head(FusionHead):
        def forward(self, audio: Tensor, has_audio: Tensor, text: Tensor, has_text: Tensor) -> Logits:
            given = [logits[view] / self.temperature[VIEWS.index(view)] for view in VIEWS]
            alone = torch.where(has_audio[:, None], given[1], given[2])
            return Logits(torch.where((has_audio & has_text)[:, None], given[0], alone), *given[1:])

    return Head(4)


def embedded(answers: Predictions) -> EmbeddedUtterances:
    """Return embedded utterances with the truth of these predictions, and a head that gives their logits."""
    has_audio, has_text = (torch.from_numpy(answers.probabilities[view].any(1)) for view in ("audio", "text"))
    embeddings = Embeddings(torch.zeros(0), has_audio, torch.zeros(0), has_text)
    rows = [Utterance(str(n), None, "text", EMOTIONS[truth]) for n, truth in enumerate(answers.truth)]
    return EmbeddedUtterances(answering(answers), embeddings, rows)


def calibrated(answers: Predictions, views: tuple[str, ...]) -> FusionHead:
    """Return the head, calibrated on the truth of the predictions."""
    chosen = embedded(answers)
    calibrate([chosen], views)
    return chosen.head


def test_calibrate_fits_each_view_on_the_utterances_that_it_decides() -> None:
    answers = synthetic()
    head = calibrated(answers, VIEWS)
    rows = {"fused": slice(0, 200), "audio": slice(0, 300), "text": np.r_[0:200, 300:400]}
    for view, temperature in zip(VIEWS, head.temperature.tolist(), strict=True):
        expected = fit_temperature(np.log(answers.probabilities[view][rows[view]]), answers.truth[rows[view]])
        assert temperature == pytest.approx(expected, rel=1e-5) and expected > 1.5
    cooled = at_temperatures(answers, dict(zip(VIEWS, head.temperature.tolist(), strict=True)))
    for view, pair in zip(VIEWS[1:], head.confidence.tolist()[1:], strict=True):
        chosen = cooled.probabilities[view][rows[view]]
        right = chosen.argmax(1) == answers.truth[rows[view]]
        # weight 1: a single view is never contradicted
        expected_pair = fit_confidence(chosen.max(1), right, np.ones(right.size))
        assert pair == pytest.approx(expected_pair, abs=1e-4)


def test_calibrate_does_not_change_other_views() -> None:
    head = calibrated(synthetic(), ("text",))
    assert head.temperature.tolist()[:2] == [1.0, 1.0] and head.temperature[2] > 1.5
    assert head.confidence.tolist()[:2] == [[1.0, 0.0]] * 2 and head.confidence[2].tolist() != [1.0, 0.0]


def test_calibrate_of_several_sets_equals_their_union() -> None:
    answers = synthetic()
    odd = np.arange(len(answers.ids)) % 2 == 1
    parts = [embedded(answers.select(chosen)) for chosen in (odd, ~odd)]
    calibrate(parts, VIEWS)
    whole = calibrated(answers, VIEWS)
    for part in parts:
        torch.testing.assert_close(part.head.temperature, whole.temperature)
        torch.testing.assert_close(part.head.confidence, whole.confidence, rtol=1e-3, atol=1e-3)


def test_calibrate_changes_no_predicted_class() -> None:
    answers = synthetic()
    cooled = at_temperatures(answers, TEMPERATURES)
    for view in VIEWS:
        before, after = answers.probabilities[view], cooled.probabilities[view]
        np.testing.assert_array_equal(before.argmax(1), after.argmax(1))
        np.testing.assert_array_equal(before.any(1), after.any(1))


def test_load_returns_the_saved_predictions(predictions: Predictions, tmp_path: Path) -> None:
    predictions.save(tmp_path / "answers.json")
    found = Predictions.load(tmp_path / "answers.json")
    assert (found.ids, found.styles) == (predictions.ids, predictions.styles)
    np.testing.assert_array_equal(found.truth, predictions.truth)
    assert found.truth.dtype == np.int64
    for view in VIEWS:
        np.testing.assert_array_equal(found.probabilities[view], predictions.probabilities[view])
        np.testing.assert_array_equal(found.confidence[view], predictions.confidence[view])


def test_join_concatenates_predictions() -> None:
    answers = synthetic(40)
    parts = [
        Predictions(
            answers.ids[part],
            answers.truth[part],
            {view: values[part] for view, values in answers.probabilities.items()},
            answers.styles[part],
            {"fused": answers.probabilities["fused"][part].max(1)},
        )
        for part in (slice(0, 10), slice(10, 40))
    ]
    joined = Predictions.join(parts)
    np.testing.assert_array_equal(joined.confidence["fused"], answers.probabilities["fused"].max(1))
    assert Predictions.join([*parts, answers]).confidence == {}
    assert joined.ids == answers.ids and joined.styles == answers.styles
    np.testing.assert_array_equal(joined.truth, answers.truth)
    for view in VIEWS:
        np.testing.assert_array_equal(joined.probabilities[view], answers.probabilities[view])
