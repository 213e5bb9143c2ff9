"""What a server says about a view, before any row is sent."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from hofflight.errors import BadMetadata

if TYPE_CHECKING:
    from pyarrow import flight


@dataclass(frozen=True, slots=True)
class ViewInfo:
    """A view that can be asked for: which rows go in, which vector comes out.

    group: the first streaming one, "" without any; groups: all of them, as `name@version`.
    keys: what a request gives beside its rows, column to type; the keys of stored groups that no
    row has. limits: the server's bounds on one request, by name (rows, bytes).
    versions: all versions of the view that are served, ascending.
    """

    name: str
    version: int
    group: str
    group_version: int
    code_hash: str
    input_schema: pa.Schema
    output_schema: pa.Schema
    limits: dict[str, Any] = field(default_factory=dict)
    versions: tuple[int, ...] = ()
    groups: tuple[str, ...] = ()
    keys: dict[str, str] = field(default_factory=dict)


def view_info(info: flight.FlightInfo) -> ViewInfo:
    """Read a FlightInfo.

    Raises:
        BadMetadata: HOF-204, the other side is no hofflight server.
    """
    try:
        said = json.loads(info.app_metadata)
        message = base64.b64decode(said["input_schema"], validate=True)
        return ViewInfo(
            name=said["view"],
            version=said["version"],
            group=said["group"],
            group_version=said["group_version"],
            code_hash=said["code_hash"],
            input_schema=pa.ipc.read_schema(pa.py_buffer(message)),
            output_schema=info.schema,
            limits=said.get("limits", {}),
            versions=tuple(said.get("versions", ())),
            groups=tuple(said.get("groups", ())),
            keys={key["name"]: key["type"] for key in said.get("keys", ())},
        )
    except (KeyError, TypeError, ValueError, OSError, pa.ArrowException) as error:
        raise BadMetadata(f"the server's description of a view does not decode: {error}") from error
