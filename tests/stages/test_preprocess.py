"""The stage `preprocess`: when it asks admission."""

import importlib.util
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from emotion import audio, decoding, text
from emotion.errors import BusyError


class AdmissionOfCheapRequests:
    """An Admission that rejects what costs anything, and records what it was asked."""

    def __init__(self) -> None:
        self.costs: list[float] = []

    def check(self, timeout: int, bulk: bool, cost: float = 0.0) -> None:
        assert (timeout, bulk) == (5_000_000, True)
        self.costs.append(cost)
        if cost:
            raise BusyError("the server is busy")


def test_tensors_asks_admission_before_decoding_and_again_with_the_cost(
    run_stages: ModuleType, repository: Path, recordings: dict[str, bytes]
) -> None:
    directory = repository / "preprocess" / "1"
    spec = importlib.util.spec_from_file_location("preprocess", directory / "model.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    stage, admission = module.TritonPythonModel(), AdmissionOfCheapRequests()
    stage.admission, stage.checkpoint, stage.max_seconds = admission, b"{}", 60.0
    stage.word_piece = text.WordPiece(directory / "tokenizer.json")
    clip = recordings["austen-0880.flac"]
    with pytest.raises(BusyError):
        stage.tensors(SimpleNamespace(inputs=[(clip, b"hello"), (b"", b"hello")], timeout=5_000_000, bulk=True))
    patches, tokens = len(audio.sound_patches(decoding.decode(clip))), 2 * len(["[CLS]", "hello", "[SEP]"])
    assert admission.costs == [0.0, pytest.approx(patches + 0.1 * tokens)]
