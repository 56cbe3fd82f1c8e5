"""Reads the tensors of a Python stage's requests, and answers each request on its own."""

from __future__ import annotations  # Triton adds its classes to pb_utils only after the import

from collections.abc import Callable, Iterable
from typing import Any

import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from emotion.errors import BusyError, InputError


def respond_per_request(
    requests: Iterable[Any], work: Callable[[Any], dict[str, NDArray[Any]]]
) -> list[pb_utils.InferenceResponse]:
    """Return one response per request: `work`'s tensors by name, or the request's own error.

    Nothing is raised into Triton, as that would fail the neighbours in the batch and leak shared memory.

    Args:
        requests: those of Triton's `execute`.
        work: maps a request to its output tensors; an InputError becomes INVALID_ARGUMENT, a BusyError UNAVAILABLE,
            any other exception INTERNAL.
    """
    return [_answer(request, work) for request in requests]


def _answer(request: Any, work: Callable[[Any], dict[str, NDArray[Any]]]) -> pb_utils.InferenceResponse:
    try:
        tensors = [pb_utils.Tensor(name, array) for name, array in work(request).items()]
        return pb_utils.InferenceResponse(output_tensors=tensors)
    except InputError as error:
        return _refusal(str(error), pb_utils.TritonError.INVALID_ARG)
    except BusyError as error:
        return _refusal(str(error), pb_utils.TritonError.UNAVAILABLE)
    except Exception as error:  # unexpected error: fail only this request
        pb_utils.Logger.log_error(f"{type(error).__name__}: {error}")
        return _refusal(f"the stage failed ({type(error).__name__}: {error})", pb_utils.TritonError.INTERNAL)


def _refusal(message: str, code: int) -> pb_utils.InferenceResponse:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))


def tensor(request: Any, name: str) -> NDArray[Any]:
    """Return an input of the request."""
    return pb_utils.get_input_tensor_by_name(request, name).as_numpy()


def bytes_rows(request: Any, name: str) -> list[bytes]:
    """Return the rows of a BYTES [n, 1] input."""
    return list(tensor(request, name).reshape(-1))
