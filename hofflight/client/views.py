"""What a server says about a view, before any row is sent."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from hofflight.client.key_hash import KeyHasher
from hofflight.errors import BadMetadata
from hofflight.wire.schema import FLOATS

if TYPE_CHECKING:
    from pyarrow import flight


@dataclass(frozen=True, slots=True)
class ViewInfo:
    """A view that can be asked for: which rows go in, which vector comes out.

    group: the first streaming one, "" without any; groups: all of them, as `name@version`.
    keys: what a request gives beside its rows, column to type; the keys of stored groups that no
    row has. limits: the server's bounds on one request, by name (rows, bytes).
    versions: all versions of the view that are served, ascending.
    partition_key, partitions: the input columns by whose hash the server spreads rows, and over how
    many partitions; 0: it does not care. hasher: hashes them, where it does.
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
    partition_key: tuple[str, ...] = ()
    partitions: int = 0
    hasher: KeyHasher | None = field(default=None, repr=False, compare=False)


def view_info(info: flight.FlightInfo) -> ViewInfo:
    """Read a FlightInfo.

    Raises:
        BadMetadata: HOF-204, the other side is no hofflight server.
    """
    try:
        said = json.loads(info.app_metadata)
        message = base64.b64decode(said["input_schema"], validate=True)
        schema = pa.ipc.read_schema(pa.py_buffer(message))
        partition_key, partitions = tuple(said.get("partition_key", ())), said.get("partitions", 0)
        return ViewInfo(
            name=said["view"],
            version=said["version"],
            group=said["group"],
            group_version=said["group_version"],
            code_hash=said["code_hash"],
            input_schema=schema,
            output_schema=info.schema,
            limits=said.get("limits", {}),
            versions=tuple(said.get("versions", ())),
            groups=tuple(said.get("groups", ())),
            keys={key["name"]: key["type"] for key in said.get("keys", ())},
            partition_key=partition_key,
            partitions=partitions,
            hasher=_hasher(schema, partition_key, partitions),
        )
    except (KeyError, TypeError, ValueError, OSError, pa.ArrowException) as error:
        raise BadMetadata(f"the server's description of a view does not decode: {error}") from error


def _hasher(schema: pa.Schema, partition_key: tuple[str, ...], partitions: int) -> KeyHasher | None:
    """Raises: TypeError, ValueError: these are no columns of the schema, or no partitions."""
    if not 0 <= partitions < 1 << 31:
        raise ValueError(f"{partitions} partitions")
    types = [schema.types[schema.names.index(name)] for name in partition_key]
    # A float has no canonical bytes: its rows are the server's to place.
    if not partitions or not types or any(column_type in FLOATS for column_type in types):
        return None
    return KeyHasher(schema, partition_key, partitions)
