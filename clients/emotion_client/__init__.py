"""Python client of the emotion server, which returns the probabilities of five emotions for speech and text."""

from emotion_client.channel import TLS
from emotion_client.client import AsyncEmotionClient, EmotionClient
from emotion_client.errors import (
    CircuitOpen,
    DeadlineExceeded,
    EmotionError,
    InvalidInput,
    NoSpeech,
    Unavailable,
    Unreachable,
)
from emotion_client.stream import SpokenUtterance, StreamAnswer, StreamEvent, VoiceUpdate
from emotion_client.types import (
    EMOTIONS,
    Emotion,
    EmotionResult,
    Priority,
    Status,
    Timings,
    TranscriptConfidence,
    Utterance,
)
from emotion_client.voice_activity import find_utterances

__all__ = [
    "EMOTIONS",
    "TLS",
    "AsyncEmotionClient",
    "CircuitOpen",
    "DeadlineExceeded",
    "Emotion",
    "EmotionClient",
    "EmotionError",
    "EmotionResult",
    "InvalidInput",
    "NoSpeech",
    "Priority",
    "SpokenUtterance",
    "Status",
    "StreamAnswer",
    "StreamEvent",
    "Timings",
    "TranscriptConfidence",
    "Unavailable",
    "Unreachable",
    "Utterance",
    "VoiceUpdate",
    "find_utterances",
]
