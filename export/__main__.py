"""Export a checkpoint into a model repository: `python -m export CHECKPOINT`."""

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from emotion.extras import require_packages

with require_packages("make install"):
    from rich.console import Console
    from transformers.utils import logging as transformers_logging

    from emotion import checkpoint as checkpoints
    from emotion.checkpoint import Checkpoint, CheckpointError
    from emotion.labels import EMOTIONS
    from emotion.manifest import MANIFEST
    from emotion.progress import progress
    from export import accuracy, parity, runtimes
    from export.onnx_files import IR_VERSION, OPSET, serving_parts, write_models
    from export.repository import FILE_NAMES, REPOSITORY, edited_templates, publish, staging, update_templates


def export(
    checkpoint: Checkpoint, repository: Path, precision: str, console: Console, labelled: Path | None = None
) -> list[parity.Comparison]:
    """Export the served models of a checkpoint into a model repository, if they pass all comparisons.

    Args:
        checkpoint: the checkpoint.
        repository: the model repository; it is created if it does not exist.
        precision: precision of the encoders: fp32, fp16 or int8.
        console: shows the progress.
        labelled: CSV file of labelled utterances on which the exported files may not lose accuracy
            (export/accuracy.py); None for no such check.

    Returns:
        All comparisons; each is within its tolerance.

    Raises:
        ParityError: a comparison is over its tolerance; the repository is unchanged.
        CheckpointError: `labelled` can't be read.
        OSError: the repository can't be written.
    """
    versions = {name: version(name) for name in ("torch", "transformers", "onnx", "onnxruntime")}
    metadata = {
        "checkpoint": checkpoint.digest,
        "untrained": ",".join(checkpoint.config.untrained),
        "labels": ",".join(EMOTIONS),
        **{f"version.{name}": value for name, value in versions.items()},
    }
    with staging(repository) as staged, progress(console, width=22) as bar:
        parts = serving_parts(checkpoint, precision)
        exporting = bar.add_task("exporting the models", total=len(parts))
        write_models(parts, staged, precision, metadata, lambda: bar.advance(exporting))
        models = parity.OnnxModels(staged, precision)
        checking = bar.add_task("parity gate", total=parity.UTTERANCES)
        answers = parity.ask(checkpoint, models, lambda: bar.advance(checking))
        comparisons = parity.compare(answers, parity.TOLERANCES[precision])
        if precision != "fp32":
            comparisons += accuracy.agreement(answers.eager, answers.alone)
        if labelled:
            judging = bar.add_task("labelled utterances", total=None)
            comparisons += accuracy.labelled(checkpoint, models, labelled, lambda: bar.advance(judging))
        checking = bar.add_task("other ONNX Runtimes", total=len(runtimes.RUNTIMES))
        skipped = []
        for runtime, owner in runtimes.RUNTIMES.items():
            try:
                comparisons.append(runtimes.compare(staged, precision, runtime))
            except runtimes.RuntimeUnavailable as error:
                skipped.append(f"not checked on {owner}: {error}")
            except subprocess.CalledProcessError as error:
                reason = (error.stderr.strip().splitlines() or ["no error output"])[-1]
                raise parity.ParityError(f"ONNX Runtime {runtime} ({owner}) can't run the export: {reason}") from None
            bar.advance(checking)
        parity.gate(comparisons)
        stage = staged / "preprocess" / "1"
        stage.mkdir(parents=True)
        shutil.copyfile(checkpoint.tokenizer, stage / "tokenizer.json")
        described = {
            "digest": checkpoint.digest[:12],
            "untrained": checkpoint.config.untrained,
            "max_tokens": checkpoint.model.text_encoder.config.max_position_embeddings,
        }
        (stage / "checkpoint.json").write_text(json.dumps(described) + "\n")
        manifest = {
            "checkpoint": checkpoint.digest,
            "untrained": checkpoint.config.untrained,
            "sources": checkpoint.config.sources,
            "versions": versions | {"opset": str(OPSET), "ir": str(IR_VERSION)},
            "parity": {precision: [asdict(comparison) for comparison in comparisons]},
        }
        publish(staged, repository, manifest)
    for line in skipped:
        console.print(line, highlight=False)
    return comparisons


def main() -> int:
    """Export a checkpoint, or copy the hand-written files, as the command line says.

    Returns:
        The exit status: 0 after an export; 1 if the checkpoint is invalid, a comparison fails or the repository can't
        be written; 130 after an interrupt.
    """
    parser = argparse.ArgumentParser(
        prog="python -m export", description="Export a checkpoint into a model repository for Triton."
    )
    parser.add_argument(
        "checkpoint", type=Path, nargs="?", metavar="CHECKPOINT", help="directory of the checkpoint to export"
    )
    parser.add_argument(
        "--repository",
        type=Path,
        default=REPOSITORY,
        metavar="DIR",
        help="model repository to write to (default: build/model_repository)",
    )
    parser.add_argument(
        "--templates",
        action="store_true",
        help="export nothing, and copy into DIR the configurations and Python stages that are new or have changed; "
        "files that were edited in DIR are kept",
    )
    parser.add_argument(
        "--precision", choices=tuple(FILE_NAMES), default="fp32", help="precision of the encoders (default: fp32)"
    )
    parser.add_argument(
        "--labelled",
        type=Path,
        metavar="CSV",
        help="file with the columns emotion, audio and text; the export fails if macro-F1 or recall on its utterances "
        "is more than 0.005 lower than the checkpoint's (default: no such check)",
    )
    arguments = parser.parse_args()
    if bool(arguments.checkpoint) == arguments.templates:
        parser.error("name a CHECKPOINT to export, or --templates to copy the hand-written files alone")
    if arguments.templates:
        return copy_templates(arguments.repository)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    console = Console(stderr=True)
    try:
        checkpoint = checkpoints.load(arguments.checkpoint)
    except CheckpointError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    try:
        comparisons = export(
            checkpoint,
            arguments.repository,
            arguments.precision,
            console,
            arguments.labelled,
        )
    except (CheckpointError, parity.ParityError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        place = error.filename or arguments.repository
        print(
            f"error: {place} can't be written ({error.strerror or error}); make room, or choose another directory with "
            "--repository, and export again",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("interrupted; repeat the command to export", file=sys.stderr)
        return 130
    for comparison in comparisons:
        print(f"{comparison.name}: {comparison.difference:.1e} (tolerance {comparison.tolerance:g})")
    print(f"exported {arguments.checkpoint} ({arguments.precision}) to {arguments.repository}")
    _print_edited(arguments.repository)
    return 0


def copy_templates(repository: Path) -> int:
    """Copy the hand-written files that are new or have changed into a repository with an export.

    Returns:
        The exit status: 0 if the files are up to date, 1 if the repository has no export.
    """
    if not (repository / MANIFEST).is_file():
        print(f"error: nothing is exported into {repository}; name a CHECKPOINT to export", file=sys.stderr)
        return 1
    update_templates(repository)
    _print_edited(repository)
    return 0


def _print_edited(repository: Path) -> None:
    if kept := edited_templates(repository):
        print(f"kept because they were edited in {repository}: {', '.join(kept)}")


if __name__ == "__main__":
    sys.exit(main())
