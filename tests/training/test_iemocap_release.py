"""Test the synthetic IEMOCAP release: its speech, file formats, repeatability and learnability."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from iemocap_release import DIALOGUES, FOLDER, Release, make
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from speech import synthesise

from emotion import audio, decoding

TEXT = "Excuse me, I don't know what happened to the letter."
USUAL = {"rate": 175, "pitch": 50, "pitch_range": 50, "volume": 100}


@pytest.fixture(scope="module")
def recordings(iemocap_release: Release) -> list[Path]:
    return sorted(path for path in iemocap_release.root.glob("*/sentences/wav/*/[!.]*.wav"))


@pytest.fixture(scope="module")
def waveforms(iemocap_release: Release) -> list[NDArray[np.float32]]:
    """Return the waveforms of the kept turns, in the same order."""
    wav = [
        iemocap_release.root / turn.session / "sentences" / "wav" / turn.dialogue / f"{turn.id}.wav"
        for turn in iemocap_release.kept
    ]
    return [decoding.decode(path.read_bytes()) for path in wav]


# --- speech


@pytest.mark.parametrize("voice", ["en-us+f3", "en-us+m7"])  # the first has breath, roughness and echo
def test_speech_does_not_depend_on_earlier_sentences(voice: str) -> None:
    first, rate = synthesise(TEXT, voice, **USUAL)
    synthesise("Something else!", "en-us+f1", rate=300, pitch=90, pitch_range=0, volume=40)
    second, _ = synthesise(TEXT, voice, **USUAL)
    assert rate == 22050
    assert 2 < len(first) / rate < 4
    np.testing.assert_array_equal(first, second)


def test_speech_is_equal_in_every_process() -> None:
    """By default, eSpeak NG seeds its noise from the clock."""
    here, _ = synthesise(TEXT, "en-us+f3", **USUAL)
    code = f"from speech import synthesise\nprint(synthesise({TEXT!r}, 'en-us+f3', **{USUAL!r})[0].tobytes().hex())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    )
    assert bytes.fromhex(done.stdout) == here.tobytes()


def test_speech_changes_with_each_parameter() -> None:
    def spoken(**changes: int) -> NDArray[np.float32]:
        return synthesise(TEXT, "en-us+m3", **USUAL | changes)[0]

    usual = spoken()
    assert len(spoken(rate=300)) < 0.75 * len(usual)
    assert np.abs(spoken(volume=50)).max() == pytest.approx(np.abs(usual).max() / 2, rel=0.05)
    assert _pitch(spoken(pitch=90)) > 1.2 * _pitch(usual)
    assert _pitch_spread(spoken(pitch_range=100)) > 1.5 * _pitch_spread(spoken(pitch_range=5))
    assert _pitch(synthesise(TEXT, "en-us+f1", **USUAL)[0]) > 1.4 * _pitch(usual)


def _pitches(waveform: NDArray[np.float32], rate: int = 22050) -> NDArray[np.float64]:
    """Return the fundamental frequency in Hz of each voiced frame of 60 ms: the best lag of its autocorrelation."""
    size, shortest, longest = rate * 60 // 1000, rate // 400, rate // 60
    frames = np.lib.stride_tricks.sliding_window_view(waveform, size)[:: size // 4] * np.hanning(size)
    frames = frames[np.abs(frames).max(axis=1) > 0.1]
    correlation = np.fft.irfft(np.abs(np.fft.rfft(frames, 2 * size)) ** 2)
    correlation /= correlation[:, :1]
    lags = shortest + correlation[:, shortest:longest].argmax(axis=1)
    voiced = correlation[np.arange(len(lags)), lags] > 0.4
    return np.asarray(rate / lags[voiced])


def _pitch(waveform: NDArray[np.float32]) -> float:
    return float(np.median(_pitches(waveform)))


def _pitch_spread(waveform: NDArray[np.float32]) -> float:
    pitches = _pitches(waveform)
    return float(np.subtract(*np.percentile(pitches, [75, 25])) / np.median(pitches))


def test_speech_in_an_unknown_language_is_rejected() -> None:
    with pytest.raises(RuntimeError, match="eSpeak NG has no voice 'xx-none'"):
        synthesise(TEXT, "xx-none", **USUAL)


# --- formats


def test_release_recordings_are_riff_pcm_16_bit_mono_16_khz(iemocap_release: Release, recordings: list[Path]) -> None:
    assert len(recordings) == len(iemocap_release.turns)
    for path in recordings:
        about = soundfile.info(path)
        assert (about.format, about.subtype, about.channels, about.samplerate) == ("WAV", "PCM_16", 1, 16_000)


def test_release_has_the_published_layout(iemocap_release: Release) -> None:
    assert [path.name for path in sorted(iemocap_release.root.iterdir())] == [f"Session{n}" for n in range(1, 6)]
    for number in range(1, 6):
        session = iemocap_release.root / f"Session{number}"
        names = [f"Ses{number:02}{name}" for name in sorted(DIALOGUES)]
        assert [path.stem for path in sorted(session.glob("dialog/EmoEvaluation/[!.]*.txt"))] == names
        assert [path.stem for path in sorted(session.glob("dialog/transcriptions/[!.]*.txt"))] == names
        assert sorted(path.name for path in session.glob("sentences/wav/*")) == names


def test_release_files_have_the_published_format(iemocap_release: Release) -> None:
    session = iemocap_release.root / "Session1" / "dialog"
    turn = next(turn for turn in iemocap_release.turns if turn.dialogue == "Ses01F_impro01")
    start, end = turn.seconds
    labels = (session / "EmoEvaluation" / "Ses01F_impro01.txt").read_text().splitlines()
    assert labels[:2] == ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
    assert labels[2] == f"[{start:.4f} - {end:.4f}]\t{turn.id}\t{turn.label}\t[2.5000, 3.0000, 2.5000]"
    transcript = (session / "transcriptions" / "Ses01F_impro01.txt").read_text().splitlines()
    assert transcript[0] == f"{turn.id} [{start:08.4f}-{end:08.4f}]: {turn.text}"


def test_release_durations_are_mostly_one_to_three_seconds(waveforms: list[NDArray[np.float32]]) -> None:
    seconds = np.array([waveform.size for waveform in waveforms]) / audio.SAMPLE_RATE
    assert np.mean((seconds >= 1) & (seconds <= 3)) > 0.8
    assert np.sum(seconds < 0.975) == 5
    assert np.sum(seconds > 5) == 1
    assert 9 < seconds.max() < 13


def test_release_speech_is_neither_silent_nor_clipped(waveforms: list[NDArray[np.float32]]) -> None:
    for waveform in waveforms:
        assert np.abs(waveform).max() > 0.05  # sad speech is the softest
        assert np.mean(np.abs(waveform) > 0.99) < 0.001
        # the energy of speech varies with its syllables
        frames = waveform[: waveform.size // 320 * 320].reshape(-1, 320)
        assert np.std(np.log(np.sqrt(np.mean(frames**2, axis=1)) + 1e-4)) > 0.5


def test_release_counts_are_as_documented(iemocap_release: Release) -> None:
    assert Counter(iemocap_release.emotions.values()) == {
        "neutral": 41,
        "frustration": 40,
        "anger": 40,
        "sadness": 40,
        "excitement": 40,
    }
    assert set(Counter(turn.speaker for turn in iemocap_release.kept).values()) == {20, 21}
    assert iemocap_release.dropped == {"xxx": 20, "sur": 2, "fea": 1, "oth": 1, "dis": 1}


def test_release_repeats_scripted_lines_alone(iemocap_release: Release) -> None:
    lines: dict[str, list[Counter[str]]] = {"scripted": [], "improvised": []}
    for style, sessions in lines.items():
        for number in range(1, 6):
            texts = (
                turn.text for turn in iemocap_release.kept if turn.style == style and turn.session[-1] == str(number)
            )
            sessions.append(Counter(texts))
    assert len(set.intersection(*(set(session) for session in lines["scripted"]))) == 20
    assert not set.intersection(*(set(session) for session in lines["improvised"]))


# --- repeatability


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return make(tmp_path_factory.mktemp("small"), 1)


def test_release_with_the_same_seed_is_equal(small: Release, tmp_path: Path) -> None:
    releases = [small, make(tmp_path / "same", 1), make(tmp_path / "other", 1, seed=1)]
    contents = [
        {path.relative_to(release.root): path.read_bytes() for path in release.root.rglob("*") if path.is_file()}
        for release in releases
    ]
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]
    assert len(small.kept) == 51


def test_command_makes_the_same_release(small: Release, tmp_path: Path) -> None:
    script = Path(__file__).parent / "iemocap_release.py"
    command = [sys.executable, str(script), str(tmp_path), "--utterances", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == f"{tmp_path / FOLDER}: 51 utterances of five emotions, 25 others\n"
    name = Path("Session4/sentences/wav/Ses04F_impro01/Ses04F_impro01_F000.wav")
    assert (tmp_path / FOLDER / name).read_bytes() == (small.root / name).read_bytes()
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "choose a directory that can be written" in again.stderr


# --- learnability: each modality alone predicts the emotions of unseen speakers


def test_release_emotions_differ_in_sound(iemocap_release: Release, waveforms: list[NDArray[np.float32]]) -> None:
    frames = [audio.log_mel_patches(waveform).reshape(-1, audio.MEL_BANDS) for waveform in waveforms]
    features = np.array([np.concatenate([bands.mean(axis=0), bands.std(axis=0)]) for bands in frames])
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, C=0.1))
    assert _leave_one_session_out(iemocap_release, features, classifier) > 0.8


def test_release_emotions_differ_in_text(iemocap_release: Release) -> None:
    texts = np.array([turn.text for turn in iemocap_release.kept])
    classifier = make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=1000))
    assert _leave_one_session_out(iemocap_release, texts, classifier) > 0.8
    improvised = np.array([turn.style == "improvised" for turn in iemocap_release.kept])
    assert _leave_one_session_out(iemocap_release, texts, classifier, improvised) > 0.8


def _leave_one_session_out(
    release: Release,
    features: NDArray[np.generic],
    classifier: LogisticRegression,
    tested: NDArray[np.bool_] | None = None,
) -> float:
    """Return the unweighted average recall over all sessions, on all utterances or on the `tested` ones."""
    truth = np.array(list(release.emotions.values()))
    sessions = np.array([turn.session for turn in release.kept])
    predicted = truth.copy()
    for session in np.unique(sessions):
        classifier.fit(features[sessions != session], truth[sessions != session])
        predicted[sessions == session] = classifier.predict(features[sessions == session])
    chosen = np.full(len(truth), True) if tested is None else tested
    score = float(balanced_accuracy_score(truth[chosen], predicted[chosen]))
    print(f"unweighted average recall {score:.3f}")
    return score
