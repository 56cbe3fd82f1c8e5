"""Everything in the corpus, sent to a real Triton and a real gateway.

Each is answered in time with the right status and one readable sentence, harms nobody beside it, and leaves the server
as it was.
"""

import contextlib
import json
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import grpc
import httpx
import numpy as np
import psutil
import pytest
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as pb

from serving import Triton
from tests.conftest import HAS_NATIVE_ONNXRUNTIME
from tests.hostile import wire
from tests.hostile.corpus import LONGEST, Case, file
from tests.hostile.protocol import (
    CLOSED,
    TEXT,
    GrpcCase,
    HttpCase,
    body,
    cut_strings,
    elements,
    grpc_cases,
    http_cases,
    past_the_stages,
    request,
    zero_elements,
)

LIMIT = 2.0  # s for every answer
LONGEST_LIMIT = 10.0  # s for that of a whole minute at the highest rate, which is forty utterances' honest work
PATIENCE = 30.0  # s after which nobody waits for one
AT_A_TIME = 8
GATEWAY_AT_A_TIME = 4  # fewer than it has places
GATEWAY_CHARACTERS = 2000
CODE = (".cc:", ".cpp", ".h:", ".py", "Traceback", 'File "', "0x7f", "std::", "\n")  # that no caller should see
NATIVE_ARENA_MIB = 1024  # ONNX Runtime's arenas inside Triton's process, after five passes of recordings of up to 60 s
ONNX_MODEL = re.compile(r"/(vggish|bert|fusion)/1/")
GOOD = Case("good", "the neighbour", file("flac"), TEXT, "answered")


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        outcome: answered, refused, or another status by its name.
        probabilities: float32 [5], where it was answered.
    """

    outcome: str
    sentence: str
    seconds: float
    probabilities: NDArray[np.float32] | None = None


Ask = Callable[[Case], Answer]


# --- three ways to ask


def utterance(case: Case) -> bytes:
    """The message of an utterance."""
    return request(raw=(elements(case.audio), elements(case.text)))


@contextlib.contextmanager
def over_grpc(server: Triton) -> Iterator[Ask]:
    """Messages as bytes, so that they may be wrong."""
    with grpc.insecure_channel(server.grpc_url, options=[("grpc.max_send_message_length", -1)]) as channel:

        def ask(case: Case) -> Answer:
            return call(channel, GrpcCase(case.name, utterance(case)))

        yield ask


def call(channel: grpc.Channel, case: GrpcCase) -> Answer:
    """One call of a method that takes and gives bytes."""
    begun = time.monotonic()
    try:
        data = channel.unary_unary(f"/inference.GRPCInferenceService/{case.method}")(case.message, timeout=PATIENCE)
    except grpc.RpcError as error:
        outcome = "refused" if error.code() is grpc.StatusCode.INVALID_ARGUMENT else error.code().name
        return Answer(outcome, error.details(), time.monotonic() - begun)
    seconds = time.monotonic() - begun
    if case.method != "ModelInfer":
        return Answer("answered", "", seconds)
    answer = pb.ModelInferResponse.FromString(data)
    for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=False):
        if (output.name, output.datatype) == ("PROBABILITIES", "FP32"):
            return Answer("answered", "", seconds, np.frombuffer(raw, np.float32))
    return Answer("answered", "", seconds)


@contextlib.contextmanager
def over_http(server: Triton) -> Iterator[Ask]:
    """Triton's binary extension."""
    with httpx.Client(base_url=f"http://{server.http_url}", timeout=PATIENCE) as client:

        def ask(case: Case) -> Answer:
            audio, text = elements(case.audio), elements(case.text)
            inputs = [
                {"name": name, "shape": [1, 1], "datatype": "BYTES", "parameters": {"binary_data_size": len(data)}}
                for name, data in (("AUDIO", audio), ("TEXT", text))
            ]
            content, headers = body({"inputs": inputs}, audio + text)
            begun = time.monotonic()
            response = client.post("/v2/models/emotion/infer", content=content, headers=headers)
            seconds = time.monotonic() - begun
            if response.status_code != 200:
                outcome = "refused" if response.status_code == 400 else str(response.status_code)
                return Answer(outcome, response.json()["error"], seconds)
            outputs = {output["name"]: output["data"] for output in response.json()["outputs"]}
            return Answer("answered", "", seconds, np.array(outputs["PROBABILITIES"], np.float32))

        yield ask


@contextlib.contextmanager
def over_gateway(address: str) -> Iterator[Ask]:
    """The form that a browser sends."""
    with httpx.Client(base_url=address, timeout=PATIENCE) as client:

        def ask(case: Case) -> Answer:
            fields = {"audio": ("recording", case.audio)} if case.audio else {}
            begun = time.monotonic()
            response = client.post("/api/analyze", files=fields | {"text": (None, case.text)})
            seconds, found = time.monotonic() - begun, response.json()
            if response.status_code != 200:
                outcome = "refused" if found["code"] in ("unusable", "no_speech") else str(found["code"])
                return Answer(outcome, found["message"], seconds)
            return Answer("answered", "", seconds, np.array(list(found["probabilities"].values()), np.float32))

        yield ask


# --- what must hold


def processes(server: Triton) -> set[psutil.Process]:
    """Triton and its Python stages: a process that was started anew is another one."""
    triton = psutil.Process(server.pid)
    return {triton, *triton.children(recursive=True)}


def memory(family: set[psutil.Process]) -> int:
    """Bytes that these processes have for themselves, and share with nobody."""
    return sum(process.memory_full_info().uss for process in family)


@pytest.fixture(autouse=True)
def unharmed(target: Triton) -> Iterator[None]:
    """After each test the same processes run, and a good utterance gets the answer that it got before."""
    with over_grpc(target) as ask:
        family, before = processes(target), ask(GOOD)
        yield
        after = ask(GOOD)
    assert processes(target) == family, "a process ended or was started anew"
    assert same(before, after), f"a good utterance got {after}, not {before}"


def same(one: Answer, other: Answer) -> bool:
    """Whether two answers agree, as far as the company in a batch lets them."""
    if one.probabilities is None or other.probabilities is None:
        return False
    return bool(np.allclose(one.probabilities, other.probabilities, atol=1e-5))


def is_nan(answer: Answer) -> bool:
    """Whether the model withheld the answer."""
    return answer.probabilities is not None and bool(np.isnan(answer.probabilities).all())


@contextlib.contextmanager
def neighbours(ask: Ask, withheld: bool = False) -> Iterator[None]:
    """Two callers who go on asking for a good utterance meanwhile, and get its answer every time.

    Args:
        withheld: whether an answer of NaN, which is none, is as good.
    """
    expected, over = ask(GOOD), threading.Event()

    def go_on() -> list[Answer]:
        answers = []
        while not over.is_set():
            answers.append(ask(GOOD))
        return answers

    with ThreadPoolExecutor(2) as pool:
        callers = [pool.submit(go_on) for _ in range(2)]
        try:
            yield
        finally:
            over.set()
    for caller in callers:
        answers = caller.result()
        assert answers, "a neighbour was never answered"
        wrong = [answer for answer in answers if not same(answer, expected) and not (withheld and is_nan(answer))]
        assert not wrong, f"{len(wrong)} of {len(answers)} answers of a good neighbour are wrong: {wrong[0]}"


def ask_all(ask: Ask, cases: Sequence[Case], at_a_time: int = AT_A_TIME) -> list[Answer]:
    """All of them, so many at a time; what was slow in company is asked again alone, for the machine may be busy."""
    with ThreadPoolExecutor(at_a_time) as pool:
        answers = list(pool.map(ask, cases))
    for number, case in enumerate(cases):
        for _ in range(3):
            if answers[number].seconds > limit(case):
                answers[number] = ask(case)
    return answers


def limit(case: Case) -> float:
    """Seconds in which a case must be answered."""
    return LONGEST_LIMIT if case.name == LONGEST else LIMIT


def complaints(cases: Sequence[Case], answers: Sequence[Answer]) -> list[str]:
    """What is wrong with the answers, in a line each."""
    found = []
    for case, answer in zip(cases, answers, strict=True):
        wanted = ("answered", "refused") if case.expected == "either" else (case.expected,)
        problems = []
        if answer.outcome not in wanted:
            problems.append(f"is {answer.outcome} instead of {' or '.join(wanted)}")
        if answer.outcome == "refused" and case.says not in answer.sentence:
            problems.append(f"does not say {case.says!r}")
        if answer.outcome != "answered" and not readable(answer.sentence):
            problems.append("has no readable sentence")
        if answer.outcome == "answered" and not is_distribution(answer.probabilities):
            problems.append(f"has the probabilities {answer.probabilities}")
        if answer.seconds > limit(case):
            problems.append(f"took {answer.seconds:.1f} s")
        found += [f"{case.group}, {case.name}: {problem} ({answer.sentence[:200]!r})" for problem in problems]
    return found


def readable(sentence: str) -> bool:
    """Words for people, and nothing of the code behind it."""
    return " " in sentence and not any(mark in sentence for mark in CODE)


def is_distribution(probabilities: NDArray[np.float32] | None) -> bool:
    """Five finite probabilities that sum to 1."""
    return (
        probabilities is not None
        and probabilities.shape == (5,)
        and bool(np.isfinite(probabilities).all())
        and bool(np.isclose(probabilities.sum(), 1, atol=1e-4))
    )


def summary(answers: Sequence[Answer]) -> str:
    """For the log: how many of each outcome, and how long they took."""
    seconds = [answer.seconds for answer in answers]
    outcomes = dict(Counter(answer.outcome for answer in answers))
    return f"{len(answers)} {outcomes}, median {np.median(seconds) * 1e3:.0f} ms, slowest {max(seconds) * 1e3:.0f} ms"


# --- utterances


def test_the_corpus_is_large_and_the_same_at_every_run(corpus: list[Case]) -> None:
    assert len(corpus) + len(list(grpc_cases())) + len(list(http_cases())) + len(wire.GRPC) + len(wire.HTTP) >= 500
    names = [(case.group, case.name) for case in corpus]
    assert len(set(names)) == len(names)
    print(dict(Counter(case.group for case in corpus)))


def test_every_utterance_over_grpc(target: Triton, corpus: list[Case]) -> None:
    with over_grpc(target) as ask, neighbours(ask):
        answers = ask_all(ask, corpus)
    print(summary(answers))
    assert complaints(corpus, answers) == []


def test_every_utterance_over_http(target: Triton, corpus: list[Case]) -> None:
    with over_http(target) as ask, neighbours(ask):
        answers = ask_all(ask, corpus)
    print(summary(answers))
    assert complaints(corpus, answers) == []


def test_every_utterance_over_the_gateway(front: tuple[psutil.Popen, str], corpus: list[Case]) -> None:
    process, address = front
    # a whole minute is forty utterances there: no hostile input, and slower
    cases = [as_form(case) for case in corpus if case.name != LONGEST]
    with over_gateway(address) as ask, neighbours(ask):
        answers = ask_all(ask, cases, GATEWAY_AT_A_TIME)
    print(summary(answers))
    assert complaints(cases, answers) == []
    assert process.is_running()


def as_form(case: Case) -> Case:
    """What the gateway makes of a case: texts are shorter there, sentences are its own."""
    too_long = len(case.text.decode("utf-8", "replace")) > GATEWAY_CHARACTERS
    if case.group == "raw text" and case.says == "not valid UTF-8":
        return Case(case.group, case.name, case.audio, case.text, "either")  # a form may be in Latin-1
    return Case(case.group, case.name, case.audio, case.text, "refused" if too_long else case.expected)


def test_memory_is_flat(target: Triton, front: tuple[psutil.Popen, str], corpus: list[Case]) -> None:
    """Five passes add less than what a single one sends: nothing of a request is kept.

    The tests before have filled caches. ONNX Runtime keeps memory for the largest batch that chance made, so `make
    soak` judges it: the processes of its models are left out. On a native backend, where it is in Triton's own process,
    memory for a batch is allowed for.
    """
    models = {process for process in processes(target) if ONNX_MODEL.search(" ".join(process.cmdline()))}
    assert len(models) == (0 if HAS_NATIVE_ONNXRUNTIME else 3)
    stages = processes(target) - models
    family = {*stages, front[0]}
    cases = [as_form(case) for case in corpus if case.name != LONGEST]
    small = [case for case in cases if case.group != "bombs"]
    sent = sum(len(case.audio) + len(case.text) for case in cases) / 2**20
    levels = []
    with over_grpc(target) as ask, over_gateway(front[1]) as ask_gateway:
        for _ in range(5):
            ask_all(ask, cases)
            ask_all(ask_gateway, small[::3], GATEWAY_AT_A_TIME)
            levels.append(memory(family) / 2**20)
    print(f"MiB after each pass that sends {sent:.0f} MiB:", [round(level) for level in levels])
    assert levels[-1] - levels[0] < sent + (NATIVE_ARENA_MIB if HAS_NATIVE_ONNXRUNTIME else 0)


# --- requests


def test_every_wrong_message_over_grpc(target: Triton) -> None:
    cases = list(grpc_cases())
    with (
        over_grpc(target) as ask,
        neighbours(ask),
        grpc.insecure_channel(target.grpc_url) as channel,
        ThreadPoolExecutor(AT_A_TIME) as pool,
    ):
        answers = list(pool.map(lambda case: call(channel, case), cases))
    print(summary(answers))
    for case, answer in zip(cases, answers, strict=True):
        status = {"answered": "OK", "refused": "INVALID_ARGUMENT"}.get(answer.outcome, answer.outcome)
        assert status in case.statuses, f"{case.name}: {status} ({answer.sentence[:200]})"
        assert case.says in answer.sentence, f"{case.name}: {answer.sentence[:200]}"
        # gRPC itself says no more of a method that is not there
        silent = answer.outcome in ("answered", "UNIMPLEMENTED")
        assert silent or readable(answer.sentence), f"{case.name}: {answer.sentence[:200]!r}"
        assert answer.seconds < PATIENCE / 2, f"{case.name} took {answer.seconds:.1f} s"


def flood(target: Triton, cases: Sequence[GrpcCase], withheld: bool = False) -> list[tuple[GrpcCase, Answer]]:
    """Send them over and over for some seconds, while neighbours ask; what each was answered."""
    over = threading.Event()
    with over_grpc(target) as ask, grpc.insecure_channel(target.grpc_url) as channel, ThreadPoolExecutor(4) as pool:

        def go_on(first: int) -> list[tuple[GrpcCase, Answer]]:
            found = []
            while not over.is_set():
                for case in cases[first::4]:
                    found.append((case, call(channel, case)))
            return found

        with neighbours(ask, withheld):
            senders = [pool.submit(go_on, first) for first in range(4)]
            over.wait(5)
            over.set()
        return [pair for sender in senders for pair in sender.result()]


def test_a_string_that_is_cut_fails_alone(target: Triton) -> None:
    """Triton's Python backend finds out only when it hands over a batch, and then fails all of it."""
    for case, answer in flood(target, list(cut_strings())):
        assert answer.outcome == "refused", f"{case.name}: {answer}"
        assert "incomplete string data" in answer.sentence, f"{case.name}: {answer}"


def test_numbers_past_the_stages_hurt_nobody_else(target: Triton) -> None:
    """Triton serves every step by its name; what no stage has checked must not fail, or change, others' answers."""
    for case, answer in flood(target, list(past_the_stages())):
        status = {"answered": "OK", "refused": "INVALID_ARGUMENT"}.get(answer.outcome, answer.outcome)
        assert status in case.statuses, f"{case.name}: {answer}"


def test_zero_elements_never_change_answers_of_others(target: Triton) -> None:
    """Our backend refuses them; on NVIDIA's native one neighbours may get NaN, never an answer from stale memory."""
    for case, answer in flood(target, list(zero_elements()), withheld=HAS_NATIVE_ONNXRUNTIME):
        assert answer.outcome == ("answered" if HAS_NATIVE_ONNXRUNTIME else "refused"), f"{case.name}: {answer}"
        assert HAS_NATIVE_ONNXRUNTIME or "which has no elements; send at least one" in answer.sentence


def http_status(client: httpx.Client, case: HttpCase) -> tuple[int, str]:
    """Return the status and the body of the answer; CLOSED where Triton closes the connection without one."""
    request = client.build_request(case.method, case.path, content=case.body, headers=case.headers, timeout=PATIENCE)
    try:
        response = client.send(request)
    except httpx.RemoteProtocolError as error:
        return CLOSED, str(error)
    return response.status_code, response.text


def test_every_wrong_request_over_http(target: Triton) -> None:
    cases = list(http_cases())
    with over_http(target) as ask, neighbours(ask), httpx.Client(base_url=f"http://{target.http_url}") as client:
        for case in cases:
            begun = time.monotonic()
            status, text = http_status(client, case)
            assert status in case.statuses, f"{case.name}: {status} {text[:200]}"
            if status not in (200, CLOSED):
                sentence = json.loads(text)["error"]
                assert readable(sentence) or status == 404, f"{case.name}: {sentence[:200]}"
            assert time.monotonic() - begun < PATIENCE / 2, case.name


# --- connections


def descriptors(server: Triton) -> int:
    """That Triton's own process holds."""
    return int(psutil.Process(server.pid).num_fds())


def abused(address: str, abuses: dict[str, wire.Abuse], ask: Ask) -> None:
    """Commit all of them while neighbours ask, hold the connections, and see that new callers are still served."""
    host, port = address.removeprefix("http://").split(":")
    opened: list[socket.socket] = []
    try:
        with neighbours(ask), ThreadPoolExecutor(AT_A_TIME) as pool:
            opened += pool.map(lambda abuse: wire.commit(abuse, (host, int(port))), abuses.values())
        answers = [ask(GOOD) for _ in range(3)]
        assert all(answer.outcome == "answered" for answer in answers), answers
        assert min(answer.seconds for answer in answers) < LIMIT
    finally:
        for connection in opened:
            connection.close()


def test_abuse_of_http2(target: Triton) -> None:
    before = descriptors(target)
    for _ in range(2):
        with over_grpc(target) as ask:
            abused(target.grpc_url, wire.GRPC, ask)
    assert released(target, before)


def test_abuse_of_http(target: Triton) -> None:
    before = descriptors(target)
    with over_http(target) as ask:
        abused(target.http_url, wire.HTTP, ask)
    assert released(target, before)


def test_abuse_of_the_gateway(front: tuple[psutil.Popen, str]) -> None:
    process, address = front
    with over_gateway(address) as ask:
        abused(address, wire.HTTP, ask)
    assert process.is_running()


def released(server: Triton, before: int) -> bool:
    """Whether Triton lets go of the connections that were left, within a few seconds."""
    end = time.monotonic() + 15
    while descriptors(server) > before + 4 and time.monotonic() < end:
        time.sleep(0.1)
    return descriptors(server) <= before + 4


def test_three_hundred_connections_that_say_nothing(target: Triton) -> None:
    host, port = target.grpc_url.split(":")
    before = descriptors(target)
    with contextlib.ExitStack() as idle, over_grpc(target) as ask:
        for _ in range(300):
            idle.enter_context(socket.create_connection((host, int(port)))).sendall(wire.PREFACE[:12])
        answers = [ask(GOOD) for _ in range(3)]
    assert all(answer.outcome == "answered" for answer in answers), answers
    assert min(answer.seconds for answer in answers) < LIMIT
    assert released(target, before)
