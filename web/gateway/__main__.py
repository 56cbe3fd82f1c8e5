"""Run `python -m web.gateway`: the gateway alone, in front of Triton servers that run elsewhere."""

import math
import sys
from contextlib import ExitStack

from emotion.extras import require_packages

with require_packages("make install-web"):
    import uvicorn
    from pydantic import ValidationError
    from pydantic_settings import CliApp

    from web.gateway.app import SERVER_OPTIONS, create_app
    from web.gateway.certificates import Https
    from web.gateway.metrics import Metrics
    from web.gateway.settings import Settings


def main() -> int:
    """Serve until a signal stops the process.

    Returns:
        0 after a signal, 2 if a setting, a certificate or the port of the metrics cannot be used.
    """
    try:
        settings = CliApp.run(Settings)
    except ValidationError as error:
        for problem in error.errors():
            print(f"error: {': '.join([*map(str, problem['loc']), problem['msg']])}", file=sys.stderr)
        return 2
    try:
        https = Https(settings) if settings.tls_certificate else None
    except OSError as error:
        print(f"error: tls_certificate, tls_private_key or tls_client_ca can't be used: {error}", file=sys.stderr)
        return 2
    metrics = Metrics()
    app = create_app(settings, metrics)
    with ExitStack() as running:
        try:
            port = running.enter_context(metrics.served(settings.host, settings.metrics_port))
        except OSError as error:
            print(
                f"error: the metrics can't listen on port {settings.metrics_port} ({error.strerror}); choose another "
                "with --metrics-port",
                file=sys.stderr,
            )
            return 2
        print(f"metrics on port {port}", file=sys.stderr, flush=True)
        uvicorn.run(
            app,
            host=settings.host,
            port=settings.port,
            log_level="info",
            **SERVER_OPTIONS,
            timeout_graceful_shutdown=math.ceil(settings.deadline) + 2,  # ends long recordings
            ssl_context_factory=https,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
