"""Errors of the API: an HTTP status, a code for programs and a message for people."""

import math

from emotion_client import DeadlineExceeded, EmotionError, InvalidInput, NoSpeech, Unavailable, Unreachable
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

KEY_HEADER = "X-API-Key"


class Problem(BaseModel):
    """The body of every error response."""

    code: str = Field(description="code for programs", examples=["too_large"])
    message: str = Field(
        description="message for people", examples=["The upload is too large; at most 20 MiB are accepted."]
    )


class ApiError(Exception):
    """An error that the API reports to its caller.

    Attributes:
        status: HTTP status.
        code: code for programs.
        message: one sentence for people.
        retry_after: seconds after which a retry may succeed, or None.
    """

    def __init__(self, status: int, code: str, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.retry_after = status, code, message, retry_after


def invalid_input(message: str) -> ApiError:
    """Return the error for input that can never be used."""
    return ApiError(400, "unusable", message)


def busy(seconds: float | None = None) -> ApiError:
    """Return the error for a gateway or server that is at its limit.

    Args:
        seconds: time after which a retry may succeed; None if it is not known.
    """
    wait = 2 if seconds is None else max(1, math.ceil(seconds))
    return ApiError(
        503, "busy", f"Many people are using this right now; please try again in about {wait} s.", retry_after=wait
    )


def wrong_key(given: str) -> ApiError:
    """Return the error for a caller without the API key, or with another one."""
    if given:
        return ApiError(401, "key", f"The access key in {KEY_HEADER} is wrong; ask who runs this service for the key.")
    return ApiError(401, "key", f"This service needs an access key, sent as {KEY_HEADER}.")


def rate_limited(seconds: int) -> ApiError:
    """Return the error for a caller over its rate limit, who may retry after `seconds`."""
    return ApiError(
        429,
        "too_often",
        f"There are too many requests from your address; please try again in {seconds} s.",
        retry_after=seconds,
    )


def too_large(limit: int) -> ApiError:
    """Return the error for an upload over `limit` bytes."""
    return ApiError(413, "too_large", f"The upload is too large; at most {limit / 2**20:g} MiB are accepted.")


def from_client_error(error: EmotionError) -> ApiError:
    """Return the error to report for a failed call of the emotion server."""
    match error:
        case NoSpeech():
            return ApiError(
                400,
                "no_speech",
                "The recording has no sound: check the microphone and speak again, or type what was said.",
            )
        case InvalidInput():
            return invalid_input(user_message(str(error)))
        case DeadlineExceeded():
            return ApiError(504, "late", "The answer took too long; please try again, or send a shorter recording.")
        case Unreachable():
            return ApiError(503, "away", "The emotion server is not running or can't be reached.", retry_after=5)
        case Unavailable():
            return busy(error.retry_after)
    return ApiError(500, "fault", "The emotion server failed to answer; its log says why.")


def user_message(sentence: str) -> str:
    """Return a server message with the tensor names AUDIO and TEXT replaced by words for users."""
    for tensor, thing in (("AUDIO", "the recording"), ("TEXT", "the text")):
        sentence = sentence.replace(tensor, thing)
    return sentence[:1].upper() + sentence[1:] + ("" if sentence.endswith(".") else ".")


def error_response(error: ApiError) -> JSONResponse:
    """Return the HTTP response that reports an error."""
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after else None
    return JSONResponse({"code": error.code, "message": error.message}, error.status, headers)
