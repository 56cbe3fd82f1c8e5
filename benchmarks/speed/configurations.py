"""Reads and edits the configurations of a model repository as Triton's ModelConfig."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from benchmarks.errors import BenchmarkError
from emotion.manifest import MANIFEST

THREADS, MAX_WAITING = "intra_op_thread_count", "max_waiting"  # parameters of a configuration


@dataclass(frozen=True, slots=True)
class StageSettings:
    """The settings of a model that tuning changes."""

    instances: int  # of the model
    threads: int | None  # of each instance's ONNX Runtime, 0 for all cores; None if the model has no such parameter
    batch: int  # largest batch in rows
    max_waiting: int | None  # requests that `queue` lets wait before the models behind it; None likewise


def parse(text: str) -> Any:
    """Return a config.pbtxt as ModelConfig. Raises BenchmarkError if the text is no ModelConfig."""
    try:
        return text_format.Parse(text, ModelConfig())
    except text_format.ParseError as error:
        raise BenchmarkError(f"a model's configuration can't be read (line:column : reason): {error}") from None


def settings(text: str) -> StageSettings:
    """Return the settings in a config.pbtxt.

    Raises:
        BenchmarkError: the configuration has not exactly one instance group.
    """
    config = parse(text)
    if len(config.instance_group) != 1:
        raise BenchmarkError(f"the configuration of {config.name} must have one instance_group to be tuned")

    def parameter(name: str) -> int | None:
        return int(config.parameters[name].string_value) if name in config.parameters else None

    # without a queue delay, Triton never exceeds the largest preferred size
    batch = max(config.dynamic_batching.preferred_batch_size, default=config.max_batch_size)
    return StageSettings(config.instance_group[0].count, parameter(THREADS), batch, parameter(MAX_WAITING))


def edit(text: str, wanted: StageSettings, ensemble_batch: int) -> str:
    """Return a config.pbtxt with other settings; it is returned as it is, comments included, if nothing changes.

    Triton rejects a model whose max_batch_size is below its ensemble's, so smaller batches are set by
    preferred_batch_size.
    """
    before = settings(text)
    if wanted == before:
        return text
    config = parse(text)
    config.instance_group[0].count = wanted.instances
    for name, value in ((THREADS, wanted.threads), (MAX_WAITING, wanted.max_waiting)):
        if value is not None:
            config.parameters[name].string_value = str(value)
    if (wanted.instances, wanted.threads) != (before.instances, before.threads):
        # instances that each have a part of the cores must not take turns
        config.instance_group[0].ClearField("rate_limiter")
    if wanted.batch != before.batch:
        config.max_batch_size = max(wanted.batch, ensemble_batch)
        config.dynamic_batching.ClearField("preferred_batch_size")
        if wanted.batch < ensemble_batch:
            config.dynamic_batching.preferred_batch_size.append(wanted.batch)
    return str(text_format.MessageToString(config))


def link(repository: Path, texts: dict[str, str], directory: Path) -> None:
    """Make `directory` a model repository: links to another one's files, with configurations of its own by model."""
    repository = repository.resolve()
    (directory / MANIFEST).symlink_to(repository / MANIFEST)
    for model, text in texts.items():
        (directory / model).mkdir()
        for entry in (repository / model).iterdir():
            if entry.name not in ("config.pbtxt", "configs"):
                (directory / model / entry.name).symlink_to(entry)
        (directory / model / "config.pbtxt").write_text(text)
