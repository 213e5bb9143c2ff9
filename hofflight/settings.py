"""Every knob. Read once, in `assemble`; rooms get their section as an argument."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from hofflight import limits
from hofflight.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable

Positive = Annotated[int, Field(gt=0)]


class LogSettings(BaseModel):
    """The embedded event log."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    durability: Literal["interval", "batch"] = "interval"
    sync_interval_ms: Annotated[int, Field(ge=1, le=10_000)] = 10
    segment_bytes_max: Annotated[int, Field(ge=limits.MIB)] = limits.segment_bytes_max
    seal_bytes: Annotated[int, Field(ge=0)] = limits.segment_bytes_max
    seal_age_s: Annotated[int, Field(ge=0)] = 86_400
    seal_check_s: Annotated[int, Field(ge=1)] = 60


class EngineSettings(BaseModel):
    """The embedded engine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    transform_timeout_ms: Annotated[int, Field(ge=1, le=600_000)] = 1_000
    ids_max: Positive = 1_000_000
    ids_age_s: Positive = 86_400
    snapshot_records: Positive = 200_000
    # Folding costs 35 us a record; a rebuild a second, and some 5 us a row.
    rebuild_records: Positive = 50_000


class ServerSettings(BaseModel):
    """The Flight server."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    grpc: str = "127.0.0.1:8817"
    grpc_unix: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tokens: tuple[SecretStr, ...] = ()
    insecure: bool = False
    streams_max: Positive = limits.streams_max
    rows_in_flight_max: Positive = limits.rows_in_flight_max
    bytes_in_flight_max: Positive = limits.bytes_in_flight_max
    slow_reader_timeout_ms: Positive = 30_000
    drain_timeout_ms: Positive = 10_000

    @model_validator(mode="after")
    def _both_or_neither(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            msg = "server.tls_certificate and server.tls_key come together"
            raise ValueError(msg)
        return self


class ReplaySettings(BaseModel):
    """Training data, parity and backfill: what DuckDB may use. `threads` 0: all cores."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    memory_mib: Annotated[int, Field(ge=32)] = 4_096
    threads: Annotated[int, Field(ge=0, le=1_024)] = 0
    spill: Path | None = None


class OnlineSettings(BaseModel):
    """Where stored features are read from: LMDB in the store directory, or the server at `url`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: Annotated[str, Field(repr=False)] = ""  # it may hold a password
    password: SecretStr = SecretStr("")
    tls_ca: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    prefix: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")] = "hof"
    timeout_ms: Annotated[int, Field(ge=1, le=10_000)] = 20
    load_timeout_ms: Annotated[int, Field(ge=1, le=600_000)] = 10_000
    lookups_max: Annotated[int, Field(ge=1, le=65_536)] = 4_096
    retry_after_ms: Annotated[int, Field(ge=1, le=60_000)] = 250
    map_bytes: Annotated[int, Field(ge=limits.MIB, le=1 << 46)] = 16 * 1024 * limits.MIB

    @model_validator(mode="after")
    def _url_and_what_goes_with_it(self) -> Self:
        problem = _online_problem(self)
        if problem:
            raise ValueError(problem)
        return self


def _online_problem(online: OnlineSettings) -> str:
    """What is wrong with the online store's address, without a word of it: it may be a secret."""
    tls_files = (online.tls_ca, online.tls_certificate, online.tls_key)
    try:
        url = urlsplit(online.url)
        path = url.path.strip("/")
        has_place = path if url.scheme == "unix" else url.hostname and url.port != 0
    except ValueError:
        return "online.url is no address: a port is a number from 1 to 65535"
    if not online.url:
        is_alone = online.password.get_secret_value() or any(tls_files)
        return "online.password and online.tls_* need online.url" if is_alone else ""
    database = url.query.removeprefix("db=") if url.query or url.scheme == "unix" else path
    has_database = not database or database.isdecimal()
    if url.scheme not in {"redis", "rediss", "unix"} or not has_place or not has_database:
        return "online.url is redis://HOST:PORT/DB, rediss://HOST:PORT/DB or unix:///PATH?db=DB"
    if online.password.get_secret_value() and url.password:
        return "online.password is given, and one in online.url"
    if any(tls_files) and url.scheme != "rediss":
        return "online.tls_* need an online.url that begins with rediss://"
    if (online.tls_certificate is None) != (online.tls_key is None):
        return "online.tls_certificate and online.tls_key come together"
    return ""


class RegistrySettings(BaseModel):
    """Where groups and views are registered: the store's own file, or one that others share."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: Annotated[str, Field(repr=False)] = ""  # it may hold a password

    @model_validator(mode="after")
    def _is_an_address(self) -> Self:
        problem = _registry_problem(self.url)
        if problem:
            raise ValueError(problem)
        return self


def _registry_problem(url: str) -> str:
    """What is wrong with the registry's address, without a word of it: it may be a secret."""
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite" and rest.startswith("/") and rest != "/":
        return ""
    if url and scheme != "postgresql":
        return "registry.url is sqlite:///PATH or postgresql://USER@HOST:PORT/DATABASE"
    # Else the end of a password would be taken for a host, and come back in an error.
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    if authority.count("@") > 1 or "@" in rest[len(authority) :]:
        return "in registry.url write %40, %2F, %3F, %23 for @ / ? # within a user or a password"
    return ""


class KafkaSettings(BaseModel):
    """The cluster between servers and workers; `bootstrap` empty: there is none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bootstrap: str = ""  # HOST:PORT, or several with commas
    # What all topics begin with: several systems may share a cluster.
    prefix: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")] = "hof"
    security: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    username: str = ""
    password: SecretStr = SecretStr("")
    tls_ca: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    partitions: Annotated[int, Field(ge=1, le=10_000)] = 8
    replication: Annotated[int, Field(ge=0, le=100)] = (
        0  # 0: three, or as many as there are brokers
    )
    reply_topics: Annotated[int, Field(ge=1, le=100)] = 16
    # Under the brokers' own default of 1,048,588 with its headers.
    record_bytes_max: Annotated[int, Field(ge=64 * limits.KIB, le=64 * limits.MIB)] = 900_000
    record_rows_max: Positive = 10_000
    features: bool = True  # workers export what they answered
    # Servers send an empty record behind each that nothing follows: Spark needs it to go on.
    nudge: bool = False
    deadline_ms: Annotated[int, Field(ge=1, le=3_600_000)] = 2_000
    request_timeout_ms: Annotated[int, Field(ge=100, le=600_000)] = 10_000
    lease_ttl_ms: Annotated[int, Field(ge=500, le=600_000)] = 10_000

    @model_validator(mode="after")
    def _what_goes_together(self) -> Self:
        problem = _kafka_problem(self)
        if problem:
            raise ValueError(problem)
        return self


def _kafka_problem(kafka: KafkaSettings) -> str:
    has_login = bool(kafka.username or kafka.password.get_secret_value())
    if has_login != kafka.security.startswith("SASL"):
        return "kafka.username and kafka.password belong to a kafka.security of SASL_..."
    tls_files = (kafka.tls_ca, kafka.tls_certificate, kafka.tls_key)
    if any(tls_files) and not kafka.security.endswith("SSL"):
        return "kafka.tls_* need a kafka.security of SSL or SASL_SSL"
    if (kafka.tls_certificate is None) != (kafka.tls_key is None):
        return "kafka.tls_certificate and kafka.tls_key come together"
    return ""


class Settings(BaseSettings):
    """All sections, from arguments, then `HOF_SECTION__NAME` in the environment, then defaults."""

    model_config = SettingsConfigDict(
        env_prefix="HOF_", env_nested_delimiter="__", extra="forbid", frozen=True,
        hide_input_in_errors=True,
    )  # fmt: skip

    log: LogSettings = LogSettings()
    engine: EngineSettings = EngineSettings()
    server: ServerSettings = ServerSettings()
    replay: ReplaySettings = ReplaySettings()
    online: OnlineSettings = OnlineSettings()
    registry: RegistrySettings = RegistrySettings()
    kafka: KafkaSettings = KafkaSettings()


def with_registry(settings: Settings | None, url: str | None) -> Settings:
    """The settings, without any those of this process; with this registry, where one is given.

    Raises: SettingsError (HOF-601).
    """
    if url is None:
        return settings or load_settings()
    found = load_settings(registry={"url": url})
    return found if settings is None else settings.model_copy(update={"registry": found.registry})


def with_kafka(settings: Settings, bootstrap: str | None) -> Settings:
    """The settings with these brokers, where they are given.

    Raises: SettingsError (HOF-601).
    """
    if bootstrap is None:
        return settings
    given = settings.kafka.model_copy(update={"bootstrap": bootstrap})
    return settings.model_copy(update={"kafka": given})


def without_settings() -> dict[str, str]:
    """Our environment without settings, for a process that has its own."""
    return {
        name: value for name, value in os.environ.items()
        if not (name.upper().startswith("HOF_") and "__" in name)
    }  # fmt: skip


def worker_environment(settings: Settings) -> dict[str, str]:
    """Variables from which a process of workers reads these very settings; defaults are left out.

    A server's tokens and the online store's password are not among them: workers use neither.
    """
    found = {}
    for section in ("log", "engine", "replay", "registry", "kafka"):
        values = getattr(settings, section)
        for name, field in type(values).model_fields.items():
            value = getattr(values, name)
            if value != field.default:
                text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
                found[f"HOF_{section}__{name}".upper()] = text
    return found


def load_settings(**sections: dict[str, Any]) -> Settings:
    """The settings of this process.

    Raises:
        SettingsError: HOF-601, naming the setting, what came and what is allowed.
    """
    _require_known(os.environ)
    try:
        return Settings(**sections)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        # The message never shows the value: it may be a secret.
        raise SettingsError(f"setting {name}: {first['msg']}") from error


def _require_known(names: Iterable[str]) -> None:
    """Refuse variables of the environment that are no settings; within a section pydantic does."""
    known = Settings.model_fields
    for name in names:
        section, mark, _ = name.lower().removeprefix("hof_").partition("__")
        if not name.lower().startswith("hof_") or (section in known and mark):
            continue
        if mark or section in known:
            msg = f"the environment has {name}, which is no setting"
            hint = f"HOF_SECTION__NAME; sections are {', '.join(known)}"
            raise SettingsError(msg, hint=hint)
