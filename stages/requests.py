"""Read the tensors of a Python stage's requests, and send each request its response."""

from __future__ import annotations  # Triton adds classes to pb_utils only after the import

from collections.abc import Callable
from typing import Any

import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from emotion.errors import BusyError, InputError

OUTCOMES = ("answered", "invalid", "busy", "full", "expired", "canceled", "failed")  # how a request can end


class QueueFullError(BusyError):
    """The queue of the stage is full."""


class ExpiredError(BusyError):
    """The request waited longer than its timeout."""


class CanceledError(RuntimeError):
    """The caller has canceled the request or closed the connection."""


def respond(sender: Any, work: Callable[[], dict[str, NDArray[Any]]]) -> str:
    """Send the only response to a request: the tensors that `work` returns, or the error that it raises.

    No exception reaches Triton.

    Args:
        sender: the result of the request's `get_response_sender()`.
        work: returns the output tensors by name. An InputError becomes INVALID_ARGUMENT, a BusyError UNAVAILABLE, a
            CanceledError CANCELLED, and any other exception INTERNAL.

    Returns:
        The outcome, one of OUTCOMES.
    """
    answer, outcome = response(work)
    try:
        sender.send(answer, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
    except Exception as error:  # Triton has abandoned the request
        pb_utils.Logger.log_error(f"a response could not be sent: {error}")
        return "failed"
    return outcome


def response(work: Callable[[], dict[str, NDArray[Any]]]) -> tuple[pb_utils.InferenceResponse, str]:
    """Run `work`, and return the response that `respond` sends and its outcome."""
    try:
        tensors = [pb_utils.Tensor(name, array) for name, array in work().items()]
        return pb_utils.InferenceResponse(output_tensors=tensors), "answered"
    except InputError as error:
        return _error_response(error, pb_utils.TritonError.INVALID_ARG), "invalid"
    except BusyError as error:
        outcome = {QueueFullError: "full", ExpiredError: "expired"}.get(type(error), "busy")
        return _error_response(error, pb_utils.TritonError.UNAVAILABLE), outcome
    except CanceledError as error:
        return _error_response(error, pb_utils.TritonError.CANCELLED), "canceled"
    except Exception as error:  # unexpected error: fail only this request
        pb_utils.Logger.log_error(f"{type(error).__name__}: {error}")
        message = f"the stage failed ({type(error).__name__}: {error})"
        return _error_response(message, pb_utils.TritonError.INTERNAL), "failed"


def _error_response(message: object, code: int) -> pb_utils.InferenceResponse:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(message), code))


def tensor(request: Any, name: str) -> NDArray[Any]:
    """Return an input of the request; the memory belongs to Triton after `execute` has returned."""
    return pb_utils.get_input_tensor_by_name(request, name).as_numpy()


def bytes_rows(request: Any, name: str) -> list[bytes]:
    """Return the rows of a BYTES [n, 1] input, n byte strings."""
    return list(tensor(request, name).reshape(-1))
