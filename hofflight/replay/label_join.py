"""Labels meet their rows: by request id or by key and time, the newest load of each column."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from hofflight.replay.duckdb_engine import one_row
from hofflight.replay.labels import REQUEST, is_by_request, label_types
from hofflight.replay.plain_columns import plain_batch, plain_type
from hofflight.replay.prepared import TS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import duckdb

    from hofflight.features.group import FeatureGroup

_BY_REQUEST: Final = "by_request"
_BY_KEY: Final = "by_key"


class LabelJoin:
    """Checked loads of labels, oldest first, and which of them found a row."""

    def __init__(
        self, group: FeatureGroup, names: Sequence[str], loads: Sequence[pa.Table]
    ) -> None:
        self._group = group
        self.types: Mapping[str, pa.DataType] = label_types(loads, names)
        self._loads: dict[str, list[pa.Table]] = {_BY_REQUEST: [], _BY_KEY: []}
        for number, load in enumerate(loads):
            kind = _BY_REQUEST if is_by_request(load) else _BY_KEY
            self._loads[kind].append(self._flagged(load, number))
        self._found: dict[str, np.ndarray[Any, Any]] = {}

    @property
    def by_request(self) -> bool:
        """Whether any labels find their row by request id."""
        return bool(self._loads[_BY_REQUEST])

    @property
    def unmatched(self) -> int:
        """Labels whose row was not in the table, once every batch was counted."""
        return sum(int(np.count_nonzero(~found)) for found in self._found.values())

    def sql(self, con: duckdb.DuckDBPyConnection, source: str, columns: Sequence[str]) -> str:
        """A query that adds the labels to the rows of `source`.

        And `_by_request`, `_by_key`: the number of the label that was found, for `count`.
        """
        places = {_BY_REQUEST: ["_request_id", "_row"], _BY_KEY: [*self._keys(), TS]}
        joins = []
        for kind, loads in self._loads.items():
            if not loads:
                continue
            found = self._newest(con, kind, places[kind], loads)
            self._found[kind] = np.zeros(found, bool)
            on = " AND ".join(f"v.{name} = {kind}.{name}" for name in places[kind])
            joins.append(f"LEFT JOIN {kind} ON {on}")
        kinds = [kind for kind in self._loads if kind in self._found]
        chosen = {name: _newer(name, kinds) for name in self.types}
        selected = [f'v."{name}"' for name in columns]
        selected += [f'{value} AS "{name}"' for name, value in chosen.items()]
        selected += [f"{kind}._place AS _{kind}" for kind in kinds]
        return f"SELECT {', '.join(selected)} FROM {source} v {' '.join(joins)}"

    def count(self, batch: pa.RecordBatch) -> int:
        """Note which labels a joined batch has found; how many of its rows have none."""
        labelled = np.zeros(batch.num_rows, bool)
        for kind, found in self._found.items():
            places = batch.column(f"_{kind}")
            labelled |= places.is_valid().to_numpy(zero_copy_only=False)
            found[places.drop_null().to_numpy()] = True
        return int(np.count_nonzero(~labelled))

    def _keys(self) -> list[str]:
        return [f"_k{place}" for place in range(len(self._group.key))]

    def _flagged(self, load: pa.Table, number: int) -> pa.Table:
        """A load with its number, every label column, and whether it brought that column."""
        if is_by_request(load):
            renamed = {REQUEST[0]: "_request_id", REQUEST[1]: "_row"}
        else:
            renamed = dict(zip(self._group.key, self._keys(), strict=True))
            renamed[self._group.event_time] = TS
        plain = pa.Table.from_batches(list(map(plain_batch, load.to_batches())) or [
            plain_batch(pa.RecordBatch.from_pylist([], schema=load.schema))
        ])  # fmt: skip
        columns = {new: plain[old] for old, new in renamed.items()}
        columns["_load"] = pa.repeat(pa.scalar(number, pa.int64()), load.num_rows)
        for name, column_type in self.types.items():
            has = name in load.column_names
            columns[f"_has_{name}"] = pa.repeat(pa.scalar(has), load.num_rows)
            values = plain[name] if has else pa.nulls(load.num_rows, plain_type(column_type))
            columns[name] = values
        return pa.table(columns)

    def _newest(
        self, con: duckdb.DuckDBPyConnection, kind: str, keys: list[str], loads: list[pa.Table]
    ) -> int:
        """Make the table of the newest labels of each row; how many rows it has."""
        con.register(f"loads_{kind}", pa.concat_tables(loads, promote_options="permissive"))
        newest = []
        for name in self.types:
            has = f'FILTER (WHERE "_has_{name}")'
            newest.append(f'arg_max_null("{name}", _load) {has} AS "{name}"')
            newest.append(f'max(_load) {has} AS "_load_{name}"')
        listed = ", ".join(keys)
        con.execute(
            f"CREATE TEMP TABLE {kind} AS SELECT *, row_number() OVER () - 1 AS _place FROM "
            f"(SELECT {listed}, {', '.join(newest)} FROM loads_{kind} GROUP BY {listed})"
        )
        (rows,) = one_row(con, f"SELECT count(*) FROM {kind}")
        return int(rows)


def _newer(name: str, kinds: Sequence[str]) -> str:
    """The label of the newest load, whichever way it found the row."""
    if not kinds:
        return "NULL"
    if len(kinds) == 1:
        return f'{kinds[0]}."{name}"'
    one, other = kinds
    loads = [f'coalesce({kind}."_load_{name}", -1)' for kind in (one, other)]
    return f'CASE WHEN {loads[0]} >= {loads[1]} THEN {one}."{name}" ELSE {other}."{name}" END'
