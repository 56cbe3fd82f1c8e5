"""Test that training examples equal served inputs, and depend on (seed, epoch, index) alone."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from runs import SENTENCES, tone

from emotion import audio, decoding
from emotion.audio import PATCH_SHAPE, SAMPLE_RATE
from emotion.checkpoint import load_minilm
from emotion.labels import EMOTIONS
from emotion.loudness import find_sound
from emotion.text import WordPiece, clean
from training import datasets
from training.augmentation import SPEEDS, UNCHANGED_SPEED, change_speed
from training.corpora import Utterance
from training.datasets import (
    SEGMENT_SAMPLES,
    Batch,
    Example,
    LengthGroupedBatches,
    Segments,
    Utterances,
    collate,
    evaluation_batches,
    tokenise,
    training_batches,
)
from training.errors import TrainingError
from training.recordings import decode_all

LENGTHS = {"long": 8.0, "medium": 2.0, "short": 0.3}  # seconds


@pytest.fixture(scope="module")
def tokenizer() -> WordPiece:
    return WordPiece(load_minilm()[1])


@pytest.fixture(scope="module")
def utterances(tmp_path_factory: pytest.TempPathFactory, tokenizer: WordPiece) -> Utterances:
    """Return three utterances with both modalities, one with text alone and one with audio alone."""
    folder = tmp_path_factory.mktemp("data")
    rows = []
    for number, (name, seconds) in enumerate(LENGTHS.items()):
        path = folder / f"{name}.wav"
        sweep = np.concatenate([tone(200 * (1 + step), seconds / 8, step) for step in range(8)])
        soundfile.write(path, sweep, SAMPLE_RATE)
        rows.append(Utterance(name, path, list(SENTENCES.values())[number], EMOTIONS[number]))
    rows.append(Utterance("text", None, "Nothing but text, but more of it than elsewhere.", "sadness"))
    rows.append(Utterance("audio", rows[0].audio, None, "excitement"))
    recordings, unreadable = decode_all([row.audio for row in rows if row.audio], folder / "cache")
    assert not unreadable
    return Utterances(rows, recordings, tokenise(rows, tokenizer))


def segments(
    utterances: Utterances, seed: int = 1, epoch: int = 0, dropout: float = 0.0, augment: bool = True
) -> Segments:
    return Segments(utterances, seed, epoch, dropout, augment)


def same(one: Example, other: Example) -> bool:
    return np.array_equal(one.patches, other.patches) and np.array_equal(one.tokens, other.tokens)


# without augmentation nothing varies in a recording that is shorter than one patch
@pytest.mark.parametrize(("index", "augment"), [(0, True), (1, True), (2, True), (0, False), (1, False)])
def test_segments_depend_on_seed_epoch_and_index_alone(utterances: Utterances, index: int, augment: bool) -> None:
    first = segments(utterances, augment=augment)
    expected = first[index]
    for other in (1, 0, 2):
        first[other]
    np.random.default_rng().random()
    torch.rand(1)
    assert same(expected, segments(utterances, augment=augment)[index])
    assert not same(expected, segments(utterances, epoch=1, augment=augment)[index])
    assert not same(expected, segments(utterances, seed=2, augment=augment)[index])


def test_segments_with_time_stretch_and_pitch_shift_are_equal_in_workers(utterances: Utterances) -> None:
    def batches(workers: int, epoch: int = 0) -> list[Batch]:
        vocoded = Segments(utterances, 1, epoch, 0.0, True, time_stretch=0.1, pitch_shift=2.0)
        return list(training_batches(vocoded, 2, workers))

    alone, helped, next_epoch = batches(0), batches(2), batches(0, epoch=1)
    for one, other in zip(alone, helped, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    plain = list(training_batches(segments(utterances), 2, 0))
    for others in (plain, next_epoch):
        assert any(not torch.equal(a.patches, b.patches) for a, b in zip(alone, others, strict=True))


def test_segments_have_the_speed_that_they_report(utterances: Utterances, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "vary_waveform", lambda waveform, *_: waveform)
    for name in ("vary_vocal_tract", "mask_patches"):
        monkeypatch.setattr(datasets, name, lambda patches, _: patches)
    monkeypatch.setattr(datasets, "_segment", lambda waveform, _: waveform)
    path = utterances.utterances[1].audio
    assert path is not None
    sound = find_sound(utterances.recordings[path])
    assert sound is not None
    speeds = set()
    for epoch in range(30):
        example = segments(utterances, epoch=epoch)[1]
        if len(example.patches):
            expected = audio.sound_patches(change_speed(sound.waveform, SPEEDS[example.speed]))
            np.testing.assert_array_equal(example.patches, expected)
            speeds.add(example.speed)
    assert speeds == set(range(len(SPEEDS)))
    assert utterances[1].speed == UNCHANGED_SPEED


def test_segments_without_augmentation_are_three_seconds_as_served(utterances: Utterances) -> None:
    path = utterances.utterances[0].audio
    assert path is not None
    sound = find_sound(utterances.recordings[path])
    assert sound is not None
    waveform = sound.waveform
    assert waveform.size > SEGMENT_SAMPLES
    starts = []
    for epoch in range(12):
        patches = segments(utterances, epoch=epoch, augment=False)[0].patches
        assert patches.shape == (3, *PATCH_SHAPE)  # three seconds have 298 frames
        random = np.random.default_rng((1, epoch, 0))
        random.random()  # the first number decides on modality dropout
        start = int(random.integers(waveform.size - SEGMENT_SAMPLES + 1))
        np.testing.assert_array_equal(patches, audio.sound_patches(waveform[start : start + SEGMENT_SAMPLES]))
        starts.append(start)
    assert max(starts) - min(starts) > waveform.size / 4  # starts are spread over the recording


def test_segments_of_a_short_recording_lose_at_most_one_patch(utterances: Utterances) -> None:
    medium = {len(segments(utterances, epoch=epoch, augment=False)[1].patches) for epoch in range(30)}
    assert medium == {1, 2}
    short = utterances[2].patches
    for epoch in range(5):
        np.testing.assert_array_equal(segments(utterances, epoch=epoch, augment=False)[2].patches, short)
        assert len(segments(utterances, epoch=epoch)[2].patches) >= 1


def test_segments_in_a_long_pause_become_the_whole_recording(tmp_path: Path) -> None:
    path = tmp_path / "pause.wav"
    word, pause = tone(300, 0.5), np.zeros(20 * SAMPLE_RATE, np.float32)
    soundfile.write(path, np.concatenate([word, pause, word]), SAMPLE_RATE)
    recordings, _ = decode_all([path], tmp_path / "cache")
    whole = Utterances([Utterance("pause", path, None, "neutral")], recordings, [np.empty(0, np.int64)])
    for epoch in range(5):
        assert len(segments(whole, epoch=epoch, augment=False)[0].patches)
        assert len(segments(whole, epoch=epoch)[0].patches)


def test_segments_in_a_pause_have_the_speed_that_they_report(
    utterances: Utterances, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("vary_vocal_tract", "mask_patches"):
        monkeypatch.setattr(datasets, name, lambda patches, _: patches)
    monkeypatch.setattr(datasets, "_segment", lambda waveform, _: np.zeros_like(waveform))
    path = utterances.utterances[1].audio
    assert path is not None
    sound = find_sound(utterances.recordings[path])
    assert sound is not None
    changed = 0
    for epoch in range(10):
        example = segments(utterances, epoch=epoch)[1]
        if len(example.patches):
            expected = audio.sound_patches(change_speed(sound.waveform, SPEEDS[example.speed]))
            np.testing.assert_array_equal(example.patches, expected)
            changed += example.speed != UNCHANGED_SPEED
    assert changed


def test_segments_with_modality_dropout_lose_one_modality_at_its_rate(utterances: Utterances) -> None:
    epochs = 1500
    lost = {"audio": 0, "text": 0}
    for epoch in range(epochs):
        example = segments(utterances, epoch=epoch, dropout=0.3, augment=False)[2]
        has_audio, has_text = len(example.patches) > 0, example.tokens.size > 0
        assert has_audio or has_text
        lost["audio"] += not has_audio
        lost["text"] += not has_text
    # four standard deviations of a binomial
    for count in lost.values():
        assert abs(count / epochs - 0.15) < 4 * np.sqrt(0.15 * 0.85 / epochs)


def test_segments_with_modality_dropout_keep_a_single_modality(utterances: Utterances) -> None:
    for epoch in range(20):
        dropping = segments(utterances, epoch=epoch, dropout=1.0)
        assert dropping[3].tokens.size and not len(dropping[3].patches)
        assert len(dropping[4].patches) and not dropping[4].tokens.size
        assert (len(dropping[0].patches) > 0) != (dropping[0].tokens.size > 0)


def test_segments_without_modality_dropout_keep_both_modalities(utterances: Utterances) -> None:
    for epoch in range(20):
        example = segments(utterances, epoch=epoch)[0]
        assert len(example.patches) and example.tokens.size


def test_utterances_equal_the_served_inputs(utterances: Utterances, tokenizer: WordPiece) -> None:
    for index, utterance in enumerate(utterances.utterances):
        example = utterances[index]
        assert (example.row, EMOTIONS[example.target]) == (index, utterance.emotion)
        if utterance.audio is None:
            assert example.patches.shape == (0, *PATCH_SHAPE) and example.patches.dtype == np.float32
        else:
            served = audio.sound_patches(decoding.decode(utterance.audio.read_bytes()))
            np.testing.assert_array_equal(example.patches, served)
        np.testing.assert_array_equal(example.tokens, tokenizer.encode(clean(utterance.text or "")))
        assert same(example, utterances[index])  # the second time from the cache


def test_tokenise_of_a_text_that_serving_rejects_is_rejected(tokenizer: WordPiece) -> None:
    with pytest.raises(TrainingError, match=r"utterance novel: TEXT has \d+ tokens; at most 512 are accepted"):
        tokenise([Utterance("novel", None, "word " * 600, "neutral")], tokenizer)


def test_collate_keeps_each_example(utterances: Utterances) -> None:
    examples = [utterances[index] for index in (3, 0, 4, 2)]
    batch = collate(examples)
    assert batch.row.tolist() == [3, 0, 4, 2]
    assert batch.target.tolist() == [example.target for example in examples]
    assert batch.patch_counts.tolist() == [0, 8, 8, 1]
    assert batch.patches.dtype == torch.float32 and len(batch.patches) == 17
    start = 0
    for row, example in enumerate(examples):
        end = start + len(example.patches)
        np.testing.assert_array_equal(batch.patches[start:end].numpy(), example.patches)
        start = end
        length = example.tokens.size
        np.testing.assert_array_equal(batch.input_ids[row, :length].numpy(), example.tokens)
        assert not batch.input_ids[row, length:].any()
        assert batch.attention_mask[row].tolist() == [1] * length + [0] * (batch.input_ids.shape[1] - length)
    assert batch.input_ids.shape[1] == max(example.tokens.size for example in examples)


def test_collate_without_text_or_audio_is_empty(utterances: Utterances) -> None:
    assert collate([utterances[4]]).input_ids.shape == (1, 0)
    assert collate([utterances[3]]).patches.shape == (0, *PATCH_SHAPE)


def test_length_grouped_batches_contain_each_example_once_in_a_new_order() -> None:
    lengths = np.random.default_rng(0).integers(1, 60, 1000).tolist()
    orders = []
    for epoch in range(3):
        batches = LengthGroupedBatches(lengths, 8, 1, epoch)
        made = list(batches)
        assert len(made) == len(batches) == 125
        assert made == list(batches)  # a second iteration is equal
        assert sorted(index for batch in made for index in batch) == list(range(1000))
        orders.append(made)
    assert orders[0] != orders[1] != orders[2]
    assert list(LengthGroupedBatches(lengths, 8, 2, 0)) != orders[0]
    assert {frozenset(batch) for batch in orders[0]} != {frozenset(batch) for batch in orders[1]}


def test_length_grouped_batches_pad_less_than_a_random_order() -> None:
    lengths = np.random.default_rng(0).integers(1, 60, 1000)

    def padded(batches: list[list[int]]) -> int:
        return sum(int(lengths[batch].max()) * len(batch) for batch in batches) - int(lengths.sum())

    order = np.random.default_rng(1).permutation(1000).tolist()
    at_random = [order[start : start + 8] for start in range(0, 1000, 8)]
    assert padded(list(LengthGroupedBatches(lengths.tolist(), 8, 1, 0))) < 0.2 * padded(at_random)


def test_length_grouped_batches_are_not_sorted_by_length() -> None:
    lengths = list(range(400))
    means = [np.mean(batch) for batch in LengthGroupedBatches(lengths, 8, 1, 0)]
    assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.5


def test_training_batches_do_not_use_torchs_random_generator(utterances: Utterances) -> None:
    """Dropout masks must not depend on the number of iterators made, which differs in a resumed run."""
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    batches = training_batches(segments(utterances), 2, 0)
    iter(batches)
    rows = [tuple(batch.row.tolist()) for batch in batches]
    assert torch.equal(torch.rand(3), expected)
    assert sorted(row for batch in rows for row in batch) == [0, 1, 2, 3, 4]


def test_training_batches_with_workers_are_equal(utterances: Utterances) -> None:
    alone, helped = (list(training_batches(segments(utterances, dropout=0.5), 2, workers)) for workers in (0, 2))
    for one, other in zip(alone, helped, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_evaluation_batches_contain_each_row_once(utterances: Utterances, tmp_path: Path) -> None:
    seen = []
    for batch in evaluation_batches(utterances, 2):
        start = 0
        for at, row in enumerate(batch.row.tolist()):
            end = start + int(batch.patch_counts[at])
            np.testing.assert_array_equal(batch.patches[start:end].numpy(), utterances[row].patches)
            start = end
            tokens = batch.input_ids[at, : int(batch.attention_mask[at].sum())].numpy()
            np.testing.assert_array_equal(tokens, utterances.tokens[row])
            assert batch.target[at] == utterances.targets[row]
            seen.append(row)
    assert sorted(seen) == list(range(5))
    lengths = [utterances.tokens[row].size for row in seen]
    assert lengths == sorted(lengths)
