"""What can go wrong in a benchmark."""


class BenchmarkError(Exception):
    """A benchmark can't be run; one sentence for people as its message."""
