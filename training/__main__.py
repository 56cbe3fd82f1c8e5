"""Run `python -m training fit | tune | evaluate | corpus`."""

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
    from training.corpora.table import HAPPINESS_POLICIES
    from training.errors import TrainingError
    from training.evaluate import EvaluationSettings, evaluate
    from training.fit import fit
    from training.tune import tune


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description="Train, tune and evaluate checkpoints.")
    commands = parser.add_subparsers(dest="command", required=True)

    command = commands.add_parser(
        "fit", help="train, calibrate, test and report; the same command resumes an interrupted run"
    )
    settings.add_arguments(command)
    command.add_argument("--fold", type=int, help="train only this fold, counted from 1 (default: all)")
    command.add_argument(
        "--baselines",
        action="store_true",
        help="compare with TF-IDF + logistic regression, and with eGeMAPS + SVM if opensmile is installed",
    )
    _add_places(command, "build/runs/NAME")

    command = commands.add_parser(
        "tune", help="search for better settings with Optuna; the same command resumes an interrupted search"
    )
    settings.add_arguments(command)
    command.add_argument(
        "--trials", type=int, default=20, help="total number of trials, including finished ones (default: 20)"
    )
    command.add_argument(
        "--fold", type=int, default=1, help="fold whose validation utterances score the trials (default: 1)"
    )
    _add_places(command, "build/tuning/NAME")

    command = commands.add_parser(
        "evaluate", help="compute metrics of a checkpoint, in torch or through a served Triton"
    )
    command.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="the checkpoint directory")
    command.add_argument("--corpus", required=True, choices=corpora.CORPORA)
    command.add_argument("--root", required=True, type=Path, help="folder of the corpus; file of a manifest")
    _add_happiness_policy(command)
    command.add_argument(
        "--split",
        default="all",
        metavar="all|published|FILE",
        help="which utterances: all, the published test set, or the test part of a run's split.json (default: all)",
    )
    command.add_argument(
        "--endpoint",
        metavar="HOST:PORT",
        help="gRPC address of a served ensemble `emotion` whose predictions are evaluated",
    )
    _add_places(command, "build/evaluations/NAME")

    command = commands.add_parser("corpus", help="count a corpus and draw its classes, durations and text lengths")
    command.add_argument("--corpus", required=True, choices=corpora.CORPORA)
    command.add_argument("--root", required=True, type=Path, help="folder of the corpus; file of a manifest")
    _add_happiness_policy(command)
    command.add_argument(
        "--checkpoint", type=Path, help="checkpoint whose tokenizer counts tokens (default: not counted)"
    )
    _add_places(command, "build/corpora/NAME")
    return parser


def _add_happiness_policy(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--happiness-policy",
        "--happy",
        default="merge",
        choices=HAPPINESS_POLICIES,
        help="happiness: counted as excitement (merge), or left out (drop) (default: merge)",
    )


def _add_places(command: argparse.ArgumentParser, default: str) -> None:
    command.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help=f"directory of the results (default: {default}, with the corpus's name)",
    )
    command.add_argument(
        "--cache",
        type=Path,
        default=Path("build/cache"),
        metavar="DIR",
        help="directory for tables and decoded recordings (default: build/cache)",
    )


def _show_corpus(arguments: argparse.Namespace, output: Path, console: Console) -> None:
    corpus = corpora.load(arguments.corpus, arguments.root, arguments.happiness_policy, arguments.cache)
    console.print(corpora.account(corpus), highlight=False)
    tokenizer = None
    if arguments.checkpoint:
        tokenizer = WordPiece(checkpoints.load(arguments.checkpoint).tokenizer)
    output.mkdir(parents=True, exist_ok=True)
    picture = output / "corpus.png"
    figures.draw(corpus, tokenizer).savefig(picture, dpi=150)
    console.print(f"picture: {picture}", soft_wrap=True)


def main(argv: list[str] | None = None) -> int:
    """Return exit status 0 on success, 1 for an error that the user can fix, 130 after an interruption."""
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
                evaluated = EvaluationSettings(
                    arguments.checkpoint,
                    arguments.corpus,
                    arguments.root,
                    arguments.happiness_policy,
                    arguments.split,
                    arguments.endpoint,
                )
                evaluate(evaluated, output, arguments.cache, console)
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
