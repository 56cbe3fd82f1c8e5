"""Messages that live streams and the analysis of long recordings have in common."""

from typing import Literal

from emotion_client import EmotionError, EmotionResult, NoSpeech
from pydantic import BaseModel, Field

from web.gateway.analysis import Probabilities
from web.gateway.errors import from_client_error

NO_SOUND = "No sound was found in this utterance."


class Spoken(BaseModel):
    """One utterance."""

    type: Literal["utterance"] = "utterance"
    start: float = Field(description="start in seconds", examples=[1.2])
    end: float = Field(description="end in seconds", examples=[3.4])
    transcript: str | None = Field(
        default=None, description="recognised text, empty if no words were understood; null if speech is not recognised"
    )
    label: str | None = Field(default=None, description="the most probable emotion; null if `error` is set")
    status: Literal["ok", "unsure", "no_speech"] | None = None
    confidence: float | None = Field(default=None, description="calibrated probability that the label is right")
    probabilities: Probabilities | None = None
    error: str | None = Field(default=None, description="why the utterance has no answer; null if it has one")


class Failed(BaseModel):
    """Why there are no further messages."""

    type: Literal["error"] = "error"
    code: str = Field(description="code for programs", examples=["away"])
    message: str = Field(description="message for people")


def spoken(start: float, end: float, result: EmotionResult | EmotionError) -> Spoken:
    """Return the message for an utterance from `start` to `end`, in seconds."""
    if isinstance(result, EmotionError):
        error = NO_SOUND if isinstance(result, NoSpeech) else from_client_error(result).message
        return Spoken(start=start, end=end, error=error)
    understood = result.transcript_confidence and result.transcript_confidence.understood
    return Spoken(
        start=start,
        end=end,
        transcript=result.transcript if understood or result.transcript is None else "",
        label=result.label,
        status=result.status,
        confidence=result.confidence,
        probabilities=result.probabilities,
    )
