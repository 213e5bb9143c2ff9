"""Options that several commands share, each said once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Store = Annotated[
    Path, typer.Option("--store", metavar="DIR", help="The store directory.", show_default=False)
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
