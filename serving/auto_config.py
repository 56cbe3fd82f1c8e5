"""Choose the configuration that is fastest on this machine's CPU (`--config auto`)."""

from pathlib import Path

from serving.installation import TritonError
from serving.repository import DEFAULT_CONFIG, check_config, check_exports

AUTO = "auto"  # as the name of a configuration
# instructions for fast int8 products, as /proc/cpuinfo spells them; without them, VGGish is faster in fp32, as
# Winograd's convolutions need fewer products (docs/performance.md)
INT8_INSTRUCTIONS = ("amx_int8", "avx512_vnni", "avx_vnni")


def auto_config(repository: Path, cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, str]:
    """Return the name of the configuration and the reason for it, a phrase.

    Args:
        repository: the model repository.
        cpuinfo: the file in which Linux lists the instructions of the CPU.
    """
    flags = set(cpuinfo.read_text().split())
    found = next((name for name in INT8_INSTRUCTIONS if name in flags), None)
    if found:
        fastest, reason = "int8", f"the CPU has {found}"
    elif "avx2" in flags:
        fastest, reason = "int8-bert", "the CPU has AVX2 without VNNI"
    else:
        return DEFAULT_CONFIG, "int8 is measured only on x86-64 CPUs with AVX2"
    if _is_exported(repository, fastest):
        return fastest, reason
    remedy = f"python -m export CHECKPOINT --repository {repository} --precision int8"
    only = (
        "int8" if _is_exported(repository, "int8") and not _is_exported(repository, DEFAULT_CONFIG) else DEFAULT_CONFIG
    )
    return only, f"{fastest} is faster, as {reason}, but not everything that it needs is exported; run: {remedy}"


def _is_exported(repository: Path, config: str) -> bool:
    """Return whether a repository has the configuration, and the ONNX files that it names."""
    try:
        check_exports(repository, check_config([repository], config))
    except TritonError:
        return False
    return True
