"""One group version at work: its plan, its window state, and how its rows become bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from hofflight.errors import BadRequest, TransformFailed
from hofflight.transform.plan import GroupPlan
from hofflight.wire.columns import from_python, to_python, values_at
from hofflight.wire.ipc import BatchReader, RowWriter, empty_message, encode_batch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager

    from hofflight.eventlog.protocol import Entry, Served
    from hofflight.features.group import FeatureGroup
    from hofflight.transform.window_state import Key

Row = list[Any]
Opaque = dict[str, pa.Array]


class Decoded(NamedTuple):
    """A request's rows: plain values where one row is enough, a batch where Arrow is needed."""

    rows: int
    raw: Row | None
    batch: pa.RecordBatch | None


class Computed(NamedTuple):
    """The full rows of a request, encoded; late rows and overflowed windows by row index.

    `row` or `batch` holds the values for views that select or reorder columns.
    """

    head: bytes
    body: bytes
    row: Row | None
    batch: pa.RecordBatch | None
    late: list[int]
    overflow: dict[str, list[int]]


class Projection:
    """A view's columns out of the group's full row, and of what was looked up beside it."""

    def __init__(self, full: pa.Schema, served: Served) -> None:
        start = f"{served.group}."
        names = served.output_schema.names
        self.columns = [n.removeprefix(start) for n in names if n.startswith(start)]
        # Beside the full row: the stored columns, group by group.
        beside = [n for g in served.stored for n in names if n.startswith(f"{g.name}.")]
        places = [*(f"{start}{name}" for name in full.names), *beside]
        self.indices = [places.index(name) for name in names]
        self._chosen = values_at(self.indices)
        self.is_whole = self.columns == full.names and not beside
        self.schema = served.output_schema
        self.empty = empty_message(self.schema)
        self._writer = RowWriter(self.schema) if RowWriter.supports(self.schema) else None

    def encode(self, full: Computed, beside: Row | None = None) -> tuple[bytes, bytes]:
        """Head and body of the view's columns."""
        if self.is_whole:
            return full.head, full.body
        if full.row is not None and self._writer is not None:
            row = full.row if beside is None else full.row + beside
            return self._writer.write(self._chosen(row))
        assert full.batch is not None
        return self.encode_batch(full.batch, beside)

    def encode_batch(
        self, full: pa.RecordBatch, beside: list[Any] | None = None
    ) -> tuple[bytes, bytes]:
        """Head and body of the view's columns of a batch of full rows."""
        return encode_batch(self.batch(full, beside))

    def values(self, full: Computed) -> Row | pa.RecordBatch:
        """The view's columns for whoever joins them with others."""
        if full.row is not None:
            return [full.row[index] for index in self.indices]
        assert full.batch is not None
        return self.batch(full.batch)

    def batch(self, full: pa.RecordBatch, beside: list[Any] | None = None) -> pa.RecordBatch:
        """The view's columns of a batch of full rows."""
        columns = [*full.columns, *(beside or ())]
        arrays = [
            column if isinstance(column, pa.Array) else from_python([column], field.type)
            for column, field in zip((columns[i] for i in self.indices), self.schema, strict=True)
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)


class Runner:
    """Folds events into one group version's state and encodes its answers. Not thread-safe."""

    def __init__(self, group: FeatureGroup, calling: AbstractContextManager[object]) -> None:
        self.group = group
        self.plan = GroupPlan(group, calling)
        self.state = self.plan.new_state()
        self.has_function = bool(group.opaque_output)
        self.code_hash = group.code_hash()
        self.reader = BatchReader(group.input)
        self.full_reader = BatchReader(self.plan.schema)
        self.projections: dict[tuple[str, int, bool], Projection] = {}
        self.folded = 0
        # Keys restored from a snapshot: entries up to that number are in them already.
        self.key_folded: dict[Key, int] = {}
        self._writer = RowWriter(self.plan.schema) if RowWriter.supports(self.plan.schema) else None

    def projection(self, served: Served) -> Projection:
        """The (cached) projection of a view."""
        name = (served.view, served.version, served.is_part)
        found = self.projections.get(name)
        if found is None:
            found = self.projections[name] = Projection(self.plan.schema, served)
        return found

    def decode(self, head: bytes, body: bytes, raw: Row | None = None) -> Decoded:
        """Check and decode a request's bytes; `raw`: what somebody has read out of them already.

        Raises: MalformedBatch (HOF-203), TooLarge (HOF-207).
        """
        if raw is None or self._writer is None:
            layout = self.reader.layout(head, body)
            if layout.read_row is None or self._writer is None:
                return Decoded(layout.rows, None, self.reader.read_batch(head, body))
            raw = layout.read_row(body)
        # The group's own function takes Arrow, even of one row.
        batch = self.reader.read_batch(head, body) if self.has_function else None
        return Decoded(1, raw, batch)

    def check(self, decoded: Decoded, arrival_us: int) -> None:
        """Refuse rows without key or event time, before anything is computed.

        Raises: NullKey (HOF-205), BadEventTime (HOF-206).
        """
        group, keys = self.group, self.plan.keys
        needed = (*group.key, group.event_time)
        if decoded.raw is not None:
            row = dict(zip(group.input.names, decoded.raw, strict=True))
            columns = {name: [row[name]] for name in needed}
        else:
            assert decoded.batch is not None
            columns = {name: to_python(decoded.batch.column(name)) for name in needed}
        keys.of_columns(columns, keys.newest_us(arrival_us))

    def call_functions(
        self, decoded: Sequence[Decoded], arrival_us: int
    ) -> list[Opaque | TransformFailed]:
        """The group's function over many requests at once; one by one if it fails on all of them.

        So a request that makes the function raise fails alone.
        """
        batches = [d.batch for d in decoded]
        try:
            joined = self.plan.opaque_columns(_concat(batches), arrival_us)
        except TransformFailed as error:
            if len(batches) == 1:
                return [error]
            return [found for d in decoded for found in self.call_functions([d], arrival_us)]
        if len(batches) == 1:
            return [joined]
        outcomes: list[Opaque | TransformFailed] = []
        start = 0
        for one in decoded:
            outcomes.append({name: c.slice(start, one.rows) for name, c in joined.items()})
            start += one.rows
        return outcomes

    def compute(
        self, decoded: Decoded, arrival_us: int, opaque: Mapping[str, pa.Array], *, peek: bool
    ) -> Computed:
        """Push a request's rows and encode its full rows. `commit` or `undo` must follow.

        Raises: BadRequest (HOF-205, 206, 209, 210).
        """
        if decoded.raw is not None:
            assert self._writer is not None
            mark = self.state.mark()
            one = self.plan.run_row(self.state, decoded.raw, arrival_us, opaque)
            if peek:
                self.state.undo(mark)
            head, body = self._writer.write(one.row)
            overflow = {name: [0] for name in one.overflow} if one.overflow else {}
            return Computed(head, body, one.row, None, [0] if one.late else [], overflow)
        assert decoded.batch is not None
        many = self.plan.run_batch(self.state, decoded.batch, arrival_us, opaque=opaque, peek=peek)
        head, body = encode_batch(many.batch)
        late = [row for row, is_late in enumerate(many.late) if is_late]
        flags = {n: [r for r, f in enumerate(rows) if f] for n, rows in many.overflow.items()}
        return Computed(head, body, None, many.batch, late, flags)

    def fold(self, entry: Entry) -> None:
        """Take an entry of the log into the state, without an answer.

        What this version's own functions refuse is left out of this version alone.
        """
        number, arrival_us = entry.meta.number, entry.meta.arrival_us
        self.folded = number
        try:
            decoded = self.decode(entry.head, entry.body)
            if decoded.raw is not None and decoded.batch is None:
                if not self.key_folded or self._is_new(decoded.raw, number):
                    self.plan.fold_row(self.state, decoded.raw, arrival_us)
            else:
                batch = decoded.batch
                assert batch is not None
                if self.key_folded:
                    batch = self._not_folded(batch, number)
                if batch.num_rows:
                    self.plan.fold_batch(self.state, batch, arrival_us)
            self.state.commit()
        except BadRequest:
            self.state.undo()

    def _is_new(self, raw: Row, number: int) -> bool:
        return self.key_folded.get(self.plan.key_of(raw), 0) < number

    def _not_folded(self, batch: pa.RecordBatch, number: int) -> pa.RecordBatch:
        """The rows of keys that the snapshot took before this entry."""
        columns = [to_python(batch.column(name)) for name in self.group.key]
        keys = columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))
        keep = [self.key_folded.get(key, 0) < number for key in keys]
        return batch if all(keep) else batch.filter(pa.array(keep, pa.bool_()))


def _concat(batches: Sequence[pa.RecordBatch | None]) -> pa.RecordBatch:
    if len(batches) == 1:
        return batches[0]
    return pa.concat_batches(batches)
