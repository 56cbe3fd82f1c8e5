"""Reject flags of tritonserver that would silently break the service, and parse the others."""

import re
from collections.abc import Iterator, Sequence

from serving.installation import TritonError

_FALSE, _TRUE, _ANY = "false|off|0", "true|on|1", ".*"
_LOGGING = "the launcher reads the log; choose its level with --log-level, and redirect standard error to a file"
_KEYS = "only model-config can be restricted, because probes and the clients of this repository send no key"
_TURNS = (
    "admission assumes that vggish and bert take turns on a CPU; to run both at once, remove rate_limiter from their "
    "configurations"
)
_MODELS = (
    "every model of the repository is served from the start; serve a repository that contains just the models you want"
)

# flag: (rejected values, as a regular expression that is matched in lower case; reason with the remedy)
REJECTED = {
    "allow-grpc": (_FALSE, "clients and draining need gRPC; close its port with a firewall or a NetworkPolicy"),
    "allow-http": (
        _FALSE,
        "the launcher and the stages need HTTP; it listens on loopback only, unless --expose-http is given",
    ),
    "allow-metrics": (_FALSE, "admission and stall detection read the metrics; close their port with a firewall"),
    "allow-sagemaker": (_TRUE, "it opens a port on all addresses that needs no admin key; use HTTP or gRPC"),
    "allow-vertex-ai": (_TRUE, "it opens a port on all addresses that needs no admin key; use HTTP or gRPC"),
    "backend-config": (
        "(python|onnxruntime),shm-region-prefix-name=.*",
        "the launcher sets the prefix, to remove shared memory after a crash; leave it out",
    ),
    "backend-directory": (
        _ANY,
        "the launcher creates this directory from the backends of the Triton installation; add yours there",
    ),
    "exit-on-error": (
        _FALSE,
        "a server that lacks one of its models never becomes ready; repair the model or remove it",
    ),
    "grpc-address": (_ANY, "use --host, before the --"),
    "grpc-port": (_ANY, "use --grpc-port, before the --"),
    "grpc-restricted-protocol": ("(?!model-config:).*", _KEYS),
    "http-address": (_ANY, "use --host and --expose-http, before the --"),
    "http-port": (_ANY, "use --http-port, before the --"),
    "http-restricted-api": ("(?!model-config:).*", _KEYS),
    "load-model": (_ANY, _MODELS),
    "log-error": (_FALSE, _LOGGING),
    "log-file": (_ANY, _LOGGING),
    "log-format": ("(?!default$).*", _LOGGING),
    "log-info": (_FALSE, _LOGGING),
    "log-warning": (_FALSE, _LOGGING),
    "metrics-address": (_ANY, "use --host, before the --"),
    "metrics-config": (f"counter_latencies=({_FALSE})", "admission reads these counters; leave it out"),
    "metrics-port": (_ANY, "use --metrics-port, before the --"),
    "model-config-name": (_ANY, "use --config, before the --"),
    "model-control-mode": ("(?!none$).*", _MODELS),
    "model-repository": (_ANY, "use --repository, before the --"),
    "model-store": (_ANY, "use --repository, before the --"),
    "rate-limit": ("(?!execution_count$).*", _TURNS),
    "rate-limit-resource": (_ANY, _TURNS),
    "strict-readiness": (_FALSE, "probes would send requests to a server that lacks a model; leave it out"),
}
_WITHOUT_VALUE = ("--disable-auto-complete-config", "--help")


def check(arguments: Sequence[str]) -> None:
    """Check the flags that a user gave for tritonserver.

    Args:
        arguments: the flags, as --flag=value or as --flag value.

    Raises:
        TritonError: a flag would break the service; the message names the flag and the remedy.
    """
    for given, value in parse(arguments):
        name = given.removeprefix("--")
        # Triton accepts an unambiguous prefix of a flag
        for flag in [name] if name in REJECTED else [flag for flag in REJECTED if flag.startswith(name)]:
            values, reason = REJECTED[flag]
            if re.fullmatch(values, value.lower()):
                raise TritonError(f"tritonserver's flag --{flag}={value} can't be passed on: {reason}")


def exit_timeout(arguments: Sequence[str], default: int) -> int:
    """Return how many seconds Triton waits for requests in flight when it stops: the last --exit-timeout-secs.

    Args:
        arguments: the user's flags for tritonserver.
        default: seconds without such a flag.
    """
    given = [value for flag, value in parse(arguments) if "--exit-timeout-secs".startswith(flag)]
    return int(given[-1]) if given and given[-1].isdecimal() else default


def parse(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield each flag with its value; both --flag=value and --flag value are accepted."""
    rest = iter(arguments)
    for argument in rest:
        if argument.startswith("--") and argument != "--":
            flag, equals, value = argument.partition("=")
            yield flag, value if equals or flag in _WITHOUT_VALUE else next(rest, "")
