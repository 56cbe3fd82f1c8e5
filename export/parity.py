"""The gate between export and the model repository: does the ONNX file answer as the PyTorch model does?

64 utterances of mixed lengths, cut and joined from the recordings and transcripts in examples/speech, some without
audio and some without text, go four ways:

- one by one through the eager PyTorch model (transformers' own BertModel, padded the usual way),
- one by one through the ONNX file,
- in one ragged batch through the ONNX file,
- for the text, in a padded batch through an ONNX export of the same encoder that optimum makes independently.
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
    """The exported graphs don't answer as the model does; says which tensor, how far, on which input."""


@dataclass(frozen=True)
class Tolerances:
    """Largest differences allowed, of embeddings relative to the largest value of the reference."""

    eager: float  # ONNX against eager PyTorch
    batch: float  # alone against in a batch


# fp16 keeps 11 bits, int8 7 and 8; their limits are for the arithmetic: export/accuracy.py looks at the decisions. What
# int8 does to an utterance doesn't depend on the others in its batch, so that its limit is fp32's.
TOLERANCES = {
    "fp32": Tolerances(eager=1e-4, batch=1e-5),
    "fp16": Tolerances(eager=1e-2, batch=2e-3),
    "int8": Tolerances(eager=0.25, batch=1e-5),
}


@dataclass(frozen=True)
class Utterance:
    """Front-end output for one utterance: patches float32 [n, 96, 64] and ids int64 [tokens]; either may be empty."""

    patches: NDArray[np.float32]
    ids: NDArray[np.int64]

    def __str__(self) -> str:
        return f"{len(self.patches)} patches and {len(self.ids)} tokens"


def front_ends(data: bytes, sentence: str, tokenizer: text.WordPiece) -> Utterance:
    """What the graphs take of one utterance, as the Python stages make it.

    Args:
        data: an audio file; b"" for none.
        sentence: its words; "" for none.

    Raises:
        InputError: either can't be used.
    """
    patches = np.empty((0, *audio.PATCH_SHAPE), np.float32)
    if data:
        patches = audio.sound_patches(decoding.decode(data))
    return Utterance(patches, tokenizer.encode(text.clean(sentence)))


@dataclass(frozen=True)
class Comparison:
    """The largest difference found between two ways, and where."""

    name: str
    difference: float
    tolerance: float
    tensor: str
    utterance: str


def mixed_speech(count: int = UTTERANCES) -> list[tuple[NDArray[np.float32], str]]:
    """Return real speech and sentences of mixed lengths: 0.3 to 20 s, 1 to 120 words; every eighth lacks one of both.

    The first has the least of both, the second the most.

    Returns:
        Waveforms float32 [samples] at 16 kHz, and sentences; an empty one where the modality is absent.
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
    """Return what the graphs take of `mixed_speech`."""
    nothing = np.empty((0, *audio.PATCH_SHAPE), np.float32)
    return [
        Utterance(
            audio.sound_patches(waveform) if len(waveform) else nothing,
            tokenizer.encode(text.clean(sentence)),
        )
        for waveform, sentence in mixed_speech(count)
    ]


def model_inputs(utterances: Sequence[Utterance]) -> dict[str, NDArray[Any]]:
    """Return what Triton hands to the models for one ragged batch, by the names of their inputs."""
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
    """The exported models in this process, called one after the other as Triton's ensemble calls them."""

    def __init__(self, repository: Path, precision: str = "fp32", threads: int = 0) -> None:
        """Load the files.

        Args:
            repository: holds NAME/1/FILE of vggish, bert and fusion.
            precision: fp32, fp16 or int8.
            threads: for each operator; 0 for as many as there are cores.
        """
        files = [model_file(repository, name, precision) for name in ONNX_MODELS]
        self._sessions = [chain.open_session(str(file), threads) for file in files]

    def __call__(self, utterances: Sequence[Utterance]) -> Tensors:
        """Return all outputs, embeddings among them, for one ragged batch."""
        return chain.run(self._sessions, model_inputs(utterances))


@torch.no_grad()
def eager(checkpoint: Checkpoint, utterance: Utterance) -> Tensors:
    """The PyTorch model's answer for one utterance."""
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
    """Text embeddings [utterances, 256] by a padded ONNX export of the encoder that optimum makes."""
    from optimum.exporters.onnx import onnx_export_from_model  # takes seconds to import
    from optimum.utils import logging as optimum_logging

    optimum_logging.set_verbosity_error()
    longest = max(len(utterance.ids) for utterance in utterances)
    ids = np.zeros((len(utterances), longest), np.int64)
    mask = np.zeros_like(ids)
    for row, utterance in enumerate(utterances):
        ids[row, : len(utterance.ids)] = utterance.ids
        mask[row, : len(utterance.ids)] = 1
    with tempfile.TemporaryDirectory() as directory:
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
    """What the four ways gave for the same utterances; a row each."""

    utterances: list[Utterance]
    eager: Tensors
    alone: Tensors
    batch: Tensors
    padded: Tensors  # text embeddings of the utterances with text


def ask(checkpoint: Checkpoint, models: OnnxModels, advance: Callable[[], None] = lambda: None) -> Answers:
    """Send the utterances all four ways.

    Args:
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
    """The largest differences between the ways, for the manifest."""
    utterances = answers.utterances
    packed = {"TEXT_EMBEDDING": answers.batch["TEXT_EMBEDDING"][[bool(len(each.ids)) for each in utterances]]}
    with_text = _with_text(utterances)
    return [
        _compare("ONNX against eager PyTorch", answers.alone, answers.eager, tolerances.eager, utterances),
        _compare("packed against optimum's padded export", packed, answers.padded, tolerances.eager, with_text),
        _compare("alone against in a batch", answers.alone, answers.batch, tolerances.batch, utterances),
    ]


def gate(comparisons: Sequence[Comparison]) -> None:
    """Raise ParityError for the first comparison that is over its tolerance."""
    for comparison in comparisons:
        if not comparison.difference <= comparison.tolerance:  # NaN is over any
            raise ParityError(
                f"{comparison.name}: {comparison.tensor} differs by {comparison.difference:.3g} "
                f"(tolerance {comparison.tolerance:g}) on {comparison.utterance}"
            )


def _with_text(utterances: Sequence[Utterance]) -> list[Utterance]:
    return [utterance for utterance in utterances if len(utterance.ids)]


def stack(tensors: Sequence[Tensors]) -> Tensors:
    """Rows of single utterances as one table."""
    return {name: np.concatenate([row[name] for row in tensors]) for name in tensors[0]}


def _compare(
    name: str, found: Tensors, expected: Tensors, tolerance: float, utterances: Sequence[Utterance]
) -> Comparison:
    """The worst tensor and utterance of all."""
    worst = Comparison(name, 0.0, tolerance, "", "")
    for tensor, reference in expected.items():
        scale = max(1.0, float(np.abs(reference).max())) if tensor.endswith("EMBEDDING") else 1.0
        rows = np.abs(found[tensor] - reference).max(axis=1) / scale
        rows = np.where(np.isnan(rows), np.inf, rows)  # NaN compares with nothing; infinity is never within tolerance
        row = int(rows.argmax())
        if rows[row] > worst.difference or not worst.tensor:
            worst = Comparison(name, float(rows[row]), tolerance, tensor, f"utterance {row} ({utterances[row]})")
    return worst
