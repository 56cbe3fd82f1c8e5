"""Settings of a training run: from the command line, checked, and saved with the run so that it can be resumed."""

import argparse
import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from training.corpora import CORPORA
from training.corpora.table import HAPPINESS_POLICIES
from training.errors import TrainingError
from training.files import write_atomically
from training.splits import KINDS

PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")  # Lightning's names
MAX_TIME_STRETCH = 0.25  # share of the tempo; Salamon and Bello, 2017, go from 0.81 to 1.23 times
MAX_PITCH_SHIFT = 4.0  # semitones; the same paper goes to 3.5
RENAMED = {"happy": "happiness_policy"}  # settings of earlier versions; their options still work
DEFAULT_SPLITS = {"iemocap": "session", "emodb": "speaker", "goemotions": "published", "meld": "published"}


def _setting(default: Any, text: str, kind: Any = None, choices: tuple[str, ...] | None = None) -> Any:
    return field(default=default, metadata={"help": text, "type": kind or type(default), "choices": choices})


@dataclass(frozen=True)
class Settings:
    """Settings of `python -m training fit` and `tune`; each field is an option of the command line."""

    corpus: str
    root: str
    happiness_policy: str = _setting(
        "merge", "happiness: counted as excitement (merge), or left out (drop)", choices=HAPPINESS_POLICIES
    )
    split: str = _setting("random", "how test utterances are chosen", choices=KINDS)
    folds: int | None = _setting(None, "number of folds of a speaker or random split", int)
    start: str | None = _setting(None, "checkpoint to start from, instead of new encoders", str)
    text_encoder: str = _setting("minilm", "pretrained BERT: a directory, a hub name (bert-base-uncased), or minilm")
    vggish: str | None = _setting(None, "pretrained VGGish: the public release's state dict; seeded if not given", str)
    seed: int = _setting(1, "seed of all random numbers")
    epochs: int = _setting(12, "maximum number of epochs")
    patience: int = _setting(4, "epochs without a better macro F1 on validation before training stops")
    freeze_epochs: int = _setting(0, "number of first epochs in which the encoders are frozen and only the heads learn")
    only_fusion: bool = _setting(False, "train only the fusion layers; encoders and unimodal heads are frozen")
    lora_rank: int | None = _setting(None, "train low-rank updates of the encoders' large matrices, of this rank", int)
    batch_size: int = _setting(32, "utterances per batch")
    text_lr: float = _setting(5e-5, "learning rate of the text encoder")
    audio_lr: float = _setting(1e-4, "learning rate of VGGish")
    head_lr: float = _setting(1e-3, "learning rate of the heads")
    weight_decay: float = _setting(0.01, "weight decay of AdamW, for matrices")
    class_weight_power: float = _setting(
        0.5, "exponent of the class weights: 0 none, 1 inverse frequency, 0.5 its square root"
    )
    label_smoothing: float = _setting(0.0, "share of the target spread over all classes")
    modality_dropout: float = _setting(0.2, "share of training utterances that lose their audio or their text")
    augment: bool = _setting(True, "speed, noise, vocal tract length and SpecAugment on training audio")
    time_stretch: float = _setting(
        0.0, f"with --augment: largest change of tempo at the same pitch, 0 (off) to {MAX_TIME_STRETCH}; 0.1 is ±10 %%"
    )
    pitch_shift: float = _setting(
        0.0,
        "with --augment: largest change of pitch at the same tempo, 0 (off) to "
        f"{MAX_PITCH_SHIFT:g} semitones up or down",
    )
    auxiliary_weight: float = _setting(
        0.0, "weight of the loss on the published labels, which also trains on utterances of other emotions (0: off)"
    )
    teacher: str | None = _setting(
        None,
        "Whisper model whose features VGGish learns to predict: a directory in CTranslate2's format or a hub name",
        str,
    )
    teacher_weight: float = _setting(1.0, "weight of the loss against the teacher's features")
    averaging: float = _setting(
        0.0, "decay of a moving average of the weights, which is validated and saved; usually 0.99 (0: off)"
    )
    skip_unreadable: bool = _setting(False, "leave out recordings that can't be decoded (default: stop with an error)")
    precision: str = _setting("32-true", "precision of the arithmetic", choices=PRECISIONS)
    workers: int = _setting(0, "number of processes that prepare batches; 0: the main process")

    def __post_init__(self) -> None:
        """Check ranges and combinations.

        Raises:
            TrainingError: a number is out of range, or an option has no effect together with another.
        """
        for name, largest, unit in (
            ("time_stretch", MAX_TIME_STRETCH, ""),
            ("pitch_shift", MAX_PITCH_SHIFT, " semitones"),
        ):
            value, option = getattr(self, name), "--" + name.replace("_", "-")
            if not 0 <= value <= largest:
                raise TrainingError(f"{option} is {value:g}; 0 (off) to {largest:g}{unit} is accepted")
            if value and not self.augment:
                raise TrainingError(f"{option} has no effect with --no-augment; leave out one of the two")
        if self.only_fusion and (self.auxiliary_weight or self.teacher is not None):
            raise TrainingError(
                "--auxiliary-weight and --teacher have no effect with --only-fusion, which trains no encoder; leave "
                "them out"
            )
        if not 0 <= self.averaging < 1:
            raise TrainingError(f"--averaging is {self.averaging:g}; 0 (off) to below 1 is accepted")
        for name in ("auxiliary_weight", "teacher_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                option = "--" + name.replace("_", "-")
                raise TrainingError(f"{option} is {getattr(self, name):g}; 0 (off) or more is accepted")

    def save(self, directory: Path) -> None:
        """Write settings.json, or check that the run in this directory has the same settings.

        Raises:
            TrainingError: the settings differ, apart from `workers`.
        """
        path = directory / "settings.json"
        own = asdict(self)
        if not path.exists():
            write_atomically(path, json.dumps(own, indent=2) + "\n")
            return
        found = {RENAMED.get(name, name): value for name, value in json.loads(path.read_text()).items()}
        different = [name for name in own if found.get(name) != own[name] and name != "workers"]
        if different:
            changes = ", ".join(f"{name} {found.get(name)!r} (now {own[name]!r})" for name in different)
            raise TrainingError(
                f"{directory} holds a run with other settings: {changes}; repeat them to go on with it, or choose "
                "another --output"
            )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add an option for each setting to a parser."""
    parser.add_argument("--corpus", required=True, choices=CORPORA)
    parser.add_argument("--root", required=True, help="folder of the corpus; file of a manifest")
    for setting in fields(Settings)[2:]:
        options = ["--" + setting.name.replace("_", "-")]
        options += ["--" + old.replace("_", "-") for old, new in RENAMED.items() if new == setting.name]
        about = setting.metadata
        if about["type"] is bool:
            parser.add_argument(
                *options, action=argparse.BooleanOptionalAction, default=setting.default, help=about["help"]
            )
            continue
        default: Any = setting.default
        note = "" if default is None else f" (default: {default})"
        if setting.name == "split":
            default, note = None, " (default: session for iemocap, speaker for emodb, published where there is one)"
        parser.add_argument(
            *options, type=about["type"], choices=about["choices"], default=default, help=about["help"] + note
        )


def from_arguments(arguments: argparse.Namespace) -> Settings:
    """Return the settings of a parsed command line."""
    given = {setting.name: getattr(arguments, setting.name) for setting in fields(Settings)}
    if given["split"] is None:
        given["split"] = DEFAULT_SPLITS.get(given["corpus"], "random")
    return Settings(**given)
