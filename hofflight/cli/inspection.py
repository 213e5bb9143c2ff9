"""`hof describe` and `hof history`: what a store or a server knows, read beside whoever serves."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import orjson
import typer

from hofflight.cli.contract import show_contract
from hofflight.cli.options import AnyStore, Json, RegistryUrl
from hofflight.cli.output import print_json, print_table, time_text
from hofflight.errors import SettingsError

if TYPE_CHECKING:
    from pathlib import Path

    from hofflight.features.records import GroupRecord
    from hofflight.features.stored import StoredGroup
    from hofflight.features.view import View

_SECTIONS = ("input", "output", "windows", "derive")


def describe(
    view: Annotated[
        str | None,
        typer.Argument(metavar="[VIEW[@VERSION]]", help="One view's contract, dataset or model."),
    ] = None,
    store: AnyStore = None,
    registry: RegistryUrl = None,
    url: Annotated[
        str | None, typer.Option(metavar="grpc://HOST:PORT", help="A running server.")
    ] = None,
    json: Json = False,
) -> None:
    """Show groups, views, columns and types, of a store, a registry or a running server.

    Of one view its contract: what goes in, the vector in order, as JSON Schema too (--json).
    """
    if url is not None and (store is not None or registry is not None):
        msg = "describe takes --url grpc://HOST:PORT, or --store DIR or --registry URL"
        raise SettingsError(msg)
    if view is not None:
        show_contract(view, store, registry, url, json=json)
    elif url is not None:
        _describe_server(url, json=json)
    else:
        _describe_store(store, registry, json=json)


def history(store: AnyStore = None, registry: RegistryUrl = None, json: Json = False) -> None:
    """Show every version of every group: when it came, its hash, from where."""
    from hofflight.assemble_registry import read_registry
    from hofflight.settings import with_registry

    with closing(read_registry(with_registry(None, registry), store)) as known:
        versions = [version_entry(record) for record in known.groups()]
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


def described_stored(group: StoredGroup) -> dict[str, Any]:
    """A stored group as plain values."""
    return {**group.definition(), "code_hash": group.code_hash()}


def described_view(view: View) -> dict[str, Any]:
    """A declared view as plain values."""
    return {
        "view": f"{view.name}@{view.version}",
        "features": [str(feature) for feature in view.features],
        "labels": list(view.labels),
        "on_missing": view.on_missing,
    }


def _describe_store(store: Path | None, url: str | None, *, json: bool) -> None:
    from hofflight.assemble_registry import read_registry
    from hofflight.settings import with_registry

    with closing(read_registry(with_registry(None, url), store)) as registry:
        groups = [described_group(record) for record in registry.groups()]
        stored = [described_stored(group) for group in registry.stored_groups()]
        views = [described_view(view) for view in registry.views()]
        datasets = [msgspec.to_builtins(dataset) for dataset in registry.datasets()]
        models = [msgspec.to_builtins(model) for model in registry.models()]
    if json:
        print_json({
            "groups": groups, "stored_groups": stored, "views": views, "datasets": datasets,
            "models": models,
        })  # fmt: skip
        return
    for group in groups:
        title = f"{group['group']}, key {', '.join(group['key'])}, time {group['event_time']}"
        columns = ("section", "name", "declared")
        print_table(title, columns, [[c[name] for name in columns] for c in group["columns"]])
    for each in stored:
        title = f"{each['name']}@{each['version']}, stored, key {', '.join(each['key'])}"
        print_table(title, ("name", "type"), list(each["schema"].items()))
    for view in views:
        print_table(view["view"], ("feature",), [[feature] for feature in view["features"]])
    about = ("name", "version", "view", "view_version", "rows", "as_of", "file")
    if datasets:
        print_table("Training datasets", about, [[d[name] for name in about] for d in datasets])
    trained = ("name", "version", "dataset", "dataset_version")
    if models:
        print_table("Models", trained, [[m[name] for name in trained] for m in models])


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
