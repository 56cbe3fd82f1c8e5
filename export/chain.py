"""Run the served models one after the other, in this process or with another version of ONNX Runtime.

The module imports only numpy and ONNX Runtime, so that `export.runtimes` can run it in an environment with just these
packages: `python export/chain.py INPUTS.npz OUTPUTS.npz MODEL.onnx...`.
"""

import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray


def open_session(path: str, threads: int = 0) -> onnxruntime.InferenceSession:
    """Load an ONNX file on the CPU with the options that Triton uses.

    Args:
        path: the file.
        threads: number of threads of an operator; 0 is the number of cores.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # as in Triton; without spinning it is also faster on shared cores
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(
    sessions: Sequence[onnxruntime.InferenceSession], inputs: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Run models one after the other, and return all their outputs by name.

    Args:
        sessions: the models; each reads its inputs by name from `inputs` and from the outputs of earlier models.
        inputs: arrays by name.
    """
    outputs: dict[str, NDArray[Any]] = {}
    for session in sessions:
        tensors = {**inputs, **outputs}
        names = [node.name for node in session.get_outputs()]
        found = session.run(names, {node.name: tensors[node.name] for node in session.get_inputs()})
        outputs |= dict(zip(names, found, strict=True))
    return outputs


def main() -> None:
    """Run the models on each batch of a file with arrays named BATCH/NAME, and write their outputs in the same way."""
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
