"""Choose the configuration that is fastest on this machine's CPU (`--config auto`)."""

from pathlib import Path

from serving.installation import TritonError
from serving.repository import DEFAULT_CONFIG, check_exports

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
    if "avx2" not in flags:
        return DEFAULT_CONFIG, "int8 is measured only on x86-64 CPUs with AVX2"
    config, reason = ("int8", f"the CPU has {found}") if found else ("int8-bert", "the CPU has AVX2 without VNNI")
    try:
        check_exports(repository, config)
    except TritonError:
        remedy = "python -m export CHECKPOINT --precision int8"
        return DEFAULT_CONFIG, f"{config} would be faster, as {reason}, but has no files; make them with: {remedy}"
    return config, reason
