"""Test the `emotion-client` command and its radar chart."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from emotion_client import EMOTIONS, EmotionClient, EmotionResult, Timings
from emotion_client.cli import main
from emotion_client.radar import radar
from matplotlib.image import imread

CLIENTS = Path(__file__).parents[2] / "clients"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "emotion_client", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=CLIENTS)


def test_main_prints_an_aligned_table(server: Any, clips: dict[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*map(str, clips), "--endpoint", server.grpc_url]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["file", "label", "status", "confidence", *EMOTIONS]
    with EmotionClient(server.grpc_url) as client:
        for line, clip in zip(lines, clips, strict=True):
            answer = client.analyze(clip)
            note = ["untrained:", *", ".join(answer.untrained).split()] if answer.untrained else []
            fields = line.split()
            assert fields[:3] + fields[9:] == [str(clip), answer.label, answer.status, *note]
            percentages = [float(field.removesuffix("%")) / 100 for field in fields[3:9]]
            assert percentages == pytest.approx([answer.confidence, *answer.probabilities.values()], abs=1e-3)
            ends = [header.index(name) + len(name) for name in ("confidence", *EMOTIONS)]
            assert all(line[end - 1] == "%" for end in ends)  # numbers are aligned under the names


def test_main_with_json_prints_one_object_per_utterance(
    server: Any, clips: dict[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    clip, text = next(iter(clips.items()))
    assert main([str(clip), "--text", text, "--json", "--endpoint", server.grpc_url]) == 0
    assert main(["--text", text, "--json", "--endpoint", server.grpc_url]) == 0
    both, alone = map(json.loads, capsys.readouterr().out.splitlines())
    assert (both["file"], alone["file"]) == (str(clip), None)
    assert both["text_probabilities"] == pytest.approx(alone["text_probabilities"], abs=1e-4)
    assert both["audio_probabilities"] and alone["audio_probabilities"] is None
    assert tuple(both["probabilities"]) == EMOTIONS
    for result in (both, alone):
        assert result["is_confident"] == (result["confidence"] >= 0.9) == (result["status"] == "ok")


def test_main_with_a_failed_file_prints_the_other_answers(server: Any, clip: Path, tmp_path: Path) -> None:
    noise = tmp_path / "noise.wav"
    noise.write_bytes(b"this is no audio")
    done = run(clip, "missing.wav", noise, "--endpoint", server.grpc_url)
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 2 and str(clip) in done.stdout
    missing, rejected = done.stderr.splitlines()
    assert missing == "emotion-client: missing.wav: cannot read audio file missing.wav: No such file or directory"
    assert rejected.startswith(f"emotion-client: {noise}: AUDIO ")


def test_main_without_a_server_prints_one_line() -> None:
    done = run("--text", "hello", "--endpoint", "127.0.0.1:1", "--deadline", "0.5")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "nothing to analyze"),
        (["a.wav", "b.wav", "--text", "hello"], "--text is the transcript of one FILE"),
        (["--text", "hello", "--endpoint", "localhost"], "is not HOST:PORT"),
        (["--text", "hello", "--deadline", "-1"], "deadline must be above 0"),
        (["--text", "hello", "--deadline", "soon"], "invalid float value"),
        (["--text", "hello", "--certificate", "client.pem"], "need --ca"),
        (["--text", "hello", "--ca", "missing.pem"], "no such file for root_certificates: missing.pem"),
    ],
)
def test_main_with_wrong_usage_exits_with_2(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert sentence in capsys.readouterr().err


def test_main_with_plot_writes_a_chart(
    server: Any, clips: dict[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chart = tmp_path / "radar.png"
    assert main([*map(str, clips), "--plot", str(chart), "--endpoint", server.grpc_url]) == 0
    picture = imread(chart)
    assert picture.shape[:2] == (1200, 1800)
    assert np.ptp(picture[..., :3]) > 0.5
    for wrong in (tmp_path / "nowhere" / "radar.png", tmp_path / "radar.docx"):
        assert main(["--text", "hello", "--plot", str(wrong), "--endpoint", server.grpc_url]) == 1
        captured = capsys.readouterr()
        assert captured.err.startswith(f"emotion-client: cannot write {wrong}: ") and captured.err.count("\n") == 1


def test_main_with_plot_without_matplotlib_exits_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # None makes the import fail
    with pytest.raises(SystemExit, match="2"):
        main(["--text", "hello", "--plot", "radar.png"])
    assert "pip install 'emoserve-client[plot]'" in capsys.readouterr().err


def answer(*probabilities: float, untrained: tuple[str, ...] = (), text: bool = True) -> EmotionResult:
    fused = dict(zip(EMOTIONS, probabilities, strict=True))
    label = max(fused, key=fused.__getitem__)
    return EmotionResult(
        label=label,
        confidence=0.95,
        is_confident=True,
        status="ok",
        probabilities=fused,
        audio_probabilities=fused,
        text_probabilities=fused if text else None,
        transcript=None,
        request_id="r",
        checkpoint="3fa9c1d20b7e",
        untrained=untrained,
        timings=Timings(1, 2),
    )


@pytest.mark.parametrize(
    ("results", "present", "absent"),
    [
        (
            {"one.wav": answer(0.1, 0.1, 0.6, 0.1, 0.1)},
            ["one.wav: anger 60%", "audio alone", "text alone", *EMOTIONS],
            ["untrained"],
        ),
        ({"one.wav": answer(0.1, 0.1, 0.6, 0.1, 0.1, text=False)}, ["audio alone"], ["text alone"]),
        (
            {"a.wav": answer(1, 0, 0, 0, 0), "b.wav": answer(0, 1, 0, 0, 0, untrained=("vggish", "fusion"))},
            ["Emotions of 2 utterances", "untrained: fusion, vggish", "a.wav", "b.wav"],
            ["audio alone"],
        ),
    ],
)
def test_radar_labels_its_views(
    results: dict[str, EmotionResult], present: list[str], absent: list[str], tmp_path: Path
) -> None:
    with matplotlib.rc_context({"svg.fonttype": "none"}):  # keeps text as text
        radar(results, tmp_path / "radar.svg")
    picture = (tmp_path / "radar.svg").read_text(encoding="utf-8")
    assert [words for words in present if words not in picture] == []
    assert [words for words in absent if words in picture] == []


def test_radar_without_results_raises(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no answer to draw"):
        radar({}, tmp_path / "radar.png")
