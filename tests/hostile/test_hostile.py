"""Test the whole corpus with a real Triton and a real gateway.

Each request is answered in time with the right status and one readable sentence, does not change answers to other
requests, and leaves the server unchanged.
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
    elements,
    grpc_cases,
    http_cases,
    request,
    tensors_for_models,
    truncated_strings,
    zero_elements,
)

LIMIT_S = 2.0  # time limit of an answer
LONGEST_LIMIT_S = 10.0  # time limit for 60 s at the highest sample rate, which is as much work as 40 utterances
TIMEOUT_S = 30.0  # timeout of a request
TIMEOUT_US = int(1e6 * TIMEOUT_S)  # as the server takes it; without one, a slow machine rejects what takes over 7 s
CONCURRENCY = 8
GATEWAY_CONCURRENCY = 4  # less than the gateway's limit
GATEWAY_CHARACTERS = 2000
CODE = (".cc:", ".cpp", ".h:", ".py", "Traceback", 'File "', "0x7f", "std::", "\n")  # text that no caller should see
NATIVE_ARENA_MIB = 1024  # ONNX Runtime's arenas in Triton's process after four passes of recordings of up to 60 s
ONNX_MODEL = re.compile(r"/(vggish|bert|fusion)/1/")
GOOD = Case("valid", "a concurrent caller", file("flac"), TEXT, "answered")


@dataclass(frozen=True)
class Answer:
    """An answer to a request.

    Attributes:
        outcome: answered, rejected, or the name of another status.
        sentence: the error message; "" if it was answered.
        seconds: time until the answer.
        probabilities: float32 [5] if it was answered, else None.
    """

    outcome: str
    sentence: str
    seconds: float
    probabilities: NDArray[np.float32] | None = None


Ask = Callable[[Case], Answer]


# --- sending over gRPC, HTTP and the gateway


def utterance(case: Case) -> bytes:
    """Return the gRPC message of an utterance."""
    parameters = {"timeout": pb.InferParameter(int64_param=TIMEOUT_US)}
    return request(raw=(elements(case.audio), elements(case.text)), parameters=parameters)


@contextlib.contextmanager
def over_grpc(server: Triton) -> Iterator[Ask]:
    """Yield a function that sends a case over gRPC as bytes, so that messages may be invalid."""
    with grpc.insecure_channel(server.grpc_url, options=[("grpc.max_send_message_length", -1)]) as channel:

        def ask(case: Case) -> Answer:
            return call(channel, GrpcCase(case.name, utterance(case)))

        yield ask


def call(channel: grpc.Channel, case: GrpcCase) -> Answer:
    """Call a gRPC method with a message of bytes."""
    begun = time.monotonic()
    try:
        data = channel.unary_unary(f"/inference.GRPCInferenceService/{case.method}")(case.message, timeout=TIMEOUT_S)
    except grpc.RpcError as error:
        outcome = "rejected" if error.code() is grpc.StatusCode.INVALID_ARGUMENT else error.code().name
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
    """Yield a function that sends a case with Triton's binary extension of HTTP."""
    with httpx.Client(base_url=f"http://{server.http_url}", timeout=TIMEOUT_S) as client:

        def ask(case: Case) -> Answer:
            audio, text = elements(case.audio), elements(case.text)
            inputs = [
                {"name": name, "shape": [1, 1], "datatype": "BYTES", "parameters": {"binary_data_size": len(data)}}
                for name, data in (("AUDIO", audio), ("TEXT", text))
            ]
            header = {"inputs": inputs, "parameters": {"timeout": TIMEOUT_US}}
            content, headers = body(header, audio + text)
            begun = time.monotonic()
            response = client.post("/v2/models/emotion/infer", content=content, headers=headers)
            seconds = time.monotonic() - begun
            if response.status_code != 200:
                outcome = "rejected" if response.status_code == 400 else str(response.status_code)
                return Answer(outcome, response.json()["error"], seconds)
            outputs = {output["name"]: output["data"] for output in response.json()["outputs"]}
            return Answer("answered", "", seconds, np.array(outputs["PROBABILITIES"], np.float32))

        yield ask


@contextlib.contextmanager
def over_gateway(address: str) -> Iterator[Ask]:
    """Yield a function that sends a case to the gateway as the form of a browser."""
    with httpx.Client(base_url=address, timeout=TIMEOUT_S) as client:

        def ask(case: Case) -> Answer:
            fields = {"audio": ("recording", case.audio)} if case.audio else {}
            begun = time.monotonic()
            response = client.post("/api/analyze", files=fields | {"text": (None, case.text)})
            seconds, found = time.monotonic() - begun, response.json()
            if response.status_code != 200:
                outcome = "rejected" if found["code"] in ("unusable", "no_speech") else str(found["code"])
                return Answer(outcome, found["message"], seconds)
            return Answer("answered", "", seconds, np.array(list(found["probabilities"].values()), np.float32))

        yield ask


# --- checks


def processes(server: Triton) -> set[psutil.Process]:
    """Return the processes of Triton and its Python stages; a restarted process is a different one."""
    triton = psutil.Process(server.pid)
    return {triton, *triton.children(recursive=True)}


def memory(family: set[psutil.Process]) -> int:
    """Return the unique memory of the processes in bytes, without shared memory."""
    return sum(process.memory_full_info().uss for process in family)


@pytest.fixture(autouse=True)
def server_unchanged(target: Triton) -> Iterator[None]:
    """Check after each test that the same processes run and that a valid utterance gets the same answer as before."""
    with over_grpc(target) as ask:
        family, before = processes(target), ask(GOOD)
        yield
        after = ask(GOOD)
    assert processes(target) == family, "a process ended or was restarted"
    assert answers_equal(before, after), f"a valid utterance got {after}, not {before}"


def answers_equal(one: Answer, other: Answer) -> bool:
    """Return whether two answers have equal probabilities, up to the influence of other requests in a batch."""
    if one.probabilities is None or other.probabilities is None:
        return False
    return bool(np.allclose(one.probabilities, other.probabilities, atol=1e-5))


def is_nan(answer: Answer) -> bool:
    """Return whether all probabilities are NaN."""
    return answer.probabilities is not None and bool(np.isnan(answer.probabilities).all())


@contextlib.contextmanager
def concurrent_callers(ask: Ask, allow_nan: bool = False) -> Iterator[None]:
    """Run two callers during the block that send a valid utterance, and check that all their answers are right.

    Args:
        ask: sends the utterance.
        allow_nan: whether an answer of NaN is accepted too.
    """
    expected, over = ask(GOOD), threading.Event()

    def call_repeatedly() -> list[Answer]:
        answers = []
        while not over.is_set():
            answers.append(ask(GOOD))
        return answers

    with ThreadPoolExecutor(2) as pool:
        callers = [pool.submit(call_repeatedly) for _ in range(2)]
        try:
            yield
        finally:
            over.set()
    for caller in callers:
        answers = caller.result()
        assert answers, "a concurrent caller was never answered"
        wrong = [
            answer for answer in answers if not answers_equal(answer, expected) and not (allow_nan and is_nan(answer))
        ]
        assert not wrong, f"{len(wrong)} of {len(answers)} answers of a concurrent caller are wrong: {wrong[0]}"


def ask_all(ask: Ask, cases: Sequence[Case], at_a_time: int = CONCURRENCY) -> list[Answer]:
    """Send all cases, `at_a_time` in parallel; slow cases are repeated alone, because the machine may be busy."""
    with ThreadPoolExecutor(at_a_time) as pool:
        answers = list(pool.map(ask, cases))
    for number, case in enumerate(cases):
        for _ in range(3):
            if answers[number].seconds > limit(case):
                answers[number] = ask(case)
    return answers


def limit(case: Case) -> float:
    """Return the time limit of a case in seconds."""
    return LONGEST_LIMIT_S if case.name == LONGEST else LIMIT_S


def violations(cases: Sequence[Case], answers: Sequence[Answer]) -> list[str]:
    """Return a line for each violation of the expectations."""
    found = []
    for case, answer in zip(cases, answers, strict=True):
        wanted = ("answered", "rejected") if case.expected == "either" else (case.expected,)
        problems = []
        if answer.outcome not in wanted:
            problems.append(f"is {answer.outcome} instead of {' or '.join(wanted)}")
        if answer.outcome == "rejected" and case.says not in answer.sentence:
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
    """Return whether a message is a sentence without internals of the code."""
    return " " in sentence and not any(mark in sentence for mark in CODE)


def is_distribution(probabilities: NDArray[np.float32] | None) -> bool:
    """Return whether there are five finite probabilities that sum to 1."""
    return (
        probabilities is not None
        and probabilities.shape == (5,)
        and bool(np.isfinite(probabilities).all())
        and bool(np.isclose(probabilities.sum(), 1, atol=1e-4))
    )


def summary(answers: Sequence[Answer]) -> str:
    """Return the number of each outcome and the times, for the log."""
    seconds = [answer.seconds for answer in answers]
    outcomes = dict(Counter(answer.outcome for answer in answers))
    return f"{len(answers)} {outcomes}, median {np.median(seconds) * 1e3:.0f} ms, slowest {max(seconds) * 1e3:.0f} ms"


# --- utterances


def test_corpus_is_large_and_has_unique_names(corpus: list[Case]) -> None:
    assert len(corpus) + len(list(grpc_cases())) + len(list(http_cases())) + len(wire.GRPC) + len(wire.HTTP) >= 500
    names = [(case.group, case.name) for case in corpus]
    assert len(set(names)) == len(names)
    print(dict(Counter(case.group for case in corpus)))


def test_utterances_over_grpc_have_the_expected_outcome(target: Triton, corpus: list[Case]) -> None:
    with over_grpc(target) as ask, concurrent_callers(ask):
        answers = ask_all(ask, corpus)
    print(summary(answers))
    assert violations(corpus, answers) == []


def test_utterances_over_http_have_the_expected_outcome(target: Triton, corpus: list[Case]) -> None:
    with over_http(target) as ask, concurrent_callers(ask):
        answers = ask_all(ask, corpus)
    print(summary(answers))
    assert violations(corpus, answers) == []


def test_utterances_over_the_gateway_have_the_expected_outcome(
    front: tuple[psutil.Popen, str], corpus: list[Case]
) -> None:
    process, address = front
    # 60 s at the highest rate are as much work as 40 utterances; the gateway is slower, and the case is valid
    cases = [gateway_case(case) for case in corpus if case.name != LONGEST]
    with over_gateway(address) as ask, concurrent_callers(ask):
        answers = ask_all(ask, cases, GATEWAY_CONCURRENCY)
    print(summary(answers))
    assert violations(cases, answers) == []
    assert process.is_running()


def gateway_case(case: Case) -> Case:
    """Return a case as the gateway handles it: it accepts shorter texts, and has its own sentences."""
    too_long = len(case.text.decode("utf-8", "replace")) > GATEWAY_CHARACTERS
    if case.group == "raw text" and case.says == "not valid UTF-8":
        return Case(case.group, case.name, case.audio, case.text, "either")  # a form may be encoded in Latin-1
    return Case(case.group, case.name, case.audio, case.text, "rejected" if too_long else case.expected)


def test_memory_after_repeated_passes_does_not_grow(
    target: Triton, front: tuple[psutil.Popen, str], corpus: list[Case]
) -> None:
    """Two passes add less memory than one pass sends, so no request is kept.

    Two passes before them fill caches and allocators, because tests run in any order. The processes of the ONNX models
    are excluded, because ONNX Runtime keeps memory for the largest random batch; `make soak` checks them. A native
    backend runs in Triton's process, so memory for a batch is allowed there.
    """
    models = {process for process in processes(target) if ONNX_MODEL.search(" ".join(process.cmdline()))}
    assert len(models) == (0 if HAS_NATIVE_ONNXRUNTIME else 3)
    stages = processes(target) - models
    family = {*stages, front[0]}
    cases = [gateway_case(case) for case in corpus if case.name != LONGEST]
    small = [case for case in cases if case.group != "bombs"]
    sent = sum(len(case.audio) + len(case.text) for case in cases) / 2**20
    levels = []
    with over_grpc(target) as ask, over_gateway(front[1]) as ask_gateway:
        for _ in range(4):
            ask_all(ask, cases)
            ask_all(ask_gateway, small[::3], GATEWAY_CONCURRENCY)
            levels.append(memory(family) / 2**20)
    print(f"MiB after each pass that sends {sent:.0f} MiB:", [round(level) for level in levels])
    assert levels[-1] - levels[1] < sent + (NATIVE_ARENA_MIB if HAS_NATIVE_ONNXRUNTIME else 0)


# --- requests


def test_invalid_grpc_messages_have_the_expected_status(target: Triton) -> None:
    cases = list(grpc_cases())
    with (
        over_grpc(target) as ask,
        concurrent_callers(ask),
        grpc.insecure_channel(target.grpc_url) as channel,
        ThreadPoolExecutor(CONCURRENCY) as pool,
    ):
        answers = list(pool.map(lambda case: call(channel, case), cases))
    print(summary(answers))
    for case, answer in zip(cases, answers, strict=True):
        status = {"answered": "OK", "rejected": "INVALID_ARGUMENT"}.get(answer.outcome, answer.outcome)
        assert status in case.statuses, f"{case.name}: {status} ({answer.sentence[:200]})"
        assert case.says in answer.sentence, f"{case.name}: {answer.sentence[:200]}"
        # gRPC has no message for an unknown method
        silent = answer.outcome in ("answered", "UNIMPLEMENTED")
        assert silent or readable(answer.sentence), f"{case.name}: {answer.sentence[:200]!r}"
        assert answer.seconds < TIMEOUT_S / 2, f"{case.name} took {answer.seconds:.1f} s"


def flood(target: Triton, cases: Sequence[GrpcCase], allow_nan: bool = False) -> list[tuple[GrpcCase, Answer]]:
    """Send cases repeatedly for 5 s with concurrent callers, and return each case with its answer."""
    over = threading.Event()
    with over_grpc(target) as ask, grpc.insecure_channel(target.grpc_url) as channel, ThreadPoolExecutor(4) as pool:

        def send_repeatedly(first: int) -> list[tuple[GrpcCase, Answer]]:
            found = []
            while not over.is_set():
                for case in cases[first::4]:
                    found.append((case, call(channel, case)))
            return found

        with concurrent_callers(ask, allow_nan):
            senders = [pool.submit(send_repeatedly, first) for first in range(4)]
            over.wait(5)
            over.set()
        return [pair for sender in senders for pair in sender.result()]


def test_truncated_strings_fail_only_their_own_requests(target: Triton, monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's Python backend detects a truncated string only when it runs a batch, and then fails the whole batch.

    Triton may lose the error if it sends another response of the model at that moment (docs/architecture.md).
    """
    monkeypatch.setattr("tests.hostile.test_hostile.TIMEOUT_S", LIMIT_S)
    answers = flood(target, list(truncated_strings()))
    received = [(case, answer) for case, answer in answers if answer.outcome != "DEADLINE_EXCEEDED"]
    assert len(received) >= 0.999 * len(answers)
    for case, answer in received:
        assert answer.outcome == "rejected", f"{case.name}: {answer}"
        assert "incomplete string data" in answer.sentence, f"{case.name}: {answer}"


def test_invalid_tensors_for_single_models_fail_no_other_request(target: Triton) -> None:
    """Every model can be called by its name; unchecked tensors must not fail other requests or change their answers."""
    for case, answer in flood(target, list(tensors_for_models())):
        status = {"answered": "OK", "rejected": "INVALID_ARGUMENT"}.get(answer.outcome, answer.outcome)
        assert status in case.statuses, f"{case.name}: {answer}"


def test_zero_elements_never_change_answers_of_other_requests(target: Triton) -> None:
    """Our backend rejects them; with NVIDIA's native one, other requests may get NaN, but no stale data."""
    for case, answer in flood(target, list(zero_elements()), allow_nan=HAS_NATIVE_ONNXRUNTIME):
        assert answer.outcome == ("answered" if HAS_NATIVE_ONNXRUNTIME else "rejected"), f"{case.name}: {answer}"
        assert HAS_NATIVE_ONNXRUNTIME or "which has no elements; send at least one" in answer.sentence


def http_status(client: httpx.Client, case: HttpCase) -> tuple[int, str]:
    """Return the status and the body of the answer; CLOSED where Triton closes the connection without one."""
    request = client.build_request(case.method, case.path, content=case.body, headers=case.headers, timeout=TIMEOUT_S)
    try:
        response = client.send(request)
    except httpx.RemoteProtocolError as error:
        return CLOSED, str(error)
    return response.status_code, response.text


def test_invalid_http_requests_have_the_expected_status(target: Triton) -> None:
    cases = list(http_cases())
    with (
        over_http(target) as ask,
        concurrent_callers(ask),
        httpx.Client(base_url=f"http://{target.http_url}") as client,
    ):
        for case in cases:
            begun = time.monotonic()
            status, text = http_status(client, case)
            assert status in case.statuses, f"{case.name}: {status} {text[:200]}"
            if status not in (200, CLOSED):
                sentence = json.loads(text)["error"]
                assert readable(sentence) or status == 404, f"{case.name}: {sentence[:200]}"
            assert time.monotonic() - begun < TIMEOUT_S / 2, case.name


# --- connections


def descriptors(server: Triton) -> int:
    """Return the number of file descriptors of Triton's process."""
    return int(psutil.Process(server.pid).num_fds())


def run_attacks(address: str, attacks: dict[str, wire.Attack], ask: Ask) -> None:
    """Run all attacks with concurrent callers, keep the connections, and check that new callers are answered."""
    host, port = address.removeprefix("http://").split(":")
    opened: list[socket.socket] = []
    try:
        with concurrent_callers(ask), ThreadPoolExecutor(CONCURRENCY) as pool:
            opened += pool.map(lambda attack: wire.run_attack(attack, (host, int(port))), attacks.values())
        answers = [ask(GOOD) for _ in range(3)]
        assert all(answer.outcome == "answered" for answer in answers), answers
        assert min(answer.seconds for answer in answers) < LIMIT_S
    finally:
        for connection in opened:
            connection.close()


def test_http2_attacks_leave_the_server_unchanged(target: Triton) -> None:
    before = descriptors(target)
    for _ in range(2):
        with over_grpc(target) as ask:
            run_attacks(target.grpc_url, wire.GRPC, ask)
    assert connections_are_released(target, before)


def test_http_attacks_leave_the_server_unchanged(target: Triton) -> None:
    before = descriptors(target)
    with over_http(target) as ask:
        run_attacks(target.http_url, wire.HTTP, ask)
    assert connections_are_released(target, before)


def test_http_attacks_on_the_gateway_leave_it_running(front: tuple[psutil.Popen, str]) -> None:
    process, address = front
    with over_gateway(address) as ask:
        run_attacks(address, wire.HTTP, ask)
    assert process.is_running()


def connections_are_released(server: Triton, before: int) -> bool:
    """Return whether Triton closes the remaining connections within 15 s."""
    end = time.monotonic() + 15
    while descriptors(server) > before + 4 and time.monotonic() < end:
        time.sleep(0.1)
    return descriptors(server) <= before + 4


def test_300_idle_connections_leave_the_server_responsive(target: Triton) -> None:
    host, port = target.grpc_url.split(":")
    before = descriptors(target)
    with contextlib.ExitStack() as idle, over_grpc(target) as ask:
        for _ in range(300):
            idle.enter_context(socket.create_connection((host, int(port)))).sendall(wire.PREFACE[:12])
        answers = [ask(GOOD) for _ in range(3)]
    assert all(answer.outcome == "answered" for answer in answers), answers
    assert min(answer.seconds for answer in answers) < LIMIT_S
    assert connections_are_released(target, before)
