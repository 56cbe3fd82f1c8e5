"""`python -m benchmarks leavers`: callers who leave before their answer, and the work that is wasted on them.

The callers use plain tritonclient, or a bare HTTP connection. They leave in four ways: their gRPC deadline passes, with
or without Triton's `timeout` in the request; they cancel the gRPC call; they close the HTTP connection. There are two
loads: a burst on an idle server, which all callers leave, and an open loop of several times what the server can answer,
which those leave who are not answered in time. Every utterance has audio, so `vggish` computes each that is computed.
"""

import argparse
import asyncio
import time
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import tritonclient.grpc.aio
import tritonclient.http
from rich.console import Console
from rich.progress import track
from tritonclient.utils import InferenceServerException

from benchmarks import load
from benchmarks.sampling import Sampler
from benchmarks.workload import tokenizer_file, uniform
from export.repository import ONNX_MODELS
from serving import Triton
from stages.triton_metrics import PENDING, WAITING, MetricsReader

SECONDS, TOKENS = 3.0, 15  # of every utterance
CAPACITY_REQUESTS = 192
USERS = 32
BURST, BURST_PATIENCE_S = 100, 0.1
QUIET_S = 2.0  # without a waiting request, after which a run is over
CONNECTIONS = 8  # of the gRPC callers
WAYS = ("timeout", "deadline", "cancel", "http")
TITLES = {
    "timeout": "gRPC deadline, and Triton's timeout",
    "deadline": "gRPC deadline alone",
    "cancel": "gRPC call cancelled",
    "http": "HTTP connection closed",
}


@dataclass(frozen=True)
class Outcome:
    """What became of the requests of one way.

    Attributes:
        sent: requests.
        answered: before their callers left.
        rejected: with UNAVAILABLE, or HTTP's 503.
        computed: utterances that the first ONNX model computed.
    """

    sent: int
    answered: int
    rejected: int
    computed: int

    @property
    def wasted(self) -> float:
        """Share of what was computed whose caller had left; 0 if nothing was computed."""
        return max(0.0, 1 - self.answered / self.computed) if self.computed else 0.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `python -m benchmarks leavers`."""
    parser.add_argument("--repository", type=Path, required=True, metavar="DIR", help="the exported models")
    parser.add_argument("--seconds", type=float, default=20.0, metavar="N", help="of each overload (default: 20)")
    parser.add_argument("--factor", type=float, default=3.0, metavar="X", help="of what it can answer (default: 3)")
    parser.add_argument("--patience", type=float, default=2.0, metavar="S", help="that callers wait (default: 2)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="of all ways, in turns (default: 3)")


def run(arguments: argparse.Namespace) -> int:
    """Measure and print a table. The status is always 0."""
    tokenizer = tokenizer_file(arguments.repository)
    console = Console(stderr=True)
    bursts: dict[str, list[Outcome]] = {way: [] for way in WAYS}
    overloads: dict[str, list[Outcome]] = {way: [] for way in WAYS}
    with Triton(arguments.repository, http_port=0, grpc_port=0, metrics_port=0) as triton:
        host, lengths = f"grpc://{triton.grpc_url}", (SECONDS, TOKENS)
        with console.status("what it can answer"):
            load.run(host, tokenizer, users=USERS, requests=USERS, uniform=lengths)
            capacity = load.run(host, tokenizer, users=USERS, requests=CAPACITY_REQUESTS, uniform=lengths).throughput
        callers = Callers(triton, tokenizer)
        turns = [(number, way) for number in range(arguments.rounds) for way in WAYS[:: -1 if number % 2 else 1]]
        for number, way in track(turns, "ways to leave", console=console):
            bursts[way].append(_measured(triton, callers.burst(way)))
            rate = arguments.factor * capacity
            overloads[way].append(
                _measured(triton, callers.open_loop(way, rate, arguments.seconds, arguments.patience, number))
            )
    print(f"it can answer {capacity:.1f}/s; medians of {arguments.rounds} turns")
    print(f"\n{BURST} callers at once, who all leave after {BURST_PATIENCE_S:g} s:")
    _print(bursts)
    print(
        f"\n{arguments.factor:g} x what it can answer for {arguments.seconds:g} s; callers leave after "
        f"{arguments.patience:g} s:"
    )
    _print(overloads)
    return 0


def _print(outcomes: dict[str, list[Outcome]]) -> None:
    print(f"{'':<36}     sent answered rejected computed   wasted")
    for way, turns in outcomes.items():
        figures = [
            median(getattr(turn, name) for turn in turns) for name in ("sent", "answered", "rejected", "computed")
        ]
        row = " ".join(f"{figure:8.0f}" for figure in figures)
        print(f"{TITLES[way]:<36} {row} {median(turn.wasted for turn in turns):8.1%}")


def _measured(triton: Triton, calls: Coroutine[Any, Any, list[str]]) -> Outcome:
    """Run the calls, and wait until nothing waits at the server any more."""
    with Sampler(triton) as sampler:
        outcomes = Counter(asyncio.run(calls))
        read = MetricsReader(f"http://{triton.metrics_url}/metrics")
        quiet_since = time.monotonic()
        while time.monotonic() < quiet_since + QUIET_S:
            time.sleep(0.1)
            if any(value for (name, _), value in read().items() if name in (PENDING, WAITING)):
                quiet_since = time.monotonic()
    return Outcome(
        sent=outcomes.total(),
        answered=outcomes["answered"],
        rejected=outcomes["rejected"],
        computed=sampler.result.models[ONNX_MODELS[0]].requests,
    )


class Callers:
    """Sends utterances of one length in one of WAYS."""

    def __init__(self, triton: Triton, tokenizer: Path) -> None:
        self._grpc_url, self._http_url = triton.grpc_url, triton.http_url
        (utterance,) = uniform(1, tokenizer, SECONDS, TOKENS)
        data = {"AUDIO": utterance.audio, "TEXT": utterance.text.encode()}
        self._inputs = _inputs(tritonclient.grpc.aio.InferInput, data)
        inputs = _inputs(tritonclient.http.InferInput, data)
        body, length = tritonclient.http.InferenceServerClient.generate_request_body(inputs)
        self._http_request = (
            f"POST /v2/models/emotion/infer HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            f"Inference-Header-Content-Length: {length}\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode() + bytes(body)

    async def burst(self, way: str) -> list[str]:
        """Ask BURST times at once, and leave after BURST_PATIENCE_S."""
        async with _Clients(self._grpc_url) as clients:
            calls = [self._ask(way, clients.next(), BURST_PATIENCE_S) for _ in range(BURST)]
            return list(await asyncio.gather(*calls))

    async def open_loop(self, way: str, rate: float, seconds: float, patience: float, seed: int) -> list[str]:
        """Ask at random moments, `rate` times a second on average; each caller leaves after `patience` seconds."""
        pauses = np.random.default_rng(seed).exponential(1 / rate, int(rate * seconds))
        async with _Clients(self._grpc_url) as clients:
            calls = []
            due = time.monotonic()
            for pause in pauses:
                due += float(pause)
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                calls.append(asyncio.create_task(self._ask(way, clients.next(), patience)))
            return list(await asyncio.gather(*calls))

    async def _ask(self, way: str, client: Any, patience: float) -> str:
        """Ask once; return "answered", "rejected", "left" or "failed"."""
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
            outcomes = {"StatusCode.DEADLINE_EXCEEDED": "left", "StatusCode.UNAVAILABLE": "rejected"}
            return outcomes.get(error.status() or "", "failed")
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


class _Clients:
    """Several gRPC clients, used in turns; one connection carries 100 calls at a time."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def __aenter__(self) -> "_Clients":
        options = [
            [("emoserve.channel", number)] for number in range(CONNECTIONS)
        ]  # makes each a connection of its own
        self._clients = [tritonclient.grpc.aio.InferenceServerClient(self._url, channel_args=each) for each in options]
        self._number = 0
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self._clients:
            await client.close()

    def next(self) -> Any:
        """Return the client whose turn it is."""
        self._number += 1
        return self._clients[self._number % CONNECTIONS]


def _inputs(kind: Any, data: dict[str, bytes]) -> list[Any]:
    """Return inputs of one of tritonclient's two classes."""
    inputs = []
    for name, value in data.items():
        inputs.append(kind(name, [1, 1], "BYTES"))
        inputs[-1].set_data_from_numpy(np.array([[value]], object))
    return inputs
