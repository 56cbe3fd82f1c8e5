"""`python -m benchmarks leavers`: callers who leave before their answer, and the work that is wasted on them.

The callers use plain tritonclient or a bare HTTP connection. They leave in four ways (WAYS). There are two loads: a
burst on an idle server, which all callers leave, and an open loop above the capacity, which those callers leave who are
not answered in time. Every utterance has audio, so `vggish` computes each one that is computed.
"""

import argparse
import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import tritonclient.grpc.aio
import tritonclient.http
from rich.console import Console
from rich.progress import track
from tritonclient.utils import InferenceServerException

from benchmarks import output
from benchmarks.load import runner
from benchmarks.load.sampling import Sampler
from benchmarks.load.workload import tokenizer_file, uniform
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
_GRPC_OUTCOMES = {"StatusCode.DEADLINE_EXCEEDED": "left", "StatusCode.UNAVAILABLE": "rejected"}
Ask = Callable[[float], Coroutine[Any, Any, str]]  # patience in s -> outcome


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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `python -m benchmarks leavers`."""
    parser.add_argument("--repository", type=Path, required=True, metavar="DIR", help="the exported models")
    parser.add_argument("--seconds", type=float, default=20.0, metavar="N", help="of an overload (default: 20)")
    parser.add_argument("--factor", type=float, default=3.0, metavar="X", help="of the capacity (default: 3)")
    parser.add_argument("--patience", type=float, default=2.0, metavar="S", help="that callers wait (default: 2)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="turns of every way (default: 3)")


def run(arguments: argparse.Namespace) -> int:
    """Measure and print two tables. The status is always 0."""
    tokenizer = tokenizer_file(arguments.repository)
    console = Console(stderr=True)
    bursts: dict[str, list[Outcome]] = {way: [] for way in WAYS}
    overloads: dict[str, list[Outcome]] = {way: [] for way in WAYS}
    with Triton(arguments.repository, http_port=0, grpc_port=0, metrics_port=0) as triton:
        with console.status("capacity"):
            capacity = runner.capacity(f"grpc://{triton.grpc_url}", tokenizer, LENGTHS)
        callers = Callers(triton, tokenizer)
        rate, patience = arguments.factor * capacity, arguments.patience
        turns = [(number, way) for number in range(arguments.rounds) for way in [*WAYS][:: -1 if number % 2 else 1]]
        for number, way in track(turns, "ways to leave", console=console):
            bursts[way].append(_measure(triton, callers.burst(way)))
            calls = callers.open_loop(way, rate, arguments.seconds, patience, number)
            overloads[way].append(_measure(triton, calls))
    print(f"capacity {capacity:.1f}/s; medians of {arguments.rounds} turns")
    print(f"\n{BURST} callers at once, who all leave after {BURST_PATIENCE_S:g} s:\n{table(bursts)}")
    print(
        f"\n{arguments.factor:g} x the capacity for {arguments.seconds:g} s; callers leave after {patience:g} s:"
        f"\n{table(overloads)}"
    )
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
    with Sampler(triton) as sampler:
        outcomes = Counter(asyncio.run(calls))
        read = MetricsReader(f"http://{triton.metrics_url}/metrics")
        quiet_since = time.monotonic()
        while time.monotonic() < quiet_since + QUIET_S:
            time.sleep(0.1)
            if any(value for (name, _), value in read().items() if name in (PENDING, WAITING)):
                quiet_since = time.monotonic()
    computed = sampler.models[ONNX_MODELS[0]].requests
    return Outcome(outcomes.total(), outcomes["answered"], outcomes["rejected"], computed)


class Callers:
    """Sends one utterance again and again, and leaves in one of WAYS."""

    def __init__(self, triton: Triton, tokenizer: Path) -> None:
        self._grpc_url, self._http_url = triton.grpc_url, triton.http_url
        (utterance,) = uniform(1, tokenizer, *LENGTHS)
        data = {"AUDIO": utterance.audio, "TEXT": utterance.text.encode()}
        self._inputs = _inputs(tritonclient.grpc.aio.InferInput, data)
        inputs = _inputs(tritonclient.http.InferInput, data)
        body, length = tritonclient.http.InferenceServerClient.generate_request_body(inputs)
        self._http_request = (
            f"POST /v2/models/emotion/infer HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            f"Inference-Header-Content-Length: {length}\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode() + bytes(body)

    async def burst(self, way: str) -> list[str]:
        """Send BURST requests at once, and leave after BURST_PATIENCE_S; return their outcomes."""
        async with self._asking(way) as ask:
            return list(await asyncio.gather(*(ask(BURST_PATIENCE_S) for _ in range(BURST))))

    async def open_loop(self, way: str, rate: float, seconds: float, patience: float, seed: int) -> list[str]:
        """Send `rate` requests/s at random moments; each caller leaves after `patience` seconds."""
        gaps = np.random.default_rng(seed).exponential(1 / rate, int(rate * seconds))
        async with self._asking(way) as ask:
            calls = []
            due = time.monotonic()
            for gap in gaps:
                due += float(gap)
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                calls.append(asyncio.create_task(ask(patience)))
            return list(await asyncio.gather(*calls))

    @asynccontextmanager
    async def _asking(self, way: str) -> AsyncIterator[Ask]:
        """Yield a function that sends a request: "answered", "rejected", "left" or "failed"."""
        async with AsyncExitStack() as stack:
            options = [[("emoserve.channel", number)] for number in range(CONNECTIONS)]  # so that none is shared
            clients = [tritonclient.grpc.aio.InferenceServerClient(self._grpc_url, channel_args=one) for one in options]
            for client in clients:
                stack.push_async_callback(client.close)
            yield partial(self._ask, way, itertools.cycle(clients))

    async def _ask(self, way: str, clients: "itertools.cycle[Any]", patience: float) -> str:
        client = next(clients)
        try:
            if way == "http":
                return await self._ask_http(patience)
            if way == "cancel":
                await asyncio.wait_for(client.infer("emotion", self._inputs), patience)
            else:
                timeout = {"timeout": int(1e6 * patience)} if way == "timeout" else {}
                await client.infer("emotion", self._inputs, client_timeout=patience, **timeout)
        except TimeoutError:
            return "left"
        except (OSError, IndexError):  # refused, reset, or closed without an answer
            return "failed"
        except InferenceServerException as error:
            return _GRPC_OUTCOMES.get(error.status() or "", "failed")
        return "answered"

    async def _ask_http(self, patience: float) -> str:
        host, _, port = self._http_url.rpartition(":")
        reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        try:
            writer.write(self._http_request)
            status = await asyncio.wait_for(reader.readline(), patience)
        finally:
            writer.close()
        return {b"200": "answered", b"503": "rejected"}.get(status.split()[1], "failed")


def _inputs(kind: Any, data: dict[str, bytes]) -> list[Any]:
    """Return the inputs of a request as one of tritonclient's two classes."""
    inputs = []
    for name, value in data.items():
        inputs.append(kind(name, [1, 1], "BYTES"))
        inputs[-1].set_data_from_numpy(np.array([[value]], object))
    return inputs
