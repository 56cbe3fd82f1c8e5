"""How many instances models have is among Triton's metrics."""

import re
import shutil
import time
from pathlib import Path

from serving import Triton
from stages.admission import MODELS
from stages.loopback import get


def test_metric_after_start_has_the_instances_of_every_model(repository: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(repository, tmp_path / "models", copy_function=shutil.copyfile)
    path = copied / "fusion" / "config.pbtxt"
    text = path.read_text()
    path.write_text(text.replace("KIND_CPU count: 1", "KIND_CPU count: 2"))
    assert path.read_text() != text
    found: dict[str, str] = {}
    with Triton(copied, http_port=0, grpc_port=0, metrics_port=0) as server:
        deadline = time.monotonic() + 10
        while len(found) < len(MODELS) and time.monotonic() < deadline:
            time.sleep(0.1)
            metrics = get(f"http://{server.metrics_url}/metrics", timeout=5)
            found = dict(re.findall(r'(?m)^emoserve_model_instances{model="(\w+)"} (\d+)$', metrics))
    assert found == {model: "2" if model == "fusion" else "1" for model in MODELS}
