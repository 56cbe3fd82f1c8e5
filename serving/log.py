"""Read Triton's log: filter it by level, and find the reason of a failed start."""

import re
import sys
from collections.abc import Iterable

LEVELS = ("verbose", "info", "warning", "error")
CLEAR_LINE = "\r\x1b[K"  # overwrites the current line of a terminal
_LINE = re.compile(r"^(?P<level>[IWEFV])\d{4} [\d:.]+ \d+ (?P<source>[\w.]+:\d+)\] (?P<message>.*)$")
_RANK = {"V": 0, "I": 1, "W": 2, "E": 3, "F": 3}

# messages of every machine without a GPU, and libmpg123's remarks on files that the audio front-end checks itself
_HARMLESS = (
    "CUDA driver version is insufficient",
    "CudaDriverHelper has not been initialized",
    "allocate pinned system memory",
    "Failed to initialize NVML",
    "DCGM",
    "fuzzy seeking may be even more fuzzy",
    "libmpg123",
)
_OWN_ERROR = re.compile(
    r"^(error|\S*/tritonserver): (?P<message>.+)$"
)  # printed by tritonserver's main(), and for a wrong flag
_LOADED = re.compile(r"successfully loaded '(?P<model>[^']+)'")
_LOAD_FAILURE = re.compile(r"failed to load '(?P<model>[^']+)' version \d+: (?P<reason>.*?)\"?$")


def is_shown(line: str, level: str) -> bool:
    """Return whether a line of the log is shown at a level.

    Args:
        line: a line without its line end.
        level: one of LEVELS.
    """
    if any(noise in line for noise in _HARMLESS):
        return level == "verbose"
    match = _LINE.match(line)
    # lines without a header are tables, prints and continued messages; they count as info
    rank = _RANK[match["level"]] if match else _RANK["I"]
    return rank >= LEVELS.index(level)


def failure_reason(lines: Iterable[str]) -> str | None:
    """Return the reason of a failed start in one line, or None if the log has no error."""
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


def loaded_model(line: str) -> str | None:
    """Return the name of the model that a line of the log reports as loaded, or None."""
    return match["model"] if (match := _LOADED.search(line)) else None


def relay(line: str, level: str) -> None:
    """Print a line of the log to standard error if the level includes it."""
    if is_shown(line, level):
        print(CLEAR_LINE + line if sys.stderr.isatty() else line, file=sys.stderr, flush=True)
