"""Triton stage `preprocess`: convert AUDIO and TEXT to PATCHES, PATCH_COUNT, INPUT_IDS, TOKEN_COUNT and CHECKPOINT.

The export writes tokenizer.json and checkpoint.json into the directory of this file.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emotion import audio, decoding, text
from emotion.errors import InputError
from emotion.loudness import NO_SOUND
from emotion.ragged import pad_rows
from stages.admission import Admission
from stages.cost import cost
from stages.request_queue import HeldRequest, RequestQueue
from stages.requests import bytes_rows

Utterances = list[tuple[bytes, bytes]]  # (AUDIO, TEXT)


class TritonPythonModel:
    """One instance of the stage, in its own process."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the tokenizer, and compute the tables of the audio front-end before the first request."""
        directory = Path(args["model_repository"], args["model_version"])
        config = json.loads(args["model_config"])
        checkpoint = json.loads((directory / "checkpoint.json").read_text())
        self.word_piece = text.WordPiece(directory / "tokenizer.json", checkpoint["max_tokens"])
        self.checkpoint = json.dumps({key: checkpoint[key] for key in ("digest", "untrained")}).encode()
        parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
        self.max_seconds = float(parameters["max_audio_seconds"])
        audio.sound_patches(np.sin(np.arange(audio.MIN_SAMPLES, dtype=np.float32)))
        self.admission = Admission(
            processes=sum(int(group["count"]) for group in config["instance_group"]),
            default_timeout_s=float(parameters["default_timeout_seconds"]),
        )
        self.queue = RequestQueue(args, self.utterances, self.tensors)

    def execute(self, requests: list[Any]) -> None:
        """Add the requests to the queue; Triton calls it with one request."""
        for request in requests:
            self.queue.put(request)

    def finalize(self) -> None:
        """Close the queue; Triton calls it before the process ends."""
        self.queue.close()

    def utterances(self, request: Any) -> Utterances:
        """Return the utterances of a request."""
        return list(zip(bytes_rows(request, "AUDIO"), bytes_rows(request, "TEXT"), strict=True))

    def tensors(self, held: HeldRequest) -> dict[str, NDArray[Any]]:
        """Admit a request of n utterances, and return its output tensors by name.

        A request is admitted when its turn comes: those that wait here may be invalid, and cost the models nothing.
        Decoding tells how much it costs them, so it is checked before, to save the decoding, and after.

        Returns:
            PATCHES float32 [n, longest, 96, 64], PATCH_COUNT int32 [n, 1], INPUT_IDS int64 [n, longest], TOKEN_COUNT
            int32 [n, 1], CHECKPOINT BYTES [n, 1].

        Raises:
            BusyError: the answer would come after the request's timeout.
            InputError: the audio or text of an utterance can't be used.
        """
        self.admission.check(held.timeout, held.bulk)
        utterances: Utterances = held.inputs
        patches, ids = zip(*(self.front_ends(data, sentence) for data, sentence in utterances), strict=True)
        padded_patches, patch_count = pad_rows(patches)
        padded_ids, token_count = pad_rows(ids)
        counts = {"PATCH_COUNT": patch_count, "TOKEN_COUNT": token_count}
        self.admission.check(held.timeout, held.bulk, cost(counts))
        return counts | {
            "PATCHES": padded_patches,
            "INPUT_IDS": padded_ids,
            "CHECKPOINT": np.full((len(ids), 1), self.checkpoint, object),
        }

    def front_ends(self, data: bytes, sentence: bytes) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the patches [patches, 96, 64] and the ids [tokens] of one utterance; an absent modality is empty.

        A recording without sound counts as absent audio.

        Raises:
            InputError: the audio or the text can't be used, or both modalities are absent.
        """
        ids = self.word_piece.encode(text.clean(text.decode(sentence)))  # before the audio, because it is cheaper
        patches = np.empty((0, *audio.PATCH_SHAPE), np.float32)
        if data:
            patches = audio.sound_patches(decoding.decode(data, self.max_seconds))
        if len(patches) or len(ids):
            return patches, ids
        if data and sentence:
            raise InputError(f"AUDIO has {NO_SOUND}, and TEXT has no word left after cleaning; send speech or words")
        if data:
            raise InputError(f"AUDIO has {NO_SOUND}; check that the microphone is not muted, or send TEXT")
        if sentence:
            raise InputError("TEXT has no letter or digit left after cleaning, and AUDIO is empty; send words or audio")
        raise InputError("AUDIO and TEXT are both empty; send at least one of them")
