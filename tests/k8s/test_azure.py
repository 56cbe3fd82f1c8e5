"""What is written for Azure, as far as it can be checked without a subscription."""

import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from pycep import BicepParser

ROOT = Path(__file__).parent.parent.parent
AZURE = ROOT / "k8s" / "azure"
SCRIPT = AZURE / "deploy.sh"
BIN = Path(sys.executable).parent
COMMANDS = {
    "create": ["--location", "westeurope"],
    "deploy": ["--host", "emotion.example.com", "--email", "ops@example.com", "--tag", "1.2.3"],
    "status": [],
    "destroy": [],
}


@cache
def bicep(name: str) -> dict[str, Any]:
    return dict(BicepParser().parse(file_path=AZURE / name))


def deploy(*arguments: str, path: str = "/usr/bin:/bin", answer: str = "") -> subprocess.CompletedProcess[str]:
    environment = {"PATH": path, "HOME": "/nonexistent"}
    return subprocess.run(
        [SCRIPT, *arguments], env=environment, input=answer, capture_output=True, text=True, check=False, timeout=60
    )


def dry_run(command: str) -> list[str]:
    """The commands that it would run, without those who stand for what Azure answers."""
    done = deploy(command, "--group", "emo1", *COMMANDS[command], "--dry-run")
    assert done.returncode == 0, done.stderr
    lines = [*done.stderr.splitlines(), *done.stdout.splitlines()]
    return [line.strip() for line in lines if line.startswith(("az ", "kubectl "))]


# ---- Bicep


@pytest.mark.parametrize("name", ["main.bicep", "monitoring.bicep"])
def test_bicep_can_be_parsed_and_every_parameter_is_used(name: str) -> None:
    text = (AZURE / name).read_text()
    for kind in ("parameters", "variables"):
        for declared in bicep(name).get(kind, {}):
            assert len(re.findall(rf"\b{declared}\b", text)) > 1, declared


def test_the_module_gets_what_it_asks_for() -> None:
    given = re.search(r"module \w+ '([\w.]+)' = {.*?params: {(.*?)}", (AZURE / "main.bicep").read_text(), re.DOTALL)
    assert given
    assert set(re.findall(r"(\w+):", given[2])) == set(bicep(given[1])["parameters"])
    assert set(re.findall(r"monitoring\.outputs\.(\w+)", (AZURE / "main.bicep").read_text())) <= set(
        bicep(given[1])["outputs"]
    )


def test_script_and_template_agree() -> None:
    script = SCRIPT.read_text()
    assert set(re.findall(r"\$\(output (\w+)\)", script)) <= set(bicep("main.bicep")["outputs"])
    (given,) = (line for line in script.splitlines() if "--parameters" in line)
    names = set(re.findall(r'"(\w+)=', given))
    parameters = bicep("main.bicep")["parameters"]
    assert names <= set(parameters)
    assert {name for name, one in parameters.items() if not one.get("default")} <= names


def test_rules_have_the_two_groups_that_the_template_takes() -> None:
    rules = yaml.safe_load((ROOT / "k8s" / "components" / "monitoring" / "rules.yaml").read_text())
    signals, alerts = rules["spec"]["groups"]
    assert all("record" in rule for rule in signals["rules"])
    assert all("alert" in rule for rule in alerts["rules"])
    assert max(len(signals["rules"]), len(alerts["rules"])) <= 20  # Azure's limit of a group
    for rule in alerts["rules"]:
        assert re.fullmatch(r"PT\d+[SM]", f"PT{rule.get('for', '0m').upper()}")  # as the template makes it


def test_gpu_nodes_take_the_pods_and_nothing_else() -> None:
    """Labels and taints of the pool are those that the overlay's pods ask for and tolerate."""
    pod = yaml.safe_load((ROOT / "k8s" / "overlays" / "gpu" / "gpu.yaml").read_text())["spec"]["template"]["spec"]
    text = (AZURE / "main.bicep").read_text()
    for label, value in pod["nodeSelector"].items():
        assert f"'{label}': '{value}'" in text
    assert f"'{pod['tolerations'][0]['key']}=present:NoSchedule'" in text


# ---- deploy.sh


def test_shellcheck_finds_nothing() -> None:
    done = subprocess.run([BIN / "shellcheck", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_a_dry_run_needs_nothing(command: str) -> None:
    printed = dry_run(command)
    assert printed
    assert all("emo1" in line or "<" in line for line in printed if line.startswith("az ") and "ad " not in line)


def test_what_is_created_is_looked_at_first() -> None:
    steps = [line.split(" --")[0] for line in dry_run("create")]
    assert steps.index("az deployment group what-if") < steps.index("az deployment group create")


def test_deployed_is_what_was_built() -> None:
    printed = dry_run("deploy")
    built = {line.split("--image ")[1].split()[0] for line in printed if line.startswith("az acr build")}
    assert built == {"emoserve-gpu:1.2.3", "emoserve-models:1.2.3", "emoserve-web:1.2.3"}
    for dockerfile in (line.split("--file ")[1].split()[0] for line in printed if line.startswith("az acr build")):
        assert (ROOT / dockerfile).is_file()
    rendered = subprocess.run(
        [BIN / "kubectl", "kustomize", AZURE / ".generated"], capture_output=True, text=True, check=True
    ).stdout
    assert {image.partition("/")[2] for image in re.findall(r"image: (\S+)", rendered)} == built
    assert "example.com" not in rendered.replace("emotion.example.com", "").replace("ops@example.com", "").replace(
        "git.example.com", ""
    )
    assert "00000000-0000" not in rendered
    (ingress,) = (one for one in yaml.safe_load_all(rendered) if one["kind"] == "Ingress")
    issuers = {one["metadata"]["name"] for one in yaml.safe_load_all(rendered) if one["kind"] == "ClusterIssuer"}
    assert {ingress["metadata"]["annotations"]["cert-manager.io/cluster-issuer"]} == issuers


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "'' is no command: give create, deploy, status or destroy"),
        (["remove"], "'remove' is no command: give create, deploy, status or destroy"),
        (["create"], "--group is '': give 3 to 12 lower-case letters and digits, the first a letter"),
        (["create", "--group", "No-Name"], "--group is 'No-Name': give 3 to 12 lower-case letters and digits"),
        (["create", "--group"], "--group needs a value: see k8s/azure/deploy.sh --help"),
        (["create", "--group", "emo1", "--gpus", "1"], "'--gpus' is no option: see k8s/azure/deploy.sh --help"),
        (["create", "--group", "emo1", "--gpu-nodes", "two"], "--gpu-nodes is 'two': give a number"),
        (["deploy", "--group", "emo1"], "deploy needs --host NAME, the page's host name"),
        (["deploy", "--group", "emo1", "--host", 'a"b'], "--host is 'a\"b': give a host name"),
        (["deploy", "--group", "emo1", "--host", "a.b"], "deploy needs --email ADDRESS"),
        (["deploy", "--group", "emo1", "--tag", "a b"], "--tag is 'a b': give letters, digits"),
    ],
)
def test_wrong_usage_is_one_sentence(arguments: list[str], sentence: str) -> None:
    done = deploy(*arguments)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"error: {sentence}"), done.stderr


def test_what_is_missing_is_named() -> None:
    if shutil.which("az", path="/usr/bin:/bin"):
        pytest.skip("az is installed")
    done = deploy("status", "--group", "emo1")
    assert (done.returncode, done.stderr) == (1, "error: az is missing: install it (docs/azure.md says from where)\n")


@pytest.fixture
def recorder(tmp_path: Path) -> Path:
    """A directory with an az and a kubectl that write down how they are called."""
    for name in ("az", "kubectl"):
        tool = tmp_path / name
        tool.write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/called\n')
        tool.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(
    ("command", "right", "acts"),
    [("create", "yes", "az deployment group create"), ("destroy", "emo1", "az group delete")],
)
def test_it_asks_before_it_spends_or_destroys(recorder: Path, command: str, right: str, acts: str) -> None:
    path = f"{recorder}:/usr/bin:/bin"
    called = recorder / "called"
    for answer in ("no", "", "y"):
        done = deploy(command, "--group", "emo1", path=path, answer=f"{answer}\n" if answer else "")
        assert done.returncode == 1
        assert "nothing was done" in done.stderr
        assert acts not in called.read_text()
    assert deploy(command, "--group", "emo1", path=path, answer=f"{right}\n").returncode == 0
    assert acts in called.read_text()
    called.unlink()
    assert deploy(command, "--group", "emo1", "--yes", path=path).returncode == 0
    assert acts in called.read_text()


@pytest.mark.skipif(not shutil.which("az"), reason="az is not installed")
@pytest.mark.parametrize("command", COMMANDS)
def test_az_accepts_every_command(command: str, tmp_path: Path) -> None:
    """Without a login, az ends with 1 for a command that it understands, and with 2 for one that it does not."""
    environment = os.environ | {"AZURE_CONFIG_DIR": str(tmp_path), "AZURE_CORE_COLLECT_TELEMETRY": "no"}
    for line in dry_run(command):
        if line.startswith("az "):
            named = re.sub(r"\\<\w+\\>", "standin0", line)  # what Azure would have told
            done = subprocess.run(
                ["bash", "-c", named], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 1, f"{line}\n{done.stderr}"
