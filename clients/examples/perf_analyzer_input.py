"""Write the input file of perf_analyzer for one utterance: perf_analyzer_input.py clip.flac > input.json"""

import argparse
import base64
import json
import struct
from pathlib import Path


def tensor(data: bytes) -> dict[str, object]:
    """Return a BYTES tensor [1] in the format of perf_analyzer: length as a little-endian uint32, then the bytes."""
    return {"b64": base64.b64encode(struct.pack("<I", len(data)) + data).decode(), "shape": [1]}


def main() -> None:
    """Print the input file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", default="", help="transcript (default: none)")
    parser.add_argument("audio", nargs="?", type=Path, help="audio file (default: none)")
    options = parser.parse_args()
    audio = options.audio.read_bytes() if options.audio else b""  # zero bytes: absent
    print(json.dumps({"data": [{"AUDIO": tensor(audio), "TEXT": tensor(options.text.encode())}]}))


if __name__ == "__main__":
    main()
