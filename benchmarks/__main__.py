"""`python -m benchmarks COMMAND`; `--help` lists the commands."""

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

from emotion.extras import require_packages

with require_packages("make install-bench"):
    from rich.console import Console

    from benchmarks import (
        bench,
        capacity,
        compare,
        faults,
        gpu_check,
        leavers,
        overload,
        report,
        results,
        scaling,
        soak,
        tune,
        web,
    )
    from benchmarks.errors import BenchmarkError
    from benchmarks.peers import PEERS
    from emotion.checkpoint import CheckpointError
    from serving import TritonError

RESULTS = Path(__file__).parent / "results"
ROOFLINE = bench.Plan(command="python -m benchmarks roofline", rounds=7, requests=256)
BESIDE_PEERS = bench.Plan(command="python -m benchmarks peers", rounds=5, requests=128, peers=tuple(PEERS))


def main() -> int:
    """Exit status 0 when measured, 1 when something can't be, 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure what is served.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, plan, words in (
        ("run", bench.FULL, "everything; JSON and a page with plots in benchmarks/results"),
        ("roofline", ROOFLINE, "served against the best in one process and the machine's peak"),
        ("peers", BESIDE_PEERS, "served against what one would put together instead"),
    ):
        command = commands.add_parser(name, help=words, description=words)
        command.add_argument("--checkpoint", type=Path, required=True, metavar="DIR", help="what was exported")
        command.add_argument("--repository", type=Path, required=True, metavar="DIR", help="the exported models")
        command.add_argument("--rounds", type=int, metavar="N", help=f"of turns (default: {plan.rounds})")
        if name == "run":
            command.add_argument("--quick", action="store_true", help="less of everything, in a few minutes")
        command.set_defaults(run=_run, plan=plan)
    soaking = commands.add_parser("soak", help="constant load, and whether memory grows")
    soak.add_arguments(soaking)
    soaking.set_defaults(run=soak.run)
    flooding = commands.add_parser("overload", help="more than it can answer: goodput, refusals, recovery, priorities")
    overload.add_arguments(flooding)
    flooding.set_defaults(run=overload.run)
    leaving = commands.add_parser("leavers", help="callers who leave before their answer, and the work wasted on them")
    leavers.add_arguments(leaving)
    leaving.set_defaults(run=leavers.run)
    breaking = commands.add_parser("faults", help="faults under a steady load, and what becomes of the requests")
    faults.add_arguments(breaking)
    breaking.set_defaults(run=faults.run)
    tuning = commands.add_parser("tune", help="search the configuration that serves the most within a p99")
    tune.add_arguments(tuning)
    tuning.set_defaults(run=tune.run)
    opening = commands.add_parser("web", help="what people who open the page wait for")
    web.add_arguments(opening)
    opening.set_defaults(run=web.run)
    watching = commands.add_parser("scaling", help="what an autoscaler sees as load comes and goes")
    scaling.add_arguments(watching)
    watching.set_defaults(run=scaling.run)
    counting = commands.add_parser("capacity", help="how many pods a load needs")
    capacity.add_arguments(counting)
    counting.set_defaults(run=capacity.run)
    checking = commands.add_parser("gpu-check", help="what a GPU gives, beside the CPU of the same machine")
    gpu_check.add_arguments(checking)
    checking.set_defaults(run=gpu_check.run)
    comparing = commands.add_parser("compare", help="two results side by side")
    comparing.add_argument("a", type=Path, metavar="A.json")
    comparing.add_argument("b", type=Path, metavar="B.json")
    comparing.set_defaults(run=_compare)
    arguments = parser.parse_args()
    try:
        status: int = arguments.run(arguments)
        return status
    except (BenchmarkError, CheckpointError, TritonError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _run(arguments: argparse.Namespace) -> int:
    plan = bench.QUICK if getattr(arguments, "quick", False) else arguments.plan
    if arguments.rounds is not None:
        plan = replace(plan, rounds=arguments.rounds)
    found = bench.Bench(arguments.checkpoint, arguments.repository, plan, Console(stderr=True)).run()
    written = results.write(found, RESULTS)
    page = written.with_suffix(".html")
    report.write(found, page)
    print(f"results: {os.path.relpath(written)}\nreport: {os.path.relpath(page)}\n")
    print(results.summary_text(found))
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    print(compare.compare(results.read(arguments.a), results.read(arguments.b)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
