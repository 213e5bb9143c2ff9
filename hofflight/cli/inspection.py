"""`hof describe` and `hof history`: what a store or a server knows, read beside whoever serves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from hofflight.cli.options import Json, Store
from hofflight.cli.output import print_json, print_table, time_text
from hofflight.errors import SettingsError

if TYPE_CHECKING:
    from hofflight.features.registry import GroupRecord
    from hofflight.features.view import View

_SECTIONS = ("input", "output", "windows", "derive")


def describe(
    store: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A store directory.", show_default=False)
    ] = None,
    url: Annotated[
        str | None, typer.Option(metavar="grpc://HOST:PORT", help="A running server.")
    ] = None,
    json: Json = False,
) -> None:
    """Show groups, views, columns and types, of a store or of a running server."""
    if (store is None) == (url is None):
        msg = "describe takes one of --store DIR and --url grpc://HOST:PORT"
        raise SettingsError(msg)
    if store is not None:
        _describe_store(store, json=json)
    elif url is not None:
        _describe_server(url, json=json)


def history(store: Store, json: Json = False) -> None:
    """Show every version of every group: when it came, its hash, from where."""
    from hofflight.assemble import read_store

    registry, _ = read_store(store)
    versions = [version_entry(record) for record in registry.groups()]
    registry.close()
    if json:
        print_json({"versions": versions})
        return
    columns = ("group", "created", "code_hash", "stream", "module")
    print_table(
        "", ("group", "created", "code hash", "log", "module"),
        [[entry[name] for name in columns] for entry in versions],
    )  # fmt: skip


def version_entry(record: GroupRecord) -> dict[str, Any]:
    """A registered group version as plain values."""
    return {
        "group": f"{record.name}@{record.version}",
        "created": time_text(record.created_us),
        "code_hash": record.code_hash,
        "stream": record.partition,
        "module": record.module,
        "packages": record.packages,
    }


def described_group(record: GroupRecord) -> dict[str, Any]:
    """A registered group as plain values: what was declared, section by section.

    The store keeps text, never code, so an expression shows itself in place of its type.
    """
    definition = orjson.loads(record.definition)
    columns = [
        {"section": section, "name": name, "declared": text}
        for section in _SECTIONS
        for name, text in definition[section].items()
    ]
    return {
        "group": f"{record.name}@{record.version}",
        "key": definition["key"],
        "event_time": definition["event_time"],
        "code_hash": record.code_hash,
        "module": record.module,
        "columns": columns,
    }


def described_view(view: View) -> dict[str, Any]:
    """A declared view as plain values."""
    return {
        "view": f"{view.name}@{view.version}",
        "features": [str(feature) for feature in view.features],
        "labels": list(view.labels),
    }


def _describe_store(store: Path, *, json: bool) -> None:
    from hofflight.assemble import read_store

    registry, _ = read_store(store)
    groups = [described_group(record) for record in registry.groups()]
    views = [described_view(view) for view in registry.views()]
    registry.close()
    if json:
        print_json({"groups": groups, "views": views})
        return
    for group in groups:
        title = f"{group['group']}, key {', '.join(group['key'])}, time {group['event_time']}"
        columns = ("section", "name", "declared")
        print_table(title, columns, [[c[name] for name in columns] for c in group["columns"]])
    for view in views:
        print_table(view["view"], ("feature",), [[feature] for feature in view["features"]])


def _describe_server(url: str, *, json: bool) -> None:
    from hofflight.client.client import connect

    with connect(url) as client:
        views = client.describe()["views"]
    if json:
        print_json({"views": views})
        return
    for view in views:
        title = f"{view['view']}@{view['version']} of {view['group']}@{view['group_version']}"
        rows = [
            (side, column["name"], column["type"])
            for side in ("input", "output")
            for column in view[side]
        ]
        print_table(title, ("side", "name", "type"), rows)
