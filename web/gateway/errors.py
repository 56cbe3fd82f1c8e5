"""Failures as callers see them: a status, a code for programs, a sentence for people."""

from emotion_client import DeadlineExceeded, EmotionError, InvalidInput, NoSpeech, Unavailable, Unreachable
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse


class Problem(BaseModel):
    """The body of every failure."""

    code: str = Field(description="for programs", examples=["too_large"])
    message: str = Field(description="for people", examples=["The upload is too large; at most 20 MiB are accepted."])


class Failure(Exception):
    """A request that gets no answer.

    Attributes:
        status: of HTTP.
        code: for programs.
        message: one sentence for people.
        retry_after: seconds, where trying again makes sense.
    """

    def __init__(self, status: int, code: str, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.retry_after = status, code, message, retry_after


def unusable(message: str) -> Failure:
    """The input itself is wrong."""
    return Failure(400, "unusable", message)


def busy() -> Failure:
    """Others are being served; a second or two later there is a place."""
    return Failure(503, "busy", "Many people are using this right now; please try again in a moment.", retry_after=2)


def too_often(seconds: int) -> Failure:
    """One caller asks more often than it may."""
    return Failure(429, "too_often", f"You ask too often; please try again in {seconds} s.", retry_after=seconds)


def too_large(limit: int) -> Failure:
    """An upload over the limit."""
    return Failure(413, "too_large", f"The upload is too large; at most {limit / 2**20:g} MiB are accepted.")


def from_client(error: EmotionError) -> Failure:
    """What to tell about a call to the server that failed."""
    match error:
        case NoSpeech():
            return Failure(
                400,
                "no_speech",
                "No sound is in the recording: check the microphone and speak again, or type what was said.",
            )
        case InvalidInput():
            return unusable(for_people(str(error)))
        case DeadlineExceeded():
            return Failure(504, "late", "The answer took too long; please try again, or send a shorter recording.")
        case Unreachable():
            return Failure(503, "away", "The emotion server is not running or can't be reached.", retry_after=5)
        case Unavailable():
            return busy()
    return Failure(500, "fault", "The emotion server failed to answer; its log says why.")


def for_people(sentence: str) -> str:
    """A sentence about the tensors AUDIO and TEXT as one about what somebody uploaded."""
    for tensor, thing in (("AUDIO", "the recording"), ("TEXT", "the text")):
        sentence = sentence.replace(tensor, thing)
    return sentence[:1].upper() + sentence[1:] + ("" if sentence.endswith(".") else ".")


def answer(failure: Failure) -> JSONResponse:
    """The response that says so."""
    headers = {"Retry-After": str(failure.retry_after)} if failure.retry_after else None
    return JSONResponse({"code": failure.code, "message": failure.message}, failure.status, headers)
