"""Call the emotion server over HTTP with tritonclient alone (pip install 'tritonclient[http]')."""

import argparse
import json
from pathlib import Path

import numpy as np
import tritonclient.http as triton

EMOTIONS = ("neutral", "frustration", "anger", "sadness", "excitement")


def tensor(name: str, value: bytes) -> triton.InferInput:
    """Return a BYTES tensor [1, 1], a batch of one utterance."""
    result = triton.InferInput(name, [1, 1], "BYTES")
    result.set_data_from_numpy(np.array([[value]], dtype=np.object_))
    return result


def main() -> None:
    """Print the five emotions of one utterance, the confidence, and the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--endpoint", default="localhost:8000", metavar="HOST:PORT", help="HTTP endpoint (default: localhost:8000)"
    )
    parser.add_argument("--text", default="", help="transcript (default: none)")
    parser.add_argument("audio", nargs="?", type=Path, help="audio file (default: none)")
    options = parser.parse_args()

    audio = options.audio.read_bytes() if options.audio else b""  # zero bytes: absent
    with triton.InferenceServerClient(options.endpoint, network_timeout=30.0) as client:
        answer = client.infer(
            "emotion",
            inputs=[tensor("AUDIO", audio), tensor("TEXT", options.text.encode())],
            timeout=30_000_000,  # us: the server drops the request after this time
        )
    for label, probability in zip(EMOTIONS, answer.as_numpy("PROBABILITIES")[0], strict=True):
        print(f"{label:12} {probability:6.1%}")
    print(f"{'confidence':12} {answer.as_numpy('CONFIDENCE')[0, 0]:6.1%}")
    print("checkpoint  ", json.loads(answer.as_numpy("CHECKPOINT")[0, 0]))


if __name__ == "__main__":
    main()
