"""Test `python -m training.plots`."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from runs import tone

from emotion.audio import log_mel_patches
from emotion.decoding import decode
from emotion.loudness import find_sound
from training.plots import main, recording

EXAMPLE = Path(__file__).parents[2] / "examples" / "speech" / "austen-0880.flac"


def test_recording_shows_every_patch_and_the_dropped_tail() -> None:
    sound = find_sound(decode(EXAMPLE.read_bytes()))
    assert sound is not None
    waveform = sound.waveform
    patches = log_mel_patches(waveform)
    upper, lower, _scale = recording(waveform, "a title").axes
    assert [text.get_text() for text in lower.texts] == ["patch 1", "patch 2", "dropped"]
    drawn = lower.collections[0].get_array()
    assert drawn is not None
    np.testing.assert_array_equal(np.asarray(drawn), patches.reshape(-1, 64).T)
    assert lower.get_xlim() == (0, waveform.size / 16000) == upper.get_xlim()


def test_recording_shorter_than_a_patch_is_padded() -> None:
    figure = recording(tone(300, 0.3), "short")
    assert [text.get_text() for text in figure.axes[1].texts] == ["patch 1"]


def test_main_writes_a_png(tmp_path: Path) -> None:
    assert main([str(EXAMPLE), str(tmp_path / "picture.png")]) == 0
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("content", "expected"), [(None, "No such file"), (b"no audio", "AUDIO is text")])
def test_main_of_another_file_prints_one_error_line(
    content: bytes | None, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "a.wav").write_bytes(content)
    assert main([str(tmp_path / "a.wav"), str(tmp_path / "picture.png")]) == 1
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "picture.png").exists()


def test_main_of_silence_prints_one_error_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(16_000), 16_000)
    assert main([str(tmp_path / "a.wav"), str(tmp_path / "picture.png")]) == 1
    assert "has no sound above" in capsys.readouterr().err
