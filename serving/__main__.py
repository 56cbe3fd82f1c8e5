"""`python -m serving`: serve a model repository until told to stop."""

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
from serving.certificates import SPREAD, Renewal
from serving.start_progress import StartProgress
from serving.triton import Triton, TritonError

REPOSITORY = Path(__file__).parent.parent / "build" / "model_repository"


def main() -> int:
    """Run Triton in the foreground; SIGTERM (which drains first) and SIGINT stop it cleanly (exit status 0).

    Where Triton ended by itself or can't answer any more, or its certificates were renewed (which drains first), the
    exit status is 1: its supervisor is to start it anew.
    """
    parser = argparse.ArgumentParser(
        prog="python -m serving",
        description="Serve a model repository with Triton on this machine.",
        epilog="Arguments after -- go to tritonserver; those that would break the service are rejected. "
        "EMOSERVE_CONFIG, EMOSERVE_LOG_LEVEL, EMOSERVE_DRAIN, EMOSERVE_RENEWAL_SPREAD, EMOSERVE_RENEWAL_DELAY, "
        "EMOSERVE_NOT_READY_FILE, EMOSERVE_PRIMARY_ADDRESS and EMOSERVE_TRITON_HOST in the environment stand for "
        "--config, --log-level, --drain, --renewal-spread, --renewal-delay, --not-ready-file, --primary-address and "
        "--host. EMOSERVE_ADMIN_KEY opens administration and statistics "
        "to those who send it; without it nobody can.",
    )
    parser.add_argument("--repository", type=Path, default=REPOSITORY, metavar="DIR", help="model repository")
    parser.add_argument("--http-port", type=int, default=8000, metavar="N", help="default 8000; 0: any free port")
    parser.add_argument("--grpc-port", type=int, default=8001, metavar="N", help="default 8001; 0: any free port")
    parser.add_argument("--metrics-port", type=int, default=8002, metavar="N", help="default 8002; 0: any free port")
    parser.add_argument(
        "--host",
        default=os.environ.get("EMOSERVE_TRITON_HOST", "127.0.0.1"),
        help="IPv4 or IPv6 address that gRPC and metrics bind to, or its name; 0.0.0.0 for all IPv4 addresses, :: for "
        "all IPv6 addresses, over gRPC for all IPv4 addresses, too (default: 127.0.0.1)",
    )
    parser.add_argument(
        "--primary-address",
        type=ipaddress.ip_address,
        metavar="ADDRESS",
        default=os.environ.get("EMOSERVE_PRIMARY_ADDRESS") or None,
        help="with --host ::, bind metrics to all addresses of the IP family of this one, as Triton's metrics server "
        "listens on one family only (default: IPv6)",
    )
    parser.add_argument(
        "--expose-http",
        action="store_true",
        help="bind HTTP to --host too, and not to loopback alone; in Triton before 25.08 a caller without any key can "
        "crash the server over HTTP (docs/security.md)",
    )
    parser.add_argument(
        "--config",
        metavar="NAME",
        default=os.environ.get("EMOSERVE_CONFIG"),
        help="take configs/NAME.pbtxt of each model that has it, such as gpu or int8 (default: config.pbtxt)",
    )
    parser.add_argument(
        "--open-statistics",
        action="store_true",
        help="let everybody who reaches the ports read statistics, as perf_analyzer does; otherwise the admin key is "
        "needed",
    )
    parser.add_argument("--speech", action="store_true", help="serve emotion_speech too: it recognises what is said")
    parser.add_argument(
        "--log-level",
        choices=log.LEVELS,
        default=os.environ.get("EMOSERVE_LOG_LEVEL", "warning"),
        help="of Triton's log (default: warning)",
    )
    parser.add_argument(
        "--drain",
        type=float,
        metavar="SECONDS",
        default=os.environ.get("EMOSERVE_DRAIN", "0"),
        help="after SIGTERM go on until no client is connected, but for SECONDS at most (default: 0)",
    )
    parser.add_argument(
        "--renewal-spread",
        type=float,
        metavar="SECONDS",
        default=os.environ.get("EMOSERVE_RENEWAL_SPREAD", SPREAD),
        help="when the TLS certificates were renewed, stop as after SIGTERM within SECONDS, at random, with exit "
        f"status 1: to be started anew with them (default: {SPREAD:g})",
    )
    parser.add_argument(
        "--renewal-delay",
        type=float,
        metavar="SECONDS",
        default=os.environ.get("EMOSERVE_RENEWAL_DELAY", "0"),
        help="stop that many seconds later than --renewal-spread says, where somebody else restarts this server before "
        "(default: 0)",
    )
    parser.add_argument(
        "--not-ready-file",
        metavar="FILE",
        default=os.environ.get("EMOSERVE_NOT_READY_FILE"),
        help="write FILE 30 s before such a stop, and remove it at the start: readiness probes that look for it send "
        "callers to other servers before this one drains (default: none)",
    )
    parser.add_argument("arguments", nargs="*", metavar="-- FLAG", help="further tritonserver flags")
    options = vars(parser.parse_args())
    if options["log_level"] not in log.LEVELS:  # argparse checks no defaults
        parser.error(f"EMOSERVE_LOG_LEVEL is {options['log_level']!r} (choose from {', '.join(log.LEVELS)})")

    primary = options.pop("primary_address")
    options["metrics_host"] = addresses.all_of_family(options["host"], primary and str(primary))
    drain = options.pop("drain")
    renewal = Renewal(
        options["arguments"],
        options.pop("renewal_spread"),
        options.pop("renewal_delay"),
        options.pop("not_ready_file"),
    )
    stopping = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        if not stopping.is_set():  # a second Ctrl-C must not interrupt the stopping
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
            if server.manifest:
                untrained = ", ".join(server.manifest["untrained"]) or "nothing"
                print(f"checkpoint {server.manifest['checkpoint'][:12]}, untrained: {untrained}", flush=True)
            renewal.start()
            try:
                server.watch()
            except KeyboardInterrupt as told:
                if told.args == (signal.SIGTERM,) and drain:
                    print(f"draining: stops when no client is connected, in {drain:g} s at the latest", flush=True)
                    server.drain(drain)
                return 1 if renewal.due.is_set() else 0
    except TritonError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
