"""Test the circuit breaker: outages in which calls fail at once, and failures that are no outage."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from emotion_client import (
    AsyncEmotionClient,
    CircuitOpen,
    DeadlineExceeded,
    EmotionClient,
    EmotionError,
    EmotionResult,
    InvalidInput,
    breaker,
)
from emotion_client.breaker import Breaker

from tests.clients.conftest import HangingHandler, RejectingHandler


@pytest.fixture
def short_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let failures over 1 s count as an outage."""
    monkeypatch.setattr(breaker, "MIN_OUTAGE_S", 1.0)


def fail_until_open(client: EmotionClient) -> CircuitOpen:
    """Call until the circuit is open, and return that error."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            client.analyze(text="hello", deadline=0.2)
        except CircuitOpen as error:
            return error
        except DeadlineExceeded:
            pass
    raise AssertionError("the circuit stayed closed")


@pytest.mark.usefixtures("short_outage")
def test_breaker_in_an_outage_rejects_calls_until_one_is_answered(link: Callable[..., Any]) -> None:
    to_server = link()
    with EmotionClient(to_server.url, deadline=60) as client:
        client.analyze(text="hello")
        to_server.stall()
        error = fail_until_open(client)
        assert str(error).startswith("the call was not sent, since no server has answered for ")
        assert str(error).endswith(f"the last error: no answer from {to_server.url} within the deadline of 0.2 s")
        to_server.flow()
        end = time.monotonic() + 30
        while time.monotonic() < end:
            try:
                client.analyze(text="hello")
                break
            except CircuitOpen:
                time.sleep(0.1)
        for _ in range(8):
            assert isinstance(client.analyze(text="hello"), EmotionResult)


@pytest.mark.usefixtures("short_outage")
def test_breaker_in_an_outage_sends_one_trial_call_at_a_time(serve: Callable[..., str]) -> None:
    hanging = HangingHandler()
    with EmotionClient(serve(hanging)) as client, ThreadPoolExecutor(8) as callers:
        fail_until_open(client)
        before, started = hanging.calls, time.monotonic()

        def call(caller: int) -> int:
            rejected = 0
            while time.monotonic() < started + 3 * breaker.COOL_DOWN_S:
                try:
                    client.analyze(text="hello", deadline=60)
                except CircuitOpen:
                    rejected += 1
                    time.sleep(0.05)
                except EmotionError:
                    pass
            return rejected

        calls = [callers.submit(call, caller) for caller in range(8)]
        time.sleep(3 * breaker.COOL_DOWN_S + 0.5)
        tried = hanging.calls - before
        client.close()  # ends the calls in flight
        assert sum(ended.result() for ended in calls) > 30
    assert 1 <= tried <= 4


@pytest.mark.usefixtures("short_outage")
async def test_breaker_in_an_outage_rejects_asyncio_calls(serve: Callable[..., str]) -> None:
    async def call() -> EmotionError:
        with pytest.raises((DeadlineExceeded, CircuitOpen)) as error:
            await client.analyze(text="hello", deadline=0.5)
        return error.value

    async with AsyncEmotionClient(serve(HangingHandler())) as client:
        for _ in range(5):
            failures = await asyncio.gather(*(call() for _ in range(3)))
    assert type(failures[-1]) is CircuitOpen


@pytest.mark.usefixtures("short_outage")
def test_breaker_counts_rejections_as_answers(serve: Callable[..., str], server: Any) -> None:
    # a status that is not retried, so that the test is short
    busy = serve(RejectingHandler(grpc.StatusCode.RESOURCE_EXHAUSTED, "try again later"))
    for endpoint, audio, message in ((busy, None, "try again later"), (server.grpc_url, b"not audio at all", "AUDIO")):
        with EmotionClient(endpoint) as client:
            end = time.monotonic() + 1.5
            while time.monotonic() < end:
                with pytest.raises(EmotionError, match=message):
                    client.analyze(audio, text="hello")


def test_breaker_stays_closed_after_many_failures_in_a_short_time() -> None:
    """Failures of a hundred callers during one restart must not open the circuit."""
    circuit = Breaker()
    for _ in range(100):
        circuit.record_failure("no answer")
    circuit.check()


@pytest.mark.usefixtures("short_outage")
def test_breaker_stays_closed_after_few_failures_over_a_long_time() -> None:
    circuit = Breaker()
    for _ in range(breaker.MIN_FAILURES - 1):
        circuit.record_failure("no answer")
        time.sleep(0.5)
    circuit.check()
    circuit.record_success()
    circuit.record_failure("no answer")
    circuit.check()


@pytest.mark.usefixtures("short_outage")
def test_breaker_without_retries_sends_every_call(serve: Callable[..., str]) -> None:
    hanging = HangingHandler()
    with EmotionClient(serve(hanging), retries=False) as client:
        for _ in range(10):
            with pytest.raises(DeadlineExceeded):
                client.analyze(text="hello", deadline=0.3)
    assert hanging.calls == 10


@pytest.mark.usefixtures("short_outage")
def test_breaker_while_open_still_reports_invalid_input(serve: Callable[..., str]) -> None:
    with EmotionClient(serve(HangingHandler())) as client:
        fail_until_open(client)
        with pytest.raises(InvalidInput, match="neither audio nor text"):
            client.analyze()
