"""A benchmark run's report: one HTML page that needs nothing beside it."""

from dataclasses import dataclass
from pathlib import Path
from statistics import median

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure

from benchmarks import plots
from benchmarks.results import TITLES, WHY_CPU_SECONDS, Results, System, goals, middle, ratios, write_atomically

OURS = ("served", "served_int8")


@dataclass(frozen=True)
class Row:
    """A system in the page's table; ratios are throughput served, in fp32 and in int8, over this system's."""

    name: str
    title: str
    throughput: float | None
    low: float
    high: float
    p50: float | None
    p95: float | None
    p99: float | None
    cpu: float | None
    failures: int
    served_over: float | None
    int8_over: float | None


def write(results: Results, path: Path) -> None:
    """Write the page.

    Raises:
        BenchmarkError: it can't be written there.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    environment.filters["ratio"] = lambda value: "–" if value is None else f"{value:.2f}"
    drawn = {name: Markup(plots.inline(figure, name.replace("_", "-"))) for name, figure in figures(results).items()}
    page = environment.get_template("report.html").render(
        results=results,
        headline=headline(results),
        titles=TITLES,
        goals=goals(results),
        rows=[_row(results, name, system) for name, system in results.systems.items() if system.throughput],
        figures=drawn,
        ours=OURS,
        why_cpu_seconds=WHY_CPU_SECONDS,
    )
    write_atomically(path, page)


def figures(results: Results) -> dict[str, Figure]:
    """Every figure that the run has data for, by name; `plots.save` makes a picture for the docs of one."""
    drawn: dict[str, Figure] = {}
    if results.sweep or results.sweep_int8:
        drawn["throughput_latency"] = plots.throughput_latency({"fp32": results.sweep, "int8": results.sweep_int8})
    for name, sweep in (("breakdown", results.sweep), ("breakdown_int8", results.sweep_int8)):
        if any(point.stages for point in sweep):
            drawn[name] = plots.breakdown(sweep)
    curves = {_title(results, name): curve for name, curve in results.latencies.items() if curve}
    if curves:
        drawn["percentiles"] = plots.percentiles(curves)
    if results.server:
        if any(sum(counts.values()) for counts in results.server.batch_sizes.values()):
            drawn["batch_sizes"] = plots.batch_sizes(results.server.batch_sizes)
        if results.server.timeline:
            drawn["utilisation"] = plots.utilisation(results.server.timeline, results.machine.cores)
        if sum(results.server.cpu_seconds.values()):
            drawn["cpu_time"] = plots.cpu_time(results.server.cpu_seconds)
    if any(system.throughput for system in results.systems.values()):
        drawn["peers"] = plots.peers(results.systems, OURS)
    if results.roofline and results.roofline.peak_gflops:
        rates = {strategy.name: strategy.throughput for strategy in results.roofline.strategies}
        if "served" in results.systems and results.systems["served"].throughput:
            rates[_title(results, "served")] = median(results.systems["served"].throughput)
        work = {name: rate * results.roofline.needed_gflop_per_utterance for name, rate in rates.items()}
        if work:
            drawn["roofline"] = plots.against_peak(
                work, median(results.roofline.peak_gflops), _title(results, "served")
            )
    for name, found, label in (
        ("growth_tokens", results.tokens, "tokens"),
        ("growth_seconds", results.seconds, "seconds of audio"),
    ):
        if found:
            drawn[name] = plots.growth(found, label)
    return drawn


def headline(results: Results) -> str:
    """What the run found, in a sentence or two of plain words."""
    served, int8 = (middle(system.throughput) if (system := results.systems.get(name)) else None for name in OURS)
    if served is None:
        return "Nothing was served in this run."
    users = results.settings.get("users")
    callers = f" to {users} callers at a time" if users else ""
    words = [f"{served:.3g} utterances a second served{callers} in fp32"]
    if (p99 := middle(results.systems["served"].p99)) is not None:
        words.append(f", 99 % of them within {_duration(p99)}")
    if (share := results.summary.get("served_over_roofline")) is not None:
        words.append(f"; {share * 100:.0f} % of the best that the same machine does in one process")
        if (by_cpu := results.summary.get("served_over_roofline_cpu")) is not None:
            words.append(f" by wall clock, {by_cpu * 100:.0f} % by CPU seconds")
    words.append(".")
    if int8 is not None:
        ratio = results.summary.get("int8_over_fp32")
        words.append(f" In int8, {int8:.3g}" + (f", {ratio:.2f} times as many." if ratio else "."))
    peers = {name: results.summary.get(name) for name in TITLES if name.startswith("vs_")}
    known = {name: value for name, value in peers.items() if value is not None}
    if known:
        nearest = min(known, key=lambda name: known[name])
        said = TITLES[nearest].removeprefix("Throughput over ")
        words.append(
            f" Of the alternatives measured, {said} comes nearest: fp32 answers {known[nearest]:.2f} times as many."
        )
    return "".join(words)


def _row(results: Results, name: str, system: System) -> Row:
    def over(ours: str) -> float | None:
        if ours == name or ours not in results.systems:
            return None
        return middle(ratios(results.systems[ours].throughput, system.throughput))

    return Row(
        name,
        system.title,
        middle(system.throughput),
        min(system.throughput),
        max(system.throughput),
        middle(system.p50),
        middle(system.p95),
        middle(system.p99),
        middle(system.cpu_ms),
        system.failures,
        over("served"),
        over("served_int8"),
    )


def _title(results: Results, name: str) -> str:
    return results.systems[name].title if name in results.systems else name


def _number(value: float | None) -> str:
    """Three figures, thousands apart; a dash for none."""
    if value is None:
        return "–"
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return text.replace(",", "\N{NARROW NO-BREAK SPACE}")


def _duration(ms: float) -> str:
    return f"{ms:.0f} ms" if ms < 1000 else f"{ms / 1000:.2g} s"
