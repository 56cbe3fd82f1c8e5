"""Speech recognition and the ensemble `emotion_speech` in a real Triton."""

import io
import subprocess
import sys
from collections.abc import Iterator
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from emotion_client import EmotionClient, EmotionError, EmotionResult, InvalidInput
from google.protobuf import text_format
from numpy.typing import NDArray
from tritonclient import grpc
from tritonclient.grpc.model_config_pb2 import ModelConfig

from benchmarks.speed.web import word_error_rate
from emotion.decoding import decode
from serving import Triton
from serving.repository import SPEECH_REPOSITORY
from stages.asr import Recogniser, RecognitionError, Transcript

ROOT = Path(__file__).parent.parent.parent
VIEWS = ("probabilities", "audio_probabilities", "text_probabilities")


@pytest.fixture(scope="module")
def client(speech_server: Triton) -> Iterator[EmotionClient]:
    with EmotionClient(speech_server.grpc_url) as client:
        yield client


HISS = np.random.default_rng(0).standard_normal(48_000).astype(np.float32) * np.float32(0.1)


def wav(samples: NDArray[np.float32]) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 16_000, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def silence(seconds: float) -> bytes:
    return wav(np.zeros(int(16_000 * seconds), np.float32))


def ask(client: grpc.InferenceServerClient, model: str, audio: bytes, *outputs: str) -> dict[str, NDArray[Any]]:
    """Return the named outputs of a model for a recording, or all outputs."""
    tensor = grpc.InferInput("AUDIO", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[audio]], object))
    wanted = [grpc.InferRequestedOutput(name) for name in outputs] or None
    answer = client.infer(model, [tensor], outputs=wanted, client_timeout=60)
    return {output.name: answer.as_numpy(output.name) for output in answer.get_response().outputs}


def assert_equal_views(left: EmotionResult, right: EmotionResult) -> None:
    for view in VIEWS:
        assert getattr(left, view) == pytest.approx(getattr(right, view), abs=1e-4), view


def test_transcripts_have_few_word_errors(
    client: EmotionClient, recordings: dict[str, bytes], transcripts: dict[str, str]
) -> None:
    heard = [client.analyze(data, transcribe=True).transcript for data in recordings.values()]
    rate = word_error_rate(list(transcripts.values()), [sentence or "" for sentence in heard])
    assert rate <= 0.15, heard


def test_emotion_speech_answers_as_emotion_with_the_transcript(
    client: EmotionClient, recordings: dict[str, bytes]
) -> None:
    for data in recordings.values():
        spoken = client.analyze(data, transcribe=True)
        assert spoken.transcript
        assert_equal_views(spoken, client.analyze(data, spoken.transcript))


def test_emotion_speech_returns_any_requested_outputs(speech_server: Triton) -> None:
    """Triton omits outputs of an ensemble that are not requested, but must not omit inputs of later steps."""
    outputs = [output.name for output in config("emotion_speech").output]
    with grpc.InferenceServerClient(speech_server.grpc_url) as client:
        for count in (1, 2, len(outputs)):
            for names in combinations(outputs, count):
                assert set(ask(client, "emotion_speech", wav(HISS), *names)) == set(names)


def test_transcript_of_speech_has_a_high_confidence(speech_server: Triton, recordings: dict[str, bytes]) -> None:
    with grpc.InferenceServerClient(speech_server.grpc_url) as client:
        for data in recordings.values():
            found = ask(client, "emotion_speech", data)
            assert found["UNDERSTOOD"].dtype == np.bool_ and found["UNDERSTOOD"].item()
            assert -0.5 < found["TRANSCRIPT_LOG_PROBABILITY"].item() < 0
            assert 0 <= found["NO_SPEECH_PROBABILITY"].item() < 0.3
            assert (found["LANGUAGE"].item(), found["LANGUAGE_PROBABILITY"].item()) == (b"en", 1.0)


def test_speech_that_is_not_understood_is_answered_from_the_audio(
    speech_server: Triton, recordings: dict[str, bytes]
) -> None:
    """For reversed speech Whisper invents words with a low probability, or repeats itself."""
    with grpc.InferenceServerClient(speech_server.grpc_url) as client:
        for name in ("austen-0880.flac", "austen-0920.flac"):
            backwards = wav(decode(recordings[name])[::-1])
            found = ask(client, "emotion_speech", backwards)
            assert found["TRANSCRIPT"].item() and not found["UNDERSTOOD"].item(), found
            assert not found["TEXT_PROBABILITIES"].any()
            np.testing.assert_array_equal(found["PROBABILITIES"], found["AUDIO_PROBABILITIES"])
            assert ask(client, "transcribe", backwards)["TEXT"].item() == b""


def test_client_returns_the_confidence_of_the_recogniser(client: EmotionClient, recordings: dict[str, bytes]) -> None:
    data = recordings["austen-0920.flac"]
    clear, backwards = (client.analyze(each, transcribe=True) for each in (data, wav(decode(data)[::-1])))
    assert clear.transcript_confidence is not None and backwards.transcript_confidence is not None
    assert clear.transcript_confidence.understood and clear.text_probabilities
    assert -0.5 < clear.transcript_confidence.log_probability < 0
    assert (clear.transcript_confidence.language, clear.transcript_confidence.language_probability) == ("en", 1.0)
    assert backwards.transcript and not backwards.transcript_confidence.understood
    assert backwards.text_probabilities is None and backwards.probabilities == backwards.audio_probabilities
    assert client.analyze(data).transcript_confidence is None


def test_sound_without_speech_is_answered_from_the_audio_without_transcript(speech_server: Triton) -> None:
    with grpc.InferenceServerClient(speech_server.grpc_url) as client:
        found = ask(client, "emotion_speech", wav(HISS))
        assert (found["TRANSCRIPT"].item(), found["LANGUAGE"].item(), found["UNDERSTOOD"].item()) == (b"", b"", False)
        assert (found["TRANSCRIPT_LOG_PROBABILITY"].item(), found["NO_SPEECH_PROBABILITY"].item()) == (0.0, 1.0)
        np.testing.assert_array_equal(found["PROBABILITIES"], found["AUDIO_PROBABILITIES"])


@pytest.mark.parametrize("seconds", [0.1, 3.0, 35.0])
def test_silence_is_rejected(client: EmotionClient, seconds: float) -> None:
    with pytest.raises(InvalidInput, match="AUDIO has no sound above"):
        client.analyze(silence(seconds), transcribe=True)


def test_transcript_does_not_depend_on_the_level(client: EmotionClient, recordings: dict[str, bytes]) -> None:
    waveform = decode(recordings["austen-0890.flac"])
    heard = {client.analyze(wav(waveform * gain), transcribe=True).transcript for gain in (0.125, 1.0)}
    assert len(heard) == 1


def test_invalid_audio_is_rejected_with_one_sentence(client: EmotionClient, recordings: dict[str, bytes]) -> None:
    whole = next(iter(recordings.values()))
    for data, words in (
        (b"not audio at all", "not an audio file"),
        (whole[: len(whole) // 2], "truncated"),
        (silence(65), "at most 60 s"),
    ):
        with pytest.raises(InvalidInput, match=words) as raised:
            client.analyze(data, transcribe=True)
        assert "\n" not in str(raised.value)
    assert client.analyze(whole, transcribe=True).transcript


def test_client_transcribe_with_text_or_without_audio_is_rejected(client: EmotionClient) -> None:
    for audio, text in ((None, "words"), (silence(1), "words")):
        with pytest.raises(InvalidInput, match="give audio, and no text"):
            client.analyze(audio, text, transcribe=True)


def test_client_command_prints_the_transcript(speech_server: Triton) -> None:
    command = [sys.executable, "-m", "emotion_client", "examples/speech/austen-0890.flac", "--transcribe"]
    done = subprocess.run(
        [*command, "--endpoint", speech_server.grpc_url],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "selfish" in done.stdout.lower()


def test_client_transcribe_without_the_model_names_it(server: Triton) -> None:
    with EmotionClient(server.grpc_url) as client, pytest.raises(EmotionError, match="emotion_speech"):
        client.analyze(silence(1), transcribe=True)


# --- the model


def test_recogniser_with_an_invalid_model_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(RecognitionError, match="give a directory in CTranslate2's format"):
        Recogniser(str(tmp_path))


@pytest.mark.parametrize(
    ("transcript", "understood"),
    [
        (Transcript("so it is", -0.3, 0.05, "en", 1.0), True),
        (Transcript("so it is", -1.1, 0.05, "en", 1.0), False),
        (Transcript("so it is", -0.3, 0.7, "en", 1.0), False),
        (Transcript("so so so so", -0.3, 0.05, "en", 1.0, repeats=True), False),
        (Transcript(), False),
    ],
)
def test_understood_follows_the_thresholds_of_whisper(transcript: Transcript, understood: bool) -> None:
    assert transcript.understood == understood


def test_recogniser_with_an_unknown_language_is_rejected() -> None:
    with pytest.raises(RecognitionError, match="'tlh'"):
        Recogniser("tiny.en", "tlh")


# --- the configurations


def config(model: str, name: str = "config.pbtxt", repository: Path = SPEECH_REPOSITORY) -> Any:
    return text_format.Parse((repository / model / name).read_text(), ModelConfig())


def test_emotion_speech_ends_with_the_steps_of_emotion() -> None:
    ours = config("emotion_speech").ensemble_scheduling.step
    theirs = config("emotion", repository=ROOT / "model_repository").ensemble_scheduling.step
    assert ours[0].model_name == "transcribe"
    for one, other in zip(ours[1:], theirs, strict=True):
        assert (one.model_name, dict(one.input_map)) == (other.model_name, dict(other.input_map))
        assert dict(one.output_map) == dict(other.output_map)


def test_emotion_speech_runs_one_step_at_a_time() -> None:
    """Every step except the first needs a tensor of the step before, as in `emotion`."""
    steps = config("emotion_speech").ensemble_scheduling.step
    for before, step in pairwise(steps):
        assert set(before.output_map.values()) & set(step.input_map.values())


def test_transcribe_has_the_audio_limit_of_preprocess() -> None:
    ours = config("transcribe").parameters["max_audio_seconds"].string_value
    stage = config("preprocess", repository=ROOT / "model_repository")
    assert ours == stage.parameters["max_audio_seconds"].string_value


def test_gpu_config_of_transcribe_differs_only_in_the_queue_size() -> None:
    default, gpu = config("transcribe"), config("transcribe", "configs/gpu.pbtxt")
    assert (gpu.input, gpu.output) == (default.input, default.output)
    different = {key for key in default.parameters if gpu.parameters[key] != default.parameters[key]}
    assert different == {"max_queue_size"} and gpu.parameters.keys() == default.parameters.keys()


def test_emotion_speech_has_the_labels_of_emotion() -> None:
    ours = SPEECH_REPOSITORY / "emotion_speech" / "labels.txt"
    assert ours.read_text() == (ROOT / "model_repository" / "emotion" / "labels.txt").read_text()
