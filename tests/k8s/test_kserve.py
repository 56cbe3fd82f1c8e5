"""The service under KServe: its pod is that of the base, except for the parts that KServe creates."""

import warnings
from pathlib import Path
from typing import Any

import kubernetes_validate

from serving.triton import EXIT_TIMEOUT_S
from tests.k8s.test_manifests import PORTS, ROOT, VERSION, Object, deployment, of_kind, rendered

KSERVE = ROOT / "k8s" / "kserve"
CPU = ROOT / "k8s" / "overlays" / "cpu"
MODELS = "/mnt/models"  # where KServe stores the files of storageUri
# fields of an InferenceService's predictor that a pod does not have
OF_KSERVE = {"deploymentStrategy", "maxReplicas", "minReplicas", "model"}


def the(kind: str) -> Object:
    (found,) = of_kind(KSERVE, kind)
    return found


def runtime() -> Any:
    return the("ServingRuntime")["spec"]


def predictor() -> Any:
    return the("InferenceService")["spec"]["predictor"]


def container() -> Any:
    (found,) = runtime()["containers"]
    return found


def pod() -> Any:
    """Return the pod spec of the base."""
    return deployment(CPU, "triton")["spec"]["template"]["spec"]


def settings(overlay: Path) -> dict[str, str]:
    (found,) = (one["data"] for one in of_kind(overlay, "ConfigMap") if "EMOSERVE_DRAIN" in one["data"])
    return dict(found)


def test_kserve_has_its_kinds_in_one_namespace() -> None:
    kinds = sorted(one["kind"] for one in rendered(KSERVE))
    assert kinds == ["InferenceService", "NetworkPolicy", "NetworkPolicy", "ServingRuntime"]
    assert {one["metadata"]["namespace"] for one in rendered(KSERVE)} == {"emoserve"}


def test_kserve_pod_and_policies_match_the_schemas_of_kubernetes() -> None:
    """KServe merges the runtime and the predictor into one pod; its own kinds have no schema here."""
    spec = {key: value for key, value in predictor().items() if key not in OF_KSERVE}
    spec |= {key: runtime()[key] for key in ("containers", "volumes")}
    merged = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "emoserve"}, "spec": spec}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for one in [merged, *of_kind(KSERVE, "NetworkPolicy")]:
            kubernetes_validate.validate(one, VERSION, strict=True)


def test_inference_service_names_the_runtime_and_a_supported_format() -> None:
    model = predictor()["model"]
    assert model["runtime"] == the("ServingRuntime")["metadata"]["name"]
    (supported,) = runtime()["supportedModelFormats"]
    assert supported.pop("autoSelect") is False  # else KServe uses it for other services of the namespace
    assert model["modelFormat"] == supported
    assert [model["protocolVersion"]] == runtime()["protocolVersions"] == ["grpc-v2"]
    (port,) = container()["ports"]
    assert "h2c" in port["name"]  # this name makes KServe's Service use HTTP/2
    assert port["containerPort"] == PORTS["grpc"]


def test_container_matches_the_base() -> None:
    ours, (base,) = container(), pod()["containers"]
    assert ours["name"] == "kserve-container"
    same = ["image", "securityContext", "resources", "startupProbe", "readinessProbe", "livenessProbe"]
    assert {key: ours[key] for key in same} == {key: base[key] for key in same}
    variables = {one["name"]: one for one in ours["env"]}
    assert variables == {one["name"]: one for one in base["env"]} | {
        name: {"name": name, "value": value} for name, value in settings(CPU).items()
    }
    assert ours["args"] == ["--repository", MODELS]
    mounts = [one for one in base["volumeMounts"] if one["name"] != "models"]
    assert ours["volumeMounts"] == mounts
    assert runtime()["volumes"] == [one for one in pod()["volumes"] if one["name"] != "models"]


def test_pod_security_drain_and_rollout_match_the_base() -> None:
    for key in (
        "automountServiceAccountToken",
        "enableServiceLinks",
        "securityContext",
        "terminationGracePeriodSeconds",
    ):
        assert predictor()[key] == pod()[key]
    assert predictor()["terminationGracePeriodSeconds"] >= int(settings(CPU)["EMOSERVE_DRAIN"]) + EXIT_TIMEOUT_S
    strategy = deployment(CPU, "triton")["spec"]["strategy"]["rollingUpdate"]
    assert predictor()["deploymentStrategy"]["rollingUpdate"] == strategy


def test_network_policies_match_the_base_and_select_pods_of_kserve() -> None:
    name = the("InferenceService")["metadata"]["name"]
    base = {one["metadata"]["name"]: one["spec"] for one in of_kind(CPU, "NetworkPolicy")}
    for one in of_kind(KSERVE, "NetworkPolicy"):
        spec, like = one["spec"], base[one["metadata"]["name"].replace("kserve-", "triton-")]
        assert spec["podSelector"] == {"matchLabels": {"serving.kserve.io/inferenceservice": name}}
        (rule,), (expected,) = spec["ingress"], like["ingress"]
        assert rule["from"] == expected["from"]
        assert [port["port"] for port in rule["ports"]] == [PORTS[port["port"]] for port in expected["ports"]]
