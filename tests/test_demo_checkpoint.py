"""The checkpoint that comes with the repository: small enough for git, trained, and sensible when served."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from emotion_client import EmotionClient

from tests.conftest import running_triton

DEMO = Path(__file__).parent.parent / "checkpoints" / "demo"
SAID = {
    "neutral": "The meeting is in the main building at nine.",
    "frustration": "Ugh, this is so annoying, it never works.",
    "anger": "I am furious! I hate you, you disgusting liar!",
    "sadness": "I miss her so much, I can't stop crying.",
    "excitement": "I'm so excited, this is the best day ever!",
}

EMOJI = {
    "neutral": "😐 🤔",
    "frustration": "😤 🙄 😒 😩",
    "anger": "😡 😠 🤬 👿 🖕",
    "sadness": "😭 😢 😞 😔 🙁 ☹️ 💔",
    "excitement": "😂 🤣 😀 😄 😁 🥳 🎉 🤩 😍 😊",
}
CARRIERS = ("I'm fine {}", "ok {}", "{}", "He called me today {}", "See you tomorrow {}")
MASKED = (
    "f*** you",
    "this is bullsh*t",
    "what the f**k is wrong with you",
    "you b*tch",
    "shut the f*ck up",
    "you a**hole",
)


@pytest.fixture(scope="module")
def client(repository: Path) -> Iterator[EmotionClient]:
    with running_triton(repository) as server, EmotionClient(server.grpc_url) as client:
        yield client


def test_it_fits_into_git() -> None:
    assert sum(path.stat().st_size for path in DEMO.rglob("*") if path.is_file()) < 20 * 2**20


def test_it_is_trained() -> None:
    config = json.loads((DEMO / "config.json").read_text())
    assert config["untrained"] == []
    assert all(0.3 < temperature < 5 for temperature in config["temperatures"].values())
    assert all(temperature != 1 for temperature in config["temperatures"].values()), "none is fitted"


@pytest.mark.parametrize("emotion", SAID)
def test_it_reads(client: EmotionClient, emotion: str) -> None:
    answer = client.analyze(text=SAID[emotion])
    assert answer.label == emotion
    assert answer.untrained == ()


def test_emoji_beside_calm_words_are_named_mostly(client: EmotionClient) -> None:
    wanted = [
        (carrier.format(one), emotion) for emotion in EMOJI for one in EMOJI[emotion].split() for carrier in CARRIERS
    ]
    assert len(wanted) == 28 * len(CARRIERS)
    wrong = [text for text, emotion in wanted if client.analyze(text=text).label != emotion]
    assert len(wrong) <= 0.25 * len(wanted), wrong


def test_masked_swearing_is_anger_or_frustration(client: EmotionClient) -> None:
    missed = [text for text in MASKED if client.analyze(text=text).label not in ("anger", "frustration")]
    assert len(missed) <= len(MASKED) / 4, missed


def test_it_hears_nobody_frustrated(client: EmotionClient, recordings: dict[str, bytes]) -> None:
    # the audio corpus has no such recording
    for recording in recordings.values():
        heard = client.analyze(recording).audio_probabilities
        assert heard is not None
        assert heard["frustration"] < 0.05


def test_what_is_said_counts_beside_how(client: EmotionClient, recordings: dict[str, bytes]) -> None:
    recording = next(iter(recordings.values()))
    labels = {client.analyze(recording, text).label for text in SAID.values()}
    assert len(labels) >= 3, "the text hardly matters"
