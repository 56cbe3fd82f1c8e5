"""Read, check and write checkpoint directories.

config.json           labels, sources of the weights, untrained parts, temperatures, confidence coefficients
text_encoder/         Hugging Face layout: config.json, model.safetensors, tokenizer.json
vggish.safetensors    parameter names of the public PyTorch release
fusion.safetensors    text projection, audio head, text head, fusion layers
model_card.md         description for readers; not part of the digest
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoConfig, BertModel

from emotion.errors import reason_of
from emotion.files import write_atomically
from emotion.hashing import sha256
from emotion.labels import EMOTIONS
from emotion.model import VIEWS, EmotionModel, FusionHead, VGGish

FORMAT = 2  # since 2, the fused view is a weighted sum of the audio view and the text view
COMPACT_FORMAT = "compact-2"
PARTS = ("text_encoder", "vggish", "fusion")


class CheckpointError(ValueError):
    """A checkpoint or a source of weights is unusable; the message names the problem and the remedy."""


@dataclass(frozen=True)
class CheckpointConfig:
    """Contents of config.json.

    Attributes:
        untrained: parts with random weights, whose predictions have no meaning; a subset of PARTS.
        sources: part -> description of where its weights come from.
        final_relu: whether VGGish ends with a ReLU, as the public PyTorch release does.
        labels: the classes; must equal EMOTIONS.
        temperatures: view -> divisor of its logits.
        confidence: view -> [slope, offset] of `emotion.model.confidence`.
        seed: of the weights that VGGish was initialised with; None for pretrained weights.
        format: version of the directory layout.
    """

    untrained: list[str]
    sources: dict[str, str]
    final_relu: bool = True
    labels: list[str] = field(default_factory=lambda: list(EMOTIONS))
    temperatures: dict[str, float] = field(default_factory=lambda: dict.fromkeys(VIEWS, 1.0))
    confidence: dict[str, list[float]] = field(default_factory=lambda: {view: [1.0, 0.0] for view in VIEWS})
    seed: int | None = None
    format: int | str = FORMAT


Config = TypeVar("Config", bound=CheckpointConfig)


@dataclass
class Checkpoint:
    """A loaded checkpoint.

    Attributes:
        model: in evaluation mode, on the CPU.
        config: contents of config.json.
        tokenizer: path of the text encoder's tokenizer.json.
        digest: SHA-256 over all files except the model card, in hexadecimal.
    """

    model: EmotionModel
    config: CheckpointConfig
    tokenizer: Path
    digest: str


def load(directory: str | Path) -> Checkpoint:
    """Load a checkpoint directory.

    Raises:
        CheckpointError: a file is missing or damaged, or the files do not belong together.
    """
    directory = Path(directory)
    config = read_config(directory, CheckpointConfig)
    encoder_directory = directory / "text_encoder"
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        require_file(encoder_directory / name)
    try:
        text_encoder = load_bert(encoder_directory)
    except OSError as error:
        raise CheckpointError(f"{encoder_directory} can't be read: {reason_of(error)}") from None
    _check_tokenizer(encoder_directory / "tokenizer.json")
    vggish = VGGish(config.final_relu)
    load_tensors(vggish, directory / "vggish.safetensors")
    head = FusionHead(text_encoder.config.hidden_size)
    load_tensors(head, directory / "fusion.safetensors")
    set_calibration(head, config)
    model = EmotionModel(vggish, text_encoder, head).eval()
    return Checkpoint(model, config, encoder_directory / "tokenizer.json", digest(directory))


def save(
    directory: str | Path,
    model: EmotionModel,
    config: CheckpointConfig,
    tokenizer: Path,
    model_card: str | None = None,
) -> None:
    """Write a checkpoint directory atomically; an existing checkpoint there is replaced.

    Args:
        directory: the checkpoint directory.
        model: the model to save.
        config: its temperatures and its confidence must equal those of the model's head.
        tokenizer: the tokenizer.json of the text encoder.
        model_card: text of model_card.md; None generates one.

    Raises:
        ValueError: the temperatures or the confidence of `config` and of the model differ.
        CheckpointError: the directory holds something else than a checkpoint, or the calibration is invalid.
    """
    if not torch.equal(temperature_tensor(config), model.head.temperature.cpu()):
        raise ValueError(
            f"the configuration has the temperatures {config.temperatures}, "
            f"the model {dict(zip(VIEWS, model.head.temperature.tolist(), strict=True))}; set both"
        )
    if not torch.equal(confidence_tensor(config), model.head.confidence.cpu()):
        raise ValueError(
            f"the configuration has the confidence {config.confidence}, "
            f"the model {dict(zip(VIEWS, model.head.confidence.tolist(), strict=True))}; set both"
        )
    with atomic_directory(Path(directory)) as staging:
        encoder_directory = staging / "text_encoder"
        model.text_encoder.save_pretrained(encoder_directory)
        shutil.copyfile(tokenizer, encoder_directory / "tokenizer.json")
        save_file(_contiguous(model.vggish), staging / "vggish.safetensors")
        save_file(_contiguous(model.head), staging / "fusion.safetensors")
        (staging / "config.json").write_text(as_json(config))
        (staging / "model_card.md").write_text(_model_card(model, config) if model_card is None else model_card)


def replace_config(directory: Path, config: CheckpointConfig) -> None:
    """Replace the config.json of a checkpoint atomically.

    Raises:
        CheckpointError: the file can't be written, for example because the disk is full.
    """
    try:
        write_atomically(directory / "config.json", as_json(config))
    except OSError as error:
        raise CheckpointError(
            f"{directory / 'config.json'} can't be written ({error.strerror}); make room and try again"
        ) from None


def as_json(config: CheckpointConfig) -> str:
    """Return the text of a config.json."""
    return json.dumps(asdict(config), indent=2) + "\n"


def set_calibration(head: FusionHead, config: CheckpointConfig) -> None:
    """Copy the temperatures and the confidence of a configuration into a head.

    Raises:
        CheckpointError: the temperatures or the confidence are invalid.
    """
    head.temperature.copy_(temperature_tensor(config))
    head.confidence.copy_(confidence_tensor(config))


def with_calibration(config: CheckpointConfig, head: FusionHead) -> CheckpointConfig:
    """Return a configuration with the temperatures and the confidence of a head."""
    return replace(
        config,
        temperatures=dict(zip(VIEWS, head.temperature.tolist(), strict=True)),
        confidence=dict(zip(VIEWS, head.confidence.tolist(), strict=True)),
    )


def temperature_tensor(config: CheckpointConfig) -> Tensor:
    """Return the temperatures in the head's layout: float32 [3], in the order of VIEWS.

    Raises:
        CheckpointError: the views differ from VIEWS, or a temperature is not a positive finite float32.
    """
    given = config.temperatures
    limits = torch.finfo(torch.float32)
    if (
        not isinstance(given, dict)
        or given.keys() != set(VIEWS)
        or not all(type(value) in (int, float) and limits.tiny <= value <= limits.max for value in given.values())
    ):
        raise CheckpointError(
            f"the temperatures {given} can't be used; {', '.join(VIEWS)} need one finite number above 0 each"
        )
    return torch.tensor([given[view] for view in VIEWS])


def confidence_tensor(config: CheckpointConfig) -> Tensor:
    """Return the confidence coefficients in the head's layout: float32 [3, 2], in the order of VIEWS.

    Raises:
        CheckpointError: the views differ from VIEWS, a slope is negative, an offset is positive, or one is not finite.
    """
    given = config.confidence
    most = torch.finfo(torch.float32).max

    def is_valid(pair: object) -> bool:
        return (
            isinstance(pair, list)
            and len(pair) == 2
            and all(type(number) in (int, float) for number in pair)
            and 0 <= pair[0] <= most
            and -most <= pair[1] <= 0
        )

    if not isinstance(given, dict) or given.keys() != set(VIEWS) or not all(map(is_valid, given.values())):
        raise CheckpointError(
            f"the confidence {given} can't be used; {', '.join(VIEWS)} need two finite numbers each: a slope of at "
            "least 0 and an offset of at most 0"
        )
    return torch.tensor([given[view] for view in VIEWS], dtype=torch.float32)


def digest(directory: Path) -> str:
    """Return the SHA-256 over the names and contents of a checkpoint's files, except the model card, in hexadecimal."""
    total = hashlib.sha256()
    for path in sorted(path for path in directory.rglob("*") if path.is_file() and path.name != "model_card.md"):
        total.update(f"{path.relative_to(directory).as_posix()}\0".encode())
        total.update(sha256(path))
    return total.hexdigest()


def load_bert(source: str | Path) -> BertModel:
    """Load a BERT from a directory in Hugging Face layout, or from the hub by name.

    Raises:
        CheckpointError: the model is not a BERT, or its weights are damaged or incomplete.
        OSError: files are missing, or the hub can't be reached.
    """
    try:
        config = AutoConfig.from_pretrained(source)
        if config.model_type != "bert":
            raise CheckpointError(f"{source} holds a {config.model_type} model; the text encoder must be a BERT")
        bert, report = BertModel.from_pretrained(
            source, add_pooling_layer=False, attn_implementation="eager", output_loading_info=True
        )
    except CheckpointError:
        raise
    except (SafetensorError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"the text encoder {source} can't be read: {reason_of(error)}") from None
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise CheckpointError(f"{source} lacks {len(report['missing_keys'])} parameters of a BERT: {missing}, ...")
    return bert


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file by name.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    require_file(path)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged ({error}); copy or make it again") from None


def load_tensors(module: nn.Module, path: Path, state: dict[str, Tensor] | None = None) -> None:
    """Load the tensors of a file into a module.

    Args:
        module: the module to fill; every tensor of its state must be given.
        path: the file, also named in error messages.
        state: tensors that were already read from the file; None reads it.

    Raises:
        CheckpointError: the file is missing or damaged, or the names or shapes of its tensors differ from the module's.
    """
    if state is None:
        state = read_safetensors(path)
    own = module.state_dict()
    for name in sorted(own.keys() | state.keys()):
        if name not in state:
            raise CheckpointError(f"{path} lacks the tensor {name}")
        if name not in own:
            raise CheckpointError(f"{path} has a tensor that the model lacks: {name}")
        if state[name].shape != own[name].shape:
            raise CheckpointError(
                f"{path}: {name} has shape {list(state[name].shape)}, expected {list(own[name].shape)}; "
                "do its parts come from different checkpoints?"
            )
    module.load_state_dict(state)


def read_config(directory: Path, kind: type[Config]) -> Config:
    """Read and check config.json.

    Args:
        directory: the checkpoint directory.
        kind: CheckpointConfig, or CompactConfig for a compact checkpoint.

    Raises:
        CheckpointError: the file is missing, of another format, or holds a value that is not accepted.
    """
    if not directory.is_dir():
        raise CheckpointError(
            f"there is no checkpoint directory {directory}; make one with: python -m emotion.checkpoint new {directory}"
        )
    path = require_file(directory / "config.json")
    try:
        fields = json.loads(path.read_text())
        found = fields.get("format", FORMAT)  # checked first, because other formats have other fields
        if found == COMPACT_FORMAT != kind.format:
            raise CheckpointError(
                f"{directory} is a compact checkpoint; expand it first with: "
                f"python -m emotion.checkpoint expand {directory} DIR"
            )
        if found == FORMAT != kind.format:
            raise CheckpointError(f"{directory} is an ordinary checkpoint, not a compact one; use it without expanding")
        if found != kind.format:
            raise CheckpointError(
                f"{path} has format {found!r}; this version reads format {kind.format!r}: train the checkpoint again "
                "with this version, or serve it with the version that made it"
            )
        config = kind(**fields)
        unknown = [part for part in config.untrained if part not in PARTS]
    except CheckpointError:
        raise
    except (AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is not a checkpoint's configuration: {error}") from None
    if config.labels != list(EMOTIONS):
        raise CheckpointError(f"{path} has the labels {config.labels}; this version serves {list(EMOTIONS)}")
    if unknown:
        raise CheckpointError(f"{path} lists unknown untrained parts {unknown}; the parts are {list(PARTS)}")
    if config.seed is not None and type(config.seed) is not int:
        raise CheckpointError(f"{path} has the seed {config.seed!r}; it must be an integer or null")
    try:
        temperature_tensor(config)
        confidence_tensor(config)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return config


def require_file(path: Path) -> Path:
    """Return the path of an existing file.

    Raises:
        CheckpointError: there is no such file.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; check the path, or copy the file again")
    return path


@contextmanager
def atomic_directory(directory: Path) -> Iterator[Path]:
    """Yield an empty directory that replaces `directory` when the block ends without an exception.

    Raises:
        CheckpointError: `directory` holds something else than a checkpoint, or its parent can't be made.
    """
    if directory.is_file() or (
        directory.is_dir() and not (directory / "config.json").is_file() and any(directory.iterdir())
    ):
        raise CheckpointError(f"{directory} exists and is not a checkpoint; choose another directory")
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{directory.parent} can't be made ({error.strerror}); choose another one") from None
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}-") as scratch:
        staging = Path(scratch, "new")
        staging.mkdir()
        yield staging
        if directory.exists():
            directory.rename(Path(scratch, "old"))
        staging.rename(directory)


def _check_tokenizer(path: Path) -> None:
    try:
        Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exception
        raise CheckpointError(f"{path} is not a tokenizer: {reason_of(error)}") from None


def _contiguous(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in module.state_dict().items()}


def _model_card(model: EmotionModel, config: CheckpointConfig) -> str:
    rows = []
    for part, module in (("text_encoder", model.text_encoder), ("vggish", model.vggish), ("fusion", model.head)):
        millions = sum(parameter.numel() for parameter in module.parameters()) / 1e6
        state = "untrained" if part in config.untrained else "trained"
        rows.append(f"| {part} | {millions:.1f} M | {config.sources[part]} | {state} |")
    warning = (
        f"\n**Untrained: {', '.join(config.untrained)}.** The answers mean nothing until these parts are trained.\n"
        if config.untrained
        else ""
    )
    return f"""# Multimodal emotion recognition

Answers with probabilities of {", ".join(config.labels)} for an utterance given as audio, text or both.
{warning}
| part | parameters | source | state |
| --- | --- | --- | --- |
{chr(10).join(rows)}
"""
