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


@pytest.mark.parametrize(
    ("flags", "precision", "expected", "missing"),
    [
        (ICE_LAKE, "fp32", "default", "int8"),
        (ROME, "fp32", "default", "int8"),
        (ROME, "int8", "int8", "fp32"),
        ("asimd i8mm", "int8", "int8", "fp32"),
    ],
)
def test_auto_config_without_all_files_takes_what_is_there_and_names_the_remedy(
    tmp_path: Path, flags: str, precision: str, expected: str, missing: str
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"flags\t\t: {flags}\n")
    config, reason = auto_config(repository(tmp_path / "models", precision), cpuinfo)
    assert config == expected
    assert f"{FILE_NAMES[missing]} is missing; " in reason and f"run: make export PRECISION={missing} " in reason


def test_auto_config_of_an_export_of_an_earlier_version_takes_the_default(tmp_path: Path) -> None:
    """It has int8 files, but not the configuration int8-bert."""
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"flags\t\t: {ROME}\n")
    models = repository(tmp_path / "models", "fp32", "int8")
    (models / "bert" / "configs" / "int8-bert.pbtxt").unlink()
    config, reason = auto_config(models, cpuinfo)
    assert config == "default" and "no model has a configuration 'int8-bert'" in reason
