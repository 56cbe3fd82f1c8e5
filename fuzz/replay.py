"""`python -m fuzz.replay TARGET FILE...`: give kept inputs to a target again; ends at the first broken promise."""

import argparse
from pathlib import Path

from fuzz import targets


def main() -> None:
    """Replay the files, and say how many there were."""
    parser = argparse.ArgumentParser(prog="python -m fuzz.replay", description=__doc__)
    parser.add_argument("target", choices=targets.TARGETS)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--tokenizer", type=Path, default=targets.TOKENIZER, help="(default: %(default)s)")
    arguments = parser.parse_args()
    targets.TOKENIZER = arguments.tokenizer
    for path in arguments.files:
        print(path, flush=True)  # before, as a crash says nothing
        targets.check(arguments.target, path.read_bytes())
    print(f"{len(arguments.files)} inputs hold")


if __name__ == "__main__":
    main()
