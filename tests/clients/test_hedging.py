"""Test hedging: calls that are sent a second time because the first answer is late."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from emotion_client import AsyncEmotionClient, DeadlineExceeded, EmotionClient, EmotionResult, InvalidInput, Unavailable
from emotion_client.hedging import Budget

from tests.clients.conftest import HangingHandler, RejectingHandler


@pytest.fixture
def links(link: Callable[..., Any]) -> list[Any]:
    """Return two links to the server."""
    return [link(), link()]


def stall_one(client: EmotionClient, links: list[Any]) -> None:
    """Stall the first link once both are connected, so that it receives calls and answers none."""
    while not all(each.received > 2_000 for each in links):
        client.analyze(text="x" * 2_000)
    links[0].stall()


def test_hedge_is_answered_by_the_other_server(links: list[Any]) -> None:
    urls = [each.url for each in links]
    with EmotionClient(urls, deadline=60, hedge_after=0.3) as client:
        stall_one(client, links)
        for _ in range(6):  # round-robin: some calls go to the stalled link first
            started = time.monotonic()
            assert isinstance(client.analyze(text="hello"), EmotionResult)
            assert time.monotonic() - started < 15


def test_call_without_a_hedge_on_a_stalled_server_fails(links: list[Any]) -> None:
    with EmotionClient([each.url for each in links], deadline=3) as client:
        stall_one(client, links)
        with pytest.raises(DeadlineExceeded):
            for _ in range(4):
                client.analyze(text="hello")


async def test_async_hedge_is_answered_by_the_other_server(links: list[Any]) -> None:
    async with AsyncEmotionClient([each.url for each in links], deadline=60, hedge_after=0.3) as client:
        while not all(each.received > 2_000 for each in links):
            await client.analyze(text="x" * 2_000)
        links[0].stall()
        for _ in range(6):
            started = time.monotonic()
            assert isinstance(await client.analyze(text="hello"), EmotionResult)
            assert time.monotonic() - started < 15


def test_hedge_cancels_the_slower_call(serve: Callable[..., str], server: Any) -> None:
    hanging = HangingHandler()
    with EmotionClient([serve(hanging), server.grpc_url], deadline=60, hedge_after=2) as client:
        while True:
            with contextlib.suppress(DeadlineExceeded):  # both attempts may use the hanging server at first
                client.analyze(text="hello", deadline=10)
                if hanging.calls:
                    break
        assert hanging.wait_abandoned(hanging.calls)


async def test_async_hedge_cancels_the_slower_call(serve: Callable[..., str], server: Any) -> None:
    hanging = HangingHandler()
    async with AsyncEmotionClient([serve(hanging), server.grpc_url], deadline=60, hedge_after=2) as client:
        while True:
            with contextlib.suppress(DeadlineExceeded):  # both attempts may use the hanging server at first
                await client.analyze(text="hello", deadline=10)
                if hanging.calls:
                    break
        assert await asyncio.to_thread(hanging.wait_abandoned, hanging.calls)


async def test_async_hedge_of_a_cancelled_call_cancels_both(serve: Callable[..., str]) -> None:
    hanging = HangingHandler()
    async with AsyncEmotionClient(serve(hanging), deadline=60, hedge_after=0.1) as client:
        call = asyncio.create_task(client.analyze(text="hello"))
        while hanging.calls < 2:
            await asyncio.sleep(0.05)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await asyncio.to_thread(hanging.wait_abandoned, 2)


def test_hedges_of_a_slow_server_are_bounded(serve: Callable[..., str]) -> None:
    hanging = HangingHandler()

    def call(number: int) -> None:
        with pytest.raises(DeadlineExceeded):
            client.analyze(text="hello")

    with EmotionClient(serve(hanging), deadline=4, hedge_after=0.1) as client, ThreadPoolExecutor(30) as callers:
        list(callers.map(call, range(30)))
    assert hanging.calls == 30 + 10


def test_budget_allows_one_hedge_for_ten_answered_calls() -> None:
    budget = Budget()
    assert sum(budget.try_acquire() for _ in range(20)) == 10
    for _ in range(9):
        budget.record_success()
    assert not budget.try_acquire()
    budget.record_success()
    assert budget.try_acquire() and not budget.try_acquire()
    for _ in range(1000):
        budget.record_success()
    assert sum(budget.try_acquire() for _ in range(20)) == 10


def test_hedge_that_is_rejected_waits_for_the_other_answer(link: Callable[..., Any], serve: Callable[..., str]) -> None:
    slow, rejecting = link(), RejectingHandler(grpc.StatusCode.UNAVAILABLE, "the queue is full")
    with EmotionClient([slow.url, serve(rejecting)], retries=False, deadline=60, hedge_after=0.2) as client:
        answer = None
        while answer is None or not rejecting.requests:  # until both are connected
            with contextlib.suppress(Unavailable):
                answer = client.analyze(text="hello")
        slow.stall()
        while True:
            rejecting.requests.clear()
            timer = threading.Timer(2, slow.flow)
            timer.start()
            try:
                answer = client.analyze(text="hello")
                break
            except Unavailable:  # the rejecting server came first, so nothing was hedged
                timer.cancel()
    assert isinstance(answer, EmotionResult)
    assert len(rejecting.requests) == 1


def test_hedge_of_invalid_input_raises_at_once(links: list[Any]) -> None:
    with EmotionClient([each.url for each in links], deadline=60, hedge_after=0.3) as client:
        stall_one(client, links)
        for _ in range(4):
            started = time.monotonic()
            with pytest.raises(InvalidInput, match=r"^AUDIO "):
                client.analyze(b"not audio at all")
            assert time.monotonic() - started < 30


def test_client_with_hedge_after_zero_raises() -> None:
    with pytest.raises(InvalidInput, match="hedge_after must be above 0"):
        EmotionClient(hedge_after=0)
