"""Print the emotion of a voice while somebody speaks, with emoserve's client (pip install ./clients).

Reads raw audio of a microphone from standard input, 16-bit and mono:

    arecord -q -f S16_LE -r 16000 -c 1 -t raw | python microphone.py
    ffmpeg -loglevel error -f pulse -i default -f s16le -ar 16000 -ac 1 - | python microphone.py
"""

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator

import numpy as np
from emotion_client import AsyncEmotionClient, EmotionError, EmotionResult, SpokenUtterance, StreamAnswer, VoiceUpdate
from numpy.typing import NDArray

RATE = 16_000  # Hz
CHUNK_BYTES = 3_200  # 0.1 s


async def microphone() -> AsyncIterator[NDArray[np.int16]]:
    """Yield the samples of standard input, a pipe, [n] each, until it ends."""
    pipe = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(pipe), sys.stdin)
    while data := await pipe.read(CHUNK_BYTES):
        if len(data) % 2:
            data += await pipe.readexactly(1)
        yield np.frombuffer(data, "<i2")


def shown(probabilities: dict[str, float]) -> str:
    """Return the most probable emotion, such as `anger 58.0%`."""
    label = max(probabilities, key=probabilities.__getitem__)
    return f"{label} {probabilities[label]:.1%}"


async def main() -> int:
    """Print one line for each event. Ctrl-C ends the program, as does the end of the input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--endpoint", default="localhost:8001", metavar="HOST:PORT", help="gRPC endpoint (default: localhost:8001)"
    )
    parser.add_argument("--transcribe", action="store_true", help="also print the words of each utterance")
    options = parser.parse_args()

    try:
        async with AsyncEmotionClient(options.endpoint) as client:
            async for event in client.stream(microphone(), RATE, transcribe=options.transcribe):
                match event:
                    case VoiceUpdate(end, probabilities):
                        print(f"{end:6.1f} s  {shown(probabilities) if probabilities else 'no sound'}")
                    case SpokenUtterance(start, end, EmotionError() as error):
                        print(f"{start:6.1f} to {end:.1f} s  no answer: {error}")
                    case SpokenUtterance(start, end, EmotionResult() as result):
                        print(f"{start:6.1f} to {end:.1f} s  {shown(result.probabilities)}  {result.transcript or ''}")
                    case StreamAnswer(seconds, result):
                        print(f"all {seconds:.1f} s  {shown(result.probabilities) if result else 'too long to answer'}")
    except EmotionError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main()))
    except KeyboardInterrupt:
        sys.exit(130)  # as shells report Ctrl-C
