"""`python -m benchmarks COMMAND`; `--help` lists the commands."""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from emotion.extras import require_packages

with require_packages("make install-bench"):
    from benchmarks.errors import BenchmarkError
    from benchmarks.resilience import faults, leavers, overload, scaling, soak
    from benchmarks.speed import bench, capacity, compare, gpu_check, live, tune, web
    from emotion.checkpoint import CheckpointError
    from export.repository import REPOSITORY
    from serving import TritonError

PLANS = {
    "run": (bench.FULL, "everything; JSON and a report with pictures in benchmarks/results"),
    "roofline": (bench.ROOFLINE, "the server beside the best in one process and the machine's peak"),
    "peers": (bench.PEERS, "the server beside other servers with the same weights"),
}
Run = Callable[[argparse.Namespace], int]


def build_parser() -> argparse.ArgumentParser:
    """Return the command line; `run` of the parsed arguments is the function of the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure the server.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Run, words: str, serves: bool = True) -> Callable[..., argparse.Action]:
        """Add a command, with an option for what it serves, and return the function that adds other options."""
        added = commands.add_parser(name, help=words, description=words)
        added.set_defaults(run=run)
        if serves:
            added.add_argument("--repository", type=Path, required=True, metavar="DIR", help="the exported models")
        return added.add_argument

    baseline = "other exported models, which take turns with those of --repository"
    for name, (plan, words) in PLANS.items():
        add = command(name, partial(bench.run, plan), words)
        add("--checkpoint", type=Path, required=True, metavar="DIR", help="what was exported")
        add("--baseline", type=Path, metavar="DIR", help=baseline)
        add("--rounds", type=int, metavar="N", help=f"turns of all systems (default: {plan.rounds})")
        if plan is bench.FULL:
            add("--quick", action="store_true", help="measure less, in a few minutes")

    add = command("soak", soak.run, "constant load, and whether memory or anything else grows")
    add("--minutes", type=float, default=30.0, metavar="N", help="duration, 4 or more (default: 30)")
    add("--config", metavar="NAME", help="configuration to serve, such as int8")

    add = command("overload", overload.run, "more than the server can answer, and recovery")
    add("--seconds", type=float, default=20.0, metavar="N", help="duration of a level (default: 20)")
    add("--rounds", type=int, default=3, metavar="N", help="turns of every level (default: 3)")
    add("--deadline", type=float, default=5.0, metavar="S", help="that callers wait (default: 5)")

    add = command("leavers", leavers.run, "callers who leave before their answer, and the wasted work")
    add("--seconds", type=float, default=20.0, metavar="N", help="of an overload (default: 20)")
    add("--factor", type=float, default=3.0, metavar="X", help="of the capacity (default: 3)")
    add("--patience", type=float, default=2.0, metavar="S", help="that callers wait (default: 2)")
    add("--rounds", type=int, default=3, metavar="N", help="turns of every way (default: 3)")

    add = command("faults", faults.run, "faults under a steady load, and what happens to the requests")
    names = f"faults: {', '.join(faults.FAULTS)}"
    add("--only", nargs="+", choices=faults.FAULTS, metavar="NAME", default=[*faults.FAULTS], help=names)

    add = command("tune", tune.run, "search the configuration that serves the most within a p99", serves=False)
    add("--p99-ms", type=float, required=True, metavar="N", help="objective for the p99 of latency, ms")
    add("--users", type=int, default=32, help="callers in the closed loop (default: 32)")
    models = "exported models (default: build/model_repository)"
    add("--repository", type=Path, default=REPOSITORY, metavar="DIR", help=models)
    add("--trials", type=int, default=30, help="number of trials, earlier ones included (default: 30)")
    add("--name", default="tuned", help="name of the configuration to write (default: tuned)")
    precisions = tune.PRECISIONS
    add("--precision", choices=precisions, default=precisions[0], help="of the weights (default: fp32)")

    add = command("live", live.run, "how soon live streams show the emotion of a voice")
    add("--speakers", type=int, default=1, metavar="N", help="streams at once (default: 1)")
    add("--seconds", type=float, default=60.0, metavar="N", help="length of each (default: 60)")

    add = command("web", web.run, "waiting times on the page")
    add("--people", type=int, default=8, metavar="N", help="people at once (default: 8)")
    add("--minutes", type=float, default=2.0, metavar="N", help="duration of their visit (default: 2)")

    add = command("scaling", scaling.run, "what an autoscaler sees as load comes and goes")
    add("--overload", type=float, default=2.0, metavar="X", help="of the capacity (default: 2)")
    add("--minutes", type=float, default=3.0, metavar="N", help="duration of the overload (default: 3)")

    add = command("capacity", capacity.run, "how many pods a load needs", serves=False)
    add("--rate", type=float, required=True, metavar="X", help="utterances/s at the peak")
    add("--p99-ms", type=float, default=4000.0, metavar="N", help="objective in ms (default: 4000)")
    latest = bench.RESULTS / "latest.json"
    add("--results", type=Path, default=latest, metavar="JSON", help="of make bench, on such a pod")
    add("--utilisation", type=float, default=0.75, metavar="X", help="of a pod (default: 0.75)")
    add("--spare", type=int, default=1, metavar="N", help="additional pods (default: 1)")

    add = command("gpu-check", gpu_check.run, "a GPU beside the CPU of the same machine", serves=False)
    add("--checkpoint", type=Path, required=True, metavar="DIR", help="what to export and serve")

    add = command("compare", compare.run, "two results side by side", serves=False)
    add("a", type=Path, metavar="A.json", help="results of a run")
    add("b", type=Path, metavar="B.json", help="results of another run")
    return parser


def main() -> int:
    """Run a command; return 0 if it measured and all goals hold, 1 if not, 130 if it was interrupted."""
    arguments = build_parser().parse_args()
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
