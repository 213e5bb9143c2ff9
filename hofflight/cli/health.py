"""`hof health`: whether a server takes requests, for probes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hofflight.cli.options import Json
from hofflight.cli.output import print_json
from hofflight.errors import SettingsError

# What a server says that lives, ready or not.
_ALIVE = ("SERVING", "NOT_SERVING")


def health(
    *,
    url: Annotated[
        str,
        typer.Option(metavar="URL", help="grpc://HOST:PORT, grpc+tls://... or grpc+unix:///PATH."),
    ] = "grpc://127.0.0.1:8817",
    tls_ca: Annotated[
        Path | None, typer.Option(metavar="PEM", help="Whom TLS trusts beside the system.")
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Be content with a server that lives and is not ready.")
    ] = False,
    timeout: Annotated[float, typer.Option(min=0.1, max=600, help="Seconds.")] = 3.0,
    json: Json = False,
) -> None:
    """Ask a server whether it takes requests; exit 1 if it does not. Needs no token."""
    from hofflight.server.health_check import ask_health

    try:
        ca = None if tls_ca is None else tls_ca.read_bytes()
    except OSError as error:
        msg = f"--tls-ca {str(tls_ca)!r} cannot be read: {error.strerror}"
        raise SettingsError(msg) from error
    status = ask_health(url, ca, timeout)
    if json:
        print_json({"status": status})
    else:
        print(status)
    if status not in (_ALIVE if live else _ALIVE[:1]):
        raise typer.Exit(1)
