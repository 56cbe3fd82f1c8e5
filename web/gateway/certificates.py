"""HTTPS for callers, with certificates that may be renewed while the gateway runs."""

import logging
import ssl
from pathlib import Path

import uvicorn

from web.gateway.settings import Settings

_log = logging.getLogger("uvicorn.error")


def contents(*paths: Path | None) -> list[bytes] | None:
    """Of the files that are given, or None where one can't be read: they are being exchanged."""
    try:
        return [path.read_bytes() for path in paths if path]
    except OSError:
        return None


def load(context: ssl.SSLContext, certificate: Path | None, key: Path | None, authority: Path | None) -> ssl.SSLContext:
    """The context, with the files that are given.

    Raises:
        OSError: they can't be used, or not together.
    """
    if certificate:
        context.load_cert_chain(certificate, key, password="")  # never asks a terminal for one
    if authority:
        context.load_verify_locations(authority)
    return context


class Https:
    """uvicorn's `ssl_context_factory`: each handshake is made with the files as they are then."""

    def __init__(self, settings: Settings) -> None:
        """
        Raises:
            OSError: the files can't be used, or not together.
        """
        self._files = (settings.tls_certificate, settings.tls_private_key, settings.tls_client_ca)
        self._contents = contents(*self._files)
        self._newest = self._load()

    def __call__(self, config: uvicorn.Config, default: object) -> ssl.SSLContext:
        """The context to listen with; each connection gets the newest in its place."""
        context = self._load()
        context.sni_callback = self._renew
        return context

    def _load(self) -> ssl.SSLContext:
        context = load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), *self._files)
        if self._files[-1]:
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _renew(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        """OpenSSL calls this in each handshake, whether it names a server or not."""
        now = contents(*self._files)
        if now is not None and now != self._contents:
            self._contents = now
            try:
                self._newest = self._load()
            except OSError as error:
                _log.warning("the certificates have changed, but can't be used (%s); the old ones are served", error)
        connection.context = self._newest
