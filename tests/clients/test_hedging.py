"""Calls that are sent a second time, where the answer is long in coming."""

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

from tests.clients.conftest import Hanging, Refusing


@pytest.fixture
def links(link: Callable[..., Any]) -> list[Any]:
    """Two ways to the server."""
    return [link(), link()]


def stall_one(client: EmotionClient, links: list[Any]) -> None:
    """Once both are connected: it takes calls, and answers none."""
    while not all(each.received > 2_000 for each in links):
        client.analyze(text="x" * 2_000)
    links[0].stall()


def test_the_other_server_answers(links: list[Any]) -> None:
    urls = [each.url for each in links]
    with EmotionClient(urls, deadline=60, hedge_after=0.3) as client:
        stall_one(client, links)
        for _ in range(6):  # round-robin: some go to the stalled one first
            started = time.monotonic()
            assert isinstance(client.analyze(text="hello"), EmotionResult)
            assert time.monotonic() - started < 15


def test_without_a_hedge_it_does_not(links: list[Any]) -> None:
    with EmotionClient([each.url for each in links], deadline=3) as client:
        stall_one(client, links)
        with pytest.raises(DeadlineExceeded):
            for _ in range(4):
                client.analyze(text="hello")


async def test_it_answers_asyncio_callers_too(links: list[Any]) -> None:
    async with AsyncEmotionClient([each.url for each in links], deadline=60, hedge_after=0.3) as client:
        while not all(each.received > 2_000 for each in links):
            await client.analyze(text="x" * 2_000)
        links[0].stall()
        for _ in range(6):
            started = time.monotonic()
            assert isinstance(await client.analyze(text="hello"), EmotionResult)
            assert time.monotonic() - started < 15


def test_the_slower_call_is_cancelled(serve: Callable[..., str], server: Any) -> None:
    hanging = Hanging()
    with EmotionClient([serve(hanging), server.grpc_url], deadline=60, hedge_after=2) as client:
        while True:
            with contextlib.suppress(DeadlineExceeded):  # both went there, as the other was not connected yet
                client.analyze(text="hello", deadline=10)
                if hanging.calls:
                    break
        assert hanging.wait_left(hanging.calls)


async def test_asyncio_cancels_it_too(serve: Callable[..., str], server: Any) -> None:
    hanging = Hanging()
    async with AsyncEmotionClient([serve(hanging), server.grpc_url], deadline=60, hedge_after=2) as client:
        while True:
            with contextlib.suppress(DeadlineExceeded):  # both went there, as the other was not connected yet
                await client.analyze(text="hello", deadline=10)
                if hanging.calls:
                    break
        assert await asyncio.to_thread(hanging.wait_left, hanging.calls)


async def test_who_leaves_cancels_both(serve: Callable[..., str]) -> None:
    hanging = Hanging()
    async with AsyncEmotionClient(serve(hanging), deadline=60, hedge_after=0.1) as client:
        call = asyncio.create_task(client.analyze(text="hello"))
        while hanging.calls < 2:
            await asyncio.sleep(0.05)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await asyncio.to_thread(hanging.wait_left, 2)


def test_a_slow_server_does_not_get_twice_the_calls(serve: Callable[..., str]) -> None:
    hanging = Hanging()

    def call(number: int) -> None:
        with pytest.raises(DeadlineExceeded):
            client.analyze(text="hello")

    with EmotionClient(serve(hanging), deadline=4, hedge_after=0.1) as client, ThreadPoolExecutor(30) as callers:
        list(callers.map(call, range(30)))
    assert hanging.calls == 30 + 10


def test_ten_answered_calls_pay_for_one() -> None:
    budget = Budget()
    assert sum(budget.take() for _ in range(20)) == 10
    for _ in range(9):
        budget.answered()
    assert not budget.take()
    budget.answered()
    assert budget.take() and not budget.take()
    for _ in range(1000):
        budget.answered()
    assert sum(budget.take() for _ in range(20)) == 10


def test_a_refusal_does_not_beat_an_answer(link: Callable[..., Any], serve: Callable[..., str]) -> None:
    slow, refusing = link(), Refusing(grpc.StatusCode.UNAVAILABLE, "the queue is full")
    with EmotionClient([slow.url, serve(refusing)], retries=False, deadline=60, hedge_after=0.2) as client:
        for _ in range(4):  # until both are connected; the refusing one may come first
            with contextlib.suppress(Unavailable):
                client.analyze(text="hello")
        slow.stall()
        while True:
            refusing.requests.clear()
            mend = threading.Timer(2, slow.flow)
            mend.start()
            try:
                answer = client.analyze(text="hello")
                break
            except Unavailable:  # went to the refusing one first, and there was nothing to hedge
                mend.cancel()
    assert isinstance(answer, EmotionResult)
    assert len(refusing.requests) == 1


def test_what_is_wrong_is_said_at_once(links: list[Any]) -> None:
    with EmotionClient([each.url for each in links], deadline=60, hedge_after=0.3) as client:
        stall_one(client, links)
        for _ in range(4):
            started = time.monotonic()
            with pytest.raises(InvalidInput, match=r"^AUDIO "):
                client.analyze(b"not audio at all")
            assert time.monotonic() - started < 30


def test_a_time_that_is_none() -> None:
    with pytest.raises(InvalidInput, match="hedge_after must be above 0"):
        EmotionClient(hedge_after=0)
