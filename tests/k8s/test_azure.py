"""Check templates, script and manifests for Azure, as far as possible without a subscription."""

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


def dry_run(command: str, *options: str) -> list[str]:
    """Return the commands that deploy.sh would run, in order."""
    done = deploy(command, "--group", "emo1", *COMMANDS[command], *options, "--dry-run")
    assert done.returncode == 0, done.stderr
    return [line.strip() for line in done.stdout.splitlines() if line.startswith(("az ", "kubectl "))]


# ---- Bicep


@pytest.mark.parametrize("name", ["main.bicep", "monitoring.bicep"])
def test_bicep_can_be_parsed_and_every_parameter_is_used(name: str) -> None:
    text = (AZURE / name).read_text()
    for kind in ("parameters", "variables"):
        for declared in bicep(name).get(kind, {}):
            assert len(re.findall(rf"\b{declared}\b", text)) > 1, declared


def test_main_bicep_matches_parameters_and_outputs_of_its_module() -> None:
    (module,) = bicep("main.bicep")["modules"].values()
    asked = bicep(module["detail"]["path"])
    assert set(module["config"]["params"]) == set(asked["parameters"])
    text = (AZURE / "main.bicep").read_text()
    assert set(re.findall(r"monitoring\.outputs\.(\w+)", text)) == set(asked["outputs"])


def test_deploy_script_matches_parameters_and_outputs_of_main_bicep() -> None:
    script = SCRIPT.read_text()
    assert set(re.findall(r"\$\(output (\w+)", script)) == set(bicep("main.bicep")["outputs"])
    (given,) = (line for line in script.splitlines() if "--parameters" in line)
    names = set(re.findall(r'"(\w+)=', given))
    parameters = bicep("main.bicep")["parameters"]
    assert names <= set(parameters)
    assert {name for name, one in parameters.items() if not one.get("default")} <= names


def test_rules_have_one_group_of_signals_and_one_of_alerts() -> None:
    rules = yaml.safe_load((ROOT / "k8s" / "components" / "monitoring" / "rules.yaml").read_text())
    signals, alerts = rules["spec"]["groups"]
    assert all("record" in rule for rule in signals["rules"])
    assert all("alert" in rule for rule in alerts["rules"])
    assert max(len(signals["rules"]), len(alerts["rules"])) <= 20  # Azure's limit of rules in a group
    for rule in alerts["rules"]:
        assert re.fullmatch(r"PT\d+[SM]", f"PT{rule.get('for', '0m').upper()}")  # as the template formats the duration


def rendered(directory: Path) -> list[dict[str, Any]]:
    done = subprocess.run([BIN / "kubectl", "kustomize", directory], capture_output=True, text=True, check=True)
    return list(yaml.safe_load_all(done.stdout))


def the(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (found,) = (one for one in objects if (one["kind"], one["metadata"]["name"]) == (kind, name))
    return found


def pod(overlay: str) -> dict[str, Any]:
    return dict(the(rendered(ROOT / "k8s" / "overlays" / overlay), "Deployment", "triton")["spec"]["template"]["spec"])


def pool(name: str) -> dict[str, Any]:
    config = bicep("main.bicep")["resources"][name]["config"]
    return dict(config.get("config", config)["properties"])


def test_gpu_pool_labels_and_taints_match_the_pods() -> None:
    """The pool's labels and taints match the node selector and tolerations of the overlay's pods."""
    labels = {key.strip("'"): value for key, value in pool("gpuPool")["nodeLabels"].items()}
    assert labels.items() >= pod("aks")["nodeSelector"].items()
    (taint,) = pool("gpuPool")["nodeTaints"]
    (toleration,) = pod("aks")["tolerations"]
    assert toleration == {"key": taint.split("=")[0], "operator": "Exists", "effect": taint.split(":")[1]}
    assert pool("gpuPool")["minCount"] == 0


def test_pod_cpu_requests_fit_the_node_sizes() -> None:
    """Requests leave some of a node's cores to Azure's agents; the name of a size contains its number of cores."""
    parameters = bicep("main.bicep")["parameters"]
    (gpu_sizes,) = (one["argument"] for one in parameters["gpuSize"]["decorators"] if one["type"] == "allowed")
    sizes = {
        "aks": gpu_sizes,
        "aks-cpu": [parameters["cpuSize"]["default"]],
    }
    for overlay, names in sizes.items():
        (container,) = pod(overlay)["containers"]
        for name in names:
            (cores,) = re.findall(r"Standard_[A-Z]+(\d+)", name)
            assert int(container["resources"]["requests"]["cpu"]) < int(cores) - 1, name


def test_cpu_pods_select_the_cpu_pool() -> None:
    assert pod("aks-cpu")["nodeSelector"] == {"kubernetes.azure.com/agentpool": "cpu"}
    assert "tolerations" not in pod("aks-cpu")
    (container,) = pod("aks-cpu")["containers"]
    (base,) = pod("cpu")["containers"]
    assert container["resources"] == base["resources"]


# ---- deploy.sh


def test_deploy_script_passes_shellcheck() -> None:
    done = subprocess.run([BIN / "shellcheck", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_dry_run_without_azure_login_prints_all_commands(command: str) -> None:
    printed = dry_run(command)
    assert printed
    assert all("emo1" in line or "<" in line for line in printed if line.startswith("az ") and "ad " not in line)


def test_create_runs_what_if_before_the_deployment() -> None:
    steps = [line.split(" --")[0] for line in dry_run("create")]
    assert steps.index("az deployment group what-if") < steps.index("az deployment group create")


@pytest.mark.parametrize(("nodes", "triton"), [("2", "gpu"), ("0", "cpu")])
def test_deploy_uses_exactly_the_images_that_it_builds(nodes: str, triton: str) -> None:
    builds = [line for line in dry_run("deploy", "--gpu-nodes", nodes) if line.startswith("az acr build")]
    built = {line.split("--image ")[1].split()[0] for line in builds}
    assert built == {f"emoserve-{name}:1.2.3" for name in (triton, "models", "web")}
    assert all((ROOT / line.split("--file ")[1].split()[0]).is_file() for line in builds)
    spec = the(rendered(AZURE / ".generated"), "Deployment", "triton")["spec"]["template"]["spec"]
    assert ("nvidia.com/gpu" in str(spec)) == (triton == "gpu")
    text = yaml.safe_dump_all(rendered(AZURE / ".generated"))
    assert {image.partition("/")[2] for image in re.findall(r"image: (\S+)", text)} == built


def test_deploy_replaces_every_placeholder() -> None:
    """Only the script's arguments and the runbook's address, which the owner of a clone sets, stay at example.com."""
    dry_run("deploy")
    text = yaml.safe_dump_all(rendered(AZURE / ".generated"))
    assert set(re.findall(r"[\w.@]+\.example\.com", text)) <= {
        "emotion.example.com",
        "ops@example.com",
        "git.example.com",
    }
    assert "00000000-0000" not in text
    asked = set(re.findall(r"\$\(output (\w+)", SCRIPT.read_text())) - {"triton", "pods"}
    assert {name for name in asked if f"<{name}>" in text} == {"registryServer", "prometheus", "scaler"}


def test_gateway_routes_the_same_paths_as_the_ingress() -> None:
    objects = rendered(AZURE / "gateway")
    (ingress,) = (
        one
        for one in yaml.safe_load_all((ROOT / "k8s" / "components" / "web" / "ingress.yaml").read_text())
        if one["kind"] == "Ingress"
    )
    (rule,) = the(objects, "HTTPRoute", "web")["spec"]["rules"]
    kinds = {"Exact": "Exact", "Prefix": "PathPrefix"}
    paths = {(kinds[one["pathType"]], one["path"]) for one in ingress["spec"]["rules"][0]["http"]["paths"]}
    assert {(one["path"]["type"], one["path"]["value"]) for one in rule["matches"]} == paths
    services = rendered(ROOT / "k8s" / "overlays" / "aks")
    for backend in rule["backendRefs"]:
        assert backend["port"] in [one["port"] for one in the(services, "Service", backend["name"])["spec"]["ports"]]


def test_gateway_routes_certificate_and_policies_match() -> None:
    objects = rendered(AZURE / "gateway")
    gateway, issuer = the(objects, "Gateway", "web"), the(objects, "ClusterIssuer", "letsencrypt")
    listeners = {one["name"]: one for one in gateway["spec"]["listeners"]}
    home = gateway["metadata"]["namespace"]
    routes = [one for one in objects if one["kind"] == "HTTPRoute"]
    (solver,) = issuer["spec"]["acme"]["solvers"]
    parents = [(one["metadata"]["namespace"], one["spec"]["parentRefs"]) for one in routes]
    parents.append((home, solver["http01"]["gatewayHTTPRoute"]["parentRefs"]))  # cert-manager's own route
    for namespace, (parent,) in parents:
        assert (parent["name"], parent.get("namespace", namespace)) == ("web", home)
        among = listeners[parent["sectionName"]].get("allowedRoutes", {}).get("namespaces", {"from": "Same"})
        if namespace == home:
            assert among == {"from": "Same"}
        else:
            assert among["selector"]["matchLabels"] == {"kubernetes.io/metadata.name": namespace}
    assert listeners["https"]["hostname"] in the(objects, "HTTPRoute", "web")["spec"]["hostnames"]
    assert gateway["metadata"]["annotations"]["cert-manager.io/cluster-issuer"] == issuer["metadata"]["name"]
    for port in (one["port"] for one in listeners.values()):
        assert (
            gateway["spec"]["infrastructure"]["annotations"][
                f"service.beta.kubernetes.io/port_{port}_health-probe_protocol"
            ]
            == "tcp"
        )
    policy = the(rendered(ROOT / "k8s" / "overlays" / "aks"), "NetworkPolicy", "web-callers")
    (let_in,) = policy["spec"]["ingress"][0]["from"]
    labels = the(objects, "Namespace", home)["metadata"]["labels"]
    assert let_in["namespaceSelector"]["matchLabels"].items() <= labels.items()


def test_addons_are_pinned() -> None:
    addons = yaml.safe_load((AZURE / "addons" / "kustomization.yaml").read_text())
    assert all(re.search(r"/v\d+\.\d+\.\d+/", one) for one in addons["resources"])


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
def test_deploy_script_with_wrong_usage_exits_with_2_and_a_message(arguments: list[str], sentence: str) -> None:
    done = deploy(*arguments)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"error: {sentence}"), done.stderr


def test_deploy_script_without_az_names_it() -> None:
    if shutil.which("az", path="/usr/bin:/bin"):
        pytest.skip("az is installed")
    done = deploy("status", "--group", "emo1")
    assert (done.returncode, done.stderr) == (1, "error: az is missing: install it (docs/azure.md says from where)\n")


@pytest.fixture
def recorder(tmp_path: Path) -> Path:
    """Return a directory with a fake az and a fake kubectl that log their arguments."""
    for name in ("az", "kubectl"):
        tool = tmp_path / name
        tool.write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/called\n')
        tool.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(
    ("command", "right", "acts"),
    [("create", "yes", "az deployment group create"), ("destroy", "emo1", "az group delete")],
)
def test_create_and_destroy_require_confirmation(recorder: Path, command: str, right: str, acts: str) -> None:
    path = f"{recorder}:/usr/bin:/bin"
    called = recorder / "called"
    for answer in ("no", "", "y"):
        done = deploy(command, "--group", "emo1", path=path, answer=f"{answer}\n" if answer else "")
        assert done.returncode == 1
        assert done.stderr == f"error: stopped here, as the answer was not '{right}'\n"
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
            named = re.sub(r"\\<\w+\\>", "standin0", line)  # instead of a value that Azure would return
            done = subprocess.run(
                ["bash", "-c", named], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 1, f"{line}\n{done.stderr}"
