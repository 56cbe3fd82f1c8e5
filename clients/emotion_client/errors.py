"""What can go wrong, each with one sentence for people as its message."""

import re
from collections.abc import Sequence

from tritonclient.utils import InferenceServerException

from emotion_client.network import used_proxy, why_unreachable

_ENSEMBLE = re.compile(r"^(?:in ensemble '[^']*', )+")
_UNREACHABLE = re.compile(
    r"^(?:connections to all backends failing|failed to connect to all addresses|errors resolving"
    r"|.*(?:Socket closed|Connection reset by peer|Broken pipe)\)?$)"  # while the call was under way
)
# a stage's process died or is stopped, and the server ends itself within a second or two; or /dev/shm is full
_BROKEN = re.compile(r"Stub process '[^']*' is not healthy|Failed to increase the shared memory pool size")
_NO_SOUND = "AUDIO has no sound above"  # how the server's sentence begins
_TOO_LARGE = re.compile(r"message larger than max")


class EmotionError(Exception):
    """An utterance got no answer."""


class InvalidInput(EmotionError):
    """The request itself is wrong: the same request will always fail."""


class NoSpeech(InvalidInput):
    """The audio has no sound, and no text was given: there is nothing to judge."""


class Unavailable(EmotionError):
    """No server could be reached, or it is too busy; every retry was used up. Try again later."""


class Unreachable(Unavailable):
    """No server could be reached."""


class CircuitOpen(Unreachable):
    """Not sent, since the servers have not answered for a while. Calls are sent again when one was answered."""


class DeadlineExceeded(EmotionError):
    """The answer did not come in time."""


def is_broken_server(error: InferenceServerException) -> bool:
    """Whether a stage of the server is broken: another server can answer, or the same when it was started anew."""
    return error.status() == "StatusCode.INTERNAL" and bool(_BROKEN.search(_sentence(error)))


def is_outage(error: InferenceServerException) -> bool:
    """Whether nobody answered: no server reached, none in time, or a broken one. A refusal is an answer."""
    unreachable = error.status() == "StatusCode.UNAVAILABLE" and bool(_UNREACHABLE.match(_sentence(error)))
    return unreachable or error.status() == "StatusCode.DEADLINE_EXCEEDED" or is_broken_server(error)


def from_triton(error: InferenceServerException, servers: Sequence[str], model: str, deadline: float) -> EmotionError:
    """Return the exception to raise for `error`, in which a call of `model` ended.

    Args:
        servers: the endpoints, HOST:PORT. If the deadline has passed, it takes up to 0.1 s to try to connect to each
            that is an IP address.
        model: that was called.
        deadline: s.
    """
    sentence, endpoints = _sentence(error), ", ".join(servers)
    reason = sentence.rstrip(".")
    match (error.status() or "").removeprefix("StatusCode."):
        case "INVALID_ARGUMENT":
            return NoSpeech(sentence) if sentence.startswith(_NO_SOUND) else InvalidInput(sentence)
        case "DEADLINE_EXCEEDED":
            if proxy := used_proxy(servers):
                return DeadlineExceeded(f"no answer from {endpoints} within the deadline of {deadline:g} s ({proxy})")
            # gRPC tries to connect again until the deadline, and then says nothing of why it could not
            if cause := why_unreachable(servers):
                return Unreachable(
                    f"no server could be reached at {endpoints} within the deadline of {deadline:g} s: {cause}"
                )
            return DeadlineExceeded(f"no answer from {endpoints} within the deadline of {deadline:g} s")
        case "UNAVAILABLE" if is_outage(error):
            # gRPC chains its reasons with colons, the root cause comes last; after those of TLS, it says OK
            cause = sentence.removesuffix(": OK").rpartition(": ")[2].rstrip("]")
            if "HTTP/2" in cause or (sentence.startswith("connections") and cause == "Socket closed"):
                cause += "; is it the gRPC port, 8001 by default, and does it speak TLS just as this client?"
            if proxy := used_proxy(servers):
                cause += f" ({proxy})"
            return Unreachable(f"no server could be reached at {endpoints}: {cause}")
        case "UNAVAILABLE":
            return Unavailable(sentence)
        case "RESOURCE_EXHAUSTED" if _TOO_LARGE.search(sentence):
            return InvalidInput(
                f"the request is larger than {endpoints} accepts ({reason}): send a shorter recording, or a "
                "compressed one (FLAC, MP3, Ogg, M4A or WebM)"
            )
        case "RESOURCE_EXHAUSTED":
            return Unavailable(f"{endpoints} refuses, as a quota is used up ({reason}): try again later")
        case "UNAUTHENTICATED":
            why = f"{endpoints} does not know who calls ({reason}): ask its operator what to show"
        case "PERMISSION_DENIED":
            why = f"{endpoints} does not let this caller in ({reason}): ask its operator for access"
        case "NOT_FOUND":
            why = f"{endpoints} does not serve the model '{model}' ({reason}): give the emotion server's gRPC endpoint"
            if model == "emotion_speech":
                why += ", of one that runs with --speech"
        case "UNIMPLEMENTED":
            why = f"{endpoints} is no Triton server ({reason}): give the emotion server's gRPC endpoint"
        case "INTERNAL" if is_broken_server(error):
            why = f"a part of the server at {endpoints} is broken ({reason}): try again when it was started anew"
        case "CANCELLED":
            why = f"the call was cancelled by {endpoints} or a proxy before it, or this client was closed ({reason})"
        case _:
            why = f"the server at {endpoints} failed ({reason}): its log may say more"
    return EmotionError(why)


def _sentence(error: InferenceServerException) -> str:
    """What the server says, without the stack trace that may come below it."""
    first_line = (error.message() or "").partition("\n")[0].strip()
    return _ENSEMBLE.sub("", first_line) or "no reason given"
