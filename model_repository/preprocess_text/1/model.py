"""Triton stage `preprocess_text`: TEXT -> INPUT_IDS, TOKEN_COUNT, and the CHECKPOINT that answers.

Beside this file the export leaves tokenizer.json and checkpoint.json.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emotion import text
from stages.admission import Admission
from stages.requests import bytes_rows, pad_rows, respond_per_request
from stages.wakeup import Waker


class TritonPythonModel:
    """One instance: a process of its own."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the tokenizer and what is to be said of the checkpoint."""
        directory = Path(args["model_repository"], args["model_version"])
        checkpoint = json.loads((directory / "checkpoint.json").read_text())
        self.word_piece = text.WordPiece(directory / "tokenizer.json", checkpoint["max_tokens"])
        self.admission, self.waker = Admission(), Waker(json.loads(args["model_config"]))
        self.checkpoint = json.dumps({key: checkpoint[key] for key in ("digest", "untrained")}).encode()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Called by Triton with a batch of requests."""
        with self.waker.batch():
            return respond_per_request(requests, self.tensors)

    def tensors(self, request: Any) -> dict[str, NDArray[Any]]:
        """INPUT_IDS int64 [n, longest], TOKEN_COUNT int32 [n, 1], CHECKPOINT BYTES [n, 1] for n utterances."""
        # the first stage of every utterance: who can't be answered in time is told before any work is done
        self.admission.check(request.timeout(), "bulk" in json.loads(request.parameters() or "{}"))
        sentences = bytes_rows(request, "TEXT")
        ids, count = pad_rows([self.word_piece.encode(text.clean(text.decode(data))) for data in sentences])
        return {
            "INPUT_IDS": ids,
            "TOKEN_COUNT": count,
            "CHECKPOINT": np.full((len(sentences), 1), self.checkpoint, object),
        }
