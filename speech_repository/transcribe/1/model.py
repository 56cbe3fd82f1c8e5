"""Triton stage `transcribe`: AUDIO -> TRANSCRIPT, and the same as TEXT."""

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emotion import audio, decoding
from emotion.errors import InputError
from stages import cpu_quota
from stages.asr import Recogniser
from stages.requests import bytes_rows, respond_per_request
from stages.wakeup import BatcherWaker


class TritonPythonModel:
    """One instance: a process with a recogniser of its own."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the recogniser, and let it hear silence: what it loads late is there for the first caller."""
        config = json.loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
        self.max_seconds = float(parameters["max_audio_seconds"])
        self.recogniser = Recogniser(
            parameters["model"],
            parameters["language"],
            device="cuda" if args["model_instance_kind"] == "GPU" else "cpu",
            device_index=int(args["model_instance_device_id"]),
            threads=int(parameters["threads"]) or cpu_quota.limit() or 0,
        )
        self.recogniser.transcribe(np.zeros(audio.SAMPLE_RATE, np.float32))
        self.waker = BatcherWaker(config)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Called by Triton with a batch of requests."""
        with self.waker.batch():
            return respond_per_request(requests, self.tensors)

    def tensors(self, request: Any) -> dict[str, NDArray[Any]]:
        """Return TRANSCRIPT and TEXT, the same BYTES [n, 1] of UTF-8, for a request of n utterances."""
        transcripts = [self.transcript(data) for data in bytes_rows(request, "AUDIO")]
        column = np.array(transcripts, np.object_)[:, None]
        return {"TRANSCRIPT": column, "TEXT": column}

    def transcript(self, data: bytes) -> bytes:
        """What is said in one encoded file."""
        if not data:
            raise InputError("AUDIO is empty; send speech, or send text to the model `emotion`")
        return self.recogniser.transcribe(decoding.decode(data, self.max_seconds)).encode()
