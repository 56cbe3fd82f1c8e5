"""Test that clients release all resources when they are closed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

MAX_GROWTH = 1 << 20  # bytes of memory, about 100 for each client


@pytest.mark.parametrize("kind", ["sync", "asyncio"])
def test_closed_clients_leak_no_resources(server: Any, kind: str) -> None:
    """Measure in a separate process, because resources of earlier tests change in this one."""
    script = Path(__file__).with_name("make_clients.py")
    run = subprocess.run(
        [sys.executable, script, server.grpc_url, kind], stdout=subprocess.PIPE, text=True, timeout=300, check=True
    )
    before, after = json.loads(run.stdout)
    print(f"before {before}, after {after}")
    assert after["descriptors"] < before["descriptors"] + 16  # gRPC's own descriptors and threads vary
    assert after["threads"] < before["threads"] + 16
    assert after["memory"] < before["memory"] + MAX_GROWTH
