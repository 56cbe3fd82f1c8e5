"""OpenVINO in one process, without a server: the peers' plain ONNX files; patches lie end to end, texts are padded."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import openvino
from numpy.typing import NDArray

from benchmarks.speed.peers.export import export
from benchmarks.speed.peers.service import Answer, OnnxModels
from export import parity


class Session:
    """An ONNX file in OpenVINO, which is called as a session of ONNX Runtime is."""

    def __init__(self, path: Path, threads: int) -> None:
        settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}  # default with AMX: bfloat16
        self._model = openvino.Core().compile_model(path, "CPU", settings)

    def run(self, names: Sequence[str] | None, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Return outputs by name, or all of them."""
        found = self._model(inputs)
        return [found[name] for name in names or self._model.outputs]


def models(checkpoint: Path, directory: Path) -> Callable[[Sequence[parity.Utterance]], list[Answer]]:
    """Return a function that runs a batch on all cores; `directory` keeps exports for the next start."""
    found = OnnxModels(checkpoint, export(checkpoint, directory), Session)
    return lambda batch: found([(each.patches, each.ids) for each in batch])
