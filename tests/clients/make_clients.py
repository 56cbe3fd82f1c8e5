"""Make and close 10,000 clients of the server at argv[1]: `sync` or `asyncio` ones, argv[2].

Prints, as JSON, what this process held after the first thousand and at the end.
"""

import asyncio
import json
import sys

import psutil
from emotion_client import AsyncEmotionClient, EmotionClient

CLIENTS, WARM_UP = 10_000, 1_000
CALL_EVERY = 20  # clients; the others never connect


def usage() -> dict[str, int]:
    """Descriptors, threads, and bytes of memory that are this process's own."""
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
