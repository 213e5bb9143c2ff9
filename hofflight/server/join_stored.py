"""One stored group's columns of a view: where its keys come from, its values, statuses, ages. Pure.

| status | means | value |
|---|---|---|
| PRESENT | the row is there | as loaded |
| NULL | the row is there, this value of it is null | null |
| NOT_FOUND | no committed load brought a row of this key, or the key is null | null |
| STALE | the row is older than the group's ttl | null |
| UNAVAILABLE | the store did not answer, lost its loads, or holds what cannot be read | null |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import pyarrow as pa

from hofflight.errors import StoredUnreadable
from hofflight.eventlog.joins import UNAVAILABLE
from hofflight.online.packed import Packing
from hofflight.online.slots import key_prefix
from hofflight.wire.columns import from_python, values_at
from hofflight.wire.envelope import agreed
from hofflight.wire.keys import KeyCodec
from hofflight.wire.schema import TIMESTAMP

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hofflight.eventlog.protocol import Served
    from hofflight.features.stored import StoredGroup
    from hofflight.server.join_plan import Rows

PRESENT: Final = "PRESENT"


class KeySource:
    """Where a stored group's key comes from: columns of the rows, or what is given beside them."""

    def __init__(self, schema: pa.Schema, rows: pa.Schema) -> None:
        self._codec = KeyCodec(schema)
        places = [rows.names.index(n) if n in rows.names else None for n in schema.names]
        self._parts: list[tuple[str, Any]] = list(zip(schema.names, places, strict=True))
        in_rows = [place for place in places if place is not None]
        self._of_row = values_at(in_rows) if len(in_rows) == len(places) else None
        self.is_in_rows = any(place is not None for place in places)

    def encode(self, rows: Rows | None, given: Mapping[str, list[Any]]) -> list[bytes | None]:
        """The key of each row; None where a part is null."""
        if rows is not None and rows.raw is not None and self._of_row is not None:
            return [self._codec.encode(self._of_row(rows.raw))]
        columns = []
        for name, place in self._parts:
            if place is None:
                columns.append(given[name])
            else:
                assert rows is not None
                columns.append(rows.column(place))
        return self._codec.encode_rows(columns)


class FoundRows(NamedTuple):
    """The view's columns of many rows; statuses and ages are one value where all rows agree."""

    columns: list[pa.Array]
    states: set[str]
    status: dict[str, Any]
    age_ms: dict[str, Any]


class StoredColumns:
    """A stored group as a view takes it.

    names: its columns as the vector names them. places: where a packed row has them; the event
    time comes behind its last column.
    """

    def __init__(self, group: StoredGroup, served: Served) -> None:
        self.group = group
        self.prefix = key_prefix(group.label)
        packed = group.packed_schema
        self.packing = Packing(packed)
        self.ttl_us = group.ttl_us
        start = f"{group.name}."
        self.names = [name for name in served.output_schema.names if name.startswith(start)]
        columns = [name.removeprefix(start) for name in self.names]
        # The event time is no packed value: it stands behind them, out of the row's stamp.
        places = [*packed.names, group.event_time]
        self.places = [places.index(name) for name in columns]
        self._types = [group.schema.field(name).type for name in columns]
        self._nothing = [None] * len(self.names)

    def one(
        self, as_of: int, row: bytes | None, arrival_us: int
    ) -> tuple[list[Any], str, int | None]:
        """What one row is answered: values, the row's own status, its age in milliseconds."""
        if row is None:
            return self._nothing, "UNAVAILABLE" if as_of == UNAVAILABLE else "NOT_FOUND", None
        try:
            time_us, _, values = self.packing.unpack(row)
        except StoredUnreadable:
            return self._nothing, "UNAVAILABLE", None
        age_us = arrival_us - time_us
        if self.ttl_us is not None and age_us >= self.ttl_us:
            return self._nothing, "STALE", age_us // 1_000
        values.append(time_us)
        return [values[place] for place in self.places], PRESENT, age_us // 1_000

    def status_of(self, state: str, values: list[Any]) -> dict[str, str]:
        """The status of each feature of a row."""
        if state != PRESENT:
            return dict.fromkeys(self.names, state)
        return {
            name: "NULL" if value is None else PRESENT
            for name, value in zip(self.names, values, strict=True)
        }

    def many(
        self, as_of: Sequence[int], rows: Sequence[bytes | None], arrival_us: int
    ) -> FoundRows:
        """What many rows are answered; a row that several ask for is read once."""
        unique = list(dict.fromkeys(row for row in rows if row is not None))
        try:
            stored = self.packing.unpack_many(pa.array(unique, pa.binary()))
        except StoredUnreadable:  # one of them: which, they say one by one
            return self._one_by_one(as_of, rows, arrival_us)
        place_of = {row: place for place, row in enumerate(unique)}
        has = np.array([row is not None for row in rows])
        at = np.array([0 if row is None else place_of[row] for row in rows])
        away = np.array(as_of) == UNAVAILABLE
        states = np.where(has, PRESENT, np.where(away, "UNAVAILABLE", "NOT_FOUND"))
        ages_us = np.zeros(len(rows), np.int64)
        if unique:
            ages_us = (arrival_us - stored.times_us.to_numpy())[at]
        if self.ttl_us is not None:
            states = np.where(has & (ages_us >= self.ttl_us), "STALE", states)
        is_there = states == PRESENT
        take = pa.array(at, mask=~is_there)
        found = [*stored.columns, stored.times_us.view(TIMESTAMP)]
        columns, status = [], {}
        for name, place, column_type in zip(self.names, self.places, self._types, strict=True):
            column = found[place].take(take).cast(column_type)
            columns.append(column)
            nulls = column.is_null().to_numpy(zero_copy_only=False)
            status[name] = agreed(np.where(is_there & nulls, "NULL", states).tolist())
        ages_ms = zip((ages_us // 1_000).tolist(), has.tolist(), strict=True)
        ages = agreed([age if known else None for age, known in ages_ms])
        return FoundRows(columns, set(states.tolist()), status, dict.fromkeys(self.names, ages))

    def _one_by_one(
        self, as_of: Sequence[int], rows: Sequence[bytes | None], arrival_us: int
    ) -> FoundRows:
        found = [self.one(*each, arrival_us) for each in zip(as_of, rows, strict=True)]
        values = zip(*(one[0] for one in found), strict=True)
        columns = [from_python(v, t) for v, t in zip(values, self._types, strict=True)]
        each = [self.status_of(state, row) for row, state, _ in found]
        status = {name: agreed([one[name] for one in each]) for name in self.names}
        ages = agreed([age for _, _, age in found])
        states = {state for _, state, _ in found}
        return FoundRows(columns, states, status, dict.fromkeys(self.names, ages))
