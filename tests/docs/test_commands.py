"""Every command of the documentation is run by a test, or has a reason why not and is checked as far as possible.

Options of emoserve's commands are parsed by the real parsers; files that commands name must exist.
"""

import argparse
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from unittest import mock

import pytest

from tests.conftest import ROOT
from tests.docs.pages import SHELL, blocks, commands, pages

# the test that runs a command as documented, by the beginning of the command
RUN = {
    "make demo": "tests/test_readme.py",
    "make serve": "tests/test_readme.py",
    "make export": "tests/conftest.py",
    "make test": "this run",
    "make web": "tests/web/test_make_web.py",
    "make bench-quick": "tests/benchmarks/test_bench.py",
    ".venv/bin/emotion-client ": "tests/test_readme.py",
    ".venv/bin/python -m web.gateway": "tests/test_readme.py",
    "curl -F ": "tests/test_readme.py",
    "python lost_wakeup.py ": "by hand: it needs NVIDIA's Triton with its Python backend",
    "python zero_bytes.py ": "by hand: it needs NVIDIA's Triton with its ONNX Runtime backend",
}
# programs that no test runs as documented, and why
NOT_RUN = {
    "docker": "needs a container engine; tests/k8s reads the files",
    "kubectl": "needs a cluster; tests/k8s renders what it applies",
    "kind": "needs a container engine",
    "k8s/azure/deploy.sh": "needs a subscription; tests/k8s/test_azure.py runs it on stand-ins",
    "perf_analyzer": "needs a newer glibc",
    "tritonserver": "needs NVIDIA's image",
    "nvidia-smi": "needs a GPU",
    "git": "changes the checkout, or fetches from elsewhere",
    "pip": "tests/docs/test_release.py installs the client",
    "protoc": "needs a checkout of Triton's definitions",
    "locust": "tests/benchmarks runs the same file",
    "curl": "needs a server with that key",
    "export": "sets a variable of the shell",
    "emotion-client": "names servers and files of the reader; its options are parsed",
    "python": "of the reader's environment",
    "python3.11": "makes an environment for a GPU",
    "build/gpu/venv/bin/python": "needs a GPU; tests/benchmarks/test_gpu_check.py checks the requirements",
}
MODULES = re.compile(r"^(?:\S*/)?python3? -m ([\w.]+)(.*)$", re.DOTALL)


def documented() -> Iterator[tuple[str, str]]:
    """Yield each page and each of its commands."""
    for page in pages():
        for block in blocks(page):
            if block.language in SHELL:
                for command in commands(block.text):
                    yield block.page, command


DOCUMENTED = sorted(set(documented()))


def without_variables(command: str) -> str:
    """Return a command without the variables in front of it."""
    return re.sub(r"^(?:[A-Z_]+=(?:\$\([^)]*\)|\S)*\s+)+", "", command)


def ids(pair: tuple[str, str]) -> str:
    return f"{pair[0]}: {pair[1][:60]}"


@pytest.mark.parametrize("pair", DOCUMENTED, ids=ids)
def test_command_is_run_by_a_test_or_has_a_reason(pair: tuple[str, str]) -> None:
    page, command = pair
    bare = without_variables(command)
    if any(bare.startswith(begin) for begin in RUN):
        return
    program = bare.split()[0]
    if program == "make":
        assert targets(bare) <= targets_of_the_makefile(), f"{page}: {command}"
    elif program.startswith(".venv/bin/"):
        assert program.removeprefix(".venv/bin/") in ("python", "pip", "pre-commit", "emotion-client"), (
            f"{page}: {command}"
        )
    else:
        assert program in NOT_RUN, f"{page}: nothing runs this command, and NOT_RUN has no reason: {command}"


def targets(command: str) -> set[str]:
    """Return the targets of a make command."""
    return {word for word in shlex.split(command)[1:] if "=" not in word and not word.startswith("-")}


def targets_of_the_makefile() -> set[str]:
    """Return the names in front of a colon in the Makefile."""
    text = (ROOT / "Makefile").read_text().replace("$(VENV)", ".venv")
    return {name for line in re.findall(r"^([\w./ -]+):(?!=)", text, re.MULTILINE) for name in line.split()}


def test_commands_are_valid_shell() -> None:
    for page in pages():
        for block in blocks(page):
            if block.language in SHELL:
                done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)
                assert done.returncode == 0, f"{block.page}: {done.stderr}"


def test_files_that_commands_name_exist() -> None:
    for page, command in DOCUMENTED:
        for name in re.findall(r"(?:^|[\s=@])((?:docker|k8s|examples|clients|requirements|tests)/[\w./-]+)", command):
            if "/mine" in name:  # the reader's own overlay
                continue
            assert (ROOT / name).exists(), f"{page}: {command}"


class Parsed(Exception):
    """Raised when a command's options were accepted."""


def parse(module: str, arguments: list[str]) -> None:
    """Parse a command's options as the module does; SystemExit if they are wrong."""
    original = argparse.ArgumentParser.parse_args

    def parse_args(self: argparse.ArgumentParser, *given: object) -> None:
        original(self, *given)  # type: ignore[call-overload]
        raise Parsed

    with (
        mock.patch.object(argparse.ArgumentParser, "parse_args", parse_args),
        mock.patch.object(sys, "argv", [module, *arguments]),
        pytest.raises(Parsed),
    ):
        runpy.run_module(module, run_name="__main__")


OURS = sorted(
    {
        (found[1], tuple(shlex.split(found[2], comments=True)))
        for _, command in DOCUMENTED
        if (found := MODULES.match(without_variables(command)))
        and found[1].split(".")[0] in ("serving", "export", "emotion", "training", "benchmarks", "web")
        and found[1] not in ("web.gateway", "benchmarks.frontend")  # read their options otherwise
        and not (set(shlex.split(found[2], comments=True)) & {"..."})
    }
)


@pytest.mark.parametrize(("module", "arguments"), OURS, ids=lambda value: str(value)[:70])
def test_options_are_accepted(module: str, arguments: tuple[str, ...]) -> None:
    parse(module, list(arguments))


def test_parse_with_an_unknown_option_fails() -> None:
    with pytest.raises(SystemExit):
        parse("serving", ["--weather"])
