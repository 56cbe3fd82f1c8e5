"""Send many files to the emotion server concurrently, with tritonclient alone (pip install 'tritonclient[grpc]')."""

import argparse
import asyncio
from pathlib import Path

import numpy as np
import tritonclient.grpc.aio as triton


def tensor(name: str, value: bytes) -> triton.InferInput:
    """Return a BYTES tensor [1, 1], a batch of one utterance."""
    result = triton.InferInput(name, [1, 1], "BYTES")
    result.set_data_from_numpy(np.array([[value]], dtype=np.object_))
    return result


async def emotion(client: triton.InferenceServerClient, audio: Path) -> str:
    """Return the most probable emotion of one file, such as `anger 58.0%`."""
    answer = await client.infer(
        "emotion",
        inputs=[tensor("AUDIO", audio.read_bytes()), tensor("TEXT", b"")],  # zero bytes: absent
        outputs=[triton.InferRequestedOutput("PROBABILITIES", class_count=1)],
        client_timeout=30.0,
        timeout=30_000_000,  # us: the server drops the request after this time
    )
    probability, _, label = answer.as_numpy("PROBABILITIES")[0, 0].decode().split(":")
    return f"{label} {float(probability):.1%}"


async def main() -> None:
    """Print one line per file. The requests are sent concurrently, and the server batches them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--endpoint", default="localhost:8001", metavar="HOST:PORT", help="gRPC endpoint (default: localhost:8001)"
    )
    parser.add_argument("audio", nargs="+", type=Path, help="audio files")
    options = parser.parse_args()

    async with triton.InferenceServerClient(options.endpoint) as client:
        answers = await asyncio.gather(*(emotion(client, audio) for audio in options.audio))
    for audio, answer in zip(options.audio, answers, strict=True):
        print(f"{audio.name}: {answer}")


if __name__ == "__main__":
    asyncio.run(main())
