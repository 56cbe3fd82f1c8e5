"""Serve HTTPS with certificates that can be renewed while the gateway runs."""

import logging
import ssl
from pathlib import Path

import uvicorn

from web.gateway.settings import Settings

_log = logging.getLogger("uvicorn.error")


def contents(*paths: Path | None) -> list[bytes] | None:
    """Return the contents of the files that are set, or None if one cannot be read because it is being replaced."""
    try:
        return [path.read_bytes() for path in paths if path]
    except OSError:
        return None


def load(context: ssl.SSLContext, certificate: Path | None, key: Path | None, authority: Path | None) -> ssl.SSLContext:
    """Load the files that are set into a TLS context and return it.

    Raises:
        OSError: the files cannot be used, or do not belong together.
    """
    if certificate:
        context.load_cert_chain(certificate, key, password="")  # never prompts for one on the terminal
    if authority:
        context.load_verify_locations(authority)
    return context


class Https:
    """A `ssl_context_factory` for uvicorn whose handshakes use the certificate files as they are at that time."""

    def __init__(self, settings: Settings) -> None:
        """Load the files.

        Raises:
            OSError: the files cannot be used, or do not belong together.
        """
        self._files = (settings.tls_certificate, settings.tls_private_key, settings.tls_client_ca)
        self._contents = contents(*self._files)
        self._newest = self._load()

    def __call__(self, config: uvicorn.Config, default: object) -> ssl.SSLContext:
        """Return the context to listen with; each connection replaces it by the newest one."""
        context = self._load()
        context.sni_callback = self._renew
        return context

    def _load(self) -> ssl.SSLContext:
        context = load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), *self._files)
        if self._files[-1]:
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _renew(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        """Give the connection the newest context. OpenSSL calls this in each handshake, even without a server name."""
        now = contents(*self._files)
        if now is not None and now != self._contents:
            self._contents = now
            try:
                self._newest = self._load()
            except OSError as error:
                _log.warning(
                    "the changed certificates can't be used (%s); the gateway continues with the old ones", error
                )
        connection.context = self._newest
