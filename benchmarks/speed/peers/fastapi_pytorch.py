"""FastAPI + eager PyTorch: one request at a time, text padded to 128 tokens."""

import threading

import torch
import uvicorn
from fastapi import FastAPI

from benchmarks.speed.peers.service import CORES, Answer, PaddedWordPiece, Request, answer, arguments, log_mel
from emotion import checkpoint as checkpoints
from emotion.checkpoint import Checkpoint
from emotion.model import AUDIO_EMBEDDING, TEXT_EMBEDDING, probabilities


def application(checkpoint: Checkpoint) -> FastAPI:
    """Return the service on a loaded checkpoint."""
    app = FastAPI()
    model = checkpoint.model.eval()
    word_piece = PaddedWordPiece(checkpoint.tokenizer)
    one_at_a_time = threading.Lock()  # each inference uses all cores

    @app.post("/analyze")
    def analyze(request: Request) -> Answer:
        patches = torch.from_numpy(log_mel(request.audio))
        ids, mask = (torch.from_numpy(row)[None] for row in word_piece.encode(request.text))
        counts = torch.tensor([len(patches)])
        has_audio, has_text = counts > 0, mask.sum(1) > 0
        with one_at_a_time, torch.inference_mode():
            # an absent modality is not computed: the head ignores its embedding
            sound = model.embed_audio(patches, counts) if has_audio else torch.zeros(1, AUDIO_EMBEDDING)
            words = model.embed_text(ids, mask) if has_text else torch.zeros(1, TEXT_EMBEDDING)
            views = probabilities(model.head(sound, has_audio, words, has_text), has_audio, has_text)
        return answer([view[0].numpy() for view in (views.fused, views.audio, views.text)])

    return app


if __name__ == "__main__":
    options = arguments(__doc__)
    torch.set_num_threads(CORES)
    uvicorn.run(application(checkpoints.load(options.checkpoint)), port=options.port, log_level="warning")
