"""Run `python -m emotion.checkpoint new | compact | expand`."""

import argparse
import logging
import sys
from pathlib import Path

from transformers.utils import logging as transformers_logging

from emotion.checkpoint import CheckpointConfig, CheckpointError, create, read_config
from emotion.checkpoint.compact import compact, expand


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m emotion.checkpoint", description="Create, compact and expand checkpoints."
    )
    commands = parser.add_subparsers(dest="command", required=True)

    command = commands.add_parser("new", help="create a checkpoint from pretrained encoders and a seeded fusion head")
    command.add_argument("directory", metavar="DIR", help="the checkpoint directory to write")
    command.add_argument(
        "--text-encoder",
        default="minilm",
        metavar="NAME_OR_DIR",
        help="a local directory, a hub name (bert-base-uncased), random:bert-base (full size, seeded), or minilm "
        "(the mirror of MiniLM-L6 on the package index; default)",
    )
    command.add_argument(
        "--vggish", metavar="PATH", help="state dict of the public VGGish release (default: seeded weights)"
    )
    command.add_argument(
        "--vggish-ending",
        choices=("relu", "linear"),
        default="relu",
        help="last layer of VGGish: relu as in the PyTorch release (default), linear as in Google's original",
    )
    command.add_argument("--seed", type=int, default=0, help="of all random weights (default: 0)")

    command = commands.add_parser(
        "compact", help="write the compact form of a trained checkpoint, small enough for git"
    )
    command.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="trained from MiniLM and from a VGGish with seeded weights"
    )
    command.add_argument("directory", metavar="DIR", help="the compact checkpoint directory to write")
    command.add_argument(
        "--rank", type=int, default=32, help="rank of the products that approximate weight updates (default: 32)"
    )

    command = commands.add_parser("expand", help="write the ordinary checkpoint that a compact one represents")
    command.add_argument("checkpoint", metavar="COMPACT", help="a compact checkpoint directory")
    command.add_argument("directory", metavar="DIR", help="the checkpoint directory to write")
    return parser


def main() -> int:
    """Return exit status 0 on success, and 1 for an error that the user can fix."""
    arguments = _parser().parse_args()
    transformers_logging.set_verbosity_error()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # hides its retries; CheckpointError reports the cause
    try:
        match arguments.command:
            case "new":
                final_relu = arguments.vggish_ending == "relu"
                create(arguments.directory, arguments.text_encoder, arguments.vggish, arguments.seed, final_relu)
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
    sys.exit(main())
