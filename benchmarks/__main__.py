"""`python -m benchmarks COMMAND`; `--help` lists the commands."""

import argparse
import sys
from collections.abc import Callable
from functools import partial

from emotion.extras import require_packages

with require_packages("make install-bench"):
    from benchmarks.errors import BenchmarkError
    from benchmarks.resilience import faults, leavers, overload, scaling, soak
    from benchmarks.speed import bench, capacity, compare, gpu_check, live, tune, web
    from emotion.checkpoint import CheckpointError
    from serving import TritonError

PLANS = {
    "run": (bench.FULL, "everything; JSON and a report with pictures in benchmarks/results"),
    "roofline": (bench.ROOFLINE, "the server beside the best in one process and the machine's peak"),
    "peers": (bench.PEERS, "the server beside other servers with the same weights"),
}
Command = tuple[Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int], str]
COMMANDS: dict[str, Command] = {
    **{name: (partial(bench.add_arguments, plan=plan), bench.run, words) for name, (plan, words) in PLANS.items()},
    "soak": (soak.add_arguments, soak.run, "constant load, and whether memory or anything else grows"),
    "overload": (overload.add_arguments, overload.run, "more than the server can answer, and recovery"),
    "leavers": (leavers.add_arguments, leavers.run, "callers who leave before their answer, and the wasted work"),
    "faults": (faults.add_arguments, faults.run, "faults under a steady load, and what happens to the requests"),
    "tune": (tune.add_arguments, tune.run, "search the configuration that serves the most within a p99"),
    "live": (live.add_arguments, live.run, "how soon live streams show the emotion of a voice"),
    "web": (web.add_arguments, web.run, "waiting times on the page"),
    "scaling": (scaling.add_arguments, scaling.run, "what an autoscaler sees as load comes and goes"),
    "capacity": (capacity.add_arguments, capacity.run, "how many pods a load needs"),
    "gpu-check": (gpu_check.add_arguments, gpu_check.run, "a GPU beside the CPU of the same machine"),
    "compare": (compare.add_arguments, compare.run, "two results side by side"),
}


def main() -> int:
    """Run a command; return 0 if it measured and all goals hold, 1 if not, 130 if it was interrupted."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure the server.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (add_arguments, run, words) in COMMANDS.items():
        command = commands.add_parser(name, help=words, description=words)
        add_arguments(command)
        command.set_defaults(run=run)
    arguments = parser.parse_args()
    try:
        status: int = arguments.run(arguments)
        return status
    except (BenchmarkError, CheckpointError, TritonError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
