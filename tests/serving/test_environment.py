"""The environment of Triton and its Python processes."""

from pathlib import Path

import pytest

from serving.installation import environment, find_triton

AVX512 = "fpu sse2 avx2 avx512f avx512dq avx512cd avx512bw avx512vl"


@pytest.mark.parametrize(
    ("flags", "given", "expected"),
    [
        (AVX512, None, "SkylakeX"),
        (AVX512, "Haswell", "Haswell"),
        ("fpu sse2 avx2", None, None),
        ("fpu sse2 avx2 avx512f avx512er", None, None),
    ],
    ids=["AVX-512", "chosen by the user", "AVX2", "part of AVX-512"],
)
def test_environment_names_the_blas_kernels_of_cpus_with_avx512(
    flags: str, given: str | None, expected: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    if given:
        monkeypatch.setenv("OPENBLAS_CORETYPE", given)
    assert environment(find_triton(), cpuinfo).get("OPENBLAS_CORETYPE") == expected


def test_environment_without_a_list_of_instructions_names_no_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    assert "OPENBLAS_CORETYPE" not in environment(find_triton(), tmp_path / "cpuinfo")
