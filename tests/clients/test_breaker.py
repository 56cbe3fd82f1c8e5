"""Outages in which calls fail at once, and what must not be taken for one."""

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

from tests.clients.conftest import Hanging, Refusing


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An outage is one from its first second on."""
    monkeypatch.setattr(breaker, "OUTAGE", 1.0)


def fail_until_open(client: EmotionClient) -> CircuitOpen:
    """Call until a call is not sent."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            client.analyze(text="hello", deadline=0.2)
        except CircuitOpen as error:
            return error
        except DeadlineExceeded:
            pass
    raise AssertionError("the circuit stayed closed")


@pytest.mark.usefixtures("impatient")
def test_calls_fail_at_once_until_one_is_answered(link: Callable[..., Any]) -> None:
    to_server = link()
    with EmotionClient(to_server.url, deadline=60) as client:
        client.analyze(text="hello")
        to_server.stall()
        error = fail_until_open(client)
        assert str(error).startswith("not sent, since no call was answered for ")
        assert str(error).endswith(f"the last failure: no answer from {to_server.url} within the deadline of 0.2 s")
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


@pytest.mark.usefixtures("impatient")
def test_one_call_at_a_time_is_tried(serve: Callable[..., str]) -> None:
    hanging = Hanging()
    with EmotionClient(serve(hanging)) as client, ThreadPoolExecutor(8) as callers:
        fail_until_open(client)
        before, started = hanging.calls, time.monotonic()

        def call(caller: int) -> int:
            refused = 0
            while time.monotonic() < started + 3 * breaker.COOL_DOWN:
                try:
                    client.analyze(text="hello", deadline=60)
                except CircuitOpen:
                    refused += 1
                    time.sleep(0.05)
                except EmotionError:
                    pass
            return refused

        calls = [callers.submit(call, caller) for caller in range(8)]
        time.sleep(3 * breaker.COOL_DOWN + 0.5)
        tried = hanging.calls - before
        client.close()  # ends those that are under way
        assert sum(ended.result() for ended in calls) > 30
    assert 1 <= tried <= 4


@pytest.mark.usefixtures("impatient")
async def test_asyncio_calls_fail_at_once_too(serve: Callable[..., str]) -> None:
    async def call() -> EmotionError:
        with pytest.raises((DeadlineExceeded, CircuitOpen)) as error:
            await client.analyze(text="hello", deadline=0.5)
        return error.value

    async with AsyncEmotionClient(serve(Hanging())) as client:
        for _ in range(5):
            failures = await asyncio.gather(*(call() for _ in range(3)))
    assert type(failures[-1]) is CircuitOpen


@pytest.mark.usefixtures("impatient")
def test_refusals_are_answers(serve: Callable[..., str], server: Any) -> None:
    # one that is not retried, so that the test is short
    busy = serve(Refusing(grpc.StatusCode.RESOURCE_EXHAUSTED, "try again later"))
    for endpoint, audio, refusal in ((busy, None, "try again later"), (server.grpc_url, b"not audio at all", "AUDIO")):
        with EmotionClient(endpoint) as client:
            end = time.monotonic() + 1.5
            while time.monotonic() < end:
                with pytest.raises(EmotionError, match=refusal):
                    client.analyze(audio, text="hello")


def test_many_failures_at_once_are_no_outage() -> None:
    """As those of a hundred callers in one restart."""
    circuit = Breaker()
    for _ in range(100):
        circuit.failed("no answer")
    circuit.check()


@pytest.mark.usefixtures("impatient")
def test_few_failures_are_no_outage_however_long_it_takes() -> None:
    circuit = Breaker()
    for _ in range(breaker.FAILURES - 1):
        circuit.failed("no answer")
        time.sleep(0.5)
    circuit.check()
    circuit.answered()
    circuit.failed("no answer")
    circuit.check()


@pytest.mark.usefixtures("impatient")
def test_without_retries_every_call_is_sent(serve: Callable[..., str]) -> None:
    hanging = Hanging()
    with EmotionClient(serve(hanging), retries=False) as client:
        for _ in range(10):
            with pytest.raises(DeadlineExceeded):
                client.analyze(text="hello", deadline=0.3)
    assert hanging.calls == 10


@pytest.mark.usefixtures("impatient")
def test_bad_input_is_named_while_it_is_open(serve: Callable[..., str]) -> None:
    with EmotionClient(serve(Hanging())) as client:
        fail_until_open(client)
        with pytest.raises(InvalidInput, match="neither audio nor text"):
            client.analyze()
