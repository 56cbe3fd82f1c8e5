"""Test which configuration `--config auto` takes on which CPU."""

import shutil
from pathlib import Path

import pytest

from export.repository import ENCODERS, FILE_NAMES, ONNX_MODELS, TEMPLATE
from serving.auto_config import auto_config

ROME = "fma sse4_1 avx2"  # AMD's second EPYC
ICE_LAKE = f"{ROME} avx512f avx512_vnni"
SAPPHIRE_RAPIDS = f"{ICE_LAKE} avx_vnni amx_int8"


def repository(directory: Path, *precisions: str) -> Path:
    """Return a model repository with empty files of the encoders in some precisions."""
    shutil.copytree(TEMPLATE, directory)
    for model in ONNX_MODELS:
        (directory / model / "1").mkdir()
        for precision in precisions if model in ENCODERS else ("fp32",):
            (directory / model / "1" / FILE_NAMES[precision]).touch()
    return directory


@pytest.mark.parametrize(
    ("flags", "config", "reason"),
    [
        (ROME, "int8-bert", "the CPU has AVX2 without VNNI"),
        (ICE_LAKE, "int8", "the CPU has avx512_vnni"),
        (SAPPHIRE_RAPIDS, "int8", "the CPU has amx_int8"),
        ("asimd i8mm", "default", "int8 is measured only on x86-64 CPUs with AVX2"),
    ],
)
def test_auto_config_takes_int8_where_it_is_faster(tmp_path: Path, flags: str, config: str, reason: str) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\nbogomips\t: 4491.56\n")
    assert auto_config(repository(tmp_path / "models", "fp32", "int8"), cpuinfo) == (config, reason)


def test_auto_config_without_int8_files_names_the_command_that_makes_them(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"flags\t\t: {ICE_LAKE}\n")
    assert auto_config(repository(tmp_path / "models", "fp32"), cpuinfo) == (
        "default",
        "int8 would be faster, as the CPU has avx512_vnni, but has no files; make them with: "
        "python -m export CHECKPOINT --precision int8",
    )
