"""Run `python -m web` (`make web`): Triton, the gateway and the page on this machine, until Ctrl-C."""

import argparse
import contextlib
import signal
import socket
import sys
import threading
from pathlib import Path
from types import FrameType

from emotion.extras import require_packages

with require_packages("make install-web"):
    import uvicorn

    from serving import Triton, TritonError
    from serving.start_progress import StartProgress
    from serving.triton import free_ports
    from web.gateway.app import SERVER_OPTIONS, create_app
    from web.gateway.metrics import Metrics
    from web.gateway.settings import PAGE, Settings

REPOSITORY = Path(__file__).parent.parent / "build" / "model_repository"


class Server(uvicorn.Server):
    """A uvicorn server that prints a line as soon as it answers."""

    def __init__(self, config: uvicorn.Config, line: str) -> None:
        super().__init__(config)
        self._line = line

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start as uvicorn does, then print the line."""
        await super().startup(sockets)
        if self.started:
            print(f"{self._line} (Ctrl-C stops everything)", flush=True)


def main() -> int:
    """Run Triton and the gateway; SIGTERM and SIGINT stop both cleanly.

    Returns:
        0 after a signal, 1 if the page is not built or Triton does not start or fails.
    """
    parser = argparse.ArgumentParser(prog="python -m web", description="Serve the page, and Triton behind it.")
    parser.add_argument(
        "--repository",
        type=Path,
        default=REPOSITORY,
        metavar="DIR",
        help="model repository (default: build/model_repository)",
    )
    parser.add_argument(
        "--port", type=int, default=8080, metavar="N", help="port of the page, 0 for any free port (default: 8080)"
    )
    parser.add_argument(
        "--api-only", action="store_true", help="serve the gateway's API without the page, whose build needs Node.js"
    )
    options = parser.parse_args()
    if not options.api_only and not (PAGE / "index.html").is_file():
        print("error: the page is not built; run `make web`, or leave the page out with --api-only", file=sys.stderr)
        return 1

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    # uvicorn stops at a signal and then raises it again, which this handler turns into KeyboardInterrupt
    signal.signal(signal.SIGTERM, stop)
    try:
        port = free_ports("127.0.0.1", {"page": options.port})["page"]
        print("starting Triton with speech recognition", flush=True)
        triton = Triton(options.repository, http_port=0, grpc_port=0, metrics_port=0, speech=True)
        with contextlib.ExitStack() as running:
            with StartProgress(triton):
                running.enter_context(triton)
            settings = Settings(endpoints=[triton.grpc_url], port=port, page=None if options.api_only else PAGE)
            app = create_app(settings, Metrics())
            config = uvicorn.Config(
                app, host=settings.host, port=port, log_level="warning", timeout_graceful_shutdown=2, **SERVER_OPTIONS
            )
            address = f"http://localhost:{port}"
            line = f"ready: {address}/api" if options.api_only else f"open {address}"
            server, failures = Server(config, line), list[TritonError]()

            def watch() -> None:
                try:
                    triton.watch()
                except TritonError as error:
                    failures.append(error)
                    server.should_exit = True

            threading.Thread(target=watch, daemon=True).start()
            server.run()
            if failures:
                raise failures[0]
        return 0
    except TritonError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
