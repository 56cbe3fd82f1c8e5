"""Finds Triton: `tritonserver` on PATH (NVIDIA's container), else the server inside the `nvidia-pytriton` wheel."""

import importlib.util
import os
import re
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

WHEEL_RELEASE = "24.10"  # of Triton, in nvidia-pytriton 0.7.0
RELEASE_VARIABLE = "NVIDIA_TRITON_SERVER_VERSION"  # set in NVIDIA's images
PARALLEL_CONFIG = "parallel"  # of the ensemble `emotion`: two steps of a request at a time
PARALLEL_RELEASE = "26.05"  # the first that survives it (github.com/triton-inference-server/core/pull/483)
HTTP_RELEASE = "25.08"  # the first whose HTTP server bounds a request's size, chunks and JSON depth (CVE-2025-23310)
OUR_BACKENDS = Path(__file__).parent / "backends"
PYTHON_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
_SHELL_SAFE = re.compile(r"[\w/.,:+@%=-]+", re.ASCII)


class TritonError(RuntimeError):
    """Triton can't be found, started or used; one line that says what to do."""


@dataclass(frozen=True)
class Installation:
    """Where a Triton server and what it needs are.

    Attributes:
        binary: the tritonserver program.
        backends: the directory of the backends that came with it.
        caches: the directory of the response caches that came with it.
        libraries: directories for LD_LIBRARY_PATH.
        stub: the python backend's stub for the running Python, where the installation carries several; else None.
        release: of Triton, such as "26.09"; None where it is not known.
    """

    binary: Path
    backends: Path
    caches: Path
    libraries: tuple[Path, ...] = ()
    stub: Path | None = None
    release: str | None = None

    @property
    def has_native_onnxruntime(self) -> bool:
        """Whether NVIDIA's own ONNX Runtime backend is among the backends."""
        return (self.backends / "onnxruntime" / "libtriton_onnxruntime.so").is_file()


def find_triton() -> Installation:
    """The Triton to run.

    Raises:
        TritonError: there is none, or the wheel's can't run under this Python.
    """
    if on_path := shutil.which("tritonserver"):
        binary = Path(on_path).resolve()
        root, release = binary.parent.parent, os.environ.get(RELEASE_VARIABLE)
        return Installation(binary, root / "backends", root / "caches", release=release)
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise TritonError("no Triton found: put tritonserver on PATH, or run: pip install nvidia-pytriton==0.7.0")
    package = Path(spec.origin).parent
    server = package / "tritonserver"
    stub = server / "python_backend_stubs" / PYTHON_VERSION / "triton_python_backend_stub"
    if not stub.is_file():
        raise TritonError(
            f"the nvidia-pytriton wheel has no stub for Python {PYTHON_VERSION}: use Python 3.11 or 3.12, "
            "or put NVIDIA's tritonserver on PATH"
        )
    libraries = (package.parent / "nvidia_pytriton.libs", _libpython().parent)
    binary = server / "bin" / "tritonserver"
    return Installation(binary, server / "backends", server / "caches", libraries, stub, WHEEL_RELEASE)


def check_release(installation: Installation, config: str | None) -> None:
    """Check that this Triton survives a configuration.

    Raises:
        TritonError: it is known to be too old.
    """
    release = installation.release
    if config == PARALLEL_CONFIG and release is not None and release < PARALLEL_RELEASE:
        raise TritonError(
            f"the configuration {PARALLEL_CONFIG} needs Triton {PARALLEL_RELEASE} or newer, and this one is {release}: "
            "it crashes where one of two steps of a request fails; leave out --config, or put a newer tritonserver on "
            "PATH"
        )


def http_warning(installation: Installation) -> str | None:
    """Return why HTTP of this Triton must not be open to strangers; None if the release is known to be safe."""
    if installation.release is not None and installation.release >= HTTP_RELEASE:
        return None
    release = f"Triton {installation.release}" if installation.release else f"A Triton older than {HTTP_RELEASE}"
    return (
        f"HTTP is exposed. {release} can be crashed by one HTTP request without any key (CVE-2025-23310, "
        "CVE-2025-23311). Let callers reach it only through the proxy of docs/security.md."
    )


def _libpython() -> Path:
    """The shared library of the running interpreter, which the wheel's stub links against."""
    name = f"libpython{PYTHON_VERSION}.so.1.0"
    variables = sysconfig.get_config_vars()
    library_directory, architecture = variables.get("LIBDIR") or "/usr/lib", variables.get("MULTIARCH") or ""
    places = (
        library_directory,
        f"{library_directory}/{architecture}",
        f"/usr/lib/{architecture}",
        f"{sys.base_prefix}/lib",
    )
    for place in places:
        if (library := Path(place, name)).is_file():
            return library
    raise TritonError(
        f"{name} is not on this machine, and Triton's python backend needs it: install it "
        f"(Debian and Ubuntu: apt-get install libpython{PYTHON_VERSION}), or use a Python built with --enable-shared"
    )


def shell_safe(directory: Path, link: Path) -> Path:
    """Return the directory, or a link to it where its path holds a space or another character special to a shell.

    Triton starts the processes of its python backend with `bash -c` and quotes no path.

    Args:
        directory: an absolute path.
        link: where to make the link.
    """
    if is_shell_safe(directory):
        return directory
    link.symlink_to(directory, target_is_directory=True)
    return link


def is_shell_safe(path: Path) -> bool:
    """Return whether a shell takes the path as one word without quotes."""
    return bool(_SHELL_SAFE.fullmatch(str(path)))


def prepare_backends(installation: Installation, directory: Path) -> Path:
    """The backends directory to hand to Triton: its own ones, and ours where it has no native `onnxruntime`.

    Args:
        directory: to be made, in a writable one. The python backend is copied, as Triton makes its stub executable at
            start and must own it for that.
    """
    if installation.has_native_onnxruntime:
        return shell_safe(installation.backends, directory)
    directory.mkdir()
    for backend in installation.backends.iterdir():
        if backend.name == "python":
            shutil.copytree(backend, directory / "python")
        else:
            (directory / backend.name).symlink_to(backend, target_is_directory=True)
    if installation.stub:
        shutil.copy(installation.stub, directory / "python")
    shutil.copytree(
        OUR_BACKENDS / "onnxruntime", directory / "onnxruntime", ignore=shutil.ignore_patterns("__pycache__")
    )
    return directory


def environment(installation: Installation) -> dict[str, str]:
    """The environment for Triton and the Python processes it starts, which take their packages from ours."""
    environ = dict(os.environ)

    def prepend(variable: str, *entries: Path | str) -> None:
        environ[variable] = os.pathsep.join([*map(str, entries), *filter(None, [environ.get(variable)])])

    prepend("LD_LIBRARY_PATH", *installation.libraries)
    prepend("PATH", Path(sys.prefix) / "bin")
    prepend("PYTHONPATH", Path(__file__).parent.parent)  # emotion/, for the preprocessing stages
    environ["VIRTUAL_ENV"] = sys.prefix
    environ["TOKENIZERS_PARALLELISM"] = "false"  # threads and the python backend's fork don't go together
    # one BLAS thread per preprocessing stage: its matrices are small, and the cores belong to ONNX Runtime
    environ.setdefault("OMP_NUM_THREADS", "1")
    environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # pages of 2 MiB under ONNX Runtime's tensors (docs/performance.md says what they give)
    environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    return environ
