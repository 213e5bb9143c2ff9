"""How a stream begins: the descriptor that names a view, then the schema of its batches."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import grpc
import pyarrow as pa
from google.protobuf.message import DecodeError

from hofflight import limits
from hofflight.errors import BadRequest, MalformedBatch, NotSupported, SchemaMismatch, UnknownView
from hofflight.server.streams import READING, WORKING
from hofflight.wire.flight_pb2 import FlightData, FlightDescriptor
from hofflight.wire.ipc import join_message
from hofflight.wire.message import SCHEMA, message_kind, require_little_endian

if TYPE_CHECKING:
    from hofflight.server.streams import Stream

_VERSION: Final = re.compile(r"[1-9][0-9]{0,8}")
_HINT: Final = 'a descriptor is a PATH: ["view"] or ["view", "version"]'
_NAME_SHOWN_MAX: Final = 100


def view_of(descriptor: Any) -> tuple[str, int | None]:
    """The view and version (None: the newest) that a descriptor names.

    Raises:
        NotSupported: HOF-213, a command.
        UnknownView: HOF-201, a version that no view can have.
        BadRequest: HOF-200.
    """
    if descriptor.type == FlightDescriptor.CMD:
        msg = "descriptors of type CMD are not served"
        raise NotSupported(msg, hint=_HINT)
    path = list(descriptor.path)
    if descriptor.type != FlightDescriptor.PATH or len(path) not in (1, 2):
        msg = f"the descriptor's path has {len(path)} parts, expected 1 or 2"
        raise BadRequest(msg, hint=_HINT)
    view = path[0]
    if len(view) > _NAME_SHOWN_MAX:
        msg = f"view {view[:_NAME_SHOWN_MAX]!r}... is not served here"
        raise UnknownView(msg)
    if len(path) == 1:
        return view, None
    if not _VERSION.fullmatch(path[1]):
        msg = f"version {path[1][:_NAME_SHOWN_MAX]!r} is not a positive whole number"
        raise UnknownView(msg, hint=_HINT)
    return view, int(path[1])


def parse_data(raw: bytes) -> Any:
    """The FlightData of a message.

    Raises:
        MalformedBatch: HOF-203.
    """
    try:
        return FlightData.FromString(raw)
    except DecodeError:
        msg = "the message is not a FlightData"
        raise MalformedBatch(msg) from None


async def read_descriptor(stream: Stream) -> Any:
    """The first message; a client may put the descriptor alone into it, or the schema too.

    Raises:
        BadRequest: HOF-200, no descriptor in it.
    """
    data = await _read(stream)
    if data is None or not data.HasField("flight_descriptor"):
        msg = "the first message has no descriptor"
        raise BadRequest(msg, hint=_HINT)
    return data


async def read_schema(stream: Stream, first: Any) -> pa.Schema | None:
    """The schema, from the first message or the one after it; None when the client stops there.

    Raises:
        MalformedBatch: HOF-203, something else than a schema came.
        SchemaMismatch: HOF-202, more columns than any view has.
    """
    data = first if first.data_header else await _read(stream)
    if data is None:
        return None
    head = data.data_header
    if not head or message_kind(head) != SCHEMA:
        msg = "a batch or metadata came before the schema"
        raise MalformedBatch(msg, hint="send the schema first, then record batches")
    require_little_endian(head)
    try:
        schema = pa.ipc.read_schema(pa.py_buffer(join_message(head, b"")))
    except (pa.ArrowException, OSError, ValueError):
        msg = "the schema message does not decode"
        raise MalformedBatch(msg) from None
    if len(schema) > limits.columns_max:
        msg = f"{len(schema)} columns came, at most {limits.columns_max}"
        raise SchemaMismatch(msg)
    return schema


async def _read(stream: Stream) -> Any:
    stream.state = READING
    raw = await stream.context.read()
    stream.state = WORKING
    return None if raw is grpc.aio.EOF else parse_data(raw)
