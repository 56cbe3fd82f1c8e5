"""What can go wrong, each with one sentence for people as its message."""

import re

from tritonclient.utils import InferenceServerException

_ENSEMBLE = re.compile(r"^(?:in ensemble '[^']*', )+")
_UNREACHABLE = re.compile(
    r"^(?:connections to all backends failing|failed to connect to all addresses|errors resolving)"
)
# a stage's process died or is stopped; such a server ends itself within a second or two
_BROKEN = re.compile(r"Stub process '[^']*' is not healthy")


class EmotionError(Exception):
    """An utterance got no answer."""


class InvalidInput(EmotionError):
    """The request itself is wrong: the same request will always fail."""


class Unavailable(EmotionError):
    """No server could be reached, or it is too busy; every retry was used up. Try again later."""


class Unreachable(Unavailable):
    """No server could be reached."""


class DeadlineExceeded(EmotionError):
    """The answer did not come in time."""


def is_broken_server(error: InferenceServerException) -> bool:
    """Whether a stage of the server is broken: another server can answer, or the same when it was started anew."""
    return error.status() == "StatusCode.INTERNAL" and bool(_BROKEN.search(error.message() or ""))


def from_triton(error: InferenceServerException, endpoints: str, deadline: float) -> EmotionError:
    """The exception to raise for `error`, which a call to `endpoints` with `deadline` (seconds) ended in."""
    sentence = _ENSEMBLE.sub("", error.message() or "the server gave no reason")
    match error.status():
        case "StatusCode.INVALID_ARGUMENT":
            return InvalidInput(sentence)
        case "StatusCode.DEADLINE_EXCEEDED":
            return DeadlineExceeded(f"no answer from {endpoints} within the deadline of {deadline:g} s")
        case "StatusCode.UNAVAILABLE" if _UNREACHABLE.match(sentence):
            # gRPC chains its reasons with colons, the root cause comes last; after those of TLS, it says OK
            cause = sentence.removesuffix(": OK").rpartition(": ")[2].rstrip("]")
            return Unreachable(f"no server could be reached at {endpoints}: {cause}")
        case "StatusCode.UNAVAILABLE":
            return Unavailable(sentence)
    return EmotionError(sentence)
