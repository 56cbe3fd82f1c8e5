"""The number of instances of each model is published in Triton's metrics."""

import re
import shutil
import time
import urllib.request
from pathlib import Path

import pytest

from serving import Triton
from stages.admission import MODELS
from stages.loopback import get
from tests.conftest import running_triton

EXPLICIT = ("--model-control-mode=explicit", "--load-model=emotion")  # so that a model can be unloaded


@pytest.fixture(scope="module")
def two_fusion_instances(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository whose model `fusion` has two instances."""
    copied = shutil.copytree(repository, tmp_path_factory.mktemp("models") / "copied", copy_function=shutil.copyfile)
    path = copied / "fusion" / "config.pbtxt"
    text = path.read_text()
    path.write_text(text.replace("KIND_CPU count: 1", "KIND_CPU count: 2"))
    assert path.read_text() != text
    return copied


def published(server: Triton) -> dict[str, tuple[str, str]]:
    """Return the label `turns` and the number of instances of each model in the metrics."""
    metrics = get(f"http://{server.metrics_url}/metrics", timeout=5)
    samples = re.findall(r'(?m)^emoserve_model_instances{model="(\w+)",turns="(\w+)"} (\d+)$', metrics)
    return {model: (turns, count) for model, turns, count in samples}


def wait_for_published(server: Triton, number: int) -> dict[str, tuple[str, str]]:
    """Return the published metrics when there are `number` models, or after 10 s."""
    deadline = time.monotonic() + 10
    while len(found := published(server)) != number and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def test_instances_metric_exists_from_start_to_unload(two_fusion_instances: Path) -> None:
    with running_triton(two_fusion_instances, arguments=EXPLICIT) as server:
        expected = {"vggish": ("cores", "1"), "bert": ("cores", "1"), "fusion": ("fusion", "2")}
        assert wait_for_published(server, len(MODELS)) == expected
        url = f"http://{server.http_url}/v2/repository/models/queue/unload"
        request = urllib.request.Request(url, data=b"{}", headers=server.admin_headers, method="POST")
        with urllib.request.urlopen(request, timeout=30):
            pass
        assert wait_for_published(server, 0) == {}
