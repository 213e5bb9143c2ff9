"""`hof describe VIEW`: a view's contract, as a table and as JSON Schema."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from hofflight.cli.options import named
from hofflight.cli.output import print_json, print_table

if TYPE_CHECKING:
    from pathlib import Path

_INTEGERS: Final = ("int", "uint")
_FORMATS: Final = {"date32[day]": "date", "binary": "binary"}


def show_contract(
    text: str, store: Path | None, registry: str | None, url: str | None, *, json: bool
) -> None:
    """Print the contract of a view of a running server, or of a store or registry.

    Raises: UnknownView (HOF-201).
    """
    name, version = named(text)
    if url is not None:
        found = _of_server(url, name, version)
    else:
        found = _of_store(store, registry, name, version)
    if json:
        print_json({**found, "json_schema": {
            "request": json_schema(f"{found['view']} request", [*found["input"], *found["keys"]]),
            "vector": json_schema(f"{found['view']} vector", found["output"]),
        }})  # fmt: skip
        return
    title = f"{found['view']}@{found['version']} of {', '.join(found['groups'])}"
    sides = (("input", "row"), ("keys", "key"), ("output", "vector"))
    rows = [(shown, c["name"], c["type"]) for side, shown in sides for c in found[side]]
    print_table(title, ("side", "name", "type"), rows)


def json_schema(title: str, columns: list[dict[str, str]]) -> dict[str, Any]:
    """Columns as JSON Schema (2020-12): an object whose properties are in the vector's order."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        "type": "object",
        "properties": {column["name"]: _property(column["type"]) for column in columns},
        "required": [column["name"] for column in columns],
        "additionalProperties": False,
    }


def _property(arrow: str) -> dict[str, Any]:
    """Any value may be null. Times are ISO 8601 text, bytes base64."""
    if arrow.startswith("list<"):
        inner = arrow.split(": ", 1)[1].removesuffix(">")
        return {"type": ["array", "null"], "items": _property(inner)}
    if arrow.startswith(_INTEGERS):
        return {"type": ["integer", "null"]}
    if arrow in ("double", "float"):
        return {"type": ["number", "null"]}
    if arrow == "bool":
        return {"type": ["boolean", "null"]}
    if arrow.startswith("timestamp"):
        return {"type": ["string", "null"], "format": "date-time"}
    known = _FORMATS.get(arrow)
    if known == "binary":
        return {"type": ["string", "null"], "contentEncoding": "base64"}
    return {"type": ["string", "null"], **({"format": known} if known else {})}


def _of_server(url: str, name: str, version: int | None) -> dict[str, Any]:
    from hofflight.client.client import connect

    with connect(url) as client:
        found = client.view(name, version)
    return {
        "view": found.name, "version": found.version, "code_hash": found.code_hash,
        "groups": list(found.groups), "input": _columns(found.input_schema),
        "keys": [{"name": key, "type": kind} for key, kind in found.keys.items()],
        "output": _columns(found.output_schema),
    }  # fmt: skip


def _of_store(
    store: Path | None, url: str | None, name: str, version: int | None
) -> dict[str, Any]:
    """Out of the registry, which has every type, and needs no code."""
    from hofflight.assemble_registry import read_registry
    from hofflight.features.stored import StoredGroup
    from hofflight.features.view import find_view, key_sources
    from hofflight.settings import with_registry

    registry = read_registry(with_registry(None, url), store)
    with closing(registry):
        named = registry.view_named(name, version)
        view = find_view(*named, registry.views(), registry.any_group)
        groups = [registry.any_group(*group) for group in (*view.streaming, *view.stored)]
        stored = [group for group in groups if isinstance(group, StoredGroup)]
        inputs = {
            field.name: field
            for group in groups if not isinstance(group, StoredGroup) for field in group.input
        }  # fmt: skip
        rows = pa.schema(list(inputs.values()))
        return {
            "view": view.name, "version": view.version,
            "groups": [f"{group.name}@{group.version}" for group in groups],
            "code_hashes": {f"{g.name}@{g.version}": _hash(g) for g in groups},
            "on_missing": view.on_missing, "labels": list(view.labels), "input": _columns(rows),
            "keys": _columns(key_sources(view.name, rows, stored)),
            "output": _columns(view.schema(*groups)),
        }  # fmt: skip


def _hash(group: Any) -> str:
    """A record in the registry has it, a stored group makes it."""
    found = group.code_hash
    return str(found() if callable(found) else found)


def _columns(schema: pa.Schema) -> list[dict[str, str]]:
    return [{"name": field.name, "type": str(field.type)} for field in schema]
