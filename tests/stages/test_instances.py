"""How many instances models have is among Triton's metrics."""

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
def two_heads(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose `fusion` has two instances."""
    copied = shutil.copytree(repository, tmp_path_factory.mktemp("models") / "copied", copy_function=shutil.copyfile)
    path = copied / "fusion" / "config.pbtxt"
    text = path.read_text()
    path.write_text(text.replace("KIND_CPU count: 1", "KIND_CPU count: 2"))
    assert path.read_text() != text
    return copied


def published(server: Triton) -> dict[str, tuple[str, str]]:
    """Return by model who takes turns, and how many instances run at the same time."""
    metrics = get(f"http://{server.metrics_url}/metrics", timeout=5)
    samples = re.findall(r'(?m)^emoserve_model_instances{model="(\w+)",turns="(\w+)"} (\d+)$', metrics)
    return {model: (turns, count) for model, turns, count in samples}


def published_once(server: Triton, number: int) -> dict[str, tuple[str, str]]:
    """As soon as there are that many, or after 10 s."""
    deadline = time.monotonic() + 10
    while len(found := published(server)) != number and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def test_instances_metric_is_there_from_start_to_unload(two_heads: Path) -> None:
    with running_triton(two_heads, arguments=EXPLICIT) as server:
        expected = {"vggish": ("cores", "1"), "bert": ("cores", "1"), "fusion": ("fusion", "2")}
        assert published_once(server, len(MODELS)) == expected
        url = f"http://{server.http_url}/v2/repository/models/queue/unload"
        request = urllib.request.Request(url, data=b"{}", headers=server.admin_headers, method="POST")
        with urllib.request.urlopen(request, timeout=30):
            pass
        assert published_once(server, 0) == {}
