"""What a caller can do something about."""


class InputError(ValueError):
    """An utterance that can't be used; one sentence says what is wrong and what is accepted."""


class BusyError(RuntimeError):
    """No answer could come in time; the message says so. The same request may be answered later, or elsewhere."""
