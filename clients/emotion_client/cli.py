"""Command line of the client: `emotion-client`."""

import argparse
import dataclasses
import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence

from emotion_client.channel import TLS
from emotion_client.client import EmotionClient
from emotion_client.errors import EmotionError, InvalidInput
from emotion_client.types import EMOTIONS, EmotionResult, Utterance

_TEXT = "(text)"  # file column of an utterance without audio


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: command line arguments; None for those of the process.

    Returns:
        The exit status: 0 if all utterances were answered, 1 if any failed, 130 after Ctrl-C.

    Raises:
        SystemExit: wrong usage (status 2), or --help (status 0).
    """
    parser = _parser()
    options = parser.parse_args(argv)
    if not options.files and options.text is None:
        parser.error("nothing to analyze: give an audio FILE, --text, or both")
    if len(options.files) > 1 and options.text is not None:
        parser.error("--text is the transcript of one FILE, but several were given: run the command once for each FILE")
    if options.transcribe and (not options.files or options.text is not None):
        parser.error("--transcribe recognises the text of each FILE: give at least one FILE, and no --text")
    if (options.certificate or options.private_key) and not options.ca:
        parser.error("--certificate and --private-key need --ca: give the PEM file of the server's authority")
    if options.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib: pip install 'emoserve-client[plot]'")
    try:
        tls = TLS(options.ca, options.private_key, options.certificate) if options.ca else None
        client = EmotionClient(options.endpoint or ["localhost:8001"], deadline=options.deadline, tls=tls)
    except InvalidInput as error:
        parser.error(str(error))

    names = options.files or [_TEXT]
    try:
        with client:
            answers = client.analyze_many(
                Utterance(audio=file, text=options.text, transcribe=options.transcribe)
                for file in options.files or [None]
            )
    except KeyboardInterrupt:
        return 130  # as shells report Ctrl-C
    results = {name: answer for name, answer in zip(names, answers, strict=True) if isinstance(answer, EmotionResult)}
    failed = len(results) < len(set(names))
    for name, answer in zip(names, answers, strict=True):
        if isinstance(answer, EmotionError):
            print(f"{parser.prog}: {name}: {answer}", file=sys.stderr)
    if options.json:
        for name, result in results.items():
            print(json.dumps({"file": None if name is _TEXT else name, **dataclasses.asdict(result)}))
    elif results:
        print(_table(results))
    if options.plot and results:
        from emotion_client.radar import radar  # imported here because matplotlib is optional and slow to import

        try:
            radar(results, options.plot)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            print(f"{parser.prog}: cannot write {options.plot}: {reason}", file=sys.stderr)
            failed = True
    return int(failed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="emotion-client",
        description="Print the emotion of speech: neutral, frustration, anger, sadness or excitement.",
    )
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="audio file: WAV, FLAC, MP3, Ogg, M4A or WebM (required unless --text is given)",
    )
    parser.add_argument("--text", metavar="T", help="transcript of the one FILE; without FILE, the text to analyze")
    parser.add_argument(
        "--transcribe",
        action="store_true",
        help="let the server recognise the words of each FILE; the server must run with --speech",
    )
    parser.add_argument(
        "--endpoint",
        action="append",
        metavar="HOST:PORT",
        help="gRPC endpoint of the server; repeat it to spread the requests over several (default: localhost:8001)",
    )
    parser.add_argument(
        "--ca",
        metavar="FILE",
        help="PEM file of the authority that signed the server's certificate; turns TLS on (default: no TLS)",
    )
    parser.add_argument(
        "--certificate",
        metavar="FILE",
        help="PEM file of the client certificate, for servers that ask for one",
    )
    parser.add_argument("--private-key", metavar="FILE", help="PEM file of the private key of the client certificate")
    parser.add_argument(
        "--deadline",
        type=float,
        default=30.0,
        metavar="S",
        help="seconds that a request may take, above 0 and up to 86400 (default: 30)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per utterance instead of a table")
    parser.add_argument(
        "--plot", metavar="IMAGE", help="also draw a radar chart to this .png, .svg or .pdf file; needs matplotlib"
    )
    return parser


def _table(results: Mapping[str, EmotionResult]) -> str:
    rows = [["file", "label", "status", "confidence", *EMOTIONS]]
    for name, result in results.items():
        shares = (f"{share:.1%}" for share in (result.confidence, *result.probabilities.values()))
        rows.append([name, result.label, result.status, *shares])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    notes = ["", *map(_note, results.values())]
    lines = []
    for row, note in zip(rows, notes, strict=True):
        left = [cell.ljust(width) for cell, width in zip(row[:3], widths[:3], strict=True)]
        right = [cell.rjust(width) for cell, width in zip(row[3:], widths[3:], strict=True)]
        lines.append("  ".join(left + right) + note)
    return "\n".join(lines)


def _note(result: EmotionResult) -> str:
    transcript = "" if result.transcript is None else f'  "{result.transcript}"'
    if result.transcript and result.transcript_confidence and not result.transcript_confidence.understood:
        transcript += " (not understood: the answer uses the voice alone)"
    return transcript + (f"  untrained: {', '.join(result.untrained)}" if result.untrained else "")
