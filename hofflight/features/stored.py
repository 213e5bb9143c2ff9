"""Stored feature groups: rows that a job computed elsewhere, looked up by key at each request."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from hofflight import limits
from hofflight.errors import WrongType
from hofflight.features.group import (
    KEY_TYPES,
    checked_schema,
    require_event_time,
    require_key,
    require_name,
    require_version,
)
from hofflight.features.window import duration_text, duration_us

# A float has two zeros and many NaN: what looks equal need not be found.
STORED_KEY_TYPES = KEY_TYPES - {pa.float64()}


@dataclass(frozen=True, eq=False)
class StoredGroup:
    """A checked declaration: which columns a stored row has, and how long it is good for.

    Build one with `hof.stored_group`. The order of `schema` is the contract of `group.*`.
    """

    name: str
    version: int
    key: tuple[str, ...]
    event_time: str
    schema: pa.Schema
    ttl_us: int | None

    @property
    def label(self) -> str:
        """`customer.2`: its name wherever a group version is one word."""
        return f"{self.name}.{self.version}"

    @property
    def key_schema(self) -> pa.Schema:
        """The columns that a row is found by."""
        return pa.schema([self.schema.field(name) for name in self.key])

    @property
    def packed_schema(self) -> pa.Schema:
        """The columns that the online store packs: the event time stamps the row as a whole."""
        return pa.schema([field for field in self.schema if field.name != self.event_time])

    def definition(self) -> dict[str, Any]:
        """The declaration as plain JSON values, for the registry and for readable diffs."""
        return {
            "name": self.name,
            "version": self.version,
            "key": list(self.key),
            "event_time": self.event_time,
            "schema": {f.name: str(f.type) for f in self.schema},
            "ttl_us": self.ttl_us,
        }

    def code_hash(self) -> str:
        """SHA-256 of the definition, 16 hex digits: it has no other code."""
        return hashlib.sha256(json.dumps(self.definition()).encode()).hexdigest()[:16]

    def __str__(self) -> str:
        ttl = "" if self.ttl_us is None else f", ttl {duration_text(self.ttl_us)}"
        return f"{self.name}@{self.version}, key {', '.join(self.key)}{ttl}"


def stored_group(
    name: str,
    *,
    version: int,
    key: str | Sequence[str],
    event_time: str,
    schema: Mapping[str, pa.DataType],
    ttl: str | None = None,
) -> StoredGroup:
    """Declare rows that are loaded with `app.materialize` and served by key.

    ```python
    customer = hof.stored_group(
        "customer",
        version=1,
        key="customer",
        event_time="updated",
        schema={"customer": pa.int64(), "updated": hof.TIMESTAMP, "age": pa.int32()},
        ttl="90d",
    )
    ```

    Args:
        name: `[a-z][a-z0-9_]{0,62}`, of no other group.
        version: 1 or more; a changed definition needs a new one.
        key: what a row is looked up by: a column, or several. No floats.
        event_time: since when a row holds, a column of type `hof.TIMESTAMP`; the newest is served.
        schema: every column of a row, the key and the event time among them.
        ttl: a row older than this when a request arrives is STALE and its values are null.

    Raises:
        DefinitionError: HOF-1xx, naming the field and the fix.
    """
    require_name(name, "group name")
    require_version(name, version)
    columns = checked_schema(name, schema, "schema")
    keys = tuple(key) if isinstance(key, list | tuple) else (key,)
    require_key(name, keys, columns)
    require_event_time(name, keys, event_time, columns)
    for column in keys:
        if columns.field(column).type not in STORED_KEY_TYPES:
            msg = f"group {name!r}: a stored row is not found by a float, {column!r} is one"
            raise WrongType(msg, hint="make it an integer or text")
    if len(columns) > limits.columns_max:
        msg = f"group {name!r} has more than {limits.columns_max} columns"
        raise WrongType(msg)
    ttl_us = None if ttl is None else duration_us(ttl, "ttl=")
    return StoredGroup(name, version, keys, event_time, columns, ttl_us)
