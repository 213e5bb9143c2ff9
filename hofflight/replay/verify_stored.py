"""Stored features, served against history: the row that was found is the one that had to be.

For each row that was answered: the loads that its lookup knew are all that lookups could see then,
and of their rows the one found is the newest of its key by event time, and every value of it is
what was loaded; and its record leads to the same row in the log of each streaming group. What was
recorded are the bytes of the store; they are read by columns here and by rows where they were
served.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hofflight.online.packed import Packing
from hofflight.replay.equality import same
from hofflight.replay.logged import ABOUT
from hofflight.replay.partitioned import located
from hofflight.replay.plain_columns import plain_array
from hofflight.replay.prepared import SEQ
from hofflight.replay.stored_join import KEY, LOAD, TIME
from hofflight.replay.windowed import CHUNK_ROWS, database
from hofflight.wire.columns import first_value
from hofflight.wire.parity import WORST_MAX, Difference, Parity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from hofflight.replay.equality import Mask
    from hofflight.replay.join_history import JoinHistory
    from hofflight.replay.read_log import History
    from hofflight.replay.stored_join import StoredRelation
    from hofflight.settings import ReplaySettings

# A lookup sees a load some time after the wall clock says so, and clocks are set: one second.
_SLACK_US: Final = 1_000_000
_SAMPLE_PARTS: Final = 1 << 20
_ROW_ID: Final = pa.schema([(n, ABOUT.field(n).type) for n in (SEQ, "_request_id", "_row")])


@dataclass(frozen=True, slots=True)
class StoredVerification:
    """The stored part of a view's answers, to be compared; arguments as for `Verification`.

    streams: the logs of the view's streaming groups.
    """

    joins: JoinHistory
    streams: tuple[History, ...]
    relations: tuple[StoredRelation, ...]
    settings: ReplaySettings
    since_us: int | None = None
    sample: float = 1.0
    request_id: bytes | None = None

    def run(self, parity: Parity, progress: Callable[[int], None] = lambda _: None) -> None:
        """Compare, and add what was found to `parity`."""
        for relation, batch in self._batches(progress):
            name = relation.group.name
            parity.parts[name] = parity.parts.get(name, 0) + batch.num_rows
            away = pc.less(batch.column("_as_of"), 0).to_numpy(zero_copy_only=False)
            parity.unavailable += int(np.count_nonzero(away))
            compared = _Compared(relation, batch.filter(pa.array(~away)), self.streams)
            wrong = np.zeros(compared.rows, bool)
            for feature, equal in compared.equal().items():
                if equal.all():
                    continue
                wrong |= ~equal
                count = int(np.count_nonzero(~equal))
                parity.by_feature[feature] = parity.by_feature.get(feature, 0) + count
                found = compared.differences(feature, np.flatnonzero(~equal))
                parity.worst = sorted((*parity.worst, *found), key=lambda d: -d.distance)
                parity.worst = parity.worst[:WORST_MAX]
            parity.mismatches += int(np.count_nonzero(wrong))

    def explain(self) -> dict[int, dict[str, dict[str, Any]]]:
        """For each row of `request_id`, every stored feature: served, replayed, equal."""
        found: dict[int, dict[str, dict[str, Any]]] = {}
        for relation, batch in self._batches(lambda _: None):
            compared = _Compared(relation, batch, self.streams)
            for feature, equal in compared.equal().items():
                for place in range(compared.rows):
                    row = first_value(batch.column("_row").slice(place, 1))
                    served, replayed = compared.both(feature, place)
                    both = {"served": served, "replayed": replayed, "equal": bool(equal[place])}
                    found.setdefault(row, {})[feature] = both
        return found

    def _batches(
        self, progress: Callable[[int], None]
    ) -> Iterator[tuple[StoredRelation, pa.RecordBatch]]:
        """Per stored group, each answered row beside the row of history that it had to find."""
        with database(self.settings) as db:
            db.feed(db.con, "join_records", self.joins.schema(), self.joins.batches(progress))
            db.con.execute("CREATE TABLE joins AS SELECT * FROM join_records")
            names = _ROW_ID.names
            for place, history in enumerate(self.streams):
                rows = (part.rows.select(names) for part in history.parts(about=names))
                db.feed(db.con, "row_ids", _ROW_ID, rows)
                db.con.execute(f"CREATE TABLE rows{place} AS SELECT * FROM row_ids")
            for relation in self.relations:
                cursor = db.con.cursor()
                relation.create(db, cursor)
                found = cursor.sql(self._query(relation))
                for batch in found.to_arrow_reader(CHUNK_ROWS):
                    yield relation, batch
                cursor.close()

    def _query(self, relation: StoredRelation) -> str:
        place = relation.place
        chosen = ["true"]
        if self.since_us is not None:
            chosen.append(f"_arrival >= {self.since_us}")
        if self.sample < 1.0:
            limit = max(1, round(self.sample * _SAMPLE_PARTS))
            chosen.append(f"hash('key', _key{place}) % {_SAMPLE_PARTS} < {limit}")
        if self.request_id is not None:
            chosen.append(f"_request_id = unhex('{self.request_id.hex()}')")
        own = [
            f"EXISTS (FROM rows{i} r WHERE r._seq = _at{i} AND r._request_id = joins._request_id "
            "AND r._row = joins._row)"
            for i in range(len(self.streams))
        ]
        at = "_at0" if own else "NULL::BIGINT"
        asked = (
            f"SELECT _request_id, _row, _arrival, _as_of{place} AS _as_of, "
            f"_key{place} AS _asked_key, _packed{place} AS _packed, "
            f"{at} AS _at, {' AND '.join(own) or 'true'} AS _is_own "
            f"FROM joins WHERE {' AND '.join(chosen)}"
        )
        # The newest load that was there for all to see when the request came.
        seen = (
            f"SELECT a.*, coalesce(l.load, 0) AS _visible FROM ({asked}) a ASOF LEFT JOIN "
            f"({relation.known_since('visible')}) l ON a._arrival - {_SLACK_US} >= l.since"
        )
        values = ", ".join(f'w."{relation.named(column)}"' for column in relation.columns)
        listed = f"a._as_of IN (SELECT load FROM {relation.loads})"
        return (
            f"SELECT a.*, {listed} AS _is_listed, w.{TIME} AS _time, w.{LOAD} AS _load, {values} "
            f"FROM ({seen}) a ASOF LEFT JOIN ({relation.winners()}) w "
            f"ON a._asked_key = w.{KEY} AND a._as_of >= w.{LOAD}"
        )


class _Compared:
    """One batch: what was served, out of the recorded bytes, beside what history says."""

    def __init__(
        self, relation: StoredRelation, batch: pa.RecordBatch, streams: Sequence[History]
    ) -> None:
        self._streams = streams
        self.rows = batch.num_rows
        self._batch = batch
        self._relation = relation
        packed = batch.column("_packed")
        present = packed.is_valid()
        before = pc.subtract(pc.cumulative_sum(present.cast(pa.int64())), 1)
        take = pc.if_else(present, before, pa.scalar(None, pa.int64()))
        packing = Packing(relation.group.packed_schema)
        stored = packing.unpack_many(packed.drop_null().cast(pa.binary()))
        event_time = relation.group.event_time
        values = dict(zip(relation.group.packed_schema.names, stored.columns, strict=True))
        values[event_time] = stored.times_us
        # What was loaded stands beside it under the vector's name.
        self._served = {
            relation.named(column): values[column].take(take) for column in relation.columns
        }
        self._served[self._row_name] = stored.loads.take(take)
        self._replayed = {
            relation.named(column): batch.column(relation.named(column))
            for column in relation.columns
        }
        self._replayed[self._row_name] = batch.column("_load")

    @property
    def _row_name(self) -> str:
        """What a row's own load, time, visibility and place are reported as."""
        return f"{self._relation.group.name}.*"

    def equal(self) -> dict[str, Mask]:
        """Per feature, whether each row was served as history has it."""
        found = {
            name: same(plain_array(served), self._replayed[name])
            for name, served in self._served.items()
        }
        batch = self._batch
        as_of, visible = batch.column("_as_of"), batch.column("_visible")
        known = pc.and_(batch.column("_is_listed"), pc.greater_equal(as_of, visible))
        known = pc.and_(known, batch.column("_is_own"))
        found[self._row_name] &= known.to_numpy(zero_copy_only=False)
        return found

    def both(self, feature: str, place: int) -> tuple[Any, Any]:
        """What was served and what history says, of one row."""
        columns = self._served[feature], self._replayed[feature]
        served, replayed = (first_value(column.slice(place, 1)) for column in columns)
        return served, replayed

    def differences(self, feature: str, places: Any) -> list[Difference]:
        """Some of the rows at these places, as a person reads them."""
        found = []
        for place in map(int, places[:WORST_MAX]):
            request_id = first_value(self._batch.column("_request_id").slice(place, 1)).hex()
            row = first_value(self._batch.column("_row").slice(place, 1))
            served, replayed = self.both(feature, place)
            one = Difference(feature, request_id, row, served, replayed, float("inf"))
            if self._streams:
                seq = first_value(self._batch.column("_at").slice(place, 1))
                one = located(one, self._streams[0], seq)
            found.append(one)
        return found
