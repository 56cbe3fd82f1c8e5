"""The one error for input that can't be used."""


class InputError(ValueError):
    """An utterance that can't be used; one sentence says what is wrong and what is accepted."""
