"""Runs the served models one after the other, in this process or under another ONNX Runtime.

It imports numpy and ONNX Runtime alone, so that `export.runtimes` can start it in an environment that has nothing else:
`python export/chain.py INPUTS.npz OUTPUTS.npz MODEL.onnx...`.
"""

import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray


def open_session(path: str, threads: int = 0) -> onnxruntime.InferenceSession:
    """Load an ONNX file as Triton does on a CPU.

    Args:
        threads: for each operator; 0 for as many as there are cores.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # as Triton runs it; faster, too, on cores that are shared
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(
    sessions: Sequence[onnxruntime.InferenceSession], inputs: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Return all outputs of models of which each takes `inputs`, and outputs of those before it, by name."""
    outputs: dict[str, NDArray[Any]] = {}
    for session in sessions:
        tensors = {**inputs, **outputs}
        names = [node.name for node in session.get_outputs()]
        found = session.run(names, {node.name: tensors[node.name] for node in session.get_inputs()})
        outputs |= dict(zip(names, found, strict=True))
    return outputs


def main() -> None:
    """Run the models on every batch of a file with arrays called BATCH/NAME, and write their outputs likewise."""
    source, target, *files = sys.argv[1:]
    sessions = [open_session(file) for file in files]
    batches: defaultdict[str, dict[str, NDArray[Any]]] = defaultdict(dict)
    for key, array in np.load(source).items():
        number, _, name = key.partition("/")
        batches[number][name] = array
    found = {
        f"{number}/{name}": array for number, inputs in batches.items() for name, array in run(sessions, inputs).items()
    }
    np.savez(target, **found)


if __name__ == "__main__":
    main()
