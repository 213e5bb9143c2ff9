"""How a view of several groups is answered: what each part is asked, and what becomes of it. Pure.

1. `split`    the request's rows as each streaming group wants them
2. `keys_of`  where the stored rows of each row are, from its columns or from beside it
3. `records`  what was found there, as it will be recorded
4. `joined`   parts and records as one vector, with a status and an age for each stored feature

A request asked again is answered by 4 from what was recorded, so it gets the same answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import msgspec
import pyarrow as pa

from hofflight.errors import BadKeys, OnlineUnavailable, StoredUnreadable
from hofflight.eventlog.joins import UNAVAILABLE, JoinRecord
from hofflight.online.layouts import RowLayouts
from hofflight.online.slots import COMMITS_KEY, newest_row, read_commits
from hofflight.server.join_stored import PRESENT, KeySource, StoredColumns
from hofflight.wire.columns import batch_of_rows, to_python
from hofflight.wire.ipc import BatchReader, RowWriter, encode_batch
from hofflight.wire.keys import given_keys

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hofflight.eventlog.protocol import Served
    from hofflight.online.protocol import Found
    from hofflight.online.slots import Commits

Row: TypeAlias = list[Any]
Values: TypeAlias = Row | pa.RecordBatch
# Of each row, where the store has its row of each stored group; None for a null key.
Keys: TypeAlias = list[list[bytes | None]]
_FOR_EVER: Final = 1 << 63
# What is no answer to a view that must have its stored rows, most telling first.
MISSING: Final = ("UNAVAILABLE", "NOT_FOUND", "STALE")


class Rows(msgspec.Struct, frozen=True):
    """A request's rows: plain values of the only one, or a batch; neither where nobody looks.

    A struct, as `StoredPart` and `Beside`: each request makes one, and it is made in half the time
    of a named tuple.
    """

    size: int
    raw: Row | None
    batch: pa.RecordBatch | None

    def column(self, place: int) -> list[Any]:
        """Plain values of a column."""
        if self.raw is not None:
            return [self.raw[place]]
        assert self.batch is not None
        return to_python(self.batch.column(place))


class StoredPart(msgspec.Struct, frozen=True):
    """The stored columns of a request, group by group, and what to say beside them.

    values: one row's plain values, or columns. missing: the most telling of `MISSING`, or "".
    """

    values: list[Any]
    status: dict[str, Any]
    age_ms: dict[str, Any]
    missing: str


class Joined(NamedTuple):
    """The vector of a request, encoded, and its stored part."""

    head: bytes
    body: bytes
    stored: StoredPart


class JoinPlan:
    """A joined view, compiled once."""

    def __init__(self, served: Served) -> None:
        self.served = served
        rows = served.input_schema
        self._reader = BatchReader(rows) if len(rows) else None
        self.is_whole = len(served.parts) == 1 and served.parts[0].input_schema.equals(rows)
        self._inputs = [_Input(part.input_schema, rows) for part in served.parts]
        self.stored = [StoredColumns(group, served) for group in served.stored]
        # Groups with the same key have it encoded once.
        keys = [group.key_schema for group in served.stored]
        self._sources = [
            KeySource(key, rows) for place, key in enumerate(keys) if keys.index(key) == place
        ]
        order = [key for place, key in enumerate(keys) if keys.index(key) == place]
        self._keyed = [(order.index(s.group.key_schema), s.prefix) for s in self.stored]
        self._takes_keys = len(served.keys) > 0
        self._reads_rows = any(not one.is_whole for one in self._inputs) or any(
            source.is_in_rows for source in self._sources
        )
        produced = [n for part in served.parts for n in part.output_schema.names]
        produced += [name for stored in self.stored for name in stored.names]
        self._order = [produced.index(name) for name in served.output_schema.names]
        plain = RowWriter.supports(served.output_schema)
        self._writer = RowWriter(served.output_schema) if plain else None
        self._layouts = RowLayouts([(stored.packing, stored.places) for stored in self.stored])
        self.stored_names = [name for stored in self.stored for name in stored.names]
        self._aged = [(name, i) for i, stored in enumerate(self.stored) for name in stored.names]
        self._all_present = dict.fromkeys(self.stored_names, PRESENT)
        ttls = [stored.ttl_us for stored in self.stored]
        self._ttls = [_FOR_EVER if t is None else t for t in ttls] if any(ttls) else []
        # The newest page of loads, and what it says of each group; in one step, for other threads.
        self._seen: tuple[bytes | None, list[Commits | None]] = (None, [])

    # --- 1. split ---

    def rows(self, head: bytes, body: bytes) -> Rows | None:
        """A request's rows, read where somebody looks into them; None for a view without any.

        Raises: MalformedBatch (HOF-203), TooLarge (HOF-207).
        """
        if self._reader is None:
            return None
        layout = self._reader.layout(head, body)
        if not self._reads_rows:
            return Rows(layout.rows, None, None)
        if layout.read_row is not None:
            return Rows(1, layout.read_row(body), None)
        return Rows(layout.rows, None, self._reader.read_batch(head, body))

    def split(self, head: bytes, body: bytes, rows: Rows | None) -> list[tuple[bytes, bytes]]:
        """Head and body for each streaming group."""
        return [
            (head, body) if one.is_whole or rows is None else one.encode(rows)
            for one in self._inputs
        ]

    # --- 2. keys ---

    def keys_of(self, rows: Rows | None, given: Mapping[str, Any] | None) -> Keys:
        """Where each row's stored rows are.

        Raises: BadKeys (HOF-216).
        """
        beside: dict[str, list[Any]] = {}
        if given or self._takes_keys:
            beside = given_keys(given, self.served.keys, None if rows is None else rows.size)
        encoded = [source.encode(rows, beside) for source in self._sources]
        size = rows.size if rows is not None else len(encoded[0])
        return [
            [
                None if (key := encoded[source][row]) is None else prefix + key
                for source, prefix in self._keyed
            ]
            for row in range(size)
        ]

    @staticmethod
    def lookup(keys: Keys) -> list[bytes]:
        """What to ask the store for: the committed loads, then each row once."""
        wanted = keys[0] if len(keys) == 1 else dict.fromkeys(key for row in keys for key in row)
        return [COMMITS_KEY, *filter(None, wanted)]

    # --- 3. records ---

    def records(
        self, keys: Keys, asked: Sequence[bytes], found: Found, asked_us: int, numbers: list[int]
    ) -> list[JoinRecord]:
        """What was found for each row, as of the loads that were committed then."""
        loads = self._committed(found)
        if loads is None or isinstance(found, OnlineUnavailable):
            away = [UNAVAILABLE] * len(self.stored)
            nothing: list[bytes | None] = [None] * len(self.stored)
            return [JoinRecord(asked_us, numbers, away, row, nothing) for row in keys]
        if len(keys) == 1 and None not in keys[0]:
            return [_record(keys[0], loads, found[1:], asked_us, numbers)]
        values: dict[bytes | None, bytes | None] = dict(zip(asked, found, strict=True))
        values[None] = None
        return [
            _record(row, loads, [values[key] for key in row], asked_us, numbers) for row in keys
        ]

    def _committed(self, found: Found) -> list[Commits | None] | None:
        """The committed loads of each stored group; None where the store knows of none at all."""
        page = None if isinstance(found, OnlineUnavailable) or not found else found[0]
        if page is None:
            return None
        seen = self._seen
        if page != seen[0]:
            try:
                groups = read_commits(page)
            except StoredUnreadable:
                return None
            seen = (page, [groups.get(stored.group.label) for stored in self.stored])
            self._seen = seen
        return seen[1]

    # --- 4. joined ---

    def joined(self, parts: Sequence[Values], records: Sequence[JoinRecord]) -> Joined:
        """The vector of the parts' values and of what was recorded."""
        schema = self.served.output_schema
        if len(records) == 1 and self._writer is not None:
            values: Row = []
            for part in parts:
                values += part if isinstance(part, list) else _first_row(part)
            found = self.stored_part(records)
            values += found.values
            return Joined(*self._writer.write([values[p] for p in self._order]), found)
        columns: list[pa.Array] = []
        for part, served in zip(parts, self.served.parts, strict=True):
            columns += _batch(part, served.output_schema).columns
        found = self.stored_rows(records)
        columns += found.values
        arrays = [columns[place] for place in self._order]
        return Joined(*encode_batch(pa.RecordBatch.from_arrays(arrays, schema=schema)), found)

    def stored_part(self, records: Sequence[JoinRecord]) -> StoredPart:
        """The stored columns of what was recorded: of one row plain values, of more columns."""
        if len(records) != 1:
            return self.stored_rows(records)
        record = records[0]
        rows = record.rows
        found = self._layouts.read(rows) if None not in rows else None  # type: ignore[arg-type]
        if found is not None:
            times, values = found
            asked_us = record.asked_us
            if not self._ttls or not any(
                asked_us - time_us >= ttl_us
                for time_us, ttl_us in zip(times, self._ttls, strict=True)
            ):
                age_ms = {name: (asked_us - times[i]) // 1_000 for name, i in self._aged}
                return StoredPart(values, self._all_present, age_ms, "")
        return self._row_by_row(record)

    def _row_by_row(self, record: JoinRecord) -> StoredPart:
        """The same, group by group: for rows with nulls, that are too old, or not there."""
        values: Row = []
        age_ms: dict[str, Any] = {}
        status, missing = dict(self._all_present), ""
        for stored, as_of, row in zip(self.stored, record.as_of, record.rows, strict=True):
            found, state, age = stored.one(as_of, row, record.asked_us)
            values += found
            age_ms |= dict.fromkeys(stored.names, age)
            status |= stored.status_of(state, found)
            missing = _worse(missing, state)
        return StoredPart(values, status, age_ms, missing)

    def stored_rows(self, records: Sequence[JoinRecord]) -> StoredPart:
        """The columns of many rows."""
        columns: list[pa.Array] = []
        status: dict[str, Any] = {}
        age_ms: dict[str, Any] = {}
        missing = ""
        for place, stored in enumerate(self.stored):
            as_of = [record.as_of[place] for record in records]
            rows = [record.rows[place] for record in records]
            found = stored.many(as_of, rows, records[0].asked_us)
            columns += found.columns
            status |= found.status
            age_ms |= found.age_ms
            for state in found.states:
                missing = _worse(missing, state)
        return StoredPart(columns, status, age_ms, missing)


class _Input:
    """One streaming group's columns out of the request's."""

    def __init__(self, schema: pa.Schema, rows: pa.Schema) -> None:
        self.is_whole = schema.equals(rows)
        self._schema = schema
        self._places = [rows.names.index(name) for name in schema.names]
        self._writer = RowWriter(schema)

    def encode(self, rows: Rows) -> tuple[bytes, bytes]:
        """Head and body of these columns."""
        if rows.raw is not None:
            return self._writer.write([rows.raw[place] for place in self._places])
        assert rows.batch is not None
        arrays = [rows.batch.column(place) for place in self._places]
        return encode_batch(pa.RecordBatch.from_arrays(arrays, schema=self._schema))


def require_no_keys(given: Mapping[str, Any] | None) -> None:
    """Refuse keys for a view without stored groups.

    Raises: BadKeys (HOF-216).
    """
    if given:
        msg = "keys= asks for stored features, and this view has none"
        raise BadKeys(msg, hint="leave keys= out, or name a view with stored groups")


def _record(
    keys: list[bytes | None],
    loads: Sequence[Commits | None],
    values: list[bytes | None],
    asked_us: int,
    numbers: list[int],
) -> JoinRecord:
    """What was found for one row; `values`: of its keys, None for a null key."""
    as_of: list[int] = []
    rows: list[bytes | None] = []
    for value, commits in zip(values, loads, strict=True):
        known, row = UNAVAILABLE, None
        if commits is not None:
            known = commits.last
            if value is not None:
                try:
                    row = newest_row(value, commits)
                except StoredUnreadable:
                    known = UNAVAILABLE
        as_of.append(known)
        rows.append(row)
    return JoinRecord(asked_us, numbers, as_of, keys, rows)


def _first_row(batch: pa.RecordBatch) -> Row:
    return [to_python(column)[0] for column in batch.columns]


def _batch(values: Values, schema: pa.Schema) -> pa.RecordBatch:
    return batch_of_rows([values], schema) if isinstance(values, list) else values


def _worse(one: str, other: str) -> str:
    """The more telling of two states; "" says that all is there."""
    known = [state for state in MISSING if state in (one, other)]
    return known[0] if known else one
