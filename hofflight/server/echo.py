"""The diagnostic flight `hof.echo`: what the least Flight server would do, as a floor to measure.

Each batch is parsed, decoded, encoded again and sent back with its metadata; nothing is kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import grpc
import pyarrow as pa

from hofflight import limits
from hofflight.errors import MalformedBatch, SchemaMismatch, TooLarge
from hofflight.server.opening import parse_data, read_schema
from hofflight.server.streams import READING, WRITING
from hofflight.wire.flight_pb2 import FlightData
from hofflight.wire.ipc import encode_batch, encode_schema, join_message
from hofflight.wire.message import read_batch_header
from hofflight.wire.schema import COLUMN_TYPES

if TYPE_CHECKING:
    from hofflight.server.counters import ServerStats
    from hofflight.server.streams import Stream, Streams

# A dot is in no view's name, so this never hides one.
ECHO_PATH: Final = ["hof.echo"]


async def echo(stream: Stream, streams: Streams, stats: ServerStats, first: Any) -> None:
    """Serve one echo stream; whatever is wrong with a batch ends it."""
    schema = await read_schema(stream, first)
    if schema is None:
        return
    if not COLUMN_TYPES.issuperset(schema.types):
        msg = "the echo takes the column types that views take"
        raise SchemaMismatch(msg)
    stream.state = WRITING
    read, write = stream.context.read, stream.context.write
    await write(FlightData(data_header=encode_schema(schema)).SerializeToString())
    checked = b""
    while streams.ending is None:
        stream.state = READING
        raw = await read()
        if raw is grpc.aio.EOF:
            return
        stream.state = WRITING
        data = parse_data(raw)
        head = data.data_header
        if head != checked:
            _require_sizes(head)
            checked = head
        head, body = _there_and_back(head, data.data_body, schema)
        echoed = FlightData(data_header=head, app_metadata=data.app_metadata, data_body=body)
        out = echoed.SerializeToString()
        await write(out)
        stream.written += 1
        stats.bytes_in += len(raw)
        stats.bytes_out += len(out)
    raise streams.ending


def _there_and_back(head: bytes, body: bytes, schema: pa.Schema) -> tuple[bytes, bytes]:
    try:
        batch = pa.ipc.read_record_batch(pa.py_buffer(join_message(head, body)), schema)
        # Encoding a string column trusts its outermost offsets; this checks them in 0.5 us.
        batch.validate()
    except (pa.ArrowException, OSError, ValueError):
        msg = "the record batch does not decode"
        raise MalformedBatch(msg) from None
    return encode_batch(batch)


def _require_sizes(head: bytes) -> None:
    rows = read_batch_header(head).rows
    if not 0 <= rows <= limits.request_rows_max:
        msg = f"a batch has at most {limits.request_rows_max} rows, got {rows}"
        raise TooLarge(msg)
