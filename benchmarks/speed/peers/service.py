"""Code that peers share: the command line, padded text, and the models in ONNX Runtime."""

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from pydantic import Base64Bytes, BaseModel
from tokenizers import Tokenizer

from emotion import audio, decoding, text

PADDED_LENGTH = 128  # tokens, [CLS] and [SEP] included
CORES = len(os.sched_getaffinity(0))  # of this process
VIEWS = ("PROBABILITIES", "AUDIO_PROBABILITIES", "TEXT_PROBABILITIES")
FrontEnd = tuple[NDArray[np.float32], NDArray[np.int64]]  # patches [n, 96, 64] and ids [tokens]; either may be empty
Answer = dict[str, list[float]]  # the probabilities by lower-case view, [5] each; all zero for an absent modality


class Request(BaseModel):
    """The body of POST /analyze; an empty string is an absent modality."""

    audio: Base64Bytes  # a whole audio file
    text: str


def arguments(description: str | None) -> argparse.Namespace:
    """Return the command line of an HTTP peer."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--checkpoint", type=Path, required=True, help="the checkpoint directory")
    parser.add_argument("--files", type=Path, required=True, help="the files of benchmarks.speed.peers.export")
    parser.add_argument("--port", type=int, required=True)
    return parser.parse_args()


def log_mel(data: bytes) -> NDArray[np.float32]:
    """Return the log-mel patches of an audio file, float32 [patches, 96, 64]; none of an empty one."""
    return audio.sound_patches(decoding.decode(data)) if data else np.empty((0, *audio.PATCH_SHAPE), np.float32)


class PaddedWordPiece:
    """A tokenizer that pads and cuts to one length."""

    def __init__(self, tokenizer: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.enable_padding(length=PADDED_LENGTH)
        self._tokenizer.enable_truncation(PADDED_LENGTH)

    def encode(self, sentence: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return ids and attention mask, int64 [128] each; the mask of a text without words is zero."""
        if not (cleaned := text.clean(sentence)):
            return np.zeros(PADDED_LENGTH, np.int64), np.zeros(PADDED_LENGTH, np.int64)
        encoding = self._tokenizer.encode(cleaned)
        return np.array(encoding.ids, np.int64), np.array(encoding.attention_mask, np.int64)


class OnnxModels:
    """The files of benchmarks.speed.peers.export, on all cores."""

    def __init__(self, checkpoint: Path, files: Path, load: Callable[[Path, int], Any] | None = None) -> None:
        """Load the files. `load` opens one with a number of threads; None opens it in ONNX Runtime."""
        load = load or _session
        self._word_piece = text.WordPiece(checkpoint / "text_encoder" / "tokenizer.json")
        self._bert = load(files / "padded_triton/bert/1/model.onnx", CORES)
        self._vggish = load(files / "vggish.onnx", CORES)
        self._fusion = load(files / "padded_triton/fusion/1/model.onnx", 1)  # too small for several threads

    def read(self, request: Request) -> FrontEnd:
        """Return the front-end output of a request."""
        return log_mel(request.audio), self._word_piece.encode(text.clean(request.text))

    def __call__(self, batch: Sequence[FrontEnd]) -> list[Answer]:
        """Return the answers; patches lie end to end, and texts are padded to the longest of the batch."""
        patches, sentences = zip(*batch, strict=True)
        counts, lengths = (np.array([len(each) for each in column]) for column in (patches, sentences))
        sound = np.zeros((len(batch), 128), np.float32)
        if counts.any():
            embeddings = self._vggish.run(None, {"PATCHES": np.concatenate(patches)})[0]
            np.add.at(sound, np.repeat(np.arange(len(batch)), counts), embeddings)
            sound /= np.maximum(counts, 1)[:, None].astype(np.float32)
        words = np.zeros((len(batch), 256), np.float32)
        if lengths.any():
            mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
            ids = np.zeros_like(mask)
            ids[mask > 0] = np.concatenate(sentences)
            words = self._bert.run(None, {"INPUT_IDS": ids, "ATTENTION_MASK": mask})[0]
        present = {"HAS_AUDIO": counts[:, None] > 0, "HAS_TEXT": lengths[:, None] > 0}
        views = self._fusion.run(list(VIEWS), {"AUDIO_EMBEDDING": sound, "TEXT_EMBEDDING": words} | present)
        return [answer(row) for row in zip(*views, strict=True)]


def answer(views: Sequence[NDArray[np.float32]]) -> Answer:
    """Return the answer with the probabilities of the three views, [5] each."""
    return {name.lower(): view.tolist() for name, view in zip(VIEWS, views, strict=True)}


def _session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """Return an ONNX Runtime session on the CPU whose threads do not spin between requests."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
