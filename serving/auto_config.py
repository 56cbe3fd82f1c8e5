"""Choose the configuration that is fastest on this machine's CPU (`--config auto`)."""

from pathlib import Path

from serving.installation import CPUINFO, TritonError, cpu_flags
from serving.repository import DEFAULT_CONFIG, check_config, check_exports

AUTO = "auto"  # as the name of a configuration
# instructions for fast int8 products, as /proc/cpuinfo spells them; without them, VGGish is faster in fp32, as
# Winograd's convolutions need fewer products (docs/performance.md)
INT8_INSTRUCTIONS = ("amx_int8", "avx512_vnni", "avx_vnni")


def auto_config(repository: Path, cpuinfo: Path = CPUINFO) -> tuple[str, str]:
    """Return the name of the configuration and the reason for it, a phrase.

    Args:
        repository: the model repository.
        cpuinfo: the file in which Linux lists the instructions of the CPU.
    """
    flags = cpu_flags(cpuinfo)
    found = next((name for name in INT8_INSTRUCTIONS if name in flags), None)
    if found:
        fastest, reason = "int8", f"the CPU has {found}"
    elif "avx2" in flags:
        fastest, reason = "int8-bert", "the CPU has AVX2 without VNNI"
    else:
        fastest, reason = DEFAULT_CONFIG, "int8 is measured only on x86-64 CPUs with AVX2"
    problem = _problem(repository, fastest)
    if problem is None:
        return fastest, reason
    usable = [name for name in (DEFAULT_CONFIG, "int8") if _problem(repository, name) is None]
    return (usable or [DEFAULT_CONFIG])[0], f"{fastest} would be chosen, as {reason}, but {problem}"


def _problem(repository: Path, config: str) -> str | None:
    """Return why a repository can't be served with a configuration, and the remedy; None if it can."""
    try:
        check_exports(repository, check_config([repository], config))
    except TritonError as error:
        return str(error)
    return None
