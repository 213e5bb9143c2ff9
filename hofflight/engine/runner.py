"""One group version at work: its plan, its window state, and how its rows become bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from hofflight.errors import BadRequest, TransformFailed
from hofflight.transform.columns import to_python
from hofflight.transform.plan import GroupPlan
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
    """A view's columns out of the group's full row."""

    def __init__(self, full: pa.Schema, served: Served) -> None:
        names = [name.split(".", 1)[1] for name in served.output_schema.names]
        self.indices = [full.names.index(name) for name in names]
        self.columns = names
        self.is_whole = names == full.names
        self.schema = served.output_schema
        self.empty = empty_message(self.schema)
        plain = RowWriter.supports(self.schema)
        self._writer = RowWriter(self.schema) if plain else None

    def encode(self, full: Computed) -> tuple[bytes, bytes]:
        """Head and body of the view's columns."""
        if self.is_whole:
            return full.head, full.body
        if full.row is not None and self._writer is not None:
            row = full.row
            return self._writer.write([row[index] for index in self.indices])
        assert full.batch is not None
        return self.encode_batch(full.batch)

    def encode_batch(self, full: pa.RecordBatch) -> tuple[bytes, bytes]:
        """Head and body of the view's columns of a batch of full rows."""
        arrays = [full.column(index) for index in self.indices]
        return encode_batch(pa.RecordBatch.from_arrays(arrays, schema=self.schema))


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
        self.projections: dict[tuple[str, int], Projection] = {}
        self.folded = 0
        # Keys restored from a snapshot: entries up to that number are in them already.
        self.key_folded: dict[Key, int] = {}
        self._writer = RowWriter(self.plan.schema) if RowWriter.supports(self.plan.schema) else None

    def projection(self, served: Served) -> Projection:
        """The (cached) projection of a view."""
        found = self.projections.get((served.view, served.version))
        if found is None:
            found = Projection(self.plan.schema, served)
            self.projections[served.view, served.version] = found
        return found

    def decode(self, head: bytes, body: bytes) -> Decoded:
        """Check and decode a request's bytes.

        Raises: MalformedBatch (HOF-203), TooLarge (HOF-207).
        """
        layout = self.reader.layout(head, body)
        if layout.read_row is None or self._writer is None:
            return Decoded(layout.rows, None, self.reader.read_batch(head, body))
        raw = layout.read_row(body)
        # The group's own function takes Arrow, even of one row.
        batch = self.reader.read_batch(head, body) if self.has_function else None
        return Decoded(1, raw, batch)

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
