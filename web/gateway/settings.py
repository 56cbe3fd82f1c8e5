"""What can be set, by EMOSERVE_* in the environment or by option on the command line."""

from pathlib import Path
from typing import Self

from pydantic import Field, FilePath, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PAGE = Path(__file__).parent.parent / "ui" / "dist"


class Settings(BaseSettings):
    """The gateway's settings; lists are given as JSON, such as '["triton:8001"]'."""

    model_config = SettingsConfigDict(
        env_prefix="EMOSERVE_",
        cli_prog_name="python -m web.gateway",
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_implicit_flags=True,
    )

    endpoints: list[str] = Field(default=["localhost:8001"], description="HOST:PORT of the servers' gRPC")
    ca: FilePath | None = Field(
        default=None, description="PEM file of the authority that signs the servers' certificates; none: no TLS"
    )
    certificate: FilePath | None = Field(default=None, description="PEM file to show to servers that ask for one")
    private_key: FilePath | None = Field(default=None, description="PEM file, the certificate's")
    host: str = Field(default="127.0.0.1", description="address to bind to")
    port: int = Field(default=8080, ge=0, le=65535, description="0: any free one")
    tls_certificate: FilePath | None = Field(
        default=None,
        description="PEM file to show to callers, followed by those between it and its authority; none: HTTP",
    )
    tls_private_key: FilePath | None = Field(default=None, description="PEM file, that certificate's")
    tls_client_ca: FilePath | None = Field(
        default=None,
        description="PEM file of the authority that signs callers' certificates; none: callers need none",
    )
    api_key: SecretStr | None = Field(
        default=None, description="that callers must send as X-API-Key; none: nobody must"
    )
    cors_origins: list[str] = Field(default=[], description="pages of other origins that may call the API")
    max_seconds: float = Field(default=60.0, gt=0, description="of a recording; the server's own limit is 60")
    max_bytes: int = Field(default=20 << 20, gt=0, description="of an upload")
    max_characters: int = Field(default=2000, gt=0, description="of a text")
    in_flight: int = Field(default=8, gt=0, description="analyses at a time; more are told to try again")
    uploads: int = Field(default=32, gt=0, description="bodies that are received at a time, each held in memory")
    rate_limit: float = Field(
        default=0.0, ge=0, description="analyses a minute from one address, a sixth of them at once; 0: no limit"
    )
    deadline: float = Field(default=20.0, gt=0, description="seconds that an analysis may take")
    request_log: bool = Field(
        default=True, description="one line of JSON on standard output for each call of the API, without what was said"
    )
    page: Path = Field(default=PAGE, description="directory of the built page; the API works without it")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_private_key is None):
            raise ValueError("tls_certificate and tls_private_key go together: give both or neither")
        if self.tls_client_ca and not self.tls_certificate:
            raise ValueError("tls_client_ca needs HTTPS: give tls_certificate and tls_private_key, too")
        return self
