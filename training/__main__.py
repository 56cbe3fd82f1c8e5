"""`python -m training fit | tune | evaluate | corpus`."""

import argparse
import sys
from pathlib import Path

from emotion.extras import require_packages

with require_packages("make install-training"):
    from rich.console import Console
    from transformers.utils import logging as transformers_logging

    from emotion import checkpoint as checkpoints
    from emotion.checkpoint import CheckpointError
    from emotion.text import WordPiece
    from training import corpora, settings
    from training.corpora import figures
    from training.corpora.table import HAPPY
    from training.errors import TrainingError
    from training.evaluate import evaluate
    from training.fit import fit
    from training.tune import tune


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description="From a corpus to a checkpoint.")
    commands = parser.add_subparsers(dest="command", required=True)

    command = commands.add_parser("fit", help="train, calibrate, test, report; the same command resumes a stopped run")
    settings.add_arguments(command)
    command.add_argument("--fold", type=int, help="train this fold alone, from 1 (default: all of them)")
    command.add_argument(
        "--baselines",
        action="store_true",
        help="also TF-IDF + logistic regression, and eGeMAPS + SVM if opensmile is there",
    )
    _add_places(command, "build/runs/NAME")

    command = commands.add_parser("tune", help="search for better settings (Optuna); the same command goes on")
    settings.add_arguments(command)
    command.add_argument("--trials", type=int, default=20, help="in all, earlier ones included (default: 20)")
    command.add_argument("--fold", type=int, default=1, help="whose validation utterances judge (default: 1)")
    _add_places(command, "build/tuning/NAME")

    command = commands.add_parser("evaluate", help="figures of a checkpoint, in torch and through a served Triton")
    command.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    command.add_argument("--corpus", required=True, choices=corpora.CORPORA)
    command.add_argument("--root", required=True, type=Path, help="the corpus's folder; a manifest's file")
    command.add_argument("--happy", default="merge", choices=HAPPY)
    command.add_argument(
        "--split",
        default="all",
        metavar="all|published|FILE",
        help="which utterances: all, the published test set, or the test part of a run's split.json (default: all)",
    )
    command.add_argument("--endpoint", metavar="HOST:PORT", help="also ask the ensemble `emotion` served there (gRPC)")
    _add_places(command, "build/evaluations/NAME")

    command = commands.add_parser("corpus", help="what is in a corpus, in numbers and a picture")
    command.add_argument("--corpus", required=True, choices=corpora.CORPORA)
    command.add_argument("--root", required=True, type=Path)
    command.add_argument("--happy", default="merge", choices=HAPPY)
    command.add_argument("--checkpoint", type=Path, help="whose tokenizer counts tokens (default: none are counted)")
    _add_places(command, "build/corpora/NAME")
    return parser


def _add_places(command: argparse.ArgumentParser, default: str) -> None:
    command.add_argument("--output", type=Path, metavar="DIR", help=f"default: {default}, NAME being the corpus's")
    command.add_argument(
        "--cache", type=Path, default=Path("build/cache"), metavar="DIR", help="for tables and decoded recordings"
    )


def _show_corpus(arguments: argparse.Namespace, output: Path, console: Console) -> None:
    corpus = corpora.load(arguments.corpus, arguments.root, arguments.happy, arguments.cache)
    console.print(corpora.account(corpus), highlight=False)
    tokenizer = None
    if arguments.checkpoint:
        tokenizer = WordPiece(checkpoints.load(arguments.checkpoint).tokenizer)
    output.mkdir(parents=True, exist_ok=True)
    picture = output / "corpus.png"
    figures.draw(corpus, tokenizer).savefig(picture, dpi=150)
    console.print(f"picture: {picture}", soft_wrap=True)


def main(argv: list[str] | None = None) -> int:
    """Exit status 0 when done, 1 when the user can mend what is wrong, 130 when interrupted."""
    arguments = _parser().parse_args(argv)
    transformers_logging.set_verbosity_error()
    console = Console()
    place = {"fit": "runs", "tune": "tuning", "evaluate": "evaluations", "corpus": "corpora"}[arguments.command]
    output = arguments.output or Path("build") / place / arguments.corpus
    try:
        match arguments.command:
            case "fit":
                wanted = settings.from_arguments(arguments)
                fit(wanted, output, arguments.cache, arguments.fold, arguments.baselines, console)
            case "tune":
                tune(
                    settings.from_arguments(arguments),
                    output,
                    arguments.cache,
                    arguments.fold,
                    arguments.trials,
                    console,
                )
            case "evaluate":
                evaluate(
                    arguments.checkpoint,
                    arguments.corpus,
                    arguments.root,
                    arguments.happy,
                    arguments.split,
                    arguments.endpoint,
                    output,
                    arguments.cache,
                    console,
                )
            case "corpus":
                _show_corpus(arguments, output, console)
    except (TrainingError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "interrupted; everything up to the last whole epoch is saved: repeat the command to go on", file=sys.stderr
        )
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
