"""Join records: what was looked up for each row of a view's answers.

Where the store answers at once and one streaming group does, they stand in that group's log, in the
entry of the very rows. Else they come when everything else has, and go into a log of the view's
own, `fraud@1` for version 1 of view `fraud`: an entry for a request, a row of it for a row. That is
an event log like any other, so it is synced, sealed, trimmed and read like one.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pyarrow as pa

from hofflight.errors import MalformedBatch
from hofflight.wire.ipc import BatchReader, RowWriter, encode_batch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hofflight.eventlog.protocol import Request

JOINED: Final = "joined"
JOIN_SCHEMA: Final = pa.schema([(JOINED, pa.binary())])
# In place of a load's number: the store did not answer, or not with a row that can be read.
UNAVAILABLE: Final = -1


class JoinRecord(msgspec.Struct, array_like=True, frozen=True):
    """What one row was joined from; lists are in the view's order of groups.

    asked_us: when the request came, which ttl and age are held against. numbers: its record in
    each streaming group's log; none where it stands in that very record. as_of: the newest
    committed load of each stored group when it was looked up, or UNAVAILABLE. keys: where the store
    has the row, null for a null key. rows: what was found, as it was stored.
    """

    asked_us: int
    numbers: list[int]
    as_of: list[int]
    keys: list[bytes | None]
    rows: list[bytes | None]


class Beside(msgspec.Struct, frozen=True):
    """What was looked up for a request before its group answers, as the group's answer takes it.

    values: of the view's stored columns, group by group: one row's plain values, or columns.
    recall: the same out of what was recorded for a request of this id. It is given the request:
    held, they would hold each other, and every request be left to the garbage collector.
    """

    values: list[Any]
    status: dict[str, Any]
    age_ms: dict[str, Any]
    records: list[JoinRecord]
    recall: Callable[[Request, list[JoinRecord]], Beside]


def join_stream(view: str, version: int) -> str:
    """The name of a view's log; no group's log has one like it."""
    return f"{view}@{version}"


def is_join_stream(name: str) -> bool:
    """Whether a log holds join records."""
    return "@" in name


pack_join: Final = msgspec.msgpack.Encoder().encode
_decoder: Final = msgspec.msgpack.Decoder(JoinRecord)
_rows_decoder: Final = msgspec.msgpack.Decoder(list[JoinRecord])


@cache
def _writer() -> RowWriter:
    """Made when the first record is: its template takes pyarrow half a second (pandas)."""
    return RowWriter(JOIN_SCHEMA)


def encode_joins(records: Sequence[JoinRecord]) -> tuple[bytes, bytes]:
    """Head and body of a request's records."""
    packed = [pack_join(record) for record in records]
    if len(packed) == 1:
        return _writer().write(packed)
    return encode_batch(pa.RecordBatch.from_arrays([pa.array(packed, pa.binary())], [JOINED]))


def decode_joins(head: bytes, body: bytes) -> list[JoinRecord]:
    """The records of an entry.

    Raises: MalformedBatch (HOF-203), it holds something else.
    """
    return read_joins(BatchReader(JOIN_SCHEMA).read_batch(head, body).column(0))


def read_joins(column: pa.Array) -> list[JoinRecord]:
    """The records of a column of a log.

    Raises: MalformedBatch (HOF-203), it holds something else.
    """
    try:
        return list(map(_decoder.decode, column.to_pylist()))
    except (msgspec.DecodeError, TypeError) as error:
        raise MalformedBatch(f"a join record does not decode: {error}") from None


def unpack_rows(packed: bytes, groups: int) -> list[JoinRecord]:
    """The records of a request's rows, as `pack_join` has a list of them; each of so many groups.

    Raises: MalformedBatch (HOF-203), it holds something else.
    """
    try:
        records = _rows_decoder.decode(packed)
    except (msgspec.DecodeError, RecursionError) as error:
        raise MalformedBatch(f"join records do not decode: {error}") from None
    for record in records:
        if {len(record.as_of), len(record.keys), len(record.rows)} != {groups}:
            raise MalformedBatch(f"a join record is not of {groups} groups")
    return records
