"""Triton stage `transcribe`: return the TRANSCRIPT of AUDIO with its confidence, and as TEXT if it was understood."""

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emotion import audio, decoding
from emotion.errors import InputError
from emotion.loudness import find_sound
from stages import cpu_quota
from stages.asr import Recogniser, Transcript
from stages.request_queue import HeldRequest, RequestQueue
from stages.requests import bytes_rows


class TritonPythonModel:
    """One instance of the stage, in its own process with its own recogniser."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the recogniser, and run it once on silence, because it loads some parts at its first run."""
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
        self.queue = RequestQueue(args, lambda request: bytes_rows(request, "AUDIO"), self.tensors)

    def execute(self, requests: list[Any]) -> None:
        """Add the requests to the queue; Triton calls it with one request."""
        for request in requests:
            self.queue.put(request)

    def finalize(self) -> None:
        """Close the queue; Triton calls it before the process ends."""
        self.queue.close()

    def tensors(self, held: HeldRequest) -> dict[str, NDArray[Any]]:
        """Return the output tensors of a request by name, [n, 1] each.

        Args:
            held: the request; its inputs are n encoded files.

        Returns:
            TRANSCRIPT, TEXT and LANGUAGE BYTES (UTF-8); TRANSCRIPT_LOG_PROBABILITY, NO_SPEECH_PROBABILITY and
            LANGUAGE_PROBABILITY float32; UNDERSTOOD bool.

        Raises:
            InputError: a recording can't be used.
        """
        found = [self.transcript(data) for data in held.inputs]
        columns = {
            "TRANSCRIPT": np.array([each.text.encode() for each in found], np.object_),
            "TEXT": np.array([each.text.encode() if each.understood else b"" for each in found], np.object_),
            "UNDERSTOOD": np.array([each.understood for each in found]),
            "TRANSCRIPT_LOG_PROBABILITY": np.array([each.log_probability for each in found], np.float32),
            "NO_SPEECH_PROBABILITY": np.array([each.no_speech_probability for each in found], np.float32),
            "LANGUAGE": np.array([each.language.encode() for each in found], np.object_),
            "LANGUAGE_PROBABILITY": np.array([each.language_probability for each in found], np.float32),
        }
        return {name: column[:, None] for name, column in columns.items()}

    def transcript(self, data: bytes) -> Transcript:
        """Return the transcript of one encoded file; silence is not sent to Whisper, which invents words for it.

        Raises:
            InputError: the recording can't be used.
        """
        if not data:
            raise InputError("AUDIO is empty; send speech, or send text to the model `emotion`")
        sound = find_sound(decoding.decode(data, self.max_seconds))
        return self.recogniser.transcribe(sound.waveform) if sound else Transcript()
