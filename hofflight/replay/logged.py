"""Entries of a log as Arrow rows: what sealed segments hold, and what every replay begins with.

| column | type | nulls | what |
|---|---|---|---|
| `_seq` | int64 | none | record number << 20 | row: the order of arrival |
| `_arrival` | timestamp[us, UTC] | none | when the engine took the request |
| `_request_id` | fixed_size_binary[16] | none | whose row it is ... |
| `_row` | int32 | none | ... and which of that request's |
| `_view`, `_view_version` | string, int32 | none | what was asked for |
| `_code_hash` | string | none | the code that answered |
| `_answered` | bool | none | false for events taken in without an answer |
| `_late` | bool | none | came too late for any window |
| `_overflow` | list<string> | none | windows whose integer sum left int64 |
| `_joined` | binary | where nothing was looked up | what the row was joined from; only if any was |
| the raw columns | as registered | any | as they were sent |
| `_answer` | struct of the group's full row | where not answered | as it was answered |
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from hofflight import limits
from hofflight.errors import LogCorrupt
from hofflight.eventlog.joins import pack_join
from hofflight.wire.columns import from_python
from hofflight.wire.envelope import ID_BYTES, OK
from hofflight.wire.ipc import BatchReader, RowWriter
from hofflight.wire.schema import TIMESTAMP

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from hofflight.eventlog.protocol import Entry, EntryMeta

ABOUT: Final = pa.schema([
    ("_seq", pa.int64()),
    ("_arrival", TIMESTAMP),
    ("_request_id", pa.binary(ID_BYTES)),
    ("_row", pa.int32()),
    ("_view", pa.string()),
    ("_view_version", pa.int32()),
    ("_code_hash", pa.string()),
    ("_answered", pa.bool_()),
    ("_late", pa.bool_()),
    ("_overflow", pa.list_(pa.string())),
])  # fmt: skip
ANSWER: Final = "_answer"
BESIDE: Final = "_joined"


def logged_schema(raw: pa.Schema, full: pa.Schema | None = None) -> pa.Schema:
    """The columns of logged rows; with `full`, the group's full row, the answers too."""
    fields = [*ABOUT, *raw]
    if full is not None:
        fields.append(pa.field(ANSWER, pa.struct(list(full))))
    return pa.schema(fields)


def selected(rows: pa.RecordBatch, columns: Sequence[str]) -> pa.RecordBatch:
    """Some columns, each once, in this order; `_joined` is null where the rows have none."""
    if BESIDE in columns and BESIDE not in rows.schema.names:
        nulls = pa.nulls(rows.num_rows, pa.binary())
        schema = rows.schema.append(pa.field(BESIDE, pa.binary()))
        rows = pa.RecordBatch.from_arrays([*rows.columns, nulls], schema=schema)
    return rows.select(list(dict.fromkeys(columns)))


def number_of(seq: Any) -> Any:
    """The record that a row came with, of one seq or of a numpy array of them."""
    return seq >> limits.ROW_BITS


class EntryReader:
    """Decodes entries of one group version; `full` None leaves their answers alone."""

    def __init__(self, raw: pa.Schema, full: pa.Schema | None = None) -> None:
        self._schema = logged_schema(raw, full)
        self._raw = _Bodies(raw)
        self._full = _Bodies(full) if full is not None else None

    def rows(self, entries: Sequence[Entry]) -> pa.RecordBatch:
        """The rows of entries that count, in their order; void marks have none.

        Raises: LogCorrupt (HOF-502), an entry does not hold what its log's schema says.
        """
        counted = [entry for entry in entries if entry.meta.code == OK]
        metas = [entry.meta for entry in counted]
        raw = self._raw.read([(e.head, e.body) for e in counted])
        arrays = [*_about(metas), *raw.columns]
        if len(raw) != len(arrays[0]):
            msg = f"records {metas[0].number} to {metas[-1].number}: the rows do not add up"
            raise LogCorrupt(msg)
        if self._full is not None:
            arrays.append(self._answers(counted))
        schema = self._schema
        if any(meta.joined for meta in metas):
            arrays.append(_joined(metas))
            schema = schema.append(pa.field(BESIDE, pa.binary()))
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    def answers(self, entries: Sequence[Entry]) -> pa.RecordBatch:
        """The columns of `ABOUT` and the full rows of entries that all have an answer.

        Raises: LogCorrupt (HOF-502).
        """
        assert self._full is not None
        full = self._full.read([(e.answer_head, e.answer_body) for e in entries])
        about = _about([entry.meta for entry in entries])
        if len(full) != len(about[0]):
            numbers = f"{entries[0].meta.number} to {entries[-1].meta.number}"
            raise LogCorrupt(f"records {numbers}: the answers do not add up")
        return pa.RecordBatch.from_arrays(
            [*about, *full.columns], schema=pa.schema([*ABOUT, *full.schema])
        )

    def _answers(self, entries: Sequence[Entry]) -> pa.Array:
        """One struct a row, null where the request wanted no answer."""
        assert self._full is not None
        found = self._full.read([(e.answer_head, e.answer_body) for e in entries if has_answer(e)])
        place = 0
        places: list[int | None] = []
        for entry in entries:
            rows = entry.meta.rows
            answered = has_answer(entry)
            places += range(place, place + rows) if answered else [None] * rows
            place += rows if answered else 0
        if place != len(found):
            numbers = f"{entries[0].meta.number} to {entries[-1].meta.number}"
            raise LogCorrupt(f"records {numbers}: the answers do not add up")
        structs = pa.StructArray.from_arrays(found.columns, fields=list(found.schema))
        return structs.take(pa.array(places, pa.int64()))


def has_answer(entry: Entry) -> bool:
    """Whether the full rows are there."""
    return entry.meta.answered and bool(entry.answer_head)


def _about(metas: Sequence[EntryMeta]) -> list[pa.Array]:
    """The columns of ABOUT for the rows of these entries."""
    seq: list[int] = []
    rows: list[int] = []
    repeats: list[int] = []
    late: list[bool] = []
    overflow: list[list[str]] = []
    for place, meta in enumerate(metas):
        first = meta.number << limits.ROW_BITS
        seq += range(first, first + meta.rows)
        rows += meta.places or range(meta.rows)
        repeats += [place] * meta.rows
        is_late = set(meta.late)
        late += [row in is_late for row in range(meta.rows)] if is_late else [False] * meta.rows
        overflow += (
            [
                [name for name, flagged in meta.overflow.items() if row in flagged]
                for row in range(meta.rows)
            ]
            if meta.overflow
            else [[]] * meta.rows
        )
    index = pa.array(repeats, pa.int64())

    def per_entry(values: list[Any], column_type: pa.DataType) -> pa.Array:
        return pa.array(values, column_type).take(index)

    return [
        pa.array(seq, pa.int64()),
        per_entry([m.arrival_us for m in metas], pa.int64()).view(TIMESTAMP),
        per_entry([m.id for m in metas], pa.binary(ID_BYTES)),
        pa.array(rows, pa.int32()),
        per_entry([m.view for m in metas], pa.string()),
        per_entry([m.view_version for m in metas], pa.int32()),
        per_entry([m.code_hash for m in metas], pa.string()),
        per_entry([m.answered for m in metas], pa.bool_()),
        pa.array(late, pa.bool_()),
        pa.array(overflow, pa.list_(pa.string())),
    ]


def _joined(metas: Sequence[EntryMeta]) -> pa.Array:
    """What each row was joined from."""
    packed: list[bytes | None] = []
    for meta in metas:
        packed += map(pack_join, meta.joined) if meta.joined else [None] * meta.rows
    return pa.array(packed, pa.binary())


class _Bodies:
    """Many small IPC messages of one schema as one batch; a row of its own costs 3 us, not 100."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self._reader = BatchReader(schema)
        self._is_plain = RowWriter.supports(schema)

    def read(self, messages: Iterable[tuple[bytes, bytes]]) -> pa.RecordBatch:
        """The rows of all messages, in order."""
        batches: list[pa.RecordBatch] = []
        for is_row, parts in groupby(
            map(self._one, messages), lambda found: isinstance(found, list)
        ):
            if is_row:
                columns = zip(*parts, strict=True)
                arrays = [
                    from_python(values, column_type)
                    for values, column_type in zip(columns, self.schema.types, strict=True)
                ]
                batches.append(pa.RecordBatch.from_arrays(arrays, schema=self.schema))
            else:
                batches += parts
        if not batches:
            return pa.RecordBatch.from_pylist([], schema=self.schema)
        return batches[0] if len(batches) == 1 else pa.concat_batches(batches)

    def _one(self, message: tuple[bytes, bytes]) -> list[Any] | pa.RecordBatch:
        """Plain values of one row, or a batch."""
        if self._is_plain:
            read_row = self._reader.layout(*message).read_row
            if read_row is not None:
                return read_row(message[1])
        return self._reader.read_batch(*message)
