"""Validate custom resources against the CRDs of their projects, which are not part of this repository.

Set a directory of CustomResourceDefinitions in YAML: EMOSERVE_CRDS=DIR pytest tests/k8s/test_custom_resources.py
"""

import os
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # comes with kubernetes-validate
import pytest
import yaml

from tests.k8s.test_manifests import OVERLAYS, ROOT, rendered

DIRECTORIES = [*OVERLAYS, ROOT / "k8s" / "kserve", ROOT / "k8s" / "azure" / "gateway"]


def strict(schema: Any) -> Any:
    """Return an OpenAPI schema of Kubernetes as JSON Schema that rejects unknown fields."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: strict(value) for key, value in schema.items() if key != "properties"}
    if "properties" in schema:
        found["properties"] = {name: strict(value) for name, value in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            found.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        found.pop("type", None)
        found["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if schema.get("nullable") and "type" in found:
        found["type"] = [found["type"], "null"]
    return found


@cache
def schemas() -> dict[tuple[str, str], jsonschema.Draft7Validator]:
    """Return the validators by apiVersion and kind."""
    found = {}
    for path in sorted(Path(os.environ["EMOSERVE_CRDS"]).glob("*.yaml")):
        for crd in filter(None, yaml.safe_load_all(path.read_text())):
            for version in crd["spec"]["versions"]:
                schema = strict(version["schema"]["openAPIV3Schema"])
                schema["properties"]["metadata"] = {"type": "object"}
                key = f"{crd['spec']['group']}/{version['name']}", crd["spec"]["names"]["kind"]
                found[key] = jsonschema.Draft7Validator(schema)
    return found


@pytest.mark.skipif("EMOSERVE_CRDS" not in os.environ, reason="EMOSERVE_CRDS names no directory of CRDs")
@pytest.mark.parametrize("directory", DIRECTORIES, ids=lambda path: path.name)
def test_custom_resources_match_their_schemas(directory: Path) -> None:
    for one in rendered(directory):
        if validator := schemas().get((one["apiVersion"], one["kind"])):
            faults = [f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(one)]
            assert not faults, f"{one['kind']} {one['metadata']['name']}"


def test_strict_schema_rejects_unknown_and_mistyped_fields() -> None:
    schema = {
        "type": "object",
        "properties": {
            "spec": {
                "type": "object",
                "properties": {"port": {"x-kubernetes-int-or-string": True}, "size": {"type": "integer"}},
            }
        },
    }
    validator = jsonschema.Draft7Validator(strict(schema))
    assert validator.is_valid({"spec": {"port": "http", "size": 3}})
    assert not validator.is_valid({"spec": {"ports": 80}})
    assert not validator.is_valid({"spec": {"size": "3"}})
