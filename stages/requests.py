"""What Triton's Python stages share: reading rows, laying ragged rows out, answering each request on its own."""

from __future__ import annotations  # Triton adds its classes to pb_utils only after the import

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from emotion.errors import BusyError, InputError


def respond_per_request(
    requests: Iterable[Any], work: Callable[[Any], dict[str, NDArray[Any]]]
) -> list[pb_utils.InferenceResponse]:
    """One response per request: `work`'s tensors by name, or the request's own error.

    Nothing is raised into Triton, as that would fail the neighbours in the batch and leak shared memory.
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
    except Exception as error:  # a fault of ours: this request alone bears it
        pb_utils.Logger.log_error(f"{type(error).__name__}: {error}")
        return _refusal(f"preprocessing failed ({type(error).__name__}: {error})", pb_utils.TritonError.INTERNAL)


def _refusal(message: str, code: int) -> pb_utils.InferenceResponse:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))


def tensor(request: Any, name: str) -> NDArray[Any]:
    """An input of the request."""
    return pb_utils.get_input_tensor_by_name(request, name).as_numpy()


def bytes_rows(request: Any, name: str) -> list[bytes]:
    """The rows of a BYTES [n, 1] input."""
    return list(tensor(request, name).reshape(-1))


def pad_rows(values: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], NDArray[np.int32]]:
    """Rows of unequal length as one tensor [n, longest, ...], and the length of each, int32 [n, 1].

    A request of one row, the usual case, is neither padded nor copied.
    """
    count = np.array([[len(row)] for row in values], np.int32)
    if len(values) == 1:
        return values[0][None], count
    padded = np.zeros((len(values), count.max(), *values[0].shape[1:]), values[0].dtype)
    for row, target in zip(values, padded, strict=True):
        target[: len(row)] = row
    return padded, count
