"""LitServe + ONNX Runtime with dynamic batches: text is padded to the longest of the batch, patches lie end to end."""

from pathlib import Path
from typing import Any

import litserve

from benchmarks.speed.peers.service import Answer, FrontEnd, OnnxModels, Request, arguments

MAX_BATCH = 16
BATCH_TIMEOUT_S = 0.01


class EmotionAPI(litserve.LitAPI):  # type: ignore[misc]  # LitServe has no type hints
    """The hooks of LitServe, in the order of its calls."""

    def __init__(self, checkpoint: Path, files: Path) -> None:
        super().__init__(max_batch_size=MAX_BATCH, batch_timeout=BATCH_TIMEOUT_S, api_path="/analyze")
        self.checkpoint, self.files = checkpoint, files

    def setup(self, device: str) -> None:
        """Load the models in the worker."""
        self.models = OnnxModels(self.checkpoint, self.files)

    def decode_request(self, request: dict[str, Any]) -> FrontEnd:
        """Return the front-end output of one utterance."""
        return self.models.read(Request(**request))

    def predict(self, batch: list[FrontEnd]) -> list[Answer]:
        """Return the answers of a batch."""
        return self.models(batch)


if __name__ == "__main__":
    options = arguments(__doc__)
    api = EmotionAPI(options.checkpoint, options.files)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=False)
    server.run(host="127.0.0.1", port=options.port, log_level="warning", generate_client_file=False)
