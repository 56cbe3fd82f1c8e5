"""FastAPI + ONNX Runtime: each request runs alone, unpadded, on all cores.

FastAPI calls a plain `def` endpoint in its thread pool, and several threads may run an ONNX Runtime session at once.
"""

import uvicorn
from fastapi import FastAPI

from benchmarks.speed.peers.service import Answer, OnnxModels, Request, arguments


def application(models: OnnxModels) -> FastAPI:
    """Return the service."""
    app = FastAPI()

    @app.post("/analyze")
    def analyze(request: Request) -> Answer:
        return models([models.read(request)])[0]

    return app


if __name__ == "__main__":
    options = arguments(__doc__)
    uvicorn.run(application(OnnxModels(options.checkpoint, options.files)), port=options.port, log_level="warning")
