"""Flags for tritonserver: those that would break the service are rejected, and the others are passed on."""

import re
import subprocess
import sys

import pytest

from serving import TritonError, flags
from serving.installation import environment, find_triton
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("arguments", "named", "remedy"),
    [
        (["--http-restricted-api=inference:key=secret"], "--http-restricted-api=inference:key=secret", "model-config"),
        (
            ["--http-restricted-api=model-config,health:key=secret"],
            "--http-restricted-api=model-config,health",
            "probes",
        ),
        (["--grpc-restricted-protocol", "health:key=secret"], "--grpc-restricted-protocol=health", "model-config"),
        (["--grpc-restricted-protocol=metadata:key=secret"], "--grpc-restricted-protocol=metadata", "clients"),
        (["--allow-http=False"], "--allow-http=False", "loopback"),
        (["--allow-grpc", "off"], "--allow-grpc=off", "firewall"),
        (["--allow-metrics=0"], "--allow-metrics=0", "firewall"),
        (["--allow-met=0"], "--allow-metrics=0", "firewall"),  # Triton accepts a prefix of a flag
        (["--log-verbose=1", "--metrics-port=9000"], "--metrics-port=9000", "use --metrics-port, before the --"),
        (["--http-port=9000"], "--http-port=9000", "use --http-port, before the --"),
        (["--grpc-port=9000"], "--grpc-port=9000", "use --grpc-port, before the --"),
        (["--grpc-address=0.0.0.0"], "--grpc-address=0.0.0.0", "use --host, before the --"),
        (["--model-repository=elsewhere"], "--model-repository=elsewhere", "use --repository, before the --"),
        (["--model-store=elsewhere"], "--model-store=elsewhere", "use --repository, before the --"),
        (["--model-config-name=gpu"], "--model-config-name=gpu", "use --config, before the --"),
        (["--backend-directory=/tmp"], "--backend-directory=/tmp", "add yours there"),
        (["--backend-config=python,shm-region-prefix-name=x"], "--backend-config=python,shm", "leave it out"),
        (["--model-control-mode=explicit"], "--model-control-mode=explicit", "just the models you want"),
        (["--model-control-mode=poll"], "--model-control-mode=poll", "just the models you want"),
        (["--load-model=emotion"], "--load-model=emotion", "just the models you want"),
        (["--exit-on-error=false"], "--exit-on-error=false", "repair the model"),
        (["--metrics-config=counter_latencies=false"], "--metrics-config=counter_latencies=false", "leave it out"),
        (["--rate-limit=off"], "--rate-limit=off", "remove rate_limiter"),
        (["--rate-limit-resource=cores:2"], "--rate-limit-resource=cores:2", "remove rate_limiter"),
        (["--log-format=ISO8601"], "--log-format=ISO8601", "--log-level"),
        (["--allow-sagemaker=true"], "--allow-sagemaker=true", "admin key"),
    ],
)
def test_check_flag_that_breaks_the_service_is_rejected(arguments: list[str], named: str, remedy: str) -> None:
    with pytest.raises(TritonError) as caught:
        flags.check(arguments)
    message = str(caught.value)
    assert message.startswith(f"tritonserver's flag {named}")
    assert remedy in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        [
            "--allow-http=true",
            "--rate-limit=execution_count",
            "--model-control-mode=none",
            "--exit-on-error",
            "1",
            "--log-format=default",
        ],
        ["--http-restricted-api=model-config:key=secret", "--grpc-restricted-protocol=model-config:key=secret"],
        ["--grpc-use-ssl=1", "--grpc-server-cert=/tls/tls.crt", "--grpc-server-key=/tls/tls.key"],
        ["--backend-config=python,shm-default-byte-size=1048576", "--metrics-config=histogram_latencies=true"],
        ["--trace-config=level=TIMESTAMPS", "--id", "--allow-http=false", "--cache-config=local,size=1048576"],
    ],
)
def test_check_harmless_flag_is_accepted(arguments: list[str]) -> None:
    flags.check(arguments)


def test_check_rejected_flags_exist_in_triton() -> None:
    """No other flag of Triton is a prefix of a rejected flag, because it would be rejected too."""
    triton = find_triton()
    done = subprocess.run(
        [triton.binary, "--help"], env=environment(triton), capture_output=True, text=True, check=False
    )
    known = set(re.findall(r"^  --([\w-]+)", done.stdout + done.stderr, re.MULTILINE))
    assert len(known) > 60
    assert set(flags.REJECTED) <= known
    others = known - set(flags.REJECTED)
    assert not [flag for flag in others for rejected in flags.REJECTED if rejected.startswith(flag)]


def test_command_with_a_rejected_flag_prints_one_sentence() -> None:
    command = [sys.executable, "-m", "serving", "--http-port", "0", "--", "--allow-http=false"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"error: tritonserver's flag --allow-http=false can't be passed on: .*\n", done.stderr)


@pytest.mark.parametrize(
    ("arguments", "seconds"),
    [([], 20), (["--exit-timeout-secs=60"], 60), (["--exit-timeout-secs", "5", "--exit-timeout-secs=7"], 7)],
)
def test_exit_timeout_is_the_last_one_given(arguments: list[str], seconds: int) -> None:
    """The launcher waits for Triton as long as Triton waits for requests in flight."""
    assert flags.exit_timeout(arguments, 20) == seconds
