"""What a run is asked to do; saved with the run, so that it can be resumed and repeated."""

import argparse
import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from training.corpora import CORPORA
from training.corpora.table import HAPPY
from training.errors import TrainingError
from training.files import write_atomically
from training.splits import KINDS

PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")  # Lightning's names
MAX_TIME_STRETCH = 0.25  # share of the tempo; Salamon and Bello, 2017, go from 0.81 to 1.23 times
MAX_PITCH_SHIFT = 4.0  # semitones; the same paper goes to 3.5
DEFAULT_SPLITS = {"iemocap": "session", "emodb": "speaker", "goemotions": "published", "meld": "published"}


def _setting(default: Any, text: str, kind: Any = None, choices: tuple[str, ...] | None = None) -> Any:
    return field(default=default, metadata={"help": text, "type": kind or type(default), "choices": choices})


@dataclass(frozen=True)
class Settings:
    """Settings of `python -m training fit`, which makes an option of each."""

    corpus: str
    root: str
    happy: str = _setting("merge", "happiness: counted as excitement, or dropped", choices=HAPPY)
    split: str = _setting("random", "how test utterances are chosen", choices=KINDS)
    folds: int | None = _setting(None, "folds of a speaker or random split", int)
    start: str | None = _setting(None, "checkpoint to begin with, in place of fresh encoders", str)
    text_encoder: str = _setting("minilm", "pretrained BERT: a directory, a hub name (bert-base-uncased), or minilm")
    vggish: str | None = _setting(None, "pretrained VGGish: the public release's state dict; seeded if not given", str)
    seed: int = _setting(1, "of everything that is drawn")
    epochs: int = _setting(12, "at most")
    patience: int = _setting(4, "epochs without a better macro F1 on validation before training stops")
    freeze_epochs: int = _setting(0, "first epochs in which the encoders rest and the heads learn on their embeddings")
    only_fusion: bool = _setting(False, "encoders and unimodal heads stay as they are; only the fusion layers learn")
    lora_rank: int | None = _setting(None, "train low-rank updates of the encoders' large matrices, of this rank", int)
    batch_size: int = _setting(32, "utterances")
    text_lr: float = _setting(5e-5, "learning rate of the text encoder")
    audio_lr: float = _setting(1e-4, "learning rate of VGGish")
    head_lr: float = _setting(1e-3, "learning rate of the heads")
    weight_decay: float = _setting(0.01, "AdamW's, for matrices")
    class_weight_power: float = _setting(0.5, "class weights: 0 none, 1 inverse frequency, 0.5 its square root")
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
        0.0, "weight of the loss on the published labels, which also trains on utterances of other emotions; 0: off"
    )
    teacher: str | None = _setting(
        None,
        "Whisper model whose features VGGish learns to predict: a directory in CTranslate2's format or a hub name",
        str,
    )
    teacher_weight: float = _setting(1.0, "weight of the loss against the teacher's features")
    averaging: float = _setting(
        0.0, "decay of a moving average of the weights, which is validated and kept; 0.99 is usual, 0: off"
    )
    skip_unreadable: bool = _setting(False, "leave out recordings that can't be decoded, instead of stopping")
    precision: str = _setting("32-true", "of the arithmetic", choices=PRECISIONS)
    workers: int = _setting(0, "processes that prepare batches")

    def __post_init__(self) -> None:
        """Check what argparse does not.

        Raises:
            TrainingError: a number that is out of range, or a time stretch or pitch shift that has no effect.
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
        """Write settings.json, or see that the run in this directory has these very settings.

        Raises:
            TrainingError: it has others.
        """
        path = directory / "settings.json"
        own = asdict(self)
        if not path.exists():
            write_atomically(path, json.dumps(own, indent=2) + "\n")
            return
        found = json.loads(path.read_text())
        different = [name for name in own if found.get(name) != own[name] and name != "workers"]
        if different:
            changes = ", ".join(f"{name} {found.get(name)!r} (now {own[name]!r})" for name in different)
            raise TrainingError(
                f"{directory} holds a run with other settings: {changes}; repeat them to go on with it, or choose "
                "another --output"
            )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """An option for each setting."""
    parser.add_argument("--corpus", required=True, choices=CORPORA)
    parser.add_argument("--root", required=True, help="the corpus's folder; a manifest's file")
    for setting in fields(Settings)[2:]:
        option = "--" + setting.name.replace("_", "-")
        about = setting.metadata
        if about["type"] is bool:
            parser.add_argument(
                option, action=argparse.BooleanOptionalAction, default=setting.default, help=about["help"]
            )
            continue
        default: Any = setting.default
        note = "" if default is None else f" (default: {default})"
        if setting.name == "split":
            default, note = None, " (default: session for iemocap, speaker for emodb, published where there is one)"
        parser.add_argument(
            option, type=about["type"], choices=about["choices"], default=default, help=about["help"] + note
        )


def from_arguments(arguments: argparse.Namespace) -> Settings:
    """The settings that a command line asks for."""
    given = {setting.name: getattr(arguments, setting.name) for setting in fields(Settings)}
    if given["split"] is None:
        given["split"] = DEFAULT_SPLITS.get(given["corpus"], "random")
    return Settings(**given)
