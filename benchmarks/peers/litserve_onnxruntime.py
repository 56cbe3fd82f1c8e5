"""LitServe + ONNX Runtime with dynamic batching: text padded to the longest of the batch, patches end to end."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import litserve
import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.service import CORES, arguments, log_mel, session
from emotion import text

MAX_BATCH = 8
BATCH_TIMEOUT = 0.01  # s


@dataclass(frozen=True)
class Batch:
    """Utterances of one run: patches [total, 96, 64] with their counts [batch], ids and mask [batch, longest]."""

    patches: NDArray[np.float32]
    counts: NDArray[np.int64]
    ids: NDArray[np.int64]
    mask: NDArray[np.int64]


class EmotionAPI(litserve.LitAPI):  # type: ignore[misc]  # LitServe has no type hints
    """LitServe's hooks in the order in which it calls them."""

    def __init__(self, checkpoint: Path, files: Path) -> None:
        super().__init__(max_batch_size=MAX_BATCH, batch_timeout=BATCH_TIMEOUT, api_path="/analyze")
        self.checkpoint, self.files = checkpoint, files

    def setup(self, device: str) -> None:
        """Load everything, in the worker."""
        self.word_piece = text.WordPiece(self.checkpoint / "text_encoder" / "tokenizer.json")
        self.bert = session(self.files / "padded_triton/bert/1/model.onnx", CORES)
        self.vggish = session(self.files / "vggish.onnx", CORES)
        self.fusion = session(self.files / "padded_triton/fusion/1/model.onnx", 1)  # too small to share out

    def decode_request(self, request: dict[str, str]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Patches and ids of one utterance; either may be empty."""
        return log_mel(request["audio"]), self.word_piece.encode(text.clean(request["text"]))

    def batch(self, inputs: list[tuple[NDArray[np.float32], NDArray[np.int64]]]) -> Batch:
        """Lay the patches end to end and pad the texts to the longest."""
        patches, sentences = zip(*inputs, strict=True)
        lengths = np.array([len(ids) for ids in sentences])
        mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
        ids = np.zeros_like(mask)
        ids[mask > 0] = np.concatenate(sentences)
        return Batch(np.concatenate(patches), np.array([len(part) for part in patches]), ids, mask)

    def predict(self, batch: Batch) -> list[NDArray[np.float32]]:
        """The three views' probabilities, [batch, 5] each."""
        audio = np.zeros((len(batch.counts), 128), np.float32)
        if len(batch.patches):
            embeddings = self.vggish.run(None, {"PATCHES": batch.patches})[0]
            rows = np.repeat(np.arange(len(batch.counts)), batch.counts)
            np.add.at(audio, rows, embeddings)
            audio /= np.maximum(batch.counts, 1)[:, None].astype(np.float32)
        words = np.zeros((len(batch.ids), 256), np.float32)
        if batch.ids.size:
            words = self.bert.run(None, {"INPUT_IDS": batch.ids, "ATTENTION_MASK": batch.mask})[0]
        views: list[NDArray[np.float32]] = self.fusion.run(
            ["PROBABILITIES", "AUDIO_PROBABILITIES", "TEXT_PROBABILITIES"],
            {
                "AUDIO_EMBEDDING": audio,
                "HAS_AUDIO": batch.counts[:, None] > 0,
                "TEXT_EMBEDDING": words,
                "HAS_TEXT": batch.mask.any(axis=1, keepdims=True),
            },
        )
        return views

    def unbatch(self, output: list[NDArray[np.float32]]) -> list[tuple[NDArray[np.float32], ...]]:
        """The views of each utterance."""
        return list(zip(*output, strict=True))

    def encode_response(self, output: tuple[NDArray[np.float32], ...]) -> dict[str, Any]:
        """As JSON."""
        names = ("probabilities", "audio_probabilities", "text_probabilities")
        return {name: view.tolist() for name, view in zip(names, output, strict=True)}


def main() -> None:
    """Serve until told to stop."""
    options = arguments(__doc__)
    server = litserve.LitServer(
        EmotionAPI(options.checkpoint, options.files), accelerator="cpu", workers_per_device=1, timeout=False
    )
    server.run(host="127.0.0.1", port=options.port, log_level="warning", generate_client_file=False)


if __name__ == "__main__":
    main()
