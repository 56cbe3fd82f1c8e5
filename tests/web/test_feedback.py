"""Test that corrections of answers are stored with consent alone, and that training reads them."""

import json
import resource
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from emotion import decoding
from emotion.audio import SAMPLE_RATE
from tests.encoding import encode
from training.corpora import manifest
from web.gateway.errors import ApiError
from web.gateway.feedback import FeedbackStore

SILENCE = encode(np.zeros(SAMPLE_RATE, np.float32))
Gateway = Callable[..., AbstractContextManager[str]]  # the fixture `gateway`


def send(address: str, audio: bytes | None = None, **fields: str) -> httpx.Response:
    files: dict[str, Any] = {name: (None, value) for name, value in fields.items()}
    if audio is not None:
        files["audio"] = ("recording", audio)
    return httpx.post(f"{address}/api/feedback", files=files, timeout=60)


def test_corrections_are_a_manifest_that_training_reads(
    gateway: Gateway, recordings: dict[str, bytes], tmp_path: Path
) -> None:
    clip, directory = next(iter(recordings.values())), tmp_path / "corrections"
    with gateway(feedback=directory) as address:
        assert httpx.get(f"{address}/api/health").json()["feedback"] is True
        answers = [
            send(address, clip, emotion="sadness", consent="yes", text="“Wörter”\nund mehr"),
            send(address, clip, emotion="anger", consent="yes"),
            send(address, emotion="neutral", consent="yes", text="words"),
        ]
    assert [answer.status_code for answer in answers] == [201] * 3
    found = {one.id: one for one in manifest.read(directory / "manifest.jsonl", "excitement").utterances}
    both, voice, words = (found[answer.json()["id"]] for answer in answers)
    assert (both.emotion, both.text, voice.emotion, voice.text) == ("sadness", "“Wörter”\nund mehr", "anger", None)
    assert (words.emotion, words.text, words.audio) == ("neutral", "words", None)
    assert both.audio is not None
    np.testing.assert_allclose(decoding.decode(both.audio.read_bytes()), decoding.decode(clip), atol=2**-15)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (both.audio, directory / "manifest.jsonl")} == {0o600}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"emotion": "anger", "text": "words"}, "Feedback is stored only with consent: send consent=yes, or do not"),
        ({"emotion": "anger", "text": "words", "consent": "no"}, "Feedback is stored only with consent"),
        ({"emotion": "joy", "text": "words", "consent": "yes"}, "The emotion 'joy' is unknown; send one of neutral, "),
        ({"emotion": "anger", "consent": "yes"}, "There is neither a recording nor a text: send one of them, or both."),
        ({"emotion": "anger", "consent": "yes", "audio": b"RIFF"}, "The recording is "),
        ({"emotion": "anger", "consent": "yes", "audio": SILENCE}, "The recording has no"),
        ({"emotion": "anger", "consent": "yes", "name": "x"}, "The form has the unknown field 'name'; its fields are"),
        ({"text": "words", "consent": "yes"}, "The field emotion is missing: send multipart/form-data with it."),
    ],
)
def test_unusable_corrections_are_rejected_and_not_stored(
    gateway: Gateway, tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    with gateway(feedback=tmp_path / "corrections") as address:
        answer = send(address, **fields)
    code = "no_speech" if fields.get("audio") is SILENCE else "unusable"
    assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert answer.json()["message"].startswith(message)
    assert not (tmp_path / "corrections").exists()


def test_feedback_is_off_by_default(address: str) -> None:
    assert httpx.get(f"{address}/api/health").json()["feedback"] is False
    answer = send(address, emotion="anger", consent="yes", text="words")
    assert answer.status_code in (404, 405) and answer.json()["code"] == "not_served"
    assert answer.json()["message"].startswith("This service stores no feedback; ")


@contextmanager
def disk_with(free: int, file: Path) -> Iterator[None]:
    """Let files grow no more than `free` bytes beyond the size of `file`, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_correction_that_does_not_fit_leaves_nothing(recordings: dict[str, bytes], tmp_path: Path) -> None:
    store = FeedbackStore(tmp_path, max_bytes=1 << 30, max_seconds=60)
    first = store.add("anger", "yes", "words", None)
    manifest_file = tmp_path / "manifest.jsonl"
    clip = next(iter(recordings.values()))
    with disk_with(10, manifest_file):
        for text, recording in (("more words", None), ("", clip)):
            with pytest.raises(ApiError, match="The feedback could not be stored"):
                store.add("anger", "yes", text, recording)
    assert [*(tmp_path / "audio").iterdir()] == []
    second = store.add("anger", "yes", "", clip)
    assert [one.id for one in manifest.read(manifest_file, "excitement").utterances] == [first, second]


def test_full_directory_accepts_text_alone(recordings: dict[str, bytes], tmp_path: Path) -> None:
    clip = next(iter(recordings.values()))
    store = FeedbackStore(tmp_path / "corrections", max_bytes=int(1.5 * len(clip)), max_seconds=60)
    store.add("anger", "yes", "", clip)
    with pytest.raises(ApiError, match="takes no more recordings") as raised:
        store.add("anger", "yes", "", clip)
    assert raised.value.status == 503
    store.add("anger", "yes", "words", None)
    assert len((tmp_path / "corrections" / "manifest.jsonl").read_text().splitlines()) == 2


def test_directory_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = FeedbackStore(tmp_path / "file" / "corrections", max_bytes=1 << 20, max_seconds=60)
    with pytest.raises(ApiError, match=r"The feedback could not be stored \(Not a directory\)\."):
        store.add("anger", "yes", "words", None)


def test_line_of_the_manifest_is_complete(tmp_path: Path) -> None:
    store = FeedbackStore(tmp_path, max_bytes=1 << 20, max_seconds=60)
    name = store.add("sadness", "yes", " words ", None)
    assert json.loads((tmp_path / "manifest.jsonl").read_text()) == {"id": name, "emotion": "sadness", "text": "words"}
