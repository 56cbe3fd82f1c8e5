"""Fuzz all targets in parallel for some minutes, and list the failing inputs; exit status 1 if there are any."""

import argparse
import hashlib
import re
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from emotion.extras import require_packages

with require_packages("make fuzz"):
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Table

    from fuzz.seeds import seeds
    from fuzz.targets import CPU_LIMIT_S, TARGETS, TOKENIZER

KEPT = Path(__file__).parent / "corpus"  # inputs in git, selected by `--keep` and replayed by tests
WORK = Path("build/fuzz")  # inputs of earlier runs, which the next run starts from
MAX_INPUT_BYTES = {"audio": 1 << 14, "text": 1 << 12}
MEMORY_MIB = 1024  # memory limit of a target
TIMEOUT_S = 30  # libFuzzer stops at an input that takes longer; targets check CPU_LIMIT_S themselves
_STATUS = re.compile(r"#(\d+)\s+\w+ +cov: (\d+) ft: (\d+) corp: (\d+)/")
_FAILURE = re.compile(r"(?:crash|oom|timeout|leak)-[0-9a-f]{40}")


@dataclass
class Run:
    """The fuzzing process of one target.

    Attributes:
        target: name of the target.
        process: the process of libFuzzer.
        log: file with its output.
        started, ended: monotonic times in seconds; `ended` is None while the process runs.
    """

    target: str
    process: subprocess.Popen[bytes]
    log: Path
    started: float
    ended: float | None = None

    def status(self) -> tuple[int, int, int]:
        """Return the numbers of tried inputs, of covered edges and of kept inputs so far."""
        found = _STATUS.findall(self.log.read_text(errors="replace"))
        if not found:
            return 0, 0, 0
        tried, edges, _, kept = map(int, found[-1])
        return tried, edges, kept

    @property
    def minutes(self) -> float:
        """The run time so far, or in total if the process has ended."""
        return ((self.ended or time.monotonic()) - self.started) / 60

    def failures(self) -> list[Path]:
        """Return the files of the inputs that failed in this run."""
        names = set(_FAILURE.findall(self.log.read_text(errors="replace")))
        return [path for name in sorted(names) if (path := self.log.parent / name).exists()]


def start(target: str, minutes: float) -> Run:
    """Start to fuzz one target in a new process, from the kept inputs, the seeds and the inputs of earlier runs.

    Args:
        target: a key of TARGETS.
        minutes: how long to fuzz.
    """
    directory = WORK / target
    found = directory / "corpus"
    found.mkdir(parents=True, exist_ok=True)
    for data in seeds(target):
        (found / hashlib.sha1(data).hexdigest()).write_bytes(data)
    kept = KEPT / target
    kept.mkdir(parents=True, exist_ok=True)
    log = directory / "log"
    limits = [f"-max_total_time={round(60 * minutes)}", f"-timeout={TIMEOUT_S}", f"-rss_limit_mb={MEMORY_MIB}"]
    command = [sys.executable, "-m", "fuzz.engine", target, *limits, f"-max_len={MAX_INPUT_BYTES[target]}"]
    command += [f"-artifact_prefix={directory}/", "-print_final_stats=1", str(found), str(kept)]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
    return Run(target, process, log, time.monotonic())


def keep(target: str) -> None:
    """Copy a minimal set of inputs with the same coverage into the directory in git.

    Args:
        target: a key of TARGETS.

    Raises:
        subprocess.CalledProcessError: libFuzzer fails.
    """
    kept, found = KEPT / target, WORK / target / "corpus"
    limits = ["-merge=1", f"-rss_limit_mb={MEMORY_MIB}", f"-max_len={MAX_INPUT_BYTES[target]}"]
    command = [sys.executable, "-m", "fuzz.engine", target, *limits, str(kept), str(found)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main() -> int:
    """Fuzz the targets with a progress display, and print a table of the results.

    Returns:
        The exit status: 0 if no input failed, else 1.
    """
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument(
        "targets", nargs="*", metavar="TARGET", help=f"target to fuzz: {' or '.join(TARGETS)} (default: all)"
    )
    parser.add_argument("--minutes", type=float, default=20, help="run time; all targets run in parallel (default: 20)")
    parser.add_argument(
        "--keep",
        action="store_true",
        help=f"at the end, copy a minimal set of inputs with the same coverage to {KEPT.name}/",
    )
    arguments = parser.parse_args()
    targets = arguments.targets or list(TARGETS)
    if unknown := set(targets) - set(TARGETS):
        parser.error(f"unknown target {', '.join(sorted(unknown))}; choose from {', '.join(TARGETS)}")
    if "text" in targets and not TOKENIZER.exists():
        parser.error(f"the target text needs {TOKENIZER}; run: make export")
    console = Console()
    with ExitStack() as stack:
        runs = []
        for target in targets:
            runs.append(start(target, arguments.minutes))
            stack.callback(runs[-1].process.kill)
        _watch(runs, arguments.minutes, console)
    table = Table("target", "minutes", "inputs", "edges reached", "kept", "failures")
    for run in runs:
        tried, edges, kept = run.status()
        failures = ", ".join(map(str, run.failures())) or ("0" if run.process.returncode == 0 else f"see {run.log}")
        table.add_row(run.target, f"{run.minutes:.1f}", f"{tried:,}", str(edges), str(kept), failures)
    console.print(table)
    if arguments.keep:
        for target in targets:
            keep(target)
    passed = all(run.process.returncode == 0 and not run.failures() for run in runs)
    criterion = f"every input got a result or a one-line error within {CPU_LIMIT_S:g} s and {MEMORY_MIB} MiB"
    console.print(f"[green]PASS[/]: {criterion}" if passed else f"[red]FAIL[/]: not {criterion}")
    return 0 if passed else 1


def _watch(runs: list[Run], minutes: float, console: Console) -> None:
    """Show a progress bar for each run until all have ended."""
    text = TextColumn("{task.description:>10}  {task.fields[tried]:>12,} inputs  {task.fields[edges]:>5} edges")
    with Progress(text, BarColumn(), TimeRemainingColumn(), console=console) as progress:
        tasks = {run.target: progress.add_task(run.target, total=minutes, tried=0, edges=0) for run in runs}
        while any(run.ended is None for run in runs):
            time.sleep(0.5)
            for run in runs:
                if run.ended is None and run.process.poll() is not None:
                    run.ended = time.monotonic()
                tried, edges, _ = run.status()
                progress.update(tasks[run.target], completed=min(run.minutes, minutes), tried=tried, edges=edges)


if __name__ == "__main__":
    sys.exit(main())
