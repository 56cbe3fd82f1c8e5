"""The demo checkpoint of the repository: its size, its training, and its served answers."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from emotion_client import EmotionClient

from tests.conftest import running_triton

DEMO = Path(__file__).parent.parent / "checkpoints" / "demo"
SENTENCES = {
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


def test_demo_checkpoint_is_smaller_than_20_mib() -> None:
    assert sum(path.stat().st_size for path in DEMO.rglob("*") if path.is_file()) < 20 * 2**20


def test_demo_checkpoint_is_trained_and_calibrated() -> None:
    config = json.loads((DEMO / "config.json").read_text())
    assert config["untrained"] == []
    assert all(0.3 < temperature < 5 for temperature in config["temperatures"].values())
    assert all(temperature != 1 for temperature in config["temperatures"].values()), "a temperature is not fitted"


@pytest.mark.parametrize("emotion", SENTENCES)
def test_demo_checkpoint_recognises_the_emotion_of_a_sentence(client: EmotionClient, emotion: str) -> None:
    answer = client.analyze(text=SENTENCES[emotion])
    assert answer.label == emotion
    assert answer.untrained == ()


def test_demo_checkpoint_recognises_most_emoji(client: EmotionClient) -> None:
    wanted = [
        (carrier.format(one), emotion) for emotion in EMOJI for one in EMOJI[emotion].split() for carrier in CARRIERS
    ]
    assert len(wanted) == 28 * len(CARRIERS)
    wrong = [text for text, emotion in wanted if client.analyze(text=text).label != emotion]
    assert len(wrong) <= 0.25 * len(wanted), wrong


def test_demo_checkpoint_recognises_masked_swearing(client: EmotionClient) -> None:
    missed = [text for text in MASKED if client.analyze(text=text).label not in ("anger", "frustration")]
    assert len(missed) <= len(MASKED) / 4, missed


def test_demo_checkpoint_never_finds_frustration_in_audio(client: EmotionClient, recordings: dict[str, bytes]) -> None:
    # the audio corpus has no recordings of frustration
    for recording in recordings.values():
        heard = client.analyze(recording).audio_probabilities
        assert heard is not None
        assert heard["frustration"] < 0.05


def test_demo_checkpoint_answer_depends_on_the_text_of_a_recording(
    client: EmotionClient, recordings: dict[str, bytes]
) -> None:
    recording = next(iter(recordings.values()))
    labels = {client.analyze(recording, text).label for text in SENTENCES.values()}
    assert len(labels) >= 3, "the text has almost no influence"
