"""Call the models of the ensemble `emotion` one by one with tritonclient alone (pip install 'tritonclient[grpc]').

The answer equals that of one call of `emotion`, but takes four calls. Use this to get embeddings, or to send patches or
token ids that you already have.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from numpy.typing import NDArray
from tritonclient.utils import np_to_triton_dtype

EMOTIONS = ("neutral", "frustration", "anger", "sadness", "excitement")


def infer(client: triton.InferenceServerClient, model: str, **inputs: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Call a model with one utterance. Inputs and outputs are tensors by name, without the batch dimension."""
    tensors = []
    for name, array in inputs.items():
        tensors.append(triton.InferInput(name, [1, *array.shape], np_to_triton_dtype(array.dtype)))
        tensors[-1].set_data_from_numpy(array[None])
    result = client.infer(model, tensors, client_timeout=30.0, timeout=30_000_000)
    return {output.name: result.as_numpy(output.name)[0] for output in result.get_response().outputs}


def main() -> None:
    """Print the sizes of both embeddings, and the five emotions of one utterance."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--endpoint", default="localhost:8001", metavar="HOST:PORT", help="gRPC endpoint (default: localhost:8001)"
    )
    parser.add_argument("--text", default="", help="transcript (default: none)")
    parser.add_argument("audio", nargs="?", type=Path, help="audio file (default: none)")
    options = parser.parse_args()
    audio = options.audio.read_bytes() if options.audio else b""  # zero bytes: absent

    with triton.InferenceServerClient(options.endpoint) as client:
        inputs = infer(
            client,
            "preprocess",
            AUDIO=np.array([audio], np.object_),
            TEXT=np.array([options.text.encode()], np.object_),
        )
        voice = infer(client, "vggish", PATCHES=inputs["PATCHES"], PATCH_COUNT=inputs["PATCH_COUNT"])
        after = np.zeros(1, np.int32)  # its values are not used: this input orders the steps of the ensemble
        words = infer(client, "bert", INPUT_IDS=inputs["INPUT_IDS"], TOKEN_COUNT=inputs["TOKEN_COUNT"], AFTER=after)
        answer = infer(client, "fusion", **voice, **words)
    print(f"vggish: {voice['PATCHES_USED'][0]} patches used, {voice['AUDIO_EMBEDDING'].size} numbers")
    print(f"bert: {words['TOKENS_USED'][0]} tokens used, {words['TEXT_EMBEDDING'].size} numbers")
    for label, probability in zip(EMOTIONS, answer["PROBABILITIES"], strict=True):
        print(f"{label:12} {probability:6.1%}")


if __name__ == "__main__":
    main()
