"""The error that training commands report to the user."""


class TrainingError(ValueError):
    """The user can fix the cause: a corpus, a setting or a run; the message names the problem and the remedy."""
