"""Run a target on kept inputs, and stop at the first failure: `python -m fuzz.replay TARGET FILE...`."""

import argparse
from pathlib import Path

from fuzz import targets


def main() -> None:
    """Run the target on each file, and print their number.

    Raises:
        Exception: an input fails.
    """
    parser = argparse.ArgumentParser(prog="python -m fuzz.replay", description=__doc__)
    parser.add_argument("target", choices=targets.TARGETS, help="target to run")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="input of the target")
    parser.add_argument(
        "--tokenizer",
        type=Path,
        default=targets.TOKENIZER,
        help="tokenizer for the target text (default: %(default)s)",
    )
    arguments = parser.parse_args()
    targets.TOKENIZER = arguments.tokenizer
    for path in arguments.files:
        print(path, flush=True)  # before the check, because a crash prints nothing
        targets.check(arguments.target, path.read_bytes())
    print(f"{len(arguments.files)} inputs passed")


if __name__ == "__main__":
    main()
