"""Find Triton: `tritonserver` on PATH (NVIDIA's container), else the server inside the `nvidia-pytriton` wheel."""

import importlib.util
import os
import re
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

WHEEL_RELEASE = "24.10"  # Triton's release in nvidia-pytriton 0.7.0
RELEASE_VARIABLE = "NVIDIA_TRITON_SERVER_VERSION"  # environment variable that NVIDIA's images set
PARALLEL_CONFIG = "parallel"  # configuration of the ensemble `emotion` with two steps of a request at a time
PARALLEL_RELEASE = "26.05"  # first release without the crash of github.com/triton-inference-server/core/pull/483
HTTP_RELEASE = "25.08"  # first release whose HTTP server limits size, chunks and JSON depth (CVE-2025-23310)
CPUINFO = Path("/proc/cpuinfo")  # in which Linux lists the CPU's instructions
SKYLAKE_X = {"avx512f", "avx512bw", "avx512dq", "avx512vl"}  # instructions of OpenBLAS's kernels of this name
OUR_BACKENDS = Path(__file__).parent / "backends"
PYTHON_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
_SHELL_SAFE = re.compile(r"[\w/.,:+@%=-]+", re.ASCII)


class TritonError(RuntimeError):
    """Triton can't be found, started or used; the message is one line that names the remedy."""


@dataclass(frozen=True)
class Installation:
    """The files of a Triton installation.

    Attributes:
        binary: the tritonserver program.
        backends: directory of the installation's backends.
        caches: directory of the installation's response caches.
        libraries: directories for LD_LIBRARY_PATH.
        stub: the Python backend's stub for the running Python if the installation has several stubs; else None.
        release: Triton's release, such as "26.09"; None if it is unknown.
    """

    binary: Path
    backends: Path
    caches: Path
    libraries: tuple[Path, ...] = ()
    stub: Path | None = None
    release: str | None = None

    @property
    def has_native_onnxruntime(self) -> bool:
        """True if the installation includes NVIDIA's native ONNX Runtime backend."""
        return (self.backends / "onnxruntime" / "libtriton_onnxruntime.so").is_file()


def find_triton() -> Installation:
    """Return the Triton installation to run.

    Raises:
        TritonError: there is none, or the wheel's Triton can't run with this Python.
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
    """Check that this Triton can run a configuration without a known crash.

    Args:
        installation: the Triton to run.
        config: name of the configuration; None for config.pbtxt.

    Raises:
        TritonError: this Triton is too old for the configuration.
    """
    release = installation.release
    if config == PARALLEL_CONFIG and release is not None and release < PARALLEL_RELEASE:
        raise TritonError(
            f"the configuration {PARALLEL_CONFIG} needs Triton {PARALLEL_RELEASE} or newer, and this one is {release}: "
            "it crashes if one of two steps of a request fails; leave out --config, or put a newer tritonserver on "
            "PATH"
        )


def http_warning(installation: Installation) -> str | None:
    """Return a warning against exposing this Triton's HTTP; None if the release is known to be safe."""
    if installation.release is not None and installation.release >= HTTP_RELEASE:
        return None
    release = f"Triton {installation.release}" if installation.release else f"A Triton older than {HTTP_RELEASE}"
    return (
        f"HTTP is exposed. {release} can be crashed by one HTTP request without any key (CVE-2025-23310, "
        "CVE-2025-23311). Let callers reach it only through the proxy of docs/security.md."
    )


def _libpython() -> Path:
    """Return the shared library of the running Python, which the wheel's stub is linked against.

    Raises:
        TritonError: this machine does not have the library.
    """
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
        f"{name} is not on this machine, and Triton's Python backend needs it: install it "
        f"(Debian and Ubuntu: apt-get install libpython{PYTHON_VERSION}), or use a Python built with --enable-shared"
    )


def shell_safe(directory: Path, link: Path) -> Path:
    """Return the directory, or a link to it if its path contains a space or another special character of the shell.

    Triton starts the processes of its Python backend with `bash -c` and does not quote paths.

    Args:
        directory: an absolute path.
        link: path of the link if it is needed.
    """
    if is_shell_safe(directory):
        return directory
    link.symlink_to(directory, target_is_directory=True)
    return link


def is_shell_safe(path: Path) -> bool:
    """Return whether a shell reads the path as one word without quotes."""
    return bool(_SHELL_SAFE.fullmatch(str(path)))


def prepare_backends(installation: Installation, directory: Path) -> Path:
    """Return the backends directory for Triton: the installation's, with our `onnxruntime` if it has no native one.

    Args:
        installation: the Triton to run.
        directory: path of a new directory, used if our backend is added. The Python backend is copied into it, because
            Triton changes the mode of the stub at its start and must own the file.

    Raises:
        OSError: the directory can't be written.
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


def cpu_flags(cpuinfo: Path = CPUINFO) -> set[str]:
    """Return the words of a file like CPUINFO, among them the CPU's instructions; none if it can't be read."""
    try:
        return set(cpuinfo.read_text().split())
    except OSError:
        return set()


def environment(installation: Installation, cpuinfo: Path = CPUINFO) -> dict[str, str]:
    """Return the environment of Triton and its Python processes, which import packages from this Python environment.

    Args:
        installation: the Triton installation.
        cpuinfo: the file in which Linux lists the instructions of the CPU.
    """
    environ = dict(os.environ)

    def prepend(variable: str, *entries: Path | str) -> None:
        environ[variable] = os.pathsep.join([*map(str, entries), *filter(None, [environ.get(variable)])])

    prepend("LD_LIBRARY_PATH", *installation.libraries)
    prepend("PATH", Path(sys.prefix) / "bin")
    prepend("PYTHONPATH", Path(__file__).parent.parent)  # the stages import emotion/ and stages/
    environ["VIRTUAL_ENV"] = sys.prefix
    environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads do not survive the Python backend's fork
    # one BLAS thread per Python stage, because its matrices are small and ONNX Runtime needs the cores
    environ.setdefault("OMP_NUM_THREADS", "1")
    environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if cpu_flags(cpuinfo) >= SKYLAKE_X:
        # numpy 1's OpenBLAS doesn't know newer CPUs, and takes kernels without AVX: 2.3 instead of 1.9 ms for 3 s
        environ.setdefault("OPENBLAS_CORETYPE", "SkylakeX")
    # pages of 2 MiB for ONNX Runtime's tensors (docs/performance.md has the measurement)
    environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    return environ
