"""Stored features meet their rows in SQL: as they were known, or as of the event. No future.

As of `arrival`: the newest row, by event time, among the loads that were committed when the row
arrived; which those were stands in its join record, and for a row that was never asked under the
view it follows from when the loads were committed. As of `event`: the newest row whose event time
is not after the row's own, of all loads. A ttl is held against the arrival, or the event time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pyarrow as pa

from hofflight.wire.keys import KEY_BYTES_MAX, KeyCodec, bounded

if TYPE_CHECKING:
    from collections.abc import Iterator

    import duckdb

    from hofflight.features.view import View
    from hofflight.replay.join_history import JoinHistory
    from hofflight.replay.prepared import AsOf
    from hofflight.replay.stored_history import StoredHistory
    from hofflight.replay.windowed import Database

KEY: Final = "_key"
TIME: Final = "_time"
LOAD: Final = "_load"


class StoredRelation:
    """A stored group's history in DuckDB: `_key`, `_time`, `_load`, then the columns asked for."""

    def __init__(self, history: StoredHistory, place: int, columns: tuple[str, ...]) -> None:
        self.group = history.group
        self.history = history
        self.place = place
        self.columns = columns
        self.codec = KeyCodec(self.group.key_schema)
        self.known = f"known{place}"
        self.loads = f"loads{place}"

    def schema(self) -> pa.Schema:
        """Its columns; a column that the view takes is named as the vector names it."""
        types = [(self.named(c), self.group.schema.field(c).type) for c in self.columns]
        return pa.schema([(KEY, pa.binary()), (TIME, pa.int64()), (LOAD, pa.int64()), *types])

    def named(self, column: str) -> str:
        """A column's name in a vector."""
        return f"{self.group.name}.{column}"

    def create(self, db: Database, con: duckdb.DuckDBPyConnection) -> None:
        """Make the tables: every row that was loaded, and when each load was committed.

        Raises: SealDamaged (HOF-506).
        """
        manifest = self.history.manifest()
        db.feed(con, f"file{self.place}", self.schema(), self._rows())
        con.execute(f"CREATE TEMP TABLE {self.known} AS SELECT * FROM file{self.place}")
        loads = pa.table(
            {
                "load": pa.array([load.load for load in manifest.loads], pa.int64()),
                "committed": pa.array([load.committed_us for load in manifest.loads], pa.int64()),
                "visible": pa.array([load.visible_us for load in manifest.loads], pa.int64()),
            }
        )
        con.register(f"list{self.place}", loads)
        con.execute(f"CREATE TEMP TABLE {self.loads} AS SELECT * FROM list{self.place}")

    def row_key(self) -> str:
        """The key that a row's own columns give; null where a part is."""
        names = [f"v._row_key{self.place}_{part}" for part in range(len(self.group.key))]
        key = " || ".join(names)
        size = " + ".join(f"octet_length({name})" for name in names)
        return f"CASE WHEN {size} <= {KEY_BYTES_MAX} THEN {key} ELSE bounded_key({key}) END"

    def known_since(self, moment: str) -> str:
        """`since` and `load`: the newest load of all that were committed, or visible, by then.

        Loads may share a microsecond, and the clock may be set back between two of them.
        """
        return (
            f"SELECT {moment} AS since, max(max(load)) OVER (ORDER BY {moment}) AS load "
            f"FROM {self.loads} WHERE {moment} > 0 GROUP BY {moment}"
        )

    def winners(self) -> str:
        """Rows that were the newest of their key once their load was committed, and until when.

        By load: the newest of each key; then those that no earlier load has a newer one than.
        """
        of_load = f"row_number() OVER (PARTITION BY {KEY}, {LOAD} ORDER BY {TIME} DESC) = 1"
        before = (
            f"max({TIME}) OVER (PARTITION BY {KEY} ORDER BY {LOAD} "
            "ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)"
        )
        newest = f"SELECT * FROM {self.known} QUALIFY {of_load}"
        return (
            f"SELECT * EXCLUDE (_before) FROM (SELECT *, {before} AS _before FROM ({newest})) "
            f"WHERE _before IS NULL OR {TIME} >= _before"
        )

    def corrected(self) -> str:
        """The last word on each key and event time: that of the newest load."""
        last = f"row_number() OVER (PARTITION BY {KEY}, {TIME} ORDER BY {LOAD} DESC) = 1"
        return f"SELECT * FROM {self.known} QUALIFY {last}"

    def _rows(self) -> Iterator[pa.RecordBatch]:
        for load in self.history.manifest().loads:
            for batch in self.history.batches(load):
                key = self.codec.encode_columns([batch.column(n) for n in self.group.key])
                times = batch.column(self.group.event_time).cast(pa.int64())
                number = pa.repeat(pa.scalar(load.load, pa.int64()), batch.num_rows)
                values = [batch.column(name) for name in self.columns]
                columns = [key, times, number, *values]
                yield pa.RecordBatch.from_arrays(columns, schema=self.schema())


@dataclass(frozen=True, slots=True)
class StoredJoin:
    """The stored part of a view's training rows."""

    view: View
    relations: tuple[StoredRelation, ...]
    joins: JoinHistory

    def sql(self, db: Database, con: duckdb.DuckDBPyConnection, source: str, as_of: AsOf) -> str:
        """A query that adds the stored columns to the rows of `source`.

        Those have `_seq`, `_ts`, `_arrival` and, for each stored group, `_row_key0_0`, ...: the
        parts of the key that their own columns give, or null.
        """
        for relation in self.relations:
            relation.create(db, con)
        db.feed(con, "join_records", self.joins.schema(), self.joins.batches())
        con.execute("CREATE TEMP TABLE joins AS SELECT * FROM join_records")
        con.create_function("bounded_key", bounded, ["BLOB"], "BLOB")
        keys = ", ".join(
            f"coalesce(j._key{r.place}, {r.row_key()}) AS _stored_key{r.place}, j._as_of{r.place}"
            for r in self.relations
        )
        query = (
            f"SELECT v.*, {keys}, coalesce(j._arrival, v._arrival) AS _asked "
            f"FROM {source} v LEFT JOIN joins j ON v._seq = j._at0"
        )
        for relation in self.relations:
            add = self._as_served if as_of == "arrival" else self._as_of_event
            query = add(relation, query)
        return query

    def _as_served(self, relation: StoredRelation, rows: str) -> str:
        place, newest = relation.place, f"n{relation.place}"
        known = (
            f"SELECT q.*, CASE WHEN q._as_of{place} IS NULL THEN coalesce(l.load, 0) "
            f"ELSE q._as_of{place} END AS _known{place} FROM ({rows}) q "
            f"ASOF LEFT JOIN ({relation.known_since('committed')}) l ON q._asked >= l.since"
        )
        return (
            f"SELECT q.*, {_values(relation, newest, 'q._asked')} FROM ({known}) q "
            f"ASOF LEFT JOIN ({relation.winners()}) {newest} "
            f"ON q._stored_key{place} = {newest}.{KEY} AND q._known{place} >= {newest}.{LOAD}"
        )

    def _as_of_event(self, relation: StoredRelation, rows: str) -> str:
        place, newest = relation.place, f"n{relation.place}"
        return (
            f"SELECT q.*, {_values(relation, newest, 'q._ts')} FROM ({rows}) q "
            f"ASOF LEFT JOIN ({relation.corrected()}) {newest} "
            f"ON q._stored_key{place} = {newest}.{KEY} AND q._ts >= {newest}.{TIME}"
        )


def _values(relation: StoredRelation, newest: str, moment: str) -> str:
    """The view's columns of a joined row; null where it was too old at a moment."""
    names = [relation.named(column) for column in relation.columns]
    ttl_us = relation.group.ttl_us
    if ttl_us is None:
        return ", ".join(f'{newest}."{name}"' for name in names)
    good = f"{moment} - {newest}.{TIME} < {ttl_us}"
    return ", ".join(f'CASE WHEN {good} THEN {newest}."{name}" END AS "{name}"' for name in names)
