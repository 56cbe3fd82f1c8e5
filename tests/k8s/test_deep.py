"""Build the images and run the rendered overlay `local` as a pod: `make k8s-deep`, as root, with Debian's tools.

    apt-get install mmdebstrap buildah podman runc catatonit iptables

podman replaces the kubelet. It lacks fsGroup, memory-backed volumes and a pod's address as a variable.
It restarts the init containers of a Deployment without end, and opens a container's ports on all addresses.
`run_pod` changes the pod for it. If the package index needs files of this machine, name them for the build:
BUILD_VOLUMES="/etc/pip.conf /opt/index".
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from emotion_client import EmotionClient

from serving import Triton
from tests.k8s.test_manifests import of_kind

ROOT = Path(__file__).parent.parent.parent
OVERLAY = ROOT / "k8s" / "overlays" / "local"
TOOLS = ("mmdebstrap", "buildah", "podman", "runc", "catatonit")
BASE = "docker.io/library/debian:12-slim"  # built here, so that no image registry is needed
CPU, MODELS = "localhost/emoserve-cpu:0.1.0", "localhost/emoserve-models:0.1.0"
MAX_IMAGE_BYTES = 1.2e9
PORT_OFFSET = 10_000  # from a container's port to its port on this machine
DRAIN = 90  # s, the pod's grace period
POD = "triton-0"

pytestmark = pytest.mark.k8s_deep


def tool(*command: str | Path, timeout: float = 600, **options: Any) -> str:
    """Run one of the tools and return its output."""
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=timeout, check=False, **options
    )
    assert done.returncode == 0, f"{command}: {done.stderr[-3000:]}"
    return done.stdout.strip()


def buildah(*arguments: str | Path) -> str:
    return tool("buildah", "--storage-driver", "overlay", *arguments, timeout=1800)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Configure podman to run without systemd and within the limits of this process."""
    missing = [name for name in TOOLS if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        pytest.fail(f"needs root and {', '.join(TOOLS)}; missing: {', '.join(missing) or 'root'}")
    path = tmp_path_factory.mktemp("podman") / "containers.conf"
    path.write_text(
        '[containers]\ndefault_ulimits = ["nofile=20000:20000", "nproc=20000:20000"]\n'
        '[engine]\ncgroup_manager = "cgroupfs"\nruntime = "runc"\nevents_logger = "file"\n'
    )
    os.environ["CONTAINERS_CONF"] = str(path)
    yield
    del os.environ["CONTAINERS_CONF"]


def podman(*arguments: str | Path) -> str:
    return tool("podman", "--storage-driver", "overlay", *arguments)


@pytest.fixture(scope="module")
def base(settings: None, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Build a minimal Debian image under the name that the Dockerfiles use."""
    archive = tmp_path_factory.mktemp("base") / "base.tar"
    sources = Path("/etc/apt/sources.list.d/debian.sources")
    command: list[str | Path] = ["mmdebstrap", "--variant=minbase", "--include=ca-certificates", "bookworm", archive]
    tool(*command, *([sources] if sources.is_file() else []))
    container = buildah("from", "scratch")
    buildah("add", "--quiet", container, archive, "/")
    buildah("commit", "--quiet", container, BASE)
    buildah("rm", container)


def build(file: str, tag: str, context: Path = ROOT, *arguments: str) -> None:
    volumes = [f"--volume={path}:{path}:ro" for path in os.environ.get("BUILD_VOLUMES", "").split()]
    options = ["--layers", "--isolation", "chroot", "--pull-never", "--format", "docker", *volumes, *arguments]
    buildah("build", *options, "--file", ROOT / "docker" / file, "--tag", tag, context)


@pytest.fixture(scope="module")
def images(base: None, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Build the image of Triton and an image of the demo models."""
    build("cpu.Dockerfile", CPU)
    context = tmp_path_factory.mktemp("models")
    shutil.copytree(repository, context / "build" / "model_repository")
    build("models.Dockerfile", MODELS, context)


def run_pod(directory: Path) -> None:
    """Run the pod of the rendered Deployment, changed for podman as the module's docstring says."""
    (deployment,) = deepcopy(of_kind(OVERLAY, "Deployment"))
    (settings,) = of_kind(OVERLAY, "ConfigMap")
    template = deployment["spec"]["template"]
    spec = template["spec"] | {"restartPolicy": "OnFailure"}
    for port in spec["containers"][0]["ports"]:
        port |= {"hostIP": "127.0.0.1", "hostPort": PORT_OFFSET + port["containerPort"]}
    for variable in spec["containers"][0]["env"]:
        if "fieldRef" in variable.get("valueFrom", {}):
            del variable["valueFrom"]
            variable["value"] = "127.0.0.1"  # the pod has only IPv4 addresses
    shared = Path("/dev/shm") / f"emoserve-deep-{os.getpid()}"
    shared.mkdir(exist_ok=True)
    shared.chmod(0o1777)
    for volume in spec["volumes"]:
        if volume["name"] == "shm":
            del volume["emptyDir"]
            volume["hostPath"] = {"path": str(shared), "type": "Directory"}
    metadata = {"name": POD, "labels": template["metadata"]["labels"]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    (directory / "pod.yaml").write_text(yaml.safe_dump(pod))
    (directory / "configmap.yaml").write_text(yaml.safe_dump(settings))
    podman("kube", "play", "--replace", "--configmap", directory / "configmap.yaml", directory / "pod.yaml")


def wait_ready(client: EmotionClient, seconds: float = 120) -> float:
    """Wait until the server answers; return the seconds that it took."""
    start = time.monotonic()
    while True:
        try:
            client.analyze(text="ready?", deadline=5)
            return time.monotonic() - start
        except Exception:
            assert time.monotonic() - start < seconds, podman("logs", f"{POD}-triton")
            time.sleep(0.2)


@pytest.fixture(scope="module")
def pod(images: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmotionClient]:
    """Yield a client of the running pod."""
    directory = tmp_path_factory.mktemp("pod")
    run_pod(directory)
    try:
        with EmotionClient(f"127.0.0.1:{PORT_OFFSET + 8001}", retries=False) as client:
            print(f"\npod ready after {wait_ready(client):.1f} s")
            yield client
    finally:
        podman("pod", "rm", "--force", POD)
        shutil.rmtree(Path("/dev/shm") / f"emoserve-deep-{os.getpid()}")


def test_image_size_is_below_the_limit(images: None) -> None:
    size = int(podman("image", "inspect", "--format", "{{.Size}}", CPU))
    print(f"\n{CPU}: {size / 1e6:.0f} MB")
    assert size < MAX_IMAGE_BYTES


def test_pod_results_match_the_local_server(
    pod: EmotionClient, repository: Path, recordings: dict[str, bytes], transcripts: dict[str, str]
) -> None:
    with (
        Triton(repository, http_port=0, grpc_port=0, metrics_port=0) as triton,
        EmotionClient(triton.grpc_url) as local,
    ):
        for name, data in recordings.items():
            here, there = local.analyze(data, transcripts[name]), pod.analyze(data, transcripts[name])
            assert there.checkpoint == here.checkpoint
            assert there.probabilities == pytest.approx(here.probabilities, abs=1e-5)


def test_container_runs_unprivileged_with_read_only_root(pod: EmotionClient) -> None:
    script = "id -u; grep -E 'CapEff|NoNewPrivs' /proc/1/status; touch /x 2>&1 || true"
    inside = podman("exec", f"{POD}-triton", "sh", "-c", script)
    user, capabilities, no_new_privileges, error = inside.splitlines()
    assert user == "1000"
    assert int(capabilities.split()[1], 16) == 0
    assert no_new_privileges.split()[1] == "1"
    assert "Read-only file system" in error


def test_pod_stops_within_its_grace_period(pod: EmotionClient) -> None:
    start = time.monotonic()
    podman("pod", "stop", "--time", str(DRAIN), POD)
    assert time.monotonic() - start < DRAIN
    assert podman("inspect", "--format", "{{.State.ExitCode}}", f"{POD}-triton") == "0"


def test_killed_pod_is_replaced(pod: EmotionClient, tmp_path: Path) -> None:
    run_pod(tmp_path)
    wait_ready(pod)
    podman("pod", "kill", POD)
    run_pod(tmp_path)
    print(f"\nreplaced and ready after {wait_ready(pod):.1f} s")
    assert pod.analyze(text="This is wonderful!").label == "excitement"
