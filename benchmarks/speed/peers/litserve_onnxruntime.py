"""LitServe + ONNX Runtime with dynamic batches: text is padded to the longest of the batch, patches lie end to end."""

from pathlib import Path
from typing import Any

import litserve
import numpy as np
from numpy.typing import NDArray

from benchmarks.speed.peers.service import CORES, arguments, log_mel, session
from emotion import text

MAX_BATCH = 8
BATCH_TIMEOUT_S = 0.01


Batch = tuple[Any, Any, Any, Any]  # patches [total, 96, 64], their counts [batch], ids and mask [batch, longest]


class EmotionAPI(litserve.LitAPI):  # type: ignore[misc]  # LitServe has no type hints
    """The hooks of LitServe, in the order of its calls."""

    def __init__(self, checkpoint: Path, files: Path) -> None:
        super().__init__(max_batch_size=MAX_BATCH, batch_timeout=BATCH_TIMEOUT_S, api_path="/analyze")
        self.checkpoint, self.files = checkpoint, files

    def setup(self, device: str) -> None:
        """Load the models in the worker."""
        self.word_piece = text.WordPiece(self.checkpoint / "text_encoder" / "tokenizer.json")
        self.bert = session(self.files / "padded_triton/bert/1/model.onnx", CORES)
        self.vggish = session(self.files / "vggish.onnx", CORES)
        self.fusion = session(self.files / "padded_triton/fusion/1/model.onnx", 1)  # too small for several threads

    def decode_request(self, request: dict[str, str]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return patches and ids of one utterance; either may be empty."""
        return log_mel(request["audio"]), self.word_piece.encode(text.clean(request["text"]))

    def batch(self, inputs: list[tuple[NDArray[np.float32], NDArray[np.int64]]]) -> Batch:
        """Lay the patches end to end and pad the texts to the longest."""
        patches, sentences = zip(*inputs, strict=True)
        lengths = np.array([len(ids) for ids in sentences])
        mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
        ids = np.zeros_like(mask)
        ids[mask > 0] = np.concatenate(sentences)
        return np.concatenate(patches), np.array([len(part) for part in patches]), ids, mask

    def predict(self, batch: Batch) -> list[NDArray[np.float32]]:
        """Return the probabilities of the three views, [batch, 5] each."""
        patches, counts, ids, mask = batch
        audio = np.zeros((len(counts), 128), np.float32)
        if len(patches):
            embeddings = self.vggish.run(None, {"PATCHES": patches})[0]
            np.add.at(audio, np.repeat(np.arange(len(counts)), counts), embeddings)
            audio /= np.maximum(counts, 1)[:, None].astype(np.float32)
        words = np.zeros((len(ids), 256), np.float32)
        if ids.size:
            words = self.bert.run(None, {"INPUT_IDS": ids, "ATTENTION_MASK": mask})[0]
        views: list[NDArray[np.float32]] = self.fusion.run(
            ["PROBABILITIES", "AUDIO_PROBABILITIES", "TEXT_PROBABILITIES"],
            {
                "AUDIO_EMBEDDING": audio,
                "HAS_AUDIO": counts[:, None] > 0,
                "TEXT_EMBEDDING": words,
                "HAS_TEXT": mask.any(axis=1, keepdims=True),
            },
        )
        return views

    def unbatch(self, output: list[NDArray[np.float32]]) -> list[tuple[NDArray[np.float32], ...]]:
        """Return the views of each utterance."""
        return list(zip(*output, strict=True))

    def encode_response(self, output: tuple[NDArray[np.float32], ...]) -> dict[str, Any]:
        """Return the views of an utterance as JSON."""
        names = ("probabilities", "audio_probabilities", "text_probabilities")
        return {name: view.tolist() for name, view in zip(names, output, strict=True)}


if __name__ == "__main__":
    options = arguments(__doc__)
    api = EmotionAPI(options.checkpoint, options.files)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=False)
    server.run(host="127.0.0.1", port=options.port, log_level="warning", generate_client_file=False)
