"""Who can't be answered in time is told at once, and nobody else."""

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
from emotion_client import DeadlineExceeded, EmotionClient, EmotionError, Unavailable, Utterance

from emotion.errors import BusyError
from serving import Triton
from stages.admission import ENOUGH, FRESH, LOOK, METRICS_URL, Admission, Look, fetch, read


@dataclass
class Line:
    """Figures of a classifier that answers 20 requests a second in batches of 4, while there are any."""

    waiting: float = 0.0
    fails: bool = False
    began: float = field(default_factory=time.monotonic)

    def look(self) -> Look:
        """What Triton's metrics would say."""
        if self.fails:
            raise OSError
        now = time.monotonic()
        passed = now - self.began
        return Look(now, self.waiting, 20 * passed, 20 * passed, 5 * passed, seconds=0.2 * 20 * passed)


@pytest.fixture
def clip(recordings: dict[str, bytes]) -> bytes:
    """Some seconds of speech."""
    return recordings["austen-0880.flac"]


def learnt(line: Line) -> Admission:
    """One that has seen the line at work."""
    admission = Admission(line.look)
    for _ in range(4):
        admission.check(0, bulk=False)
        time.sleep(LOOK)
    line.began -= ENOUGH / 20
    seen(admission)
    return admission


def seen(admission: Admission) -> None:
    """Have it look once more."""
    admission._wanted.set()
    time.sleep(3 * LOOK)


def test_without_metrics_all_are_admitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(METRICS_URL, raising=False)
    admission = Admission()
    for _ in range(1000):
        admission.check(1, bulk=False)


def test_a_few_slow_utterances_refuse_nobody() -> None:
    """The first ones of a burst share the cores with the decoding of all the others."""
    looks = [Look(0.0, 0, 0, 0, 0, 0.0)]
    admission = Admission(lambda: looks[-1])
    seen(admission)
    looks.append(Look(time.monotonic(), 250, ENOUGH - 1, ENOUGH - 1, ENOUGH - 1, seconds=0.2 * (ENOUGH - 1)))
    seen(admission)
    for _ in range(250):
        admission.check(30_000_000, bulk=False)


def test_an_answer_that_would_come_too_late_is_refused() -> None:
    line = Line(waiting=100)
    admission = learnt(line)
    with pytest.raises(BusyError, match=r"an answer would take about \d\.\d s, and the caller waits 2\.0 s; try again"):
        for _ in range(200):
            admission.check(2_000_000, bulk=False)
    admission.check(30_000_000, bulk=False)
    admission.check(0, bulk=False)  # 30 s, as the queues have it


def test_those_admitted_since_the_last_look_count() -> None:
    line = Line(waiting=1)
    admission = learnt(line)
    seen(admission)
    admitted = 0
    with pytest.raises(BusyError):
        for _ in range(1000):
            admission.check(4_000_000, bulk=False)
            admitted += 1
    assert 10 < admitted < 60  # 20 a second for 2.8 s, less two batches, and what the looks before saw


def test_bulk_waits_for_all_and_others_for_their_like() -> None:
    line = Line(waiting=100)
    admission = learnt(line)
    line.waiting = 200
    for _ in range(3):  # the few interactive ones are answered by then: all that wait are bulk
        seen(admission)
    admission.check(4_000_000, bulk=False)
    with pytest.raises(BusyError):
        admission.check(4_000_000, bulk=True)
    admission.check(30_000_000, bulk=True)


def test_when_nothing_is_known_any_more_all_are_admitted() -> None:
    line = Line(waiting=100)
    admission = learnt(line)
    with pytest.raises(BusyError):
        admission.check(1_000_000, bulk=True)
    line.fails = True
    time.sleep(FRESH + 2 * LOOK)
    admission.check(1_000_000, bulk=True)


def test_tritons_metrics_are_read(server: Triton, clip: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # is for other machines
    url = f"http://{server.metrics_url}/metrics"
    before = fetch(url)
    with EmotionClient(server.grpc_url) as client:
        client.analyze(clip, "hello")
    end = time.monotonic() + 10
    while (after := fetch(url)).answered == before.answered:  # Triton counts after it has answered
        assert time.monotonic() < end
        time.sleep(0.05)
    assert after.batches > before.batches
    assert read("").waiting == 0


def flood(client: EmotionClient, clip: bytes, callers: int, over: threading.Event) -> Counter[str]:
    """What callers get who ask again and again, refused or not."""

    def ask_on() -> Counter[str]:
        outcomes: Counter[str] = Counter()
        while not over.is_set():
            try:
                client.analyze(clip, "hello there")
                outcomes["answered"] += 1
            except (Unavailable, DeadlineExceeded) as error:
                # Triton ends connections of some age, which only those notice who don't retry
                ended = "GOAWAY" in str(error)
                outcomes["ended" if ended else type(error).__name__] += 1
                refused = isinstance(error, Unavailable) and not ended
                assert not refused or "the server is busy: an answer would take about" in str(error)
                time.sleep(0.05)
        return outcomes

    with ThreadPoolExecutor(callers) as pool:
        return sum((caller.result() for caller in [pool.submit(ask_on) for _ in range(callers)]), Counter())


def test_overload_refuses_some_and_answers_the_others_in_time(server: Triton, clip: bytes) -> None:
    with EmotionClient(server.grpc_url) as client:
        begun = time.monotonic()
        client.analyze_many([Utterance(clip, "hello there")] * 64)
        each = (time.monotonic() - begun) / 64
    over = threading.Event()
    threading.Timer(8, over.set).start()
    with EmotionClient(server.grpc_url, deadline=max(0.4, 60 * each), retries=False) as client:
        outcomes = flood(client, clip, 128, over)
    assert outcomes["Unavailable"] > 20, outcomes
    # some are late where others need the cores
    assert outcomes["answered"] > outcomes["DeadlineExceeded"] / 2, outcomes


def test_interactive_callers_are_answered_beside_a_flood_of_bulk(server: Triton, clip: bytes) -> None:
    over = threading.Event()
    with (
        EmotionClient(server.grpc_url, deadline=5, retries=False, priority="bulk") as bulk,
        EmotionClient(server.grpc_url, deadline=5, retries=False) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        flooding = pool.submit(flood, bulk, clip, 128, over)
        failures: list[EmotionError] = []
        time.sleep(2)
        for _ in range(20):
            try:
                client.analyze(clip, "hello there")
            except EmotionError as error:
                failures.append(error)
        over.set()
        assert flooding.result()["answered"] > 0
    assert not failures, failures[0]
