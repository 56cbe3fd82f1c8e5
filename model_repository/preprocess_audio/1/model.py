"""Triton stage `preprocess_audio`: AUDIO (and TEXT, to tell "no audio" from "nothing at all") -> PATCHES, PATCH_SPAN."""

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emotion import audio, text
from emotion.errors import InputError
from serving.stage import answer_each, rectangle, rows

NO_PATCHES = np.empty(0, np.float32)


class TritonPythonModel:
    """One instance: a process of its own."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the configuration and build the front-end's tables before the first request."""
        parameters = json.loads(args["model_config"])["parameters"]
        self.max_seconds = float(parameters["max_audio_seconds"]["string_value"])
        audio.log_mel_patches(np.zeros(audio.SHORTEST, np.float32))

    def execute(self, requests: list[Any]) -> list[Any]:
        """Called by Triton with a batch of requests."""
        return answer_each(requests, self.tensors)

    def tensors(self, request: Any) -> dict[str, NDArray[Any]]:
        """PATCHES float32 [n, longest] and PATCH_SPAN int32 [n, 2] for a request of n utterances."""
        pairs = zip(rows(request, "AUDIO"), rows(request, "TEXT"), strict=True)
        patches, span = rectangle([self.patches(data) if data else no_audio(sentence) for data, sentence in pairs])
        return {"PATCHES": patches, "PATCH_SPAN": span}

    def patches(self, data: bytes) -> NDArray[np.float32]:
        """Log-mel patches of one encoded file, flattened."""
        return audio.log_mel_patches(audio.decode(data, self.max_seconds)).reshape(-1)


def no_audio(sentence: bytes) -> NDArray[np.float32]:
    """No patches, if there is text to answer from; text that can't be used is `preprocess_text`'s to refuse."""
    if not sentence:
        raise InputError("AUDIO and TEXT are both empty; send at least one of them")
    try:
        is_empty = not text.clean(text.decode(sentence))
    except InputError:
        return NO_PATCHES
    if is_empty:
        raise InputError("TEXT has no letter or digit left after cleaning, and AUDIO is empty; send words or audio")
    return NO_PATCHES
