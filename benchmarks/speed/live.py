"""`python -m benchmarks live`: how soon live streams show the emotion of a voice.

Triton with speech recognition and the gateway are started as `make web` does. Each speaker sends the example recordings
at the pace of speech, one after the other, over a WebSocket.
"""

import argparse
import asyncio
import json
import time
from itertools import cycle, islice

import httpx
import numpy as np
from numpy.typing import NDArray
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from benchmarks import output
from benchmarks.load.workload import encode
from benchmarks.speed.web import TIMEOUT_S, analyze, served_page
from emotion import decoding
from emotion.audio import SAMPLE_RATE
from export import speech

CHUNK_S = 0.1


class Speaker:
    """One stream and what came back.

    Attributes:
        lags: s from the last sample of each update's window until the update arrived.
        utterances: number of utterances with an answer.
        failures: messages of errors, of utterances and of the stream.
        answer: the probabilities of the whole; None if it is too long for one answer.
    """

    def __init__(self, number: int, seconds: float) -> None:
        """Compose the speech: recordings with pauses of a second, beginning with another one for each speaker."""
        waveforms = [decoding.decode(file.read_bytes()) for file in sorted(speech.SPEECH.glob("*.flac"))]
        pause = np.zeros(SAMPLE_RATE, np.float32)
        parts = islice(cycle(waveforms), number, number + int(seconds) + 1)  # each is longer than a second
        spoken = np.concatenate([part for waveform in parts for part in (waveform, pause)])
        self.samples: NDArray[np.int16] = (spoken[: int(seconds * SAMPLE_RATE)] * 32767).astype("<i2")
        self.lags: list[float] = []
        self.utterances, self.failures = 0, list[str]()
        self.answer: dict[str, float] | None = None

    async def speak(self, address: str) -> None:
        """Stream the speech to a gateway."""
        async with connect(f"{address.replace('http', 'ws', 1)}/api/live") as socket:
            await socket.send(json.dumps({"type": "start", "rate": SAMPLE_RATE}))
            self._began = time.perf_counter()
            sending = asyncio.create_task(self._send(socket))
            try:
                async for message in socket:
                    self._take(json.loads(message))
            except ConnectionClosed as error:
                self.failures.append(str(error))
            finally:
                sending.cancel()

    async def _send(self, socket: ClientConnection) -> None:
        size = int(CHUNK_S * SAMPLE_RATE)
        for number, start in enumerate(range(0, len(self.samples), size), 1):
            await asyncio.sleep(max(0.0, self._began + number * CHUNK_S - time.perf_counter()))  # it has been spoken
            await socket.send(self.samples[start : start + size].tobytes())
        await socket.send(json.dumps({"type": "end"}))

    def _take(self, message: dict[str, object]) -> None:
        match message:
            case {"type": "voice", "end": float(end)}:
                self.lags.append(time.perf_counter() - self._began - end)
            case {"type": "utterance", "error": None}:
                self.utterances += 1
            case {"type": "utterance", "error": str(error)} | {"type": "error", "message": str(error)}:
                self.failures.append(error)
            case {"type": "answer", "analysis": {"probabilities": dict(probabilities)}}:
                self.answer = probabilities

    def difference(self, client: httpx.Client) -> float:
        """Return the largest difference between the probabilities of the whole stream and of an upload of its audio."""
        upload = analyze(client, ("audio", ("a", encode(self.samples))))["probabilities"]
        return max(abs(value - upload[name]) for name, value in (self.answer or {}).items())


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; return 1 if anything failed, else 0."""
    speakers = [Speaker(number, arguments.seconds) for number in range(arguments.speakers)]

    async def speak(address: str) -> None:
        await asyncio.gather(*(speaker.speak(address) for speaker in speakers))

    with served_page(arguments.repository) as address, httpx.Client(base_url=address, timeout=TIMEOUT_S) as client:
        asyncio.run(Speaker(0, 5).speak(address))  # not counted
        with output.console.status(f"{arguments.speakers} speakers for {arguments.seconds:g} s"):
            asyncio.run(speak(address))
        differences = [speaker.difference(client) for speaker in speakers if speaker.answer]
    lags = np.concatenate([speaker.lags for speaker in speakers])
    first = max(speaker.lags[0] for speaker in speakers) + 0.5
    rate = len(lags) / arguments.seconds / arguments.speakers
    failures = [failure for speaker in speakers for failure in speaker.failures]
    print(f"updates: {rate:.2f} a second and speaker, the first after {first:.2f} s of speech at most")
    print(f"lag behind the audio: median {1e3 * np.median(lags):.0f} ms, p95 {1e3 * np.percentile(lags, 95):.0f} ms")
    print(f"utterances answered: {sum(speaker.utterances for speaker in speakers)}, failures: {failures or 'none'}")
    if differences:
        print(f"answers to whole streams against uploads: largest difference {max(differences):.1e}")
    return int(bool(failures))
