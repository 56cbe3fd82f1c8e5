"""`python -m benchmarks leavers`: callers who leave before their answer, and the work that is wasted on them.

The callers use plain tritonclient. They leave in four ways (WAYS). There are two loads: a burst on an idle server,
which all callers leave, and an open loop above the capacity, which those callers leave who are not answered in time.
Every utterance has audio, so `vggish` computes each one that is computed.
"""

import argparse
import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import aiohttp
import numpy as np
from numpy.typing import NDArray
from rich.progress import track
from tritonclient.grpc import aio as grpc
from tritonclient.http import aio as http
from tritonclient.utils import InferenceServerException

from benchmarks import output
from benchmarks.load import runner
from benchmarks.load.sampling import ENSEMBLE, sampled
from benchmarks.load.workload import Utterance, tokenizer_file, uniform
from export.repository import ONNX_MODELS
from serving import Triton
from stages.triton_metrics import PENDING, WAITING, MetricsReader

LENGTHS = (3.0, 15)  # s and tokens of every utterance
BURST, BURST_PATIENCE_S = 100, 0.1
QUIET_S = 2.0  # without a waiting request, after which a run is over
CONNECTIONS = 8  # one gRPC connection carries 100 calls at a time
WAYS = {
    "timeout": "gRPC deadline, and Triton's timeout",
    "deadline": "gRPC deadline alone",
    "cancel": "gRPC call cancelled",
    "http": "HTTP connection closed",
}
_OUTCOMES = {"StatusCode.DEADLINE_EXCEEDED": "left", "StatusCode.UNAVAILABLE": "rejected", "503": "rejected"}


@dataclass(frozen=True)
class Outcome:
    """The requests of one way to leave."""

    sent: int  # requests
    answered: int  # before their callers left
    rejected: int  # with UNAVAILABLE, or HTTP's 503
    computed: int  # utterances that the first ONNX model computed

    @property
    def wasted(self) -> float:
        """Share of the computed utterances whose caller had left; 0 if nothing was computed."""
        return max(0.0, 1 - self.answered / self.computed) if self.computed else 0.0


def run(arguments: argparse.Namespace) -> int:
    """Measure and print two tables. The status is always 0."""
    tokenizer = tokenizer_file(arguments.repository)
    seconds, patience, rounds = arguments.seconds, arguments.patience, arguments.rounds
    bursts: dict[str, list[Outcome]] = {way: [] for way in WAYS}
    overloads: dict[str, list[Outcome]] = {way: [] for way in WAYS}
    with Triton(arguments.repository, http_port=0, grpc_port=0, metrics_port=0) as triton:
        rate = arguments.factor * runner.capacity(f"grpc://{triton.grpc_url}", tokenizer, LENGTHS)
        (utterance,) = uniform(1, tokenizer, *LENGTHS)
        turns = [(number, way) for number in range(rounds) for way in [*WAYS][:: -1 if number % 2 else 1]]
        for number, way in track(turns, "ways to leave", console=output.console):
            gaps = np.random.default_rng(number).exponential(1 / rate, int(rate * seconds))
            bursts[way].append(_measure(triton, _calls(triton, utterance, way, np.zeros(BURST), BURST_PATIENCE_S)))
            overloads[way].append(_measure(triton, _calls(triton, utterance, way, gaps, patience)))
    print(f"capacity {rate / arguments.factor:.1f}/s; medians of {rounds} turns")
    print(f"\n{BURST} callers at once, who all leave after {BURST_PATIENCE_S:g} s:\n{table(bursts)}")
    what = f"{arguments.factor:g} x the capacity for {seconds:g} s"
    print(f"\n{what}; callers leave after {patience:g} s:\n{table(overloads)}")
    return 0


def table(outcomes: dict[str, list[Outcome]]) -> str:
    """Return the medians of each way's turns as a table."""
    names = ("sent", "answered", "rejected", "computed")
    rows = []
    for way, turns in outcomes.items():
        figures = [f"{median(getattr(turn, name) for turn in turns):.0f}" for name in names]
        rows.append([WAYS[way], *figures, f"{median(turn.wasted for turn in turns):.1%}"])
    return output.table(("callers leave by", *names, "wasted"), rows)


def _measure(triton: Triton, calls: Coroutine[Any, Any, list[str]]) -> Outcome:
    """Run the calls, and wait until no request waits at the server."""
    with sampled(triton) as sampler:
        outcomes = Counter(asyncio.run(calls))
        read = MetricsReader(f"http://{triton.metrics_url}/metrics")
        quiet_since = time.monotonic()
        while time.monotonic() < quiet_since + QUIET_S:
            time.sleep(0.1)
            if any(value for (name, _), value in read().items() if name in (PENDING, WAITING)):
                quiet_since = time.monotonic()
    computed = sampler.models[ONNX_MODELS[0]].requests
    return Outcome(outcomes.total(), outcomes["answered"], outcomes["rejected"], computed)


async def _calls(
    triton: Triton, utterance: Utterance, way: str, gaps: NDArray[np.float64], patience: float
) -> list[str]:
    """Send the utterance after each gap, and leave each call after `patience` seconds.

    Returns the outcome of each call: "answered", "rejected", "left" or "failed".
    """
    protocol: Any = http if way == "http" else grpc
    inputs = [protocol.InferInput(name, [1, 1], "BYTES") for name in ("AUDIO", "TEXT")]
    for tensor, value in zip(inputs, (utterance.audio, utterance.text.encode()), strict=True):
        tensor.set_data_from_numpy(np.array([[value]], object))
    if way == "http":
        clients = [http.InferenceServerClient(triton.http_url, conn_limit=0)]  # without a limit
    else:
        options = [[("emoserve.channel", number)] for number in range(CONNECTIONS)]  # so that none is shared
        clients = [grpc.InferenceServerClient(triton.grpc_url, channel_args=one) for one in options]
    turns = itertools.cycle(clients)

    async def call() -> str:
        infer = partial(next(turns).infer, ENSEMBLE, inputs)
        try:
            if way in ("cancel", "http"):  # a cancelled HTTP request closes its connection
                await asyncio.wait_for(infer(), patience)
            else:
                timeout = {"timeout": int(1e6 * patience)} if way == "timeout" else {}
                await infer(client_timeout=patience, **timeout)
        except TimeoutError:
            return "left"
        except aiohttp.ClientError:  # refused, reset, or closed without an answer
            return "failed"
        except InferenceServerException as error:
            return _OUTCOMES.get(error.status() or "", "failed")
        return "answered"

    calls, due = [], time.monotonic()
    for gap in gaps:
        due += float(gap)
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        calls.append(asyncio.create_task(call()))
    outcomes = await asyncio.gather(*calls)
    for client in clients:
        await client.close()
    return outcomes
