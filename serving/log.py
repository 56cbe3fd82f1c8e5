"""Reads Triton's log: what to show, and what went wrong."""

import re
import sys
from collections.abc import Iterable

LEVELS = ("verbose", "info", "warning", "error")
CLEAR_LINE = "\r\x1b[K"  # on a terminal: what stands on the line gives way
_LINE = re.compile(r"^(?P<level>[IWEFV])\d{4} [\d:.]+ \d+ (?P<source>[\w.]+:\d+)\] (?P<message>.*)$")
_RANK = {"V": 0, "I": 1, "W": 2, "E": 3, "F": 3}

# What Triton says on every machine without a GPU, and libmpg123's remarks on files that we judge ourselves
_HARMLESS = (
    "CUDA driver version is insufficient",
    "CudaDriverHelper has not been initialized",
    "allocate pinned system memory",
    "Failed to initialize NVML",
    "DCGM",
    "fuzzy seeking may be even more fuzzy",
    "libmpg123",
)
_OWN_ERROR = re.compile(r"^(error|\S*/tritonserver): (?P<message>.+)$")  # printed: of main(), of a wrong flag
_LOADED = re.compile(r"successfully loaded '(?P<model>[^']+)'")
_LOAD_FAILURE = re.compile(r"failed to load '(?P<model>[^']+)' version \d+: (?P<reason>.*?)\"?$")


def shown(line: str, level: str) -> bool:
    """Whether a line of the log is for a user who asked for `level`."""
    if any(noise in line for noise in _HARMLESS):
        return level == "verbose"
    match = _LINE.match(line)
    # lines without a header are tables, prints and the continuation of messages: information
    rank = _RANK[match["level"]] if match else _RANK["I"]
    return rank >= LEVELS.index(level)


def failure(lines: Iterable[str]) -> str | None:
    """The reason for a failed start in one line, or None where the log gives none."""
    errors = []
    for line in lines:
        if match := _LOAD_FAILURE.search(line):
            reason = match["reason"].split("\\n")[0]  # Triton appends a Python traceback with escaped line ends
            return f"model '{match['model']}' failed to load: {reason}"
        if (match := _LINE.match(line)) and match["level"] in "EF" and not any(noise in line for noise in _HARMLESS):
            errors.append(match["message"].strip('"'))
        elif match := _OWN_ERROR.match(line):
            errors.append(match["message"])
    return errors[0] if errors else None


def loaded(line: str) -> str | None:
    """Return the model that a line of the log says is loaded, or None."""
    return match["model"] if (match := _LOADED.search(line)) else None


def relay(line: str, level: str) -> None:
    """Show a line of the log on standard error if `level` includes it."""
    if shown(line, level):
        print(CLEAR_LINE + line if sys.stderr.isatty() else line, file=sys.stderr, flush=True)
