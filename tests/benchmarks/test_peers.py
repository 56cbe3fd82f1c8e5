"""Test that every peer gives the same answers as emoserve."""

import base64
import json
import os
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from emotion_client import EmotionClient, EmotionResult
from emotion_client.types import EMOTIONS
from numpy.typing import NDArray

from benchmarks.errors import BenchmarkError
from benchmarks.speed import peers
from benchmarks.speed.peers.export import export
from emotion.text import WordPiece
from export import parity
from serving import Triton

SENTENCE = "unless to be rather selfish is to be ill-disposed"
VIEWS = ("probabilities", "audio_probabilities", "text_probabilities")
Utterances = list[tuple[bytes, str]]


@pytest.fixture(scope="module")
def utterances(recordings: dict[str, bytes]) -> Utterances:
    """Return an utterance with both modalities, one with audio alone and one with text alone."""
    first, second = list(recordings.values())[:2]
    return [(first, SENTENCE), (second, ""), (b"", SENTENCE)]


@pytest.fixture(scope="module")
def expected(server: Triton, utterances: Utterances) -> NDArray[np.float64]:
    """Return emoserve's answers, float64 [utterance, view, emotion]."""
    return grpc(server.grpc_url, utterances)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of the exported models; the first peer exports them for all."""
    return tmp_path_factory.mktemp("peers")


def grpc(url: str, utterances: Utterances) -> NDArray[np.float64]:
    """Return the answers over gRPC, with zeros for an absent modality."""

    def views(emotion: EmotionResult) -> list[list[float]]:
        found = (emotion.probabilities, emotion.audio_probabilities, emotion.text_probabilities)
        return [[(view or {}).get(name, 0.0) for name in EMOTIONS] for view in found]

    with EmotionClient(url) as client:
        return np.array([views(client.analyze(audio or None, text or None)) for audio, text in utterances])


def http(host: str, utterances: Utterances) -> NDArray[np.float64]:
    """Return the answers of POST /analyze."""

    def views(audio: bytes, text: str) -> list[list[float]]:
        body = json.dumps({"audio": base64.b64encode(audio).decode(), "text": text}).encode()
        request = urllib.request.Request(f"{host}/analyze", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            found = json.load(answer)
        return [found[name] for name in VIEWS]

    return np.array([views(audio, text) for audio, text in utterances])


@pytest.mark.parametrize("name", peers.PEERS)
def test_start_of_a_peer_answers_as_emoserve_does_and_leaves_no_process(
    name: str, demo_checkpoint: Path, directory: Path, utterances: Utterances, expected: NDArray[np.float64]
) -> None:
    with peers.start(name, demo_checkpoint, directory) as (host, leader):
        answers, url = (grpc, host.removeprefix("grpc://")) if host.startswith("grpc://") else (http, host)
        found = answers(url, utterances)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    with pytest.raises(ProcessLookupError):  # no process of its group is left
        os.killpg(leader, 0)


def openvino(checkpoint: Path, directory: Path, batch: Sequence[parity.Utterance]) -> list[list[list[float]]]:
    from benchmarks.speed.peers import openvino_in_process  # not into the process of the tests

    answers = openvino_in_process.models(checkpoint, directory)(batch)
    return [[list(one[name]) for name in VIEWS] for one in answers]


def test_openvino_in_one_process_answers_as_emoserve_does(
    demo_checkpoint: Path, directory: Path, utterances: Utterances, expected: NDArray[np.float64]
) -> None:
    """It runs in a process of its own, so that its threads and memory are not those of all later tests."""
    pieces = WordPiece(demo_checkpoint / "text_encoder" / "tokenizer.json")
    batch = [parity.front_ends(audio, text, pieces) for audio, text in utterances]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        found = process.submit(openvino, demo_checkpoint, directory, batch).result(timeout=120)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_start_of_a_peer_that_ends_raises_its_last_lines(demo_checkpoint: Path, directory: Path) -> None:
    files = export(demo_checkpoint, directory)
    hidden = files / "vggish.onnx"
    hidden.rename(files / "elsewhere")
    try:
        with (
            pytest.raises(BenchmarkError, match=r"fastapi_onnxruntime ended with exit status 1.*vggish\.onnx"),
            peers.start("fastapi_onnxruntime", demo_checkpoint, directory),
        ):
            pass
    finally:
        (files / "elsewhere").rename(hidden)
