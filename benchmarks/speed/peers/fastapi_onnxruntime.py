"""FastAPI + ONNX Runtime: each request runs alone, unpadded, on all cores.

FastAPI calls a plain `def` endpoint in its thread pool, and several threads may run an ONNX Runtime session at once.
"""

from pathlib import Path

import numpy as np
import uvicorn
from fastapi import FastAPI

from benchmarks.speed.peers.service import CORES, Answer, Request, arguments, log_mel, session
from emotion import text


def application(checkpoint: Path, files: Path) -> FastAPI:
    """Return the service on the files of benchmarks.speed.peers.export."""
    app = FastAPI()
    word_piece = text.WordPiece(checkpoint / "text_encoder" / "tokenizer.json")
    bert = session(files / "padded_triton/bert/1/model.onnx", CORES)
    vggish = session(files / "vggish.onnx", CORES)
    fusion = session(files / "padded_triton/fusion/1/model.onnx", 1)  # too small for several threads

    @app.post("/analyze")
    def analyze(request: Request) -> Answer:
        patches = log_mel(request.audio)
        ids = word_piece.encode(text.clean(request.text))[None]
        audio_embedding, text_embedding = np.zeros((1, 128), np.float32), np.zeros((1, 256), np.float32)
        if patches.size:
            audio_embedding = vggish.run(None, {"PATCHES": patches})[0].mean(axis=0, keepdims=True)
        if ids.size:
            text_embedding = bert.run(None, {"INPUT_IDS": ids, "ATTENTION_MASK": np.ones_like(ids)})[0]
        fused, audio_view, text_view = fusion.run(
            ["PROBABILITIES", "AUDIO_PROBABILITIES", "TEXT_PROBABILITIES"],
            {
                "AUDIO_EMBEDDING": audio_embedding,
                "HAS_AUDIO": np.array([[patches.size > 0]]),
                "TEXT_EMBEDDING": text_embedding,
                "HAS_TEXT": np.array([[ids.size > 0]]),
            },
        )
        return Answer(
            probabilities=fused[0].tolist(),
            audio_probabilities=audio_view[0].tolist(),
            text_probabilities=text_view[0].tolist(),
        )

    return app


if __name__ == "__main__":
    options = arguments(__doc__)
    uvicorn.run(application(options.checkpoint, options.files), port=options.port, log_level="warning")
