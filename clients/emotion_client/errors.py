"""Exceptions of the client, each with a message of one sentence, and their translation from gRPC statuses."""

import re
from collections.abc import Sequence

from tritonclient.utils import InferenceServerException

from emotion_client.network import used_proxy, why_unreachable

_ENSEMBLE = re.compile(r"^(?:in ensemble '[^']*', )+")
_UNREACHABLE = re.compile(
    r"^(?:connections to all backends failing|failed to connect to all addresses|errors resolving"
    r"|.*(?:Socket closed|Connection reset by peer|Broken pipe)\)?$)"  # the connection broke during the call
)
# The process of a stage died or is stopped, and the server exits within a second or two; or /dev/shm is full.
_BROKEN = re.compile(r"Stub process '[^']*' is not healthy|Failed to increase the shared memory pool size")
_NO_SOUND = "AUDIO has no sound above"  # start of the server's message
# of stages/admission.py: how long the answer would take, and how long the caller waits
_TOO_BUSY = re.compile(r"would take about (?P<needed>[\d.]+) s, and \D+(?P<waits>[\d.]+) s")
_TOO_LARGE = re.compile(r"message larger than max")


class EmotionError(Exception):
    """Base class: an utterance got no answer."""


class InvalidInput(EmotionError):
    """The request is invalid: the same request will always fail."""


class NoSpeech(InvalidInput):
    """The audio has no sound, and no text was given."""


class Unavailable(EmotionError):
    """No server could be reached or all were too busy, and every retry was used up. Try again later.

    Attributes:
        retry_after: seconds after which the server expects to have time for the request; None if it did not say.
    """

    retry_after: float | None = None


class Unreachable(Unavailable):
    """No server could be reached."""


class CircuitOpen(Unreachable):
    """The call was not sent, because no server has answered for a while. Calls are sent again once a server answers."""


class DeadlineExceeded(EmotionError):
    """The answer did not arrive within the deadline."""


def is_broken_server(error: InferenceServerException) -> bool:
    """Return whether a stage of the server is broken: another server, or this one after a restart, can answer."""
    return error.status() == "StatusCode.INTERNAL" and bool(_BROKEN.search(_sentence(error)))


def is_cancelled(error: InferenceServerException) -> bool:
    """Return whether the call was cancelled: by its server, by a proxy, or because this client was closed."""
    return bool(error.status() == "StatusCode.CANCELLED")


def is_outage(error: InferenceServerException) -> bool:
    """Return whether no server answered: none was reachable, none answered in time, or the server was broken."""
    unreachable = error.status() == "StatusCode.UNAVAILABLE" and bool(_UNREACHABLE.match(_sentence(error)))
    return unreachable or error.status() == "StatusCode.DEADLINE_EXCEEDED" or is_broken_server(error)


def from_triton(error: InferenceServerException, servers: Sequence[str], model: str, deadline: float) -> EmotionError:
    """Return the exception to raise for an error of tritonclient.

    Args:
        error: the error in which the call ended.
        servers: the endpoints, HOST:PORT. After a passed deadline, this function tries for up to 0.1 s to connect to
            each endpoint that is an IP address, to find the reason.
        model: the model that was called.
        deadline: seconds that the call was allowed to take.
    """
    sentence, endpoints = _sentence(error), ", ".join(servers)
    reason = sentence.rstrip(".")
    match (error.status() or "").removeprefix("StatusCode."):
        case "INVALID_ARGUMENT":
            return NoSpeech(sentence) if sentence.startswith(_NO_SOUND) else InvalidInput(sentence)
        case "DEADLINE_EXCEEDED":
            if proxy := used_proxy(servers):
                return DeadlineExceeded(f"no answer from {endpoints} within the deadline of {deadline:g} s ({proxy})")
            # gRPC reconnects until the deadline, and then does not report why it could not connect
            if cause := why_unreachable(servers):
                return Unreachable(
                    f"no server could be reached at {endpoints} within the deadline of {deadline:g} s: {cause}"
                )
            return DeadlineExceeded(f"no answer from {endpoints} within the deadline of {deadline:g} s")
        case "UNAVAILABLE" if is_outage(error):
            # gRPC joins reasons with colons, root cause last; reasons of TLS end in OK
            cause = sentence.removesuffix(": OK").rpartition(": ")[2].rstrip("]")
            if "HTTP/2" in cause or (sentence.startswith("connections") and cause == "Socket closed"):
                cause += "; check that this is the gRPC port, 8001 by default, and whether the server uses TLS"
            if proxy := used_proxy(servers):
                cause += f" ({proxy})"
            return Unreachable(f"no server could be reached at {endpoints}: {cause}")
        case "UNAVAILABLE":
            busy = Unavailable(sentence)
            if match := _TOO_BUSY.search(sentence):
                busy.retry_after = max(0.0, float(match["needed"]) - float(match["waits"]))
            return busy
        case "RESOURCE_EXHAUSTED" if _TOO_LARGE.search(sentence):
            return InvalidInput(
                f"the request is larger than {endpoints} accepts ({reason}): send a shorter recording, or a "
                "compressed one (FLAC, MP3, Ogg, M4A or WebM)"
            )
        case "RESOURCE_EXHAUSTED":
            return Unavailable(f"{endpoints} rejected the request, as a quota is used up ({reason}): try again later")
        case "UNAUTHENTICATED":
            why = f"{endpoints} requires credentials ({reason}): ask its operator which ones to send"
        case "PERMISSION_DENIED":
            why = f"{endpoints} denies access to this caller ({reason}): ask its operator for access"
        case "NOT_FOUND":
            why = (
                f"{endpoints} does not serve the model '{model}' ({reason}): "
                "give the gRPC endpoint of an emotion server"
            )
            if model == "emotion_speech":
                why += " that runs with --speech"
        case "UNIMPLEMENTED":
            why = f"{endpoints} is not a Triton server ({reason}): give the gRPC endpoint of an emotion server"
        case "INTERNAL" if is_broken_server(error):
            why = f"the server at {endpoints} is broken ({reason}): try again after its restart"
        case "CANCELLED":
            why = f"the call was cancelled by {endpoints}, by a proxy, or because this client was closed ({reason})"
        case _:
            why = f"the server at {endpoints} failed ({reason}): see its log"
    return EmotionError(why)


def _sentence(error: InferenceServerException) -> str:
    """Return the first line of the server's message, without a stack trace and the names of ensembles."""
    first_line = (error.message() or "").partition("\n")[0].strip()
    return _ENSEMBLE.sub("", first_line) or "no reason given"
