"""Call the emotion server over gRPC with tritonclient alone (pip install 'tritonclient[grpc]')."""

import argparse
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton


def tensor(name: str, value: bytes) -> triton.InferInput:
    """Return a BYTES tensor [1, 1], a batch of one utterance."""
    result = triton.InferInput(name, [1, 1], "BYTES")
    result.set_data_from_numpy(np.array([[value]], dtype=np.object_))
    return result


def main() -> None:
    """Print the five emotions of one utterance, most probable first, and the confidence."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--endpoint", default="localhost:8001", metavar="HOST:PORT", help="gRPC endpoint (default: localhost:8001)"
    )
    parser.add_argument("--text", default="", help="transcript (default: none)")
    parser.add_argument("audio", nargs="?", type=Path, help="audio file (default: none)")
    options = parser.parse_args()

    with triton.InferenceServerClient(options.endpoint) as client:
        answer = client.infer(
            "emotion",
            inputs=[
                tensor("AUDIO", options.audio.read_bytes() if options.audio else b""),  # zero bytes: absent
                tensor("TEXT", options.text.encode()),
            ],
            # class_count: the classification extension, with which the server sorts and labels the probabilities
            outputs=[
                triton.InferRequestedOutput("PROBABILITIES", class_count=5),
                triton.InferRequestedOutput("CONFIDENCE"),
            ],
            client_timeout=30.0,
            timeout=30_000_000,  # us: the server drops the request after this time
        )
    for entry in answer.as_numpy("PROBABILITIES")[0]:
        probability, _, label = entry.decode().split(":")
        print(f"{label:12} {float(probability):6.1%}")
    print(f"{'confidence':12} {answer.as_numpy('CONFIDENCE')[0, 0]:6.1%}")


if __name__ == "__main__":
    main()
