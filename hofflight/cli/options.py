"""Options that several commands share, each said once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final

import typer

from hofflight.errors import SettingsError

_NAMED: Final = re.compile(r"([^@]+)(?:@([1-9][0-9]{0,8}))?")

Store = Annotated[
    Path, typer.Option("--store", metavar="DIR", help="The store directory.", show_default=False)
]
AnyStore = Annotated[
    Path | None,
    typer.Option("--store", metavar="DIR", help="A store directory.", show_default=False),
]
RegistryUrl = Annotated[
    str | None,
    typer.Option(
        "--registry", metavar="URL", show_default=False,
        help="sqlite:///PATH or postgresql://..., where others share it; the store's own without.",
    ),
]  # fmt: skip
Kafka = Annotated[
    str | None,
    typer.Option("--kafka", metavar="HOST:PORT,...", help="The brokers.", show_default=False),
]
Partitions = Annotated[
    str | None, typer.Option(metavar="0-3,7", help="Which of the topic's; all, where left out.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Target = Annotated[
    str, typer.Argument(metavar="MODULE[:NAME]", help="Where feature groups are declared.")
]
Modules = Annotated[
    str,
    typer.Option(
        "--modules", metavar="A,B", help="Modules that declare the groups; MODULE[:NAME] each."
    ),
]
Start = Annotated[
    str | None, typer.Option("--from", metavar="TIME", help="Event times from here on.")
]
End = Annotated[
    str | None, typer.Option("--until", metavar="TIME", help="Event times before this.")
]


def named(text: str) -> tuple[str, int | None]:
    """Name and version of `name` or `name@2`.

    Raises: SettingsError (HOF-601).
    """
    found = _NAMED.fullmatch(text)
    if not found:
        msg = f"{text!r} is no NAME or NAME@VERSION"
        raise SettingsError(msg)
    return found[1], int(found[2]) if found[2] else None
