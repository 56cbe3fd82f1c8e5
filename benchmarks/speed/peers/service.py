"""Code that peers share: requests and answers over HTTP, padded text, ONNX Runtime sessions."""

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
CORES = len(os.sched_getaffinity(0))  # of this process


class Request(BaseModel):
    """The body of POST /analyze; an empty string is an absent modality."""

    audio: str  # base64 of a whole audio file
    text: str


class Answer(BaseModel):
    """The probabilities of the three views, [5] each; all zero for an absent modality."""

    probabilities: list[float]
    audio_probabilities: list[float]
    text_probabilities: list[float]


def arguments(description: str | None) -> argparse.Namespace:
    """Return the command line of an HTTP peer."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--checkpoint", type=Path, required=True, help="the checkpoint directory")
    parser.add_argument("--files", type=Path, required=True, help="the files of benchmarks.speed.peers.export")
    parser.add_argument("--port", type=int, required=True)
    return parser.parse_args()


def log_mel(encoded: str) -> NDArray[np.float32]:
    """Return the log-mel patches of a request's audio, float32 [patches, 96, 64]; none without sound."""
    if not encoded:
        return np.empty((0, *audio.PATCH_SHAPE), np.float32)
    return audio.sound_patches(decoding.decode(base64.b64decode(encoded)))


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


def session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """Return an ONNX Runtime session on the CPU whose threads do not spin between requests."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
