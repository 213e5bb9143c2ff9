"""`hof serve`: a store behind a Flight server, until a signal."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hofflight.cli.options import AnyStore, Json, Kafka, Modules, RegistryUrl
from hofflight.cli.output import print_json
from hofflight.cli.signals import stop_on_signal
from hofflight.errors import SettingsError
from hofflight.features.modules import collect, collect_stored, collect_views
from hofflight.observe.events import Events

if TYPE_CHECKING:
    from hofflight.app import App
    from hofflight.settings import Settings

_events = Events("hofflight.cli")


def serve(
    *,
    store: AnyStore = None,
    registry: RegistryUrl = None,
    kafka: Kafka = None,
    modules: Modules = "",
    grpc: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="127.0.0.1:8817; port 0 takes any.")
    ] = None,
    grpc_unix: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Listen at a Unix socket too.")
    ] = None,
    durability: Annotated[
        str | None, typer.Option(metavar="interval|batch", help="When an answer may leave.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Let others reach it without TLS and tokens.")
    ] = False,
    tls_cert: Annotated[Path | None, typer.Option(metavar="PEM", help="Certificate chain.")] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="PEM", help="Its private key.")] = None,
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Bearer tokens, one a line.")
    ] = None,
    nudge: Annotated[
        bool, typer.Option("--nudge", help="Send what Spark needs to go on behind each record.")
    ] = False,
    json: Json = False,
) -> None:
    """Serve over Arrow Flight, a store or, with --kafka, what the workers behind it answer.

    SIGTERM or SIGINT drains and ends; a second one ends now.
    """
    from hofflight.settings import with_kafka, with_registry

    given: dict[str, Any] = {
        "grpc": grpc,
        "grpc_unix": grpc_unix,
        "insecure": insecure or None,
        "tls_certificate": tls_cert,
        "tls_key": tls_key,
        "tokens": read_tokens(token_file) if token_file else None,
    }
    settings = with_kafka(with_registry(settings_of(given, durability), registry), kafka)
    if nudge:
        nudging = settings.kafka.model_copy(update={"nudge": True})
        settings = settings.model_copy(update={"kafka": nudging})
    if store is None:
        _serve_kafka(settings, modules, json=json)
    elif kafka is not None:
        msg = "serve takes --store DIR or --kafka HOST:PORT: before Kafka it keeps nothing"
        raise SettingsError(msg)
    else:
        _serve_store(store, settings, modules, json=json)


def _serve_kafka(settings: Settings, modules: str, *, json: bool) -> None:
    from hofflight.assemble_kafka import serve_kafka

    if not settings.kafka.bootstrap:
        msg = "serve takes --store DIR or --kafka HOST:PORT"
        raise SettingsError(msg)
    if modules:
        msg = "before Kafka a server needs no code: --modules belong to `hof worker`"
        raise SettingsError(msg, hint="`hof register` tells the registry what there is")

    async def run() -> None:
        with stop_on_signal() as stop:
            await serve_kafka(settings, ready=partial(_ready, json=json), stop=stop)

    asyncio.run(run())


def _serve_store(store: Path, settings: Settings, modules: str, *, json: bool) -> None:
    from hofflight.assemble import open_store

    groups = collect(modules)
    with open_store(store, settings=settings) as app:
        for module, group in groups:
            app.register(group, module=module)
        for stored in collect_stored(modules):
            app.register(stored)
        for view in collect_views(modules):
            app.view(
                view.name, view.version, view.features, view.labels, on_missing=view.on_missing
            )
        warn_of_missing_code(app)
        asyncio.run(serve_until_signal(app, settings, json=json))


def settings_of(server: dict[str, Any], durability: str | None) -> Settings:
    """The settings with what the command line gave; what it left out comes from the environment.

    Raises: SettingsError (HOF-601).
    """
    from hofflight.settings import load_settings

    sections: dict[str, dict[str, Any]] = {}
    chosen = {name: value for name, value in server.items() if value is not None}
    if chosen:
        sections["server"] = chosen
    if durability is not None:
        sections["log"] = {"durability": durability}
    return load_settings(**sections)


def read_tokens(path: Path) -> tuple[str, ...]:
    """The tokens of a file, one a line, without empty lines and those that begin with #.

    Raises: SettingsError (HOF-601).
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        msg = f"--token-file {path.name!r} cannot be read: {type(error).__name__}"
        raise SettingsError(msg) from error
    tokens = tuple(t for t in map(str.strip, lines) if t and not t.startswith("#"))
    if not tokens:
        msg = f"--token-file {path.name!r} holds no token"
        raise SettingsError(msg, hint="one token a line")
    return tokens


def warn_of_missing_code(app: App) -> None:
    """Say which registered groups cannot be served, since their code was not named."""
    loaded = app.loaded()
    for record in app.engine.registry.groups():
        if (record.name, record.version) not in loaded:
            fix = f"--modules {record.module}" if record.module else "name its module"
            _events.warning("code_not_loaded", group=f"{record.name}@{record.version}", fix=fix)


async def serve_until_signal(app: App, settings: Settings, *, json: bool) -> None:
    """Serve; the first signal drains, a second one ends the process with 1."""
    from hofflight.assemble import serve as serve_store

    with stop_on_signal() as stop:
        await serve_store(app, settings, ready=partial(_ready, json=json), stop=stop)


def _ready(address: str, *, json: bool) -> None:
    if json:
        print_json({"address": address})
    else:
        print(f"serving at {address}", flush=True)
