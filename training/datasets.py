"""Datasets and batches: augmented segments of utterances for training, whole utterances for evaluation."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from emotion import audio, text
from emotion.audio import PATCH_SHAPE, SAMPLE_RATE
from emotion.errors import InputError
from emotion.labels import EMOTIONS
from emotion.loudness import find_sound
from training.augmentation import (
    SPEEDS,
    UNCHANGED_SPEED,
    change_speed,
    load_vocoder,
    mask_patches,
    vary_vocal_tract,
    vary_waveform,
)
from training.corpora import Utterance
from training.errors import TrainingError
from training.recordings import Recordings

EVALUATION_BATCH_SIZE = 32  # utterances
SEGMENT_SAMPLES = 3 * SAMPLE_RATE  # 3 s, three patches, as in the source system
OTHER_EMOTION = -1  # target of an utterance with none of the five emotions
GROUPED_BATCHES = 50  # batches whose examples are sorted by length together, to reduce padding


class Example(NamedTuple):
    """One utterance, or a segment of it."""

    row: int  # index in its dataset
    patches: NDArray[np.float32]  # [n, 96, 64]; n = 0 without audio
    tokens: NDArray[np.int64]  # [n]; n = 0 without text
    speed: int  # index into SPEEDS: speed of the recording
    target: int  # index into EMOTIONS, or OTHER_EMOTION


class Batch(NamedTuple):
    """Inputs of EmotionModel, and the targets."""

    row: Tensor  # int64 [batch], index in the dataset
    patches: Tensor  # float32 [total patches, 96, 64]
    patch_counts: Tensor  # int64 [batch]
    input_ids: Tensor  # int64 [batch, longest]
    attention_mask: Tensor  # int64 [batch, longest]
    speed: Tensor  # int64 [batch]
    target: Tensor  # int64 [batch]


def tokenise(utterances: Sequence[Utterance], tokenizer: text.WordPiece) -> list[NDArray[np.int64]]:
    """Return the token ids of each utterance: int64 [n]; empty without text.

    Raises:
        TrainingError: the served front-end rejects a text.
    """
    tokens = []
    for utterance in utterances:
        try:
            tokens.append(tokenizer.encode(text.clean(text.decode((utterance.text or "").encode()))))
        except InputError as error:
            raise TrainingError(f"utterance {utterance.id}: {error}") from None
    return tokens


class Utterances(Dataset[Example]):
    """Whole utterances, processed exactly as in serving. Log-mel patches are computed on first use and cached."""

    def __init__(
        self, utterances: Sequence[Utterance], recordings: Recordings, tokens: Sequence[NDArray[np.int64]]
    ) -> None:
        self.utterances = utterances
        self.recordings = recordings
        self.tokens = tokens
        self.targets = np.array(
            [EMOTIONS.index(each.emotion) if each.emotion else OTHER_EMOTION for each in utterances], np.int64
        )
        self._patches: dict[int, NDArray[np.float32]] = {}

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, index: int) -> Example:
        if index not in self._patches:
            self._patches[index] = self._log_mel(index)
        return Example(index, self._patches[index], self.tokens[index], UNCHANGED_SPEED, int(self.targets[index]))

    def _log_mel(self, index: int) -> NDArray[np.float32]:
        path = self.utterances[index].audio
        return no_patches() if path is None else audio.sound_patches(self.recordings[path])


class Segments(Dataset[Example]):
    """Training examples of one epoch: a random 3-second segment of each utterance, augmented.

    A share of the utterances, `modality_dropout`, loses its audio or its text. All random numbers depend on (seed,
    epoch, index) alone, so that a resumed run equals an uninterrupted one.
    """

    def __init__(
        self,
        utterances: Utterances,
        seed: int,
        epoch: int,
        modality_dropout: float,
        augment: bool,
        time_stretch: float = 0.0,
        pitch_shift: float = 0.0,
    ) -> None:
        self.source = utterances
        self.seed = seed
        self.epoch = epoch
        self.modality_dropout = modality_dropout
        self.augment = augment
        self.time_stretch = time_stretch
        self.pitch_shift = pitch_shift
        if time_stretch or pitch_shift:
            load_vocoder()

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        random = np.random.default_rng((self.seed, self.epoch, index))
        path, tokens = self.source.utterances[index].audio, self.source.tokens[index]
        has_audio, has_text = path is not None, tokens.size > 0
        if has_audio and has_text and random.random() < self.modality_dropout:
            has_audio = bool(random.random() < 0.5)
            has_text = not has_audio
        patches, speed = no_patches(), UNCHANGED_SPEED
        if path is not None and has_audio:
            if self.augment:
                speed = int(random.integers(len(SPEEDS)))
            patches = self._patches(self.source.recordings[path], SPEEDS[speed], random)
        return Example(index, patches, tokens if has_text else tokens[:0], speed, int(self.source.targets[index]))

    def _patches(
        self, recording: NDArray[np.float32], speed: float, random: np.random.Generator
    ) -> NDArray[np.float32]:
        sound = find_sound(recording)
        if sound is None:
            return no_patches()
        waveform = _segment(sound.waveform, random)
        if self.augment:
            waveform = vary_waveform(change_speed(waveform, speed), random, self.time_stretch, self.pitch_shift)
        patches = audio.sound_patches(waveform)
        if not len(patches):  # the segment lies in a pause
            patches = audio.sound_patches(change_speed(sound.waveform, speed))
        return mask_patches(vary_vocal_tract(patches, random), random) if self.augment else patches


def no_patches() -> NDArray[np.float32]:
    """Return the patches of an utterance without audio: float32 [0, 96, 64]."""
    return np.empty((0, *PATCH_SHAPE), np.float32)


def _segment(waveform: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.float32]:
    """Return three seconds at a random position, or a shorter recording without a random beginning of up to one patch.

    Dropping a beginning shifts the grid of patches, so that each epoch has different patches of the same recording.
    """
    if waveform.size > SEGMENT_SAMPLES:
        start = int(random.integers(waveform.size - SEGMENT_SAMPLES + 1))
        return waveform[start : start + SEGMENT_SAMPLES]
    spare = min(max(0, waveform.size - audio.MIN_SAMPLES), audio.PATCH_FRAMES * audio.HOP)
    return waveform[int(random.integers(spare + 1)) :]


def collate(examples: Sequence[Example]) -> Batch:
    """Return a batch: patches are concatenated, tokens padded to the longest text."""
    longest = max(example.tokens.size for example in examples)
    input_ids = np.zeros((len(examples), longest), np.int64)
    attention_mask = np.zeros_like(input_ids)
    for row, example in enumerate(examples):
        input_ids[row, : example.tokens.size] = example.tokens
        attention_mask[row, : example.tokens.size] = 1
    return Batch(
        torch.tensor([example.row for example in examples]),
        torch.from_numpy(np.concatenate([example.patches for example in examples])),
        torch.tensor([len(example.patches) for example in examples]),
        torch.from_numpy(input_ids),
        torch.from_numpy(attention_mask),
        torch.tensor([example.speed for example in examples]),
        torch.tensor([example.target for example in examples]),
    )


class LengthGroupedBatches:
    """Batch sampler of one epoch: a random order by (seed, epoch) that batches texts of similar length together."""

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> None:
        self.lengths = np.asarray(lengths)
        self.batch_size = batch_size
        self.random = (seed, epoch)

    def __len__(self) -> int:
        return math.ceil(len(self.lengths) / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        random = np.random.default_rng(self.random)
        order = random.permutation(len(self.lengths))
        batches: list[list[int]] = []
        size = self.batch_size * GROUPED_BATCHES
        for start in range(0, len(order), size):
            group = order[start : start + size]
            group = group[np.argsort(self.lengths[group], kind="stable")]
            batches += [group[at : at + self.batch_size].tolist() for at in range(0, len(group), self.batch_size)]
        yield from (batches[at] for at in random.permutation(len(batches)))


def training_batches(segments: Segments, batch_size: int, workers: int) -> DataLoader[Example]:
    """Return the batches of one epoch.

    Args:
        segments: the epoch's examples.
        batch_size: examples in a batch.
        workers: processes that prepare batches; 0 for the main process.
    """
    lengths = [tokens.size for tokens in segments.source.tokens]
    batches = LengthGroupedBatches(lengths, batch_size, segments.seed, segments.epoch)
    # With its own generator: each iterator draws a seed, and Lightning makes fewer iterators in a resumed run. Draws
    # from torch's generator would then change dropout.
    return DataLoader(
        segments, batch_sampler=batches, collate_fn=collate, num_workers=workers, generator=torch.Generator()
    )


def evaluation_batches(utterances: Utterances, batch_size: int) -> DataLoader[Example]:
    """Return batches of all utterances, sorted by text length; `Batch.row` is the index of each utterance."""
    order = np.argsort([tokens.size for tokens in utterances.tokens], kind="stable").tolist()
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return DataLoader(utterances, batch_sampler=batches, collate_fn=collate)
