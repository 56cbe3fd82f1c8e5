"""A stand-in for Triton's module for Python models, which exists only inside Triton's own processes."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

RUN_STAGES = Path(__file__).parent.parent.parent / "docker" / "run_stages.py"


@pytest.fixture
def run_stages(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the module docker/run_stages.py, with its stand-in for Triton's module installed."""
    spec = importlib.util.spec_from_file_location("run_stages", RUN_STAGES)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", module.backend_utilities())
    for name in ("requests", "queue_metrics", "request_queue"):  # these import that module
        monkeypatch.delitem(sys.modules, f"stages.{name}", raising=False)
    return module
