"""Test the exported files on each ONNX Runtime version of Triton; each version is installed once, below build/."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from export import runtimes
from export.parity import TOLERANCES
from export.repository import model_file


@pytest.fixture(scope="module", params=["fp32", "fp16", "int8"])
def exported(request: pytest.FixtureRequest, narrow_repository: Callable[[str], Path]) -> tuple[Path, str]:
    """Return the directory of the small model's files in one precision, and the precision."""
    return narrow_repository(request.param), request.param


@pytest.mark.parametrize("version", runtimes.RUNTIMES)
def test_compare_of_every_combination_of_absent_modalities_is_within_tolerance(
    exported: tuple[Path, str], version: str
) -> None:
    repository, precision = exported
    comparison = runtimes.compare(repository, precision, version)
    assert comparison.difference <= comparison.tolerance == TOLERANCES[precision].eager
    assert comparison.tensor


def test_batches_contain_every_pair_of_modalities() -> None:
    found = {tuple((len(each.patches) > 0, len(each.ids) > 0) for each in batch) for batch in runtimes.batches()}
    assert len(found) == len(list(runtimes.batches())) == 16


def test_compare_with_other_weights_is_over_tolerance(
    exported: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the other ONNX Runtime runs a changed file, so a difference shows that its answers are compared."""
    repository, precision = exported
    if precision != "fp32":
        pytest.skip("tested with fp32 only")
    changed = shutil.copytree(repository, tmp_path / "repository")
    run = subprocess.run

    def run_on_changed(command: list[object], **options: object) -> object:
        path = model_file(changed, "fusion", precision)
        original = path.read_bytes()
        model = onnx.load(path)
        for tensor in model.graph.initializer:
            if tensor.name.endswith("bias"):
                values = onnx.numpy_helper.to_array(tensor) + np.arange(tensor.dims[0], dtype=np.float32)
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        onnx.save_model(model, path)
        try:
            return run(command, **options)  # type: ignore[call-overload]
        finally:
            path.write_bytes(original)

    monkeypatch.setattr(subprocess, "run", run_on_changed)
    comparison = runtimes.compare(changed, precision, "1.19.2")
    assert comparison.difference > comparison.tolerance
    assert comparison.tensor.endswith("PROBABILITIES")


def test_environment_of_an_unknown_version_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "ENVIRONMENTS", tmp_path / "runtimes")
    with pytest.raises(
        runtimes.RuntimeUnavailable, match=r"ONNX Runtime 0\.0\.1 cannot be installed \(ERROR: No match"
    ):
        runtimes.environment("0.0.1")
    assert not list((tmp_path / "runtimes").glob("*"))
