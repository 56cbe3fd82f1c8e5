"""Settings of the gateway, from EMOSERVE_* environment variables or command line options."""

from pathlib import Path
from typing import Self

from pydantic import Field, FilePath, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PAGE = Path(__file__).parent.parent / "ui" / "dist"


class Settings(BaseSettings):
    """Serve the page and its HTTP API in front of Triton. Lists are given as JSON, such as '["triton:8001"]'."""

    model_config = SettingsConfigDict(
        env_prefix="EMOSERVE_",
        cli_prog_name="python -m web.gateway",
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_implicit_flags=True,
    )

    endpoints: list[str] = Field(
        default=["localhost:8001"], description="gRPC endpoints of the Triton servers, each HOST:PORT"
    )
    ca: FilePath | None = Field(
        default=None,
        description="PEM file of the authority that signs the servers' certificates; none: connect without TLS",
    )
    certificate: FilePath | None = Field(
        default=None, description="PEM file of the client certificate, for servers that ask for one"
    )
    private_key: FilePath | None = Field(
        default=None, description="PEM file of the private key of the client certificate"
    )
    host: str = Field(default="127.0.0.1", description="address to listen on; empty: all addresses")
    port: int = Field(default=8080, ge=0, le=65535, description="port to listen on; 0: any free port")
    metrics_port: int = Field(
        default=8081,
        ge=0,
        le=65535,
        description="port of the metrics for Prometheus, over plain HTTP; 0: any free port",
    )
    tls_certificate: FilePath | None = Field(
        default=None,
        description="PEM file of the HTTPS certificate, followed by its intermediate certificates; none: HTTP",
    )
    tls_private_key: FilePath | None = Field(
        default=None, description="PEM file of the private key of the HTTPS certificate"
    )
    tls_client_ca: FilePath | None = Field(
        default=None,
        description="PEM file of the authority that signs callers' certificates; none: callers need no certificate",
    )
    api_key: SecretStr | None = Field(
        default=None, description="key that callers must send as X-API-Key; none: callers need no key"
    )
    cors_origins: list[str] = Field(default=[], description="other origins whose pages may call the API")
    max_seconds: float = Field(
        default=60.0, gt=0, description="longest recording in seconds; the server's own limit is 60"
    )
    long_seconds: float = Field(
        default=600.0, gt=0, description="longest recording in seconds that is cut into utterances"
    )
    max_bytes: int = Field(default=20 << 20, gt=0, description="largest upload in bytes")
    max_characters: int = Field(default=2000, gt=0, description="longest text in characters")
    in_flight: int = Field(
        default=8, gt=0, description="analyses that run at a time; further ones are rejected with 503"
    )
    long_recordings: int = Field(
        default=2, gt=0, description="recordings that are cut into utterances at a time; further ones are rejected"
    )
    uploads: int = Field(default=32, gt=0, description="uploads that are received at a time, each held in memory")
    rate_limit: float = Field(
        default=0.0,
        ge=0,
        description="analyses and live streams per minute from one address, a sixth of them at once; 0: no limit",
    )
    streams: int = Field(default=8, ge=0, description="live streams at a time; further ones are rejected; 0: none")
    stream_seconds: float = Field(default=600.0, gt=0, description="longest live stream in seconds")
    deadline: float = Field(default=20.0, gt=0, description="seconds that an analysis may take")
    feedback: Path | None = Field(
        default=None,
        description="directory for recordings and texts that people send as corrections, with their consent; none: off",
    )
    feedback_bytes: int = Field(
        default=1 << 30, gt=0, description="largest size of the recordings in that directory, in bytes"
    )
    request_log: bool = Field(
        default=True, description="log each API call as a line of JSON on standard output, without what was said"
    )
    page: Path | None = Field(default=PAGE, description="directory of the built page; the API works without it")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_private_key is None):
            raise ValueError("tls_certificate and tls_private_key go together: give both or neither")
        if self.tls_client_ca and not self.tls_certificate:
            raise ValueError("tls_client_ca needs HTTPS: also give tls_certificate and tls_private_key")
        return self
