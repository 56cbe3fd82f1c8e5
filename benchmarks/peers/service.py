"""What the peers share: the request and the answer over HTTP, padded text, and ONNX Runtime sessions."""

import argparse
import base64
import os
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from pydantic import BaseModel
from tokenizers import Tokenizer

from emotion import audio, decoding, text

PADDED_LENGTH = 128  # tokens, [CLS] and [SEP] included
CORES = len(os.sched_getaffinity(0))  # that this process may use


class Request(BaseModel):
    """The body of POST /analyze; an empty string is an absent modality."""

    audio: str  # base64 of a whole audio file
    text: str


class Answer(BaseModel):
    """[5] each; all zero for an absent modality."""

    probabilities: list[float]
    audio_probabilities: list[float]
    text_probabilities: list[float]


def arguments(description: str | None) -> argparse.Namespace:
    """The command line of an HTTP peer: checkpoint and files (Path), port (int)."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--checkpoint", type=Path, required=True, help="the checkpoint directory")
    parser.add_argument("--files", type=Path, required=True, help="what benchmarks.peers.export made of it")
    parser.add_argument("--port", type=int, required=True)
    return parser.parse_args()


def log_mel(encoded: str) -> NDArray[np.float32]:
    """Log-mel patches of a request's audio, float32 [patches, 96, 64]; none where it is absent or has no sound."""
    if not encoded:
        return np.empty((0, *audio.PATCH_SHAPE), np.float32)
    return audio.sound_patches(decoding.decode(base64.b64decode(encoded)))


class PaddedWordPiece:
    """A tokenizer as most tutorials have it: padded and cut to one length."""

    def __init__(self, tokenizer: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.enable_padding(length=PADDED_LENGTH)
        self._tokenizer.enable_truncation(PADDED_LENGTH)

    def encode(self, sentence: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Ids and attention mask, int64 [128] each; the mask of a text without words is all zero."""
        if not (cleaned := text.clean(sentence)):
            return np.zeros(PADDED_LENGTH, np.int64), np.zeros(PADDED_LENGTH, np.int64)
        encoding = self._tokenizer.encode(cleaned)
        return np.array(encoding.ids, np.int64), np.array(encoding.attention_mask, np.int64)


def session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session on the CPU, all graph optimisations on.

    Its threads sleep between requests instead of spinning, which would take the cores from whatever runs beside it.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
