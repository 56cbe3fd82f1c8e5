"""Start Triton, send speech and text over gRPC, and print and plot the answers: `make demo`.

python examples/demo.py [--repository DIR] [--radar FILE]
"""

import argparse
import csv
import sys
from pathlib import Path

from emotion_client import EMOTIONS, EmotionClient, EmotionResult
from emotion_client.radar import radar
from rich.console import Console
from rich.table import Table
from tritonclient.grpc import InferenceServerClient

from serving import Triton, TritonError

ROOT = Path(__file__).parent.parent
SPEECH = Path(__file__).parent / "speech"
TEXT_ALONE = "I can't believe we finally won, this is the best day of my life!"
MODELS = ("emotion", "preprocess", "queue", "vggish", "bert", "fusion")


def main() -> int:
    """Run the demo.

    Returns:
        The exit status: 0 if every utterance was answered, 1 if Triton can't start.
    """
    parser = argparse.ArgumentParser(description="Serve the exported models on free ports, and analyse examples.")
    parser.add_argument(
        "--repository",
        type=Path,
        default=ROOT / "build" / "model_repository",
        metavar="DIR",
        help="exported model repository (default: build/model_repository)",
    )
    parser.add_argument(
        "--radar",
        type=Path,
        default=Path("build/radar.png"),
        metavar="FILE",
        help="image file for the radar plot (default: build/radar.png)",
    )
    arguments = parser.parse_args()
    console = Console()
    try:
        with (
            Triton(arguments.repository, http_port=0, grpc_port=0, metrics_port=0) as server,
            EmotionClient(server.grpc_url) as client,
        ):
            show_server(console, server)
            answers = ask(client)
    except TritonError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    console.print(table(answers))
    arguments.radar.parent.mkdir(parents=True, exist_ok=True)
    radar(answers, arguments.radar)
    console.print(f"radar plot: {arguments.radar}")
    return 0


def show_server(console: Console, server: Triton) -> None:
    """Print Triton's version, the state of each model, and the results of the parity gate of the export."""
    with InferenceServerClient(server.grpc_url) as triton:
        console.print(f"Triton {triton.get_server_metadata().version} on {server.grpc_url} (gRPC)")
        for model in MODELS:
            console.print(f"  {model:<11} {'READY' if triton.is_model_ready(model) else 'not ready'}")
    assert server.manifest is not None
    for precision, comparisons in server.manifest["parity"].items():
        for comparison in comparisons:
            console.print(
                f"parity ({precision}), {comparison['name']}: {comparison['difference']:.1e} "
                f"(tolerance {comparison['tolerance']:g})",
                highlight=False,
            )


def ask(client: EmotionClient) -> dict[str, EmotionResult]:
    """Return the answers for a German sentence in anger and in joy, an English recording with its text, and a text."""
    with (SPEECH / "transcripts.tsv").open(newline="") as file:
        transcripts = dict(csv.reader(file, delimiter="\t"))
    english = "austen-0890.flac"
    return {
        "angry voice": client.analyze(SPEECH / "emodb-08b01Wa.flac"),
        "joyful voice": client.analyze(SPEECH / "emodb-08b01Fe.flac"),
        "voice and text": client.analyze(SPEECH / english, transcripts[english]),
        "text alone": client.analyze(text=TEXT_ALONE),
    }


def table(answers: dict[str, EmotionResult]) -> Table:
    """Return a table with a row per utterance: the answer, marked if unsure or untrained, and the probabilities."""
    result = Table("utterance", "answer", *EMOTIONS, "ms", box=None, padding=(0, 1, 0, 0), header_style="bold")
    for name, answer in answers.items():
        shares = (f"{answer.probabilities[emotion]:.1%}" for emotion in EMOTIONS)
        label = answer.label if answer.is_confident else f"{answer.label}\n[dim]unsure[/]"
        label = f"{answer.label}\n[yellow]untrained[/]" if answer.untrained else label
        result.add_row(name, label, *shares, f"{answer.timings.request:.0f}")
    untrained = {part: None for answer in answers.values() for part in answer.untrained}
    if untrained:
        result.caption = f"untrained: {', '.join(untrained)}; these answers show the service, not the emotion"
    return result


if __name__ == "__main__":
    sys.exit(main())
