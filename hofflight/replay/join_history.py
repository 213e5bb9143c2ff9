"""What the answers of a joined view were joined from, as columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hofflight import limits
from hofflight.eventlog.joins import JOINED, JoinRecord, read_joins
from hofflight.online.slots import key_prefix
from hofflight.replay.logged import BESIDE
from hofflight.replay.prepared import SEQ
from hofflight.wire.envelope import ID_BYTES
from hofflight.wire.schema import TIMESTAMP

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hofflight.features.view import View
    from hofflight.replay.read_log import History

T = TypeVar("T")
_ABOUT: Final = ("_request_id", "_row")
_OWN: Final = (SEQ, "_view", "_view_version", BESIDE, *_ABOUT)


@dataclass(frozen=True, slots=True)
class JoinHistory:
    """The join records of a view, one row for each row that was answered.

    Of two logs: the view's own, `history`, and that of its only streaming group, `beside`, whose
    records hold them where the store answered at once.

    | name | type | nulls | what |
    |---|---|---|---|
    | `_request_id`, `_row` | binary[16], int32 | none | whose row it is |
    | `_arrival` | timestamp[us, UTC] | none | when the request came: what a ttl is held against |
    | `_at0`, `_at1`, ... | int64 | none | its seq in the log of each streaming group |
    | `_as_of0`, ... | int64 | none | newest committed load of each stored group, -1: unavailable |
    | `_key0`, ... | binary | null key | the key that was looked up |
    | `_packed0`, ... | binary | not found | the row that was found, as it was stored |
    """

    history: History
    view: View
    beside: History | None = None

    def schema(self) -> pa.Schema:
        """The columns."""
        streaming, stored = range(len(self.view.streaming)), range(len(self.view.stored))
        return pa.schema([
            ("_request_id", pa.binary(ID_BYTES)), ("_row", pa.int32()), ("_arrival", TIMESTAMP),
            *((f"_at{i}", pa.int64()) for i in streaming),
            *((f"_as_of{i}", pa.int64()) for i in stored),
            *((f"_key{i}", pa.binary()) for i in stored),
            *((f"_packed{i}", pa.binary()) for i in stored),
        ])  # fmt: skip

    def batches(self, progress: Callable[[int], None] = lambda _: None) -> Iterator[pa.RecordBatch]:
        """All there are, in no order; `progress` is told how many more.

        Raises: SealDamaged (HOF-506), LogCorrupt (HOF-502), MalformedBatch (HOF-203).
        """
        for part in self.history.parts(about=_ABOUT):
            rows = part.rows
            records = read_joins(rows.column(JOINED))
            row = rows.column("_row").to_numpy().astype(np.int64)
            at = [
                pa.array((np.array(number, np.int64) << limits.ROW_BITS) | row)
                for number in _across([record.numbers for record in records])
            ]
            progress(rows.num_rows)
            if records:
                yield self._batch(rows, records, at)
        if self.beside is not None:
            yield from self._batches_beside(self.beside)

    def _batches_beside(self, history: History) -> Iterator[pa.RecordBatch]:
        for part in history.parts(about=_OWN):
            rows = part.rows
            of_view = pc.and_(
                pc.equal(rows.column("_view"), self.view.name),
                pc.equal(rows.column("_view_version"), self.view.version),
            )
            rows = rows.filter(pc.and_(of_view, rows.column(BESIDE).is_valid()))
            if rows.num_rows:
                records = read_joins(rows.column(BESIDE))
                yield self._batch(rows, records, [rows.column(SEQ)])

    def _batch(
        self, rows: pa.RecordBatch, records: list[JoinRecord], at: list[pa.Array]
    ) -> pa.RecordBatch:
        asked = pa.array([record.asked_us for record in records], pa.int64()).view(TIMESTAMP)
        places = _across([record.keys for record in records])
        # As Python cuts them: pyarrow 26 fails on a slice of binary with nulls.
        starts = [len(key_prefix(f"{name}.{version}")) for name, version in self.view.stored]
        keys = [
            pa.array([key and key[start:] for key in each], pa.binary())
            for each, start in zip(places, starts, strict=True)
        ]
        as_of = _across([record.as_of for record in records])
        packed = _across([record.rows for record in records])
        columns = [
            *(rows.column(name) for name in _ABOUT),
            asked,
            *at,
            *(pa.array(each, pa.int64()) for each in as_of),
            *keys,
            *(pa.array(each, pa.binary()) for each in packed),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=self.schema())


def _across(rows: list[list[T]]) -> Iterator[tuple[T, ...]]:
    """Rows of equal length as columns."""
    return zip(*rows, strict=True)
