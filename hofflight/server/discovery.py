"""What a server tells about its views: flight information, schemas, the `describe` document."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import msgspec
import orjson

from hofflight import limits
from hofflight.errors import BadRequest, UnknownView
from hofflight.wire.flight_pb2 import FlightDescriptor, FlightInfo, SchemaResult
from hofflight.wire.ipc import encode_schema, join_message

if TYPE_CHECKING:
    import pyarrow as pa

    from hofflight.eventlog.protocol import Served


class DescribeBody(msgspec.Struct, forbid_unknown_fields=True):
    """The optional JSON body of the `describe` action."""

    view: str | None = None


def schema_message(schema: pa.Schema) -> bytes:
    """The encapsulated IPC message, as Flight wants schemas."""
    return join_message(encode_schema(schema), b"")


def schema_result(served: Served) -> Any:
    """The output schema of a view."""
    return SchemaResult(schema=schema_message(served.output_schema))


def flight_info(served: Served, views: list[Served]) -> Any:
    """The output schema of a view, and the rest of what a client needs as JSON beside it."""
    document = {
        "view": served.view,
        "version": served.version,
        "group": served.group,
        "group_version": served.group_version,
        "code_hash": served.code_hash,
        "input_schema": base64.b64encode(schema_message(served.input_schema)).decode(),
        "keys": _columns(served.keys),
        "groups": _groups(served),
        "limits": {"rows": limits.request_rows_max, "bytes": limits.message_bytes_max},
        "versions": sorted(other.version for other in views if other.view == served.view),
        **_partitioning(served),
    }
    return FlightInfo(
        schema=schema_message(served.output_schema),
        flight_descriptor=FlightDescriptor(
            type=FlightDescriptor.PATH, path=[served.view, str(served.version)]
        ),
        total_records=-1,
        total_bytes=-1,
        app_metadata=orjson.dumps(document),
    )


def describe(body: bytes, views: list[Served]) -> bytes:
    """All views, or all versions of the one that the body names, with columns and types.

    Raises:
        BadRequest: HOF-200, the body is not the JSON it should be.
        UnknownView: HOF-201.
    """
    try:
        wanted = msgspec.json.decode(body or b"{}", type=DescribeBody).view
    except (msgspec.DecodeError, RecursionError):
        msg = "the body of describe is not the JSON it should be"
        raise BadRequest(msg, hint='nothing, or {"view": "name"}') from None
    chosen = [served for served in views if wanted in (None, served.view)]
    if wanted is not None and not chosen:
        msg = f"view {wanted[:100]!r} is not served here"
        raise UnknownView(msg)
    return orjson.dumps({"views": [_described(served) for served in chosen]})


def _described(served: Served) -> dict[str, Any]:
    return {
        "view": served.view,
        "version": served.version,
        "group": served.group,
        "group_version": served.group_version,
        "code_hash": served.code_hash,
        "labels": list(served.labels),
        "groups": _groups(served),
        "on_missing": served.on_missing,
        "keys": _columns(served.keys),
        "input": _columns(served.input_schema),
        "output": _columns(served.output_schema),
        **_partitioning(served),
    }


def _columns(schema: pa.Schema) -> list[dict[str, str]]:
    return [{"name": field.name, "type": str(field.type)} for field in schema]


def _partitioning(served: Served) -> dict[str, Any]:
    """How rows are spread; nothing where they are not, or by several keys at once."""
    if not served.partitions or served.is_joined:
        return {}
    return {"partition_key": list(served.partition_key), "partitions": served.partitions}


def _groups(served: Served) -> list[str]:
    """Every group version behind a view, stored ones last."""
    parts = served.parts or ((served,) if served.group else ())
    streaming = [f"{part.group}@{part.group_version}" for part in parts]
    return streaming + [f"{group.name}@{group.version}" for group in served.stored]
