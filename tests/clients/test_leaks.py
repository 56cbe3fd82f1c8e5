"""Clients that are made and closed over and over leave nothing behind."""

from typing import Any

import psutil
from emotion_client import AsyncEmotionClient, EmotionClient

CLIENTS, WARM_UP = 10_000, 1_000
CALL_EVERY = 20  # clients; the others never connect
MEMORY = 4 << 20  # bytes


def usage() -> tuple[int, int, int]:
    """Of this process: descriptors, threads, bytes of memory that are its own."""
    process = psutil.Process()
    return process.num_fds(), process.num_threads(), process.memory_full_info().uss


def assert_flat(before: tuple[int, int, int], after: tuple[int, int, int]) -> None:
    """gRPC's own threads, and what they wait on, come and go."""
    print(f"before {before}, after {after}")
    assert after[0] < before[0] + 16
    assert after[1] < before[1] + 16
    assert after[2] < before[2] + MEMORY


def test_clients_leave_nothing_behind(server: Any) -> None:
    for number in range(CLIENTS):
        if number == WARM_UP:
            before = usage()
        with EmotionClient(server.grpc_url) as client:
            if number % CALL_EVERY == 0:
                client.analyze(text="hello")
    assert_flat(before, usage())


async def test_asyncio_clients_leave_nothing_behind(server: Any) -> None:
    for number in range(CLIENTS):
        if number == WARM_UP:
            before = usage()
        async with AsyncEmotionClient(server.grpc_url) as client:
            if number % CALL_EVERY == 0:
                await client.analyze(text="hello")
    assert_flat(before, usage())
