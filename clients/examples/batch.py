"""Send several utterances in one request: tensors [8, 1] instead of [1, 1].

One invalid row fails the whole request. Separate requests fail individually, and the server batches them, too.
"""

import argparse

import numpy as np
import tritonclient.grpc as triton

CONFIDENT = 0.9  # nine in ten answers with this confidence are expected to be right
LINES = (
    "I can't believe it, we won!",
    "Fine. See you at nine.",
    "How often do I have to ask you?",
    "She was my best friend.",
    "Nobody ever answers that phone.",
    "The train leaves at four.",
    "Get out of my house!",
    "I miss him every day.",
)


def tensor(name: str, values: list[bytes]) -> triton.InferInput:
    """Return a BYTES tensor [batch, 1] with one row per utterance."""
    result = triton.InferInput(name, [len(values), 1], "BYTES")
    result.set_data_from_numpy(np.array(values, dtype=np.object_).reshape(-1, 1))
    return result


def main() -> None:
    """Print the most probable emotion of each line, with a question mark where the answer is not confident."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--endpoint", default="localhost:8001", metavar="HOST:PORT", help="gRPC endpoint (default: localhost:8001)"
    )
    options = parser.parse_args()

    texts = [line.encode() for line in LINES]
    with triton.InferenceServerClient(options.endpoint) as client:
        answer = client.infer(
            "emotion",
            inputs=[tensor("AUDIO", [b""] * len(texts)), tensor("TEXT", texts)],
            outputs=[
                triton.InferRequestedOutput("PROBABILITIES", class_count=1),
                triton.InferRequestedOutput("CONFIDENCE"),
            ],
            client_timeout=30.0,
            timeout=30_000_000,  # us: the server drops the request after this time
        )
    rows = zip(LINES, answer.as_numpy("PROBABILITIES"), answer.as_numpy("CONFIDENCE"), strict=True)
    for line, [entry], [confidence] in rows:
        probability, _, label = entry.decode().split(":")
        print(f"{label:12} {'' if confidence >= CONFIDENT else '?':1} {float(probability):6.1%}  {line}")


if __name__ == "__main__":
    main()
