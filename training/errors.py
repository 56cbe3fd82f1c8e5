"""The one error of this room."""


class TrainingError(ValueError):
    """Something that the user can mend: a corpus, a setting, a run; the message says what and how."""
