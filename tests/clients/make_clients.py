"""Create and close 10,000 clients of the server at argv[1], of the kind argv[2]: `sync` or `asyncio`.

It prints the resources of this process after the first thousand clients and at the end, as JSON.
"""

import asyncio
import json
import sys

import psutil
from emotion_client import AsyncEmotionClient, EmotionClient

CLIENTS, WARM_UP = 10_000, 1_000
CALL_EVERY = 20  # one client in this many makes a call; the others never connect


def usage() -> dict[str, int]:
    """Return the number of file descriptors and threads, and the unique memory in bytes, of this process."""
    process = psutil.Process()
    return {
        "descriptors": process.num_fds(),
        "threads": process.num_threads(),
        "memory": process.memory_full_info().uss,
    }


def make_sync(url: str, numbers: range) -> None:
    for number in numbers:
        with EmotionClient(url) as client:
            if number % CALL_EVERY == 0:
                client.analyze(text="hello")


async def make_asyncio(url: str, numbers: range) -> None:
    for number in numbers:
        async with AsyncEmotionClient(url) as client:
            if number % CALL_EVERY == 0:
                await client.analyze(text="hello")


def main() -> None:
    url, kind = sys.argv[1:]
    held = []
    with asyncio.Runner() as runner:
        for numbers in (range(WARM_UP), range(WARM_UP, CLIENTS)):
            if kind == "asyncio":
                runner.run(make_asyncio(url, numbers))
            else:
                make_sync(url, numbers)
            held.append(usage())
    print(json.dumps(held))


if __name__ == "__main__":
    main()
