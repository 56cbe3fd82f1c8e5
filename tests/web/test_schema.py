"""Test that the API conforms to its OpenAPI schema, with generated valid and invalid requests."""

import subprocess
import sys
from pathlib import Path

import httpx


def test_api_responses_conform_to_the_schema(address: str, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).parent / "schemathesis"), "run", f"{address}/api/openapi.json"]
    # a schema cannot express which bytes are a recording, nor that one of two fields is required
    command += [
        "--checks",
        "all",
        "--exclude-checks",
        "positive_data_acceptance",
        "--max-examples",
        "40",
        "--seed",
        "5",
        "--generation-deterministic",
        "--no-color",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-6000:]


def test_schema_has_examples(address: str) -> None:
    schema = httpx.get(f"{address}/api/openapi.json").json()
    assert set(schema["paths"]) == {"/api/health", "/api/analyze", "/api/utterances"}
    parts = schema["components"]["schemas"]
    for model in ("Analysis", "Problem", "Limits"):
        assert any("examples" in field for field in parts[model]["properties"].values()), model
