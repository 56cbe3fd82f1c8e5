"""Test that recordings are decoded once, as in serving, and atomically."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import soundfile
from runs import ROOT, tone

from emotion import decoding
from emotion.audio import SAMPLE_RATE
from training.recordings import decode_all


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Return two recordings of different formats and sample rates, one of them stereo."""
    mono, stereo = tmp_path / "mono.wav", tmp_path / "stereo.flac"
    soundfile.write(mono, tone(300, 1.5), SAMPLE_RATE)
    soundfile.write(stereo, np.stack([tone(500, 1.0), tone(700, 1.0)], axis=1), 44_100)
    return [stereo, mono]


def record_decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record the size in bytes of each file that is decoded from now on."""
    decoded: list[int] = []
    real = decoding.decode

    def decode(data: bytes) -> np.ndarray:  # type: ignore[type-arg]
        decoded.append(len(data))
        return real(data)

    monkeypatch.setattr(decoding, "decode", decode)
    return decoded


def test_decode_all_equals_the_served_decoder(paths: list[Path], tmp_path: Path) -> None:
    for _ in range(2):  # fresh, then from the cache
        found, unreadable = decode_all([*paths, paths[0]], tmp_path / "cache")
        assert unreadable == {}
        for path in paths:
            served = decoding.decode(path.read_bytes())
            assert found[path].dtype == np.float32
            np.testing.assert_array_equal(found[path], served)


def test_decode_all_again_reads_the_cache(paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = record_decoded(monkeypatch)
    decode_all(paths, tmp_path / "cache")
    assert len(decoded) == 2
    decode_all(reversed(paths), tmp_path / "cache")
    assert len(decoded) == 2


def test_decode_all_of_a_changed_recording_decodes_it_again(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode_all(paths, tmp_path / "cache")
    decoded = record_decoded(monkeypatch)
    soundfile.write(paths[1], -tone(300, 1.5), SAMPLE_RATE)  # of the same size
    os.utime(paths[1], ns=(0, 1))
    found, _ = decode_all(paths, tmp_path / "cache")
    assert len(decoded) == 2
    np.testing.assert_array_equal(found[paths[1]], decoding.decode(paths[1].read_bytes()))


def test_decode_all_of_another_set_uses_another_cache(paths: list[Path], tmp_path: Path) -> None:
    both, _ = decode_all(paths, tmp_path / "cache")
    alone, _ = decode_all(paths[:1], tmp_path / "cache")
    np.testing.assert_array_equal(alone[paths[0]], both[paths[0]])
    with pytest.raises(KeyError):
        alone[paths[1]]


def test_decode_all_returns_the_reason_of_unreadable_recordings(paths: list[Path], tmp_path: Path) -> None:
    truncated, text, empty, silent = (tmp_path / f"{name}.wav" for name in ("truncated", "text", "empty", "silent"))
    truncated.write_bytes(paths[1].read_bytes()[:20_000])
    text.write_text("not a recording")
    empty.touch()
    soundfile.write(silent, np.zeros(SAMPLE_RATE), SAMPLE_RATE)
    for _ in range(2):  # the second time from the cache
        found, unreadable = decode_all([truncated, text, empty, silent, *paths], tmp_path / "cache")
        assert set(unreadable) == {truncated, text, empty, silent}
        assert unreadable[silent].startswith("has no sound above -60 dB")
        assert "truncated WAV file" in unreadable[truncated]
        assert "is text" in unreadable[text]
        for path in paths:
            np.testing.assert_array_equal(found[path], decoding.decode(path.read_bytes()))


def test_decode_all_without_recordings_is_empty(tmp_path: Path) -> None:
    decode_all([], tmp_path / "cache")
    _, unreadable = decode_all([], tmp_path / "cache")
    assert unreadable == {}


def test_decode_all_on_a_full_disk_fails_and_leaves_no_files(paths: list[Path], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    code = """
        import resource, sys
        from pathlib import Path
        from training.errors import TrainingError
        from training.recordings import decode_all

        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
        paths = [Path(name) for name in sys.argv[2:]]
        try:
            decode_all(paths, Path(sys.argv[1]))
        except TrainingError as error:
            print(error)
        assert not list(Path(sys.argv[1]).iterdir())
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        decode_all(paths, Path(sys.argv[1]))
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(cache), *map(str, paths)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{cache} can't take the decoded recordings (File too large)")
    assert "--cache" in done.stdout
    found, _ = decode_all(paths, cache)  # the second attempt wrote a complete cache
    np.testing.assert_array_equal(found[paths[0]], decoding.decode(paths[0].read_bytes()))
