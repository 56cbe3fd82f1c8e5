"""`python -m fuzz`: every target at once for some minutes; says what broke, and exits with 1 if anything did."""

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
    from fuzz.targets import CPU_LIMIT, TARGETS, TOKENIZER

KEPT = Path(__file__).parent / "corpus"  # in git: what `--keep` found worth it; tests replay it
WORK = Path("build/fuzz")  # what was found so far; the next run goes on from there
LARGEST = {"audio": 1 << 14, "text": 1 << 12}  # bytes of an input
MEMORY = 1024  # MiB that a target may have
HANG = 30  # s after which libFuzzer gives up on an input; targets themselves hold it to CPU_LIMIT
_STATUS = re.compile(r"#(\d+)\s+\w+ +cov: (\d+) ft: (\d+) corp: (\d+)/")
_BROKEN = re.compile(r"(?:crash|oom|timeout|leak)-[0-9a-f]{40}")


@dataclass
class Run:
    """A target being fuzzed."""

    target: str
    process: subprocess.Popen[bytes]
    log: Path
    started: float
    ended: float | None = None

    def status(self) -> tuple[int, int, int]:
        """Inputs tried so far, edges of our code reached, inputs kept."""
        found = _STATUS.findall(self.log.read_text(errors="replace"))
        if not found:
            return 0, 0, 0
        tried, edges, _, kept = map(int, found[-1])
        return tried, edges, kept

    @property
    def minutes(self) -> float:
        """That it ran."""
        return ((self.ended or time.monotonic()) - self.started) / 60

    def broken(self) -> list[Path]:
        """The inputs that broke a promise in this run."""
        names = set(_BROKEN.findall(self.log.read_text(errors="replace")))
        return [path for name in sorted(names) if (path := self.log.parent / name).exists()]


def start(target: str, minutes: float) -> Run:
    """Fuzz one target in a process of its own, from the kept inputs, the seeds and what the last run found."""
    directory = WORK / target
    found = directory / "corpus"
    found.mkdir(parents=True, exist_ok=True)
    for data in seeds(target):
        (found / hashlib.sha1(data).hexdigest()).write_bytes(data)
    kept = KEPT / target
    kept.mkdir(parents=True, exist_ok=True)
    log = directory / "log"
    limits = [f"-max_total_time={round(60 * minutes)}", f"-timeout={HANG}", f"-rss_limit_mb={MEMORY}"]
    command = [sys.executable, "-m", "fuzz.engine", target, *limits, f"-max_len={LARGEST[target]}"]
    command += [f"-artifact_prefix={directory}/", "-print_final_stats=1", str(found), str(kept)]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
    return Run(target, process, log, time.monotonic())


def keep(target: str) -> None:
    """Put the fewest inputs that reach all that was reached into the directory that is in git."""
    kept, found = KEPT / target, WORK / target / "corpus"
    limits = ["-merge=1", f"-rss_limit_mb={MEMORY}", f"-max_len={LARGEST[target]}"]
    command = [sys.executable, "-m", "fuzz.engine", target, *limits, str(kept), str(found)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main() -> int:
    """Fuzz, show how it goes, and tell what came of it."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"any of {', '.join(TARGETS)}; all by default")
    parser.add_argument(
        "--minutes", type=float, default=20, help="for each target; they run side by side (default: 20)"
    )
    parser.add_argument(
        "--keep", action="store_true", help=f"put the fewest inputs that reach as much into {KEPT.name}/"
    )
    arguments = parser.parse_args()
    targets = arguments.targets or list(TARGETS)
    if unknown := set(targets) - set(TARGETS):
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    if "text" in targets and not TOKENIZER.exists():
        parser.error(f"the target text needs {TOKENIZER}; `make export` writes it")
    console = Console()
    with ExitStack() as stack:
        runs = []
        for target in targets:
            runs.append(start(target, arguments.minutes))
            stack.callback(runs[-1].process.kill)
        _watch(runs, arguments.minutes, console)
    table = Table("target", "minutes", "inputs", "edges reached", "kept", "broken")
    for run in runs:
        tried, edges, kept = run.status()
        broken = ", ".join(map(str, run.broken())) or ("0" if run.process.returncode == 0 else f"see {run.log}")
        table.add_row(run.target, f"{run.minutes:.1f}", f"{tried:,}", str(edges), str(kept), broken)
    console.print(table)
    if arguments.keep:
        for target in targets:
            keep(target)
    held = all(run.process.returncode == 0 and not run.broken() for run in runs)
    promise = f"an answer or a sentence for every input, within {CPU_LIMIT:g} s and {MEMORY} MiB"
    console.print(f"[green]PASS[/]: {promise}" if held else f"[red]FAIL[/]: not {promise}")
    return 0 if held else 1


def _watch(runs: list[Run], minutes: float, console: Console) -> None:
    """Show a bar for each until all have ended."""
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
