"""Serve a model repository until a signal stops the server: `python -m serving`."""

import argparse
import contextlib
import ipaddress
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

from serving import addresses, flags, log
from serving.certificates import SPREAD_S, CertificateWatcher
from serving.start_progress import StartProgress
from serving.triton import Triton, TritonError

REPOSITORY = Path(__file__).parent.parent / "build" / "model_repository"


def main() -> int:
    """Run Triton in the foreground until SIGTERM or SIGINT stops it.

    SIGTERM and a certificate renewal drain the server first (`--drain`).

    Returns:
        The exit status: 0 after a signal; 1 if the start failed, Triton ended or stopped answering, or its certificates
        were renewed, so that the supervisor restarts this process.
    """
    parser = argparse.ArgumentParser(
        prog="python -m serving",
        description="Serve a model repository with Triton on this machine.",
        epilog="Arguments after -- are passed to tritonserver; flags that would break the service are rejected. "
        "The environment variables EMOSERVE_CONFIG, EMOSERVE_LOG_LEVEL, EMOSERVE_DRAIN, EMOSERVE_RENEWAL_SPREAD, "
        "EMOSERVE_RENEWAL_DELAY, EMOSERVE_NOT_READY_FILE, EMOSERVE_PRIMARY_ADDRESS and EMOSERVE_TRITON_HOST set the "
        "defaults of --config, --log-level, --drain, --renewal-spread, --renewal-delay, --not-ready-file, "
        "--primary-address and --host. EMOSERVE_ADMIN_KEY is the key that administration and statistics require "
        "(default: a random key that nobody knows).",
    )
    parser.add_argument(
        "--repository",
        type=Path,
        default=REPOSITORY,
        metavar="DIR",
        help="model repository to serve (default: build/model_repository)",
    )
    parser.add_argument(
        "--http-port", type=int, default=8000, metavar="N", help="port of HTTP; 0 is any free port (default: 8000)"
    )
    parser.add_argument(
        "--grpc-port", type=int, default=8001, metavar="N", help="port of gRPC; 0 is any free port (default: 8001)"
    )
    parser.add_argument(
        "--metrics-port",
        type=int,
        default=8002,
        metavar="N",
        help="port of the metrics; 0 is any free port (default: 8002)",
    )
    parser.add_argument(
        "--host",
        default=os.environ.get("EMOSERVE_TRITON_HOST", "127.0.0.1"),
        help="IPv4 address, IPv6 address or host name that gRPC and metrics bind to; 0.0.0.0 is all IPv4 addresses; :: "
        "is all IPv6 addresses and, for gRPC, all IPv4 addresses (default: 127.0.0.1)",
    )
    parser.add_argument(
        "--primary-address",
        type=ipaddress.ip_address,
        metavar="ADDRESS",
        default=os.environ.get("EMOSERVE_PRIMARY_ADDRESS") or None,
        help="with --host ::, bind metrics to all addresses of the IP family of ADDRESS, because Triton's metrics "
        "server listens on one family only (default: IPv6)",
    )
    parser.add_argument(
        "--expose-http",
        action="store_true",
        help="bind HTTP to --host instead of loopback only; a caller without a key can crash Triton older than 25.08 "
        "over HTTP (docs/security.md)",
    )
    parser.add_argument(
        "--config",
        metavar="NAME",
        default=os.environ.get("EMOSERVE_CONFIG"),
        help="use configs/NAME.pbtxt of each model that has this file, such as gpu or int8; auto is int8, int8-bert "
        "or default, whichever is fastest on this CPU (default: config.pbtxt)",
    )
    parser.add_argument(
        "--open-statistics",
        action="store_true",
        help="let every caller read statistics, as perf_analyzer does (default: callers must send the admin key)",
    )
    parser.add_argument("--speech", action="store_true", help="also serve emotion_speech, which recognises speech")
    parser.add_argument(
        "--log-level",
        choices=log.LEVELS,
        default=os.environ.get("EMOSERVE_LOG_LEVEL", "warning"),
        help="lowest level of Triton's log that is shown (default: warning)",
    )
    parser.add_argument(
        "--drain",
        type=float,
        metavar="SECONDS",
        default=os.environ.get("EMOSERVE_DRAIN", "0"),
        help="after SIGTERM, serve until no client is connected, at most SECONDS longer (default: 0)",
    )
    parser.add_argument(
        "--renewal-spread",
        type=float,
        metavar="SECONDS",
        default=os.environ.get("EMOSERVE_RENEWAL_SPREAD", SPREAD_S),
        help="after a renewal of the TLS certificates, stop as after SIGTERM at a random time within SECONDS, with "
        f"exit status 1, so that the supervisor restarts the server with them (default: {SPREAD_S:g})",
    )
    parser.add_argument(
        "--renewal-delay",
        type=float,
        metavar="SECONDS",
        default=os.environ.get("EMOSERVE_RENEWAL_DELAY", "0"),
        help="wait SECONDS before the time of --renewal-spread starts, for example for a rolling restart that comes "
        "first (default: 0)",
    )
    parser.add_argument(
        "--not-ready-file",
        metavar="FILE",
        default=os.environ.get("EMOSERVE_NOT_READY_FILE"),
        help="write FILE 30 s before a stop after a renewal, and remove it at the start; a readiness probe that checks "
        "FILE sends callers to other servers before this one drains (default: no file)",
    )
    parser.add_argument("arguments", nargs="*", metavar="-- FLAG", help="additional tritonserver flags")
    options = vars(parser.parse_args())
    if options["log_level"] not in log.LEVELS:  # argparse checks no defaults
        parser.error(f"EMOSERVE_LOG_LEVEL is {options['log_level']!r}; accepted values are {', '.join(log.LEVELS)}")

    primary = options.pop("primary_address")
    options["metrics_host"] = addresses.all_of_family(options["host"], primary and str(primary))
    drain = options.pop("drain")
    watcher = CertificateWatcher(
        options["arguments"],
        options.pop("renewal_spread"),
        options.pop("renewal_delay"),
        options.pop("not_ready_file"),
    )
    stopping = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        if not stopping.is_set():  # a second Ctrl-C must not interrupt the shutdown
            stopping.set()
            raise KeyboardInterrupt(number)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        flags.check(options["arguments"])
        server = Triton(**options, admin_key=os.environ.get("EMOSERVE_ADMIN_KEY"))
        with contextlib.ExitStack() as running:
            with StartProgress(server):
                running.enter_context(server)
            if warning := server.http_warning:
                print(f"warning: {warning}", file=sys.stderr, flush=True)
            listeners = "listening" if server.expose_http else "gRPC and metrics listen"
            print(
                f"ready: gRPC {server.grpc_url}, HTTP {server.http_url}, metrics http://{server.metrics_url}/metrics"
                + (f" ({listeners} on {server.host})" if server.host in addresses.LOOPBACK else ""),
                flush=True,
            )
            if server.config_reason:
                print(f"configuration {server.config}: {server.config_reason}", flush=True)
            if server.manifest:
                untrained = ", ".join(server.manifest["untrained"]) or "nothing"
                print(f"checkpoint {server.manifest['checkpoint'][:12]}, untrained: {untrained}", flush=True)
            watcher.start()
            try:
                server.watch()
            except KeyboardInterrupt as interrupt:
                if interrupt.args == (signal.SIGTERM,) and drain:
                    print(
                        f"draining: the server stops when no client is connected, at most {drain:g} s from now",
                        flush=True,
                    )
                    server.drain(drain)
                return 1 if watcher.due.is_set() else 0
    except TritonError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
