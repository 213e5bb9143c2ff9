"""Windows of whole keys by range queries: every window is a range of sorted rows, whatever it asks.

Bit for bit what the engine answers, at a small part of the cost, with the memory of a chunk.

1. late rows are found in order of arrival and left out
2. the others are sorted by (key, ts, seq), which they usually are
3. a frame is a range of positions up to the row that asks (`frames`); an aggregate answers ranges
   (`range_queries`, `exact_sums`)
4. *odd* rows see something else than the rows before them: an earlier time that came later, or, as
   of the event, later rows of their own microsecond. Each is answered in a block of its own, a copy
   of what it sees, by the very same code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hofflight.replay.frames import Blocks, late_rows
from hofflight.replay.prepared import SEQ, TS, answer_schema
from hofflight.replay.range_queries import expanded, slices
from hofflight.replay.series import ChunkColumns, Ranges

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hofflight.replay.prepared import AsOf, Question
    from hofflight.replay.range_queries import Ints, Mask

COPIED_ROWS_MAX: Final = 1 << 18


class Kernel:
    """Answers chunks of prepared rows. Holds nothing from one chunk to the next."""

    def __init__(self, question: Question, as_of: AsOf = "arrival") -> None:
        self._question = question
        self._as_of = as_of
        self._schema = answer_schema(question)
        frames = [window.frame for window in question.windows]
        bounded = not any(f.kind in ("last", "session", "lifetime") for f in frames)
        self._reach_us = (
            max((f.size_us + f.tile_us for f in frames), default=0) if bounded else None
        )

    def answer(self, chunk: pa.RecordBatch) -> pa.RecordBatch:
        """The windows of prepared rows: all rows of their keys, sorted by (key, seq).

        Rows: one out per row in, same order. Columns: `answer_schema`.
        """
        starts = key_starts(chunk, self._question.keys)
        blocks = np.repeat(np.arange(len(starts)), np.diff(starts, append=chunk.num_rows))
        ts = chunk.column(TS).to_numpy()
        late = late_rows(blocks, ts, self._question.late_us)
        rows, odd = self._sorted(blocks, ts, np.flatnonzero(~late))
        columns = ChunkColumns(chunk, self._question)
        plain = np.flatnonzero(~odd)
        parts = [Ranges(columns, rows).answers(plain)]
        answered = [rows.places[plain]]
        for copies in self._private(rows, np.flatnonzero(odd)):
            last = np.flatnonzero(np.diff(copies.blocks, append=-1))
            parts.append(Ranges(columns, copies).answers(last))
            answered.append(copies.places[copies.own])
        return self._assembled(chunk, late, parts, np.concatenate(answered))

    def _sorted(self, blocks: Ints, ts: Ints, kept: Ints) -> tuple[Blocks, Mask]:
        """The rows that are not late by (key, ts, seq), and which of them are odd."""
        rows = Blocks(blocks[kept], ts[kept], kept)
        numbers = rows.timeline.numbers
        moved = bool(len(numbers)) and bool((np.diff(numbers) < 0).any())
        if moved:
            order = kept[np.argsort(numbers, kind="stable")]
            rows = Blocks(blocks[order], ts[order], order)
        if self._as_of == "event":
            odd = np.zeros(len(rows), bool)
            odd[:-1] = ~rows.is_first[1:] & (np.diff(rows.ts) == 0)
            return rows, odd
        if not moved:
            return rows, np.zeros(len(rows), bool)
        # Places ascend with the keys, so one running maximum serves all of them.
        return rows, np.maximum.accumulate(rows.places) > rows.places

    def _private(self, rows: Blocks, odd: Ints) -> Iterator[Blocks]:
        """For each odd row a block of its own: what it sees, in order."""
        if not len(odd):
            return
        if self._reach_us is None:
            low = rows.starts[odd]
        else:
            low = rows.timeline.at_or_after(odd, rows.ts[odd] - self._reach_us)
        high = odd + 1
        if self._as_of == "event":  # up to the end of the microsecond
            high = rows.timeline.at_or_after(odd, rows.ts[odd] + 1)
        for start, end in slices(high - low, COPIED_ROWS_MAX):
            asking = odd[start:end]
            owner, position = expanded(low[start:end], (high - low)[start:end])
            if self._as_of == "arrival":
                seen = rows.places[position] <= rows.places[asking][owner]
                owner, position = owner[seen], position[seen]
            own = position == asking[owner]
            yield Blocks(owner, rows.ts[position], rows.places[position], own)

    def _assembled(
        self, chunk: pa.RecordBatch, late: Mask, parts: list[dict[str, pa.Array]], answered: Ints
    ) -> pa.RecordBatch:
        """Answers in the order of the chunk; those of late rows are null."""
        rows = chunk.num_rows
        as_it_is = len(parts) == 1 and len(answered) == rows and (np.diff(answered) > 0).all()
        places = np.zeros(rows, np.int64)
        places[answered] = np.arange(len(answered))
        index = pa.array(places, mask=late)
        columns = {SEQ: chunk.column(SEQ), "_late": pa.array(late)}
        for field in self._schema:
            if field.name in columns:
                continue
            found = [part[field.name] for part in parts]
            values = found[0] if len(found) == 1 else pa.concat_arrays(found)
            if not as_it_is:
                values = values.take(index)
                if field.name.startswith("_overflow_"):
                    values = pc.fill_null(values, False)
            columns[field.name] = values
        arrays = [columns[name] for name in self._schema.names]
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)


def key_starts(batch: pa.RecordBatch, keys: tuple[str, ...]) -> Ints:
    """Where each key begins, in rows sorted by key."""
    rows = batch.num_rows
    if not rows:
        return np.zeros(0, np.int64)
    changed = np.zeros(rows, bool)
    changed[0] = True
    for name in keys:
        column = batch.column(name)
        differs = pc.not_equal(column.slice(1), column.slice(0, rows - 1))
        changed[1:] |= differs.to_numpy(zero_copy_only=False)
    return np.flatnonzero(changed)
