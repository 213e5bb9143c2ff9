"""The history of a log that is kept in partitions: each in a store of its own, as workers have it.

A key's rows are all in one partition, so windows never reach from one into another. What is not
unique over partitions is `_seq`: the partition's number goes into its highest bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pyarrow as pa
import pyarrow.compute as pc

from hofflight import limits
from hofflight.errors import StoreFormat
from hofflight.replay.logged import ABOUT
from hofflight.replay.read_log import Counts, Extent, History, Part
from hofflight.wire.parity import Difference, Explanation

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from hofflight.replay.read_log import Void

_SEQ: Final = "_seq"
_SEQ_BITS: Final = 63


@dataclass(frozen=True, slots=True)
class PartitionDifference(Difference):
    """A difference, and the partition whose worker served the row."""

    partition: int

    def __str__(self) -> str:
        return f"partition {self.partition}, {Difference.__str__(self)}"


def located(found: Difference, history: History, seq: int) -> Difference:
    """A difference of the row at `seq`, with its partition where there are any."""
    partition, _ = history.place_of(seq)
    if partition is None:
        return found
    return PartitionDifference(
        found.feature, found.request_id, found.row, found.served, found.replayed, found.distance,
        partition,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class PartitionExplanation(Explanation):
    """An explanation of a row, and the partition that its `seq` and those of its events are of."""

    partition: int


class PartitionedHistory(History):
    """Every counted row of all partitions, by their numbers."""

    def __init__(self, partitions: Mapping[int, History]) -> None:
        self._partitions = dict(sorted(partitions.items()))
        first = next(iter(self._partitions.values()))
        super().__init__(first.live, first.sealed, first.raw, {})
        self._shift = _SEQ_BITS - max(self._partitions).bit_length()

    @property
    def partitions(self) -> list[int]:
        return list(self._partitions)

    def place_of(self, seq: int) -> tuple[int | None, int]:
        return seq >> self._shift, seq & ((1 << self._shift) - 1)

    def extent(self) -> Extent:
        """`last` is the highest of all, `rows` are together."""
        extents = [history.extent() for history in self._partitions.values()]
        last = max(extent.last for extent in extents)
        if last >> (self._shift - limits.ROW_BITS):
            msg = f"a partition of {self.sealed.name} has {last} records: too many to tell apart"
            raise StoreFormat(msg, hint="name one: --store DIR/0")
        return Extent(last, sum(extent.rows for extent in extents))

    def counts(self) -> Counts:
        """All together."""
        last, *sums = zip(*(h.counts() for h in self._partitions.values()), strict=True)
        return Counts(max(last), *map(sum, sums))

    def parts(
        self,
        after: int = 0,
        last: int | None = None,
        *,
        about: Sequence[str] = ABOUT.names,
        answers: int | None = None,
    ) -> Iterator[Part]:
        """Rows of all records, partition by partition."""
        if after or last is not None:
            raise self._by_number()
        self.extent()
        for number, history in self._partitions.items():
            for version, rows in history.parts(about=about, answers=answers):
                yield Part(version, self._numbered(rows, number))

    def ranges(self, records: int = 65_536) -> Iterator[tuple[int, int]]:
        """Records are numbered in each partition alone."""
        raise self._by_number()

    def voids(self, after: int, last: int) -> Iterator[Void]:
        """Records are numbered in each partition alone."""
        raise self._by_number()

    def _numbered(self, rows: pa.RecordBatch, partition: int) -> pa.RecordBatch:
        if _SEQ not in rows.schema.names:
            return rows
        place = rows.schema.get_field_index(_SEQ)
        marked = pc.bit_wise_or(rows.column(place), pa.scalar(partition << self._shift, pa.int64()))
        return rows.set_column(place, rows.schema.field(place), marked)

    def _by_number(self) -> StoreFormat:
        msg = f"records of {self.sealed.name} are numbered in each of its partitions alone"
        return StoreFormat(msg, hint="name one: --store DIR/0")
