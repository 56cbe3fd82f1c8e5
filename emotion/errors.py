"""Errors that a caller can act on, and the one-line reason of a library's error."""

import textwrap


class InputError(ValueError):
    """An utterance can't be used; the message is one sentence that names the problem and what is accepted."""


class BusyError(RuntimeError):
    """No answer can be given in time; the same request may succeed later or on another server."""


def reason_of(error: Exception) -> str:
    """Return the message of a library's error in one line of at most 300 characters, or its type if it has none."""
    return textwrap.shorten(str(error), 300, placeholder=" ...") or type(error).__name__
