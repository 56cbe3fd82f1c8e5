"""Reading Triton's log; the lines are from Triton 24.10 on machines without a GPU."""

import pytest

from serving import log

INFO = 'I1122 21:57:40.568826 32526 model_lifecycle.cc:472] "loading: bert:1"'
CACHE = "I1122 21:57:40.562949 32526 cache_manager.cc:480] \"Create CacheManager with cache_dir: '/opt/tritonserver/caches'\""  # noqa: E501
TABLE = "| emotion          | 1       | READY  |"
NO_GPU = (
    'W1122 21:57:40.563661 32526 pinned_memory_manager.cc:273] "Unable to allocate pinned system memory, pinned memory '
    'pool will not be available: CUDA driver version is insufficient for CUDA runtime version"',
    'E1122 21:57:40.564226 32526 server.cc:241] "CudaDriverHelper has not been initialized."',
    "Error: Failed to initialize NVML",
    'W1122 21:57:43.267472 32526 metrics.cc:798] "DCGM unable to start: DCGM initialization error"',
)
WARNING = 'W1122 21:58:03.267472 32526 metrics.cc:864] "Unable to get power limit for GPU 0. Status:Success, value:0.0"'
DIMS = (
    "TritonModelException: model 'vggish': output 'AUDIO_EMBEDDING' has the dims [64] in the config after the batch "
    "but the shape [-1, 128] in the model"
)
AT = r"\n\nAt:\n  /tmp/emoserve-xfpdxoyo/onnxruntime/model.py(329): initialize\n"  # as in the log: \n is two characters
WRONG_DIMS = (
    f'E1122 21:58:23.447397 616 backend_model.cc:692] "ERROR: Failed to create instance: {DIMS}{AT}"',
    f"E1122 21:58:23.447624 616 model_lifecycle.cc:642] \"failed to load 'vggish' version 1: Internal: {DIMS}{AT}\"",
    "E1122 21:58:23.448036 616 model_repository_manager.cc:703] \"Invalid argument: ensemble 'emotion' depends on "
    "'vggish' which has no loaded version. Model 'vggish' loading failed with error: version 1 is at UNAVAILABLE "
    f'state: Internal: {DIMS}{AT};"',
)
GPU_CONFIG = (
    "E1122 21:58:15.508436 462 model_lifecycle.cc:642] \"failed to load 'bert' version 1: Invalid argument: instance "
    'group bert_0 of model bert has kind KIND_GPU but no GPUs are available"'
)
PORT = "E1122 21:59:10.000001 700 main.cc:398] \"failed to start HTTP service: Unavailable - Socket '127.0.0.1:8000' already in use \""  # noqa: E501


@pytest.mark.parametrize(
    ("line", "lowest"),
    [(INFO, "info"), (CACHE, "info"), (TABLE, "info"), (WARNING, "warning"), (WRONG_DIMS[1], "error"), ("", "info")]
    + [(line, "verbose") for line in NO_GPU],
)
def test_is_shown_at_its_level_and_below(line: str, lowest: str) -> None:
    """The level `error` shows only errors, and `verbose` shows everything."""
    wanted = log.LEVELS.index(lowest)
    assert [log.is_shown(line, level) for level in log.LEVELS] == [index <= wanted for index in range(len(log.LEVELS))]


@pytest.mark.parametrize("line", NO_GPU)
def test_failure_reason_of_a_machine_without_gpu_is_none(line: str) -> None:
    assert log.failure_reason([INFO, line, TABLE]) is None


def test_failure_reason_of_a_failed_model_is_one_line_without_traceback() -> None:
    assert log.failure_reason([*NO_GPU, INFO, *WRONG_DIMS]) == f"model 'vggish' failed to load: Internal: {DIMS}"


def test_failure_reason_names_the_first_failed_model_and_not_the_ensemble() -> None:
    assert log.failure_reason([GPU_CONFIG, *WRONG_DIMS]) == (
        "model 'bert' failed to load: Invalid argument: instance group bert_0 of model bert has kind KIND_GPU but no "
        "GPUs are available"
    )


def test_failure_reason_without_a_failed_model_is_the_first_error() -> None:
    reason = log.failure_reason([*NO_GPU, INFO, WARNING, PORT, WRONG_DIMS[2]])
    assert reason is not None
    assert reason.strip() == "failed to start HTTP service: Unavailable - Socket '127.0.0.1:8000' already in use"


def test_failure_reason_includes_errors_printed_by_tritonserver() -> None:
    line = "error: creating server: Internal - failed to load all models"
    assert log.failure_reason([INFO, line]) == "creating server: Internal - failed to load all models"


def test_failure_reason_of_a_log_without_errors_is_none() -> None:
    assert log.failure_reason([INFO, WARNING, TABLE, ""]) is None


def test_relay_writes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    for line in (INFO, NO_GPU[1], WARNING):
        log.relay(line, "warning")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"{WARNING}\n")
