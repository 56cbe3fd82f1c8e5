"""The error of all benchmarks."""


class BenchmarkError(Exception):
    """A benchmark cannot be run; the message is one sentence with the remedy."""
