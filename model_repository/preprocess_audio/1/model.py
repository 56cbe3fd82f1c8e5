"""Triton stage `preprocess_audio`: AUDIO -> PATCHES, PATCH_COUNT.

It comes after `preprocess_text`, so that it can refuse an utterance that has neither audio nor text.
"""

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emotion import audio
from emotion.errors import InputError
from stages.requests import bytes_rows, pad_rows, respond_per_request, tensor
from stages.wakeup import Waker


class TritonPythonModel:
    """One instance: a process of its own."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the configuration and build the front-end's tables before the first request."""
        config = json.loads(args["model_config"])
        self.max_seconds = float(config["parameters"]["max_audio_seconds"]["string_value"])
        self.waker = Waker(config)
        audio.log_mel_patches(np.zeros(audio.SHORTEST, np.float32))

    def execute(self, requests: list[Any]) -> list[Any]:
        """Called by Triton with a batch of requests."""
        with self.waker.batch():
            return respond_per_request(requests, self.tensors)

    def tensors(self, request: Any) -> dict[str, NDArray[Any]]:
        """PATCHES float32 [n, longest, 96, 64] and PATCH_COUNT int32 [n, 1] for a request of n utterances."""
        tokens = tensor(request, "TOKEN_COUNT")[:, 0]
        utterances = zip(bytes_rows(request, "AUDIO"), bytes_rows(request, "TEXT"), tokens, strict=True)
        patches, count = pad_rows(
            [self.patches(data) if data else no_patches(sentence, used) for data, sentence, used in utterances]
        )
        return {"PATCHES": patches, "PATCH_COUNT": count}

    def patches(self, data: bytes) -> NDArray[np.float32]:
        """Log-mel patches of one encoded file, [patches, 96, 64]."""
        return audio.log_mel_patches(audio.decode(data, self.max_seconds))


def no_patches(sentence: bytes, tokens: int) -> NDArray[np.float32]:
    """What stands for absent audio, provided that the text left tokens to answer from."""
    if tokens:
        return np.empty((0, *audio.PATCH_SHAPE), np.float32)
    if sentence:
        raise InputError("TEXT has no letter or digit left after cleaning, and AUDIO is empty; send words or audio")
    raise InputError("AUDIO and TEXT are both empty; send at least one of them")
