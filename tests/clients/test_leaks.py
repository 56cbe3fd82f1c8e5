"""Clients that are made and closed over and over leave nothing behind."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

MEMORY = 1 << 20  # bytes; a hundred for each client


@pytest.mark.parametrize("kind", ["sync", "asyncio"])
def test_clients_leave_nothing_behind(server: Any, kind: str) -> None:
    """In a process of their own: what earlier tests left in this one comes and goes."""
    script = Path(__file__).with_name("make_clients.py")
    run = subprocess.run(
        [sys.executable, script, server.grpc_url, kind], stdout=subprocess.PIPE, text=True, timeout=300, check=True
    )
    before, after = json.loads(run.stdout)
    print(f"before {before}, after {after}")
    assert after["descriptors"] < before["descriptors"] + 16  # gRPC's own, and its threads, come and go
    assert after["threads"] < before["threads"] + 16
    assert after["memory"] < before["memory"] + MEMORY
