"""Figures that the code owns agree with every page that repeats them."""

import re

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from tests.conftest import ROOT
from web.gateway.settings import Settings


def parameter(path: str, key: str) -> str:
    """Return a parameter of a model configuration."""
    config = text_format.Parse((ROOT / path).read_text(), model_config_pb2.ModelConfig())
    return str(config.parameters[key].string_value)


def rows(path: str) -> str:
    """Return the largest number of rows of a request."""
    config = text_format.Parse((ROOT / path).read_text(), model_config_pb2.ModelConfig())
    return str(config.max_batch_size)


def setting(name: str) -> str:
    """Return the default of a setting of the gateway."""
    return f"{Settings.model_fields[name].default:g}"


EMOTION = "model_repository/emotion/config.pbtxt"
PREPROCESS = "model_repository/preprocess/config.pbtxt"
QUEUE = "model_repository/queue/config.pbtxt"
QUEUE_ON_GPU = "model_repository/queue/configs/gpu.pbtxt"
TRANSCRIBE = "speech_repository/transcribe/config.pbtxt"
# page, what it says with the figure in a group, the figure that the code has
FACTS = [
    ("docs/architecture.md", r"takes up to (\d+) utterances a request", rows(EMOTION)),
    ("docs/architecture.md", r"utterances a request \| (\d+) \|", rows(EMOTION)),
    ("docs/architecture.md", r"waiting requests \| (\d+) for each priority", parameter(QUEUE, "max_queue_size")),
    ("docs/architecture.md", r"waiting time \| (\d+) s in each", parameter(QUEUE, "max_wait_seconds")),
    ("docs/architecture.md", r"audio \| (\d+) s \|", parameter(PREPROCESS, "max_audio_seconds")),
    ("docs/capacity.md", r"holds (\d+) requests of a priority", parameter(QUEUE, "max_queue_size")),
    ("docs/reliability.md", r"limits \((\d+) requests for each priority", parameter(PREPROCESS, "max_queue_size")),
    ("docs/security.md", r"(\d+) requests for each priority", parameter(PREPROCESS, "max_queue_size")),
    ("docs/runbook.md", r"rejects requests when (\d+) of one priority wait", parameter(QUEUE, "max_queue_size")),
    ("docs/runbook.md", r"on a GPU (\d+) in `queue`", parameter(QUEUE_ON_GPU, "max_queue_size")),
    ("docs/runbook.md", r"More than (\d+) requests wait", f"{0.9 * int(parameter(QUEUE, 'max_queue_size')):.0f}"),
    ("docs/runbook.md", r"\((\d+) in `transcribe`\), and", f"{0.9 * int(parameter(TRANSCRIBE, 'max_queue_size')):.0f}"),
    ("docs/runbook.md", r"gateway's deadline \((\d+) s\)", setting("deadline")),
    ("docs/runbook.md", r"at its limit \((\d+) a pod", setting("in_flight")),
    ("docs/gpu.md", r"holds up to (\d+)", parameter(QUEUE_ON_GPU, "max_queue_size")),
    ("docs/inputs.md", r"duration \| (\d+) s", parameter(PREPROCESS, "max_audio_seconds")),
    ("docs/web.md", r"more than (\d+) MiB", f"{Settings.model_fields['max_bytes'].default >> 20}"),
    ("clients/README.md", r"`emotion` takes at most (\d+) rows", rows(EMOTION)),
    ("README.md", r"at most (\d+) s of audio", parameter(PREPROCESS, "max_audio_seconds")),
]


@pytest.mark.parametrize(("page", "says", "figure"), FACTS, ids=lambda value: str(value)[:40])
def test_page_repeats_the_figure_of_the_code(page: str, says: str, figure: str) -> None:
    found = re.findall(says, (ROOT / page).read_text())
    assert found, f"{page} does not say {says!r} any more: change this test with the page"
    assert set(found) == {figure}, f"{page} says {found}, the code has {figure}"


def test_page_repeats_the_retry_window_of_the_client() -> None:
    source = (ROOT / "clients" / "emotion_client" / "channel.py").read_text()
    first = float(re.findall(r'"initialBackoff": "([\d.]+)s"', source)[0])
    factor = float(re.findall(r'"backoffMultiplier": (\d+)', source)[0])
    longest = float(re.findall(r'"maxBackoff": "([\d.]+)s"', source)[0])
    attempts = int(re.findall(r'"maxAttempts": (\d+)', source)[0])
    total = sum(min(first * factor**n, longest) for n in range(attempts - 1))
    for page in ("clients/README.md", "docs/runbook.md"):
        said = re.findall(r"for about (\d+) s", (ROOT / page).read_text())
        assert said == [f"{total:.0f}"], page
