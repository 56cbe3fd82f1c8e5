"""Parity gate: compare the exported ONNX files with the PyTorch model before they reach the model repository.

64 utterances of mixed lengths are cut from the recordings and transcripts in examples/speech; some have no audio, and
some have no text. They run in four ways:

- one by one through the eager PyTorch model (transformers' own BertModel with the usual padding),
- one by one through the ONNX files,
- in one ragged batch through the ONNX files,
- for the text, in a padded batch through an independent ONNX export of the same encoder by optimum.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from emotion import audio, decoding, text
from emotion.checkpoint import Checkpoint
from emotion.model import confidence, probabilities
from emotion.ragged import at_least_one
from export import chain, speech
from export.repository import ONNX_MODELS, model_file

UTTERANCES = 64
SEED = 20
Tensors = dict[str, NDArray[np.float32]]  # output name -> [utterances, width]


class ParityError(Exception):
    """The exported files differ from the PyTorch model; the message has tensor, difference and utterance."""


@dataclass(frozen=True)
class Tolerances:
    """Largest accepted differences; differences of embeddings are relative to the largest value of the reference.

    Attributes:
        eager: of the ONNX files from the eager PyTorch model.
        batch: of an utterance in a batch from the same utterance alone.
    """

    eager: float
    batch: float


# fp16 has 11 significant bits, int8 has 7 or 8; export/accuracy.py also compares the decisions. The int8 rounding of an
# utterance does not depend on its batch, so the tolerance for batches is that of fp32.
TOLERANCES = {
    "fp32": Tolerances(eager=1e-4, batch=1e-5),
    "fp16": Tolerances(eager=1e-2, batch=2e-3),
    "int8": Tolerances(eager=0.25, batch=1e-5),
}


@dataclass(frozen=True)
class Utterance:
    """The front-end output of one utterance: patches float32 [n, 96, 64] and ids int64 [tokens]; both may be empty."""

    patches: NDArray[np.float32]
    ids: NDArray[np.int64]

    def __str__(self) -> str:
        return f"{len(self.patches)} patches and {len(self.ids)} tokens"


def front_ends(data: bytes, sentence: str, tokenizer: text.WordPiece) -> Utterance:
    """Return the front-end output of one utterance, as the Python stages compute it.

    Args:
        data: an encoded audio file; b"" for no audio.
        sentence: the text; "" for no text.
        tokenizer: the checkpoint's tokenizer.

    Raises:
        InputError: the audio or the text can't be used.
    """
    patches = np.empty((0, *audio.PATCH_SHAPE), np.float32)
    if data:
        patches = audio.sound_patches(decoding.decode(data))
    return Utterance(patches, tokenizer.encode(text.clean(sentence)))


@dataclass(frozen=True)
class Comparison:
    """The largest difference between two ways of running the model, with its tolerance, tensor and utterance."""

    name: str
    difference: float
    tolerance: float
    tensor: str
    utterance: str


def mixed_speech(count: int = UTTERANCES) -> list[tuple[NDArray[np.float32], str]]:
    """Return real speech and sentences of mixed lengths: 0.3 to 20 s and 1 to 120 words.

    Of each eight utterances, one has no audio and one has no text. The first utterance is the shortest, and the second
    is the longest.

    Args:
        count: number of utterances.

    Returns:
        Pairs of a waveform, float32 [samples] at 16 kHz, and a sentence; an absent modality is empty.
    """
    random = np.random.default_rng(SEED)
    waveform = speech.waveform()
    words = " ".join(speech.transcripts().values()).split()
    seconds = random.triangular(0.3, 3.0, 20.0, count)
    lengths = random.triangular(1, 12, 120, count).astype(int)
    seconds[:2], lengths[:2] = (0.3, 20.0), (1, 120)
    utterances = []
    for number in range(count):
        samples = int(seconds[number] * audio.SAMPLE_RATE)
        start = random.integers(len(waveform) - samples)
        first = random.integers(len(words))
        cut = waveform[start : start + samples]
        sentence = " ".join((words * 3)[first : first + lengths[number]])
        utterances.append((cut[:0] if number % 8 == 3 else cut, "" if number % 8 == 6 else sentence))
    return utterances


def mixed_utterances(tokenizer: text.WordPiece, count: int = UTTERANCES) -> list[Utterance]:
    """Return the front-end output of `mixed_speech`."""
    nothing = np.empty((0, *audio.PATCH_SHAPE), np.float32)
    return [
        Utterance(
            audio.sound_patches(waveform) if len(waveform) else nothing,
            tokenizer.encode(text.clean(sentence)),
        )
        for waveform, sentence in mixed_speech(count)
    ]


def model_inputs(utterances: Sequence[Utterance]) -> dict[str, NDArray[Any]]:
    """Return the model inputs of one ragged batch by name, as Triton passes them."""
    patches = [at_least_one(utterance.patches) for utterance in utterances]
    ids = [at_least_one(utterance.ids) for utterance in utterances]
    patch_count = np.array([[len(utterance.patches)] for utterance in utterances], np.int32)
    return {
        "PATCHES": np.concatenate([row.reshape(-1) for row in patches]),
        "PATCH_COUNT": patch_count,
        "PATCHES_SHAPE": np.array([row.shape for row in patches], np.int32),
        "INPUT_IDS": np.concatenate(ids),
        "TOKEN_COUNT": np.array([utterance.ids.shape for utterance in utterances], np.int32),
        "INPUT_IDS_SHAPE": np.array([row.shape for row in ids], np.int32),
        "AFTER": patch_count,
    }


class OnnxModels:
    """The exported models in this process, which run one after the other as in Triton's ensemble."""

    def __init__(self, repository: Path, precision: str = "fp32", threads: int = 0) -> None:
        """Load the files.

        Args:
            repository: directory with NAME/1/FILE of vggish, bert and fusion.
            precision: fp32, fp16 or int8.
            threads: number of threads of an operator; 0 is the number of cores.
        """
        files = [model_file(repository, name, precision) for name in ONNX_MODELS]
        self._sessions = [chain.open_session(str(file), threads) for file in files]

    def __call__(self, utterances: Sequence[Utterance]) -> Tensors:
        """Run one ragged batch, and return all outputs including the embeddings, [utterances, width] each."""
        return chain.run(self._sessions, model_inputs(utterances))


@torch.no_grad()
def eager(checkpoint: Checkpoint, utterance: Utterance) -> Tensors:
    """Run the PyTorch model on one utterance, and return embeddings, probabilities and confidence, [1, width] each."""
    model = checkpoint.model
    counts = torch.tensor([len(utterance.patches)])
    ids = torch.from_numpy(utterance.ids)[None]
    mask = torch.ones_like(ids)
    audio_embedding = model.embed_audio(torch.from_numpy(utterance.patches), counts)
    text_embedding = model.embed_text(ids, mask)
    has_audio, has_text = counts > 0, mask.sum(1) > 0
    views = probabilities(model.head(audio_embedding, has_audio, text_embedding, has_text), has_audio, has_text)
    named = {
        "AUDIO_EMBEDDING": audio_embedding,
        "TEXT_EMBEDDING": text_embedding,
        "PROBABILITIES": views.fused,
        "AUDIO_PROBABILITIES": views.audio,
        "TEXT_PROBABILITIES": views.text,
        "CONFIDENCE": confidence(views, has_audio, has_text, model.head.confidence)[:, None],
    }
    return {name: tensor.numpy() for name, tensor in named.items()}


@torch.no_grad()
def padded_text_embeddings(checkpoint: Checkpoint, utterances: Sequence[Utterance]) -> NDArray[np.float32]:
    """Return the text embeddings [utterances, 256] of a padded ONNX export of the encoder by optimum."""
    from optimum.exporters.onnx import onnx_export_from_model  # takes seconds to import
    from optimum.utils import logging as optimum_logging

    optimum_logging.set_verbosity_error()
    longest = max(len(utterance.ids) for utterance in utterances)
    ids = np.zeros((len(utterances), longest), np.int64)
    mask = np.zeros_like(ids)
    for row, utterance in enumerate(utterances):
        ids[row, : len(utterance.ids)] = utterance.ids
        mask[row, : len(utterance.ids)] = 1
    with tempfile.TemporaryDirectory(prefix="emoserve-") as directory:
        onnx_export_from_model(
            checkpoint.model.text_encoder, Path(directory), task="feature-extraction", opset=18, do_validation=False
        )
        session = onnxruntime.InferenceSession(Path(directory, "model.onnx"), providers=["CPUExecutionProvider"])
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        states = session.run(["last_hidden_state"], inputs)[0]
    mean = (states * mask[..., None]).sum(1) / np.maximum(mask.sum(1, keepdims=True), 1)
    projected: NDArray[np.float32] = checkpoint.model.head.text_projection(torch.from_numpy(mean).float()).numpy()
    return projected


@dataclass(frozen=True)
class Answers:
    """The outputs of the four ways for the same utterances, one row for each utterance."""

    utterances: list[Utterance]
    eager: Tensors
    alone: Tensors
    batch: Tensors
    padded: Tensors  # only the text embeddings of utterances with text


def ask(checkpoint: Checkpoint, models: OnnxModels, advance: Callable[[], None] = lambda: None) -> Answers:
    """Run the utterances of the gate in all four ways.

    Args:
        checkpoint: the PyTorch model.
        models: the exported files.
        advance: called after each utterance, for a progress display.
    """
    max_tokens = checkpoint.model.text_encoder.config.max_position_embeddings
    utterances = mixed_utterances(text.WordPiece(checkpoint.tokenizer, max_tokens))
    expected, alone = [], []
    for utterance in utterances:
        expected.append(eager(checkpoint, utterance))
        alone.append(models([utterance]))
        advance()
    padded = {"TEXT_EMBEDDING": padded_text_embeddings(checkpoint, _with_text(utterances))}
    return Answers(utterances, stack(expected), stack(alone), models(utterances), padded)


def compare(answers: Answers, tolerances: Tolerances) -> list[Comparison]:
    """Return the largest difference between each pair of ways that is compared.

    Args:
        answers: the outputs of the four ways.
        tolerances: tolerances of the precision.
    """
    utterances = answers.utterances
    packed = {"TEXT_EMBEDDING": answers.batch["TEXT_EMBEDDING"][[bool(len(each.ids)) for each in utterances]]}
    with_text = _with_text(utterances)
    return [
        _compare("ONNX against eager PyTorch", answers.alone, answers.eager, tolerances.eager, utterances),
        _compare("packed against optimum's padded export", packed, answers.padded, tolerances.eager, with_text),
        _compare("alone against in a batch", answers.alone, answers.batch, tolerances.batch, utterances),
    ]


def gate(comparisons: Sequence[Comparison]) -> None:
    """Check that every comparison is within its tolerance.

    Raises:
        ParityError: a comparison is not; the message describes the first one.
    """
    for comparison in comparisons:
        if not comparison.difference <= comparison.tolerance:  # also true for NaN
            raise ParityError(
                f"{comparison.name}: {comparison.tensor} differs by {comparison.difference:.3g} "
                f"(tolerance {comparison.tolerance:g}) on {comparison.utterance}"
            )


def _with_text(utterances: Sequence[Utterance]) -> list[Utterance]:
    return [utterance for utterance in utterances if len(utterance.ids)]


def stack(tensors: Sequence[Tensors]) -> Tensors:
    """Concatenate the rows of single utterances, by tensor."""
    return {name: np.concatenate([row[name] for row in tensors]) for name in tensors[0]}


def _compare(
    name: str, found: Tensors, expected: Tensors, tolerance: float, utterances: Sequence[Utterance]
) -> Comparison:
    """Return the comparison of the tensor and utterance with the largest difference.

    Confidences are compared where the labels are the same: between two tied classes the confidence jumps.
    """
    worst = Comparison(name, 0.0, tolerance, "", "")
    for tensor, reference in expected.items():
        scale = max(1.0, float(np.abs(reference).max())) if tensor.endswith("EMBEDDING") else 1.0
        rows = np.abs(found[tensor] - reference).max(axis=1) / scale
        if tensor == "CONFIDENCE":
            labels = (side["PROBABILITIES"].argmax(axis=1) for side in (found, expected))
            rows = np.where(np.equal(*labels) | np.isnan(rows), rows, 0.0)
        rows = np.where(np.isnan(rows), np.inf, rows)  # argmax must find NaN, and infinity is never within tolerance
        row = int(rows.argmax())
        if rows[row] > worst.difference or not worst.tensor:
            worst = Comparison(name, float(rows[row]), tolerance, tensor, f"utterance {row} ({utterances[row]})")
    return worst
