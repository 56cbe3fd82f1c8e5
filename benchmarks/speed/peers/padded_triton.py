"""The stage `preprocess` of the conventional ensemble; tokenizer.json and checkpoint.json lie beside it."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.speed.peers.service import PaddedWordPiece, log_mel
from emotion import text
from emotion.ragged import at_least_one
from stages.requests import bytes_rows, response


class TritonPythonModel:
    """One instance, which has its own process."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the tokenizer and the description of the checkpoint."""
        directory = Path(args["model_repository"], args["model_version"])
        self.word_piece = PaddedWordPiece(directory / "tokenizer.json")
        self.checkpoint = (directory / "checkpoint.json").read_bytes()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Return the responses of a batch of requests."""
        return [response(partial(self.tensors, request))[0] for request in requests]

    def tensors(self, request: Any) -> dict[str, NDArray[Any]]:
        """Return PATCHES [1, patches, 96, 64], INPUT_IDS and ATTENTION_MASK [1, 128], HAS_AUDIO and HAS_TEXT."""
        data, sentence = bytes_rows(request, "AUDIO")[0], bytes_rows(request, "TEXT")[0]
        patches = log_mel(data)
        ids, mask = self.word_piece.encode(text.decode(sentence))
        return {
            "PATCHES": at_least_one(patches)[None],  # Triton's backends cannot batch a tensor without elements
            "HAS_AUDIO": np.array([[len(patches) > 0]]),
            "INPUT_IDS": ids[None],
            "ATTENTION_MASK": mask[None],
            "HAS_TEXT": np.array([[bool(mask.any())]]),
            "CHECKPOINT": np.array([[self.checkpoint]], object),
        }
