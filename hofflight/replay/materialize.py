"""Load rows into a stored group: whole loads, into the history and into the online store.

1. read and check every row; one that is wrong ends it, and nothing was loaded
2. leave out what is known already, and all but the last of rows with equal key and event time
3. open the load in the manifest, write its file
4. put the newest row of each key into the online store, where nobody sees them yet
5. commit: the manifest lists the load, then the store's page of loads does: now all of it is seen

Broken off before 5, by an error or a kill, the load is void: its rows are never seen, and the next
load writes over them. The same rows again are no load at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from hofflight.errors import StoredUnreadable, WrongType
from hofflight.eventlog.directory import whole_file
from hofflight.eventlog.lock import one_at_a_time
from hofflight.online.packed import Packing
from hofflight.online.slots import (
    COMMITS_KEY,
    Commits,
    key_prefix,
    read_commits,
    replaced,
    write_commits,
)
from hofflight.replay.duckdb_engine import one_row
from hofflight.replay.parquet import ROW_GROUP_ROWS
from hofflight.replay.plain_columns import retyped
from hofflight.replay.stored_history import Load
from hofflight.replay.stored_rows import open_source
from hofflight.replay.windowed import database
from hofflight.wire.keys import KeyCodec
from hofflight.wire.schema import FLOATS

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Mapping

    from hofflight.clock import Clock
    from hofflight.online.protocol import OnlineStore
    from hofflight.replay.stored_history import StoredHistory, StoredManifest
    from hofflight.replay.windowed import Database
    from hofflight.settings import ReplaySettings

Mode = Literal["full", "incremental"]
_CHUNK_ROWS: Final = 8_192
_ROW: Final = "_row"


@dataclass(slots=True)
class LoadReport:
    """What became of the rows: `read` = `rows` + `known` + `older` + `duplicates`.

    load: its number; None where there was nothing new. rows: those that were loaded. known: in the
    history already. older: not newer than what an incremental load begins after. duplicates: of
    equal key and event time, of which the last one counts. keys: entities that got a newer row.
    refilled: whether the online store had lost the group, and got it back from the history.
    """

    group: str
    load: int | None = None
    read: int = 0
    rows: int = 0
    known: int = 0
    older: int = 0
    duplicates: int = 0
    keys: int = 0
    refilled: bool = False


class Materializer:
    """Loads one version of a stored group. `run` drives the store's coroutines."""

    def __init__(
        self,
        history: StoredHistory,
        store: OnlineStore,
        run: Callable[[Coroutine[Any, Any, Any]], Any],
        settings: ReplaySettings,
        clock: Clock,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._history = history
        self._group = history.group
        self._store = store
        self._run = run
        self._settings = settings
        self._clock = clock
        self._progress = progress
        self._codec = KeyCodec(self._group.key_schema)
        self._packing = Packing(self._group.packed_schema)
        self._keys = ", ".join(f'"{name}"' for name in self._group.key)
        self._time = f'"{self._group.event_time}"'

    def load(self, source: Any, mode: Mode = "full") -> LoadReport:
        """Load rows; `incremental` takes those that are newer than all there are.

        Raises: BadStoredRows (HOF-218); StoreLocked (HOF-501), another load of this group runs;
            OnlineUnavailable (HOF-510); SealDamaged (HOF-506).
        """
        if mode not in ("full", "incremental"):
            raise WrongType(f'mode= is "full" or "incremental", got {mode!r}')
        with self._alone(), database(self._settings) as db:
            manifest = self._numbered(self._begun())
            report = LoadReport(self._group.label, refilled=self._refill_if_lost(db, manifest))
            # 1. and 2.
            self._read(db, open_source(source, self._group).batches, report)
            self._choose(db, manifest, mode, report)
            if not report.rows:
                return report
            # 3. open the load
            number = report.load = manifest.next
            manifest = msgspec.structs.replace(manifest, next=number + 1, open=number)
            self._history.publish(manifest)
            try:
                fresh = self._write(db, number)
                # 4. put the newest row of each key
                newest = f"SELECT * FROM fresh QUALIFY {self._newest()}"
                report.keys = self._put(self._packed(db, newest), manifest.commits)
            except BaseException:
                self._history.publish(_voided(manifest))
                raise
            # 5. commit
            self._commit(manifest, fresh)
        return report

    def refill(self) -> int:
        """Put the newest row of each key of the history into the online store; how many.

        Raises: as `load`.
        """
        with self._alone(), database(self._settings) as db:
            return self._refill(db, self._begun())

    # --- the steps ---

    def _alone(self) -> Any:
        self._history.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        return one_at_a_time(self._history.directory / "lock", wait=False)

    def _begun(self) -> StoredManifest:
        """The manifest, after a load that died was voided."""
        manifest = self._history.manifest()
        if manifest.open:
            manifest = _voided(manifest)
            self._history.publish(manifest)
        return manifest

    def _numbered(self, manifest: StoredManifest) -> StoredManifest:
        """With numbers that the store has not seen: it may remember another history."""
        seen = self._page().get(self._group.label, Commits()).last
        if manifest.loads or seen < manifest.next:
            return manifest
        return msgspec.structs.replace(manifest, first=seen + 1, next=seen + 1)

    def _read(self, db: Database, batches: Iterator[pa.RecordBatch], report: LoadReport) -> None:
        schema = pa.schema([*self._group.schema, (_ROW, pa.int64())])

        def numbered() -> Iterator[pa.RecordBatch]:
            for batch in batches:
                numbers = pa.array(range(report.read, report.read + batch.num_rows), pa.int64())
                report.read += batch.num_rows
                self._progress(batch.num_rows)
                yield pa.RecordBatch.from_arrays([*batch.columns, numbers], schema=schema)

        db.feed(db.con, "source", schema, numbered())
        db.con.execute("CREATE TABLE incoming AS SELECT * FROM source")

    def _choose(
        self, db: Database, manifest: StoredManifest, mode: Mode, report: LoadReport
    ) -> None:
        """Makes the table `fresh`: what this load brings."""
        con = db.con
        newer = "true"
        if mode == "incremental" and manifest.newest_us is not None:
            newer = f"{self._time} > {manifest.newest_us}"
        (report.older,) = one_row(con, f"SELECT count(*) FROM incoming WHERE NOT ({newer})")
        last = f"row_number() OVER (PARTITION BY {self._keys}, {self._time} ORDER BY {_ROW} DESC)"
        con.execute(
            f"CREATE TABLE single AS SELECT * FROM incoming WHERE {newer} QUALIFY {last} = 1"
        )
        (single,) = one_row(con, "SELECT count(*) FROM single")
        report.duplicates = report.read - report.older - single
        unknown = "SELECT * FROM single"
        if manifest.loads and mode == "full":
            self._feed_history(db, manifest)
            known = f"SELECT * FROM known QUALIFY {self._newest(by_time=True)}"
            same = " AND ".join(_is_same(field) for field in self._group.schema)
            unknown = f"SELECT s.* FROM single s WHERE NOT EXISTS (FROM ({known}) k WHERE {same})"
        load = f"{manifest.next}::BIGINT AS _load"
        con.execute(f"CREATE TABLE fresh AS SELECT * EXCLUDE ({_ROW}), {load} FROM ({unknown})")
        (report.rows,) = one_row(con, "SELECT count(*) FROM fresh")
        report.known = single - report.rows
        con.execute("DROP TABLE incoming; DROP TABLE single")

    def _write(self, db: Database, number: int) -> Load:
        """The load's file, durable under its name."""
        path = self._history.file(number)
        names = ", ".join(f'"{name}"' for name in self._group.schema.names)
        rows = db.con.sql(f"SELECT {names} FROM fresh ORDER BY {self._keys}, {self._time}")
        count = 0
        schema = self._group.schema
        with (
            whole_file(path) as fresh,
            pq.ParquetWriter(fresh, schema, compression="zstd", write_page_checksum=True) as writer,
        ):
            for batch in rows.to_arrow_reader(ROW_GROUP_ROWS):
                writer.write_batch(retyped(batch, schema))
                count += batch.num_rows
        oldest, newest = one_row(db.con, f"SELECT min({self._time}), max({self._time}) FROM fresh")
        return Load(number, count, path.stat().st_size, oldest, newest, 0)

    def _packed(self, db: Database, query: str) -> Iterator[tuple[list[bytes], list[bytes]]]:
        """Keys and packed rows of a query, some thousand at a time."""
        schema = pa.schema([*self._group.schema, ("_load", pa.int64())])
        chosen = ", ".join(f'"{name}"' for name in schema.names)
        cursor = db.con.cursor()
        for batch in cursor.sql(f"SELECT {chosen} FROM ({query})").to_arrow_reader(_CHUNK_ROWS):
            rows = retyped(batch, schema)
            keys = self._codec.encode_columns([rows.column(name) for name in self._group.key])
            values = [rows.column(name) for name in self._group.packed_schema.names]
            times = rows.column(self._group.event_time)
            packed = self._packing.pack(times, rows.column("_load"), values)
            yield keys.to_pylist(), packed.to_pylist()

    def _put(self, packed: Iterator[tuple[list[bytes], list[bytes]]], commits: Commits) -> int:
        """Put rows that are newer than what is there; how many were."""
        prefix = key_prefix(self._group.label)
        count = 0
        for keys, rows in packed:
            places = [prefix + key for key in keys]
            before = self._run(self._store.get_many(places, patient=True))
            items = [
                (place, value)
                for place, old, row in zip(places, before, rows, strict=True)
                if (value := replaced(old, row, commits)) is not None
            ]
            self._run(self._store.put_many(items))
            count += len(items)
            self._progress(len(rows))
        return count

    def _commit(self, manifest: StoredManifest, load: Load) -> None:
        load = msgspec.structs.replace(load, committed_us=self._clock.wall_us())
        manifest = msgspec.structs.replace(manifest, open=0, loads=(*manifest.loads, load))
        self._history.publish(manifest)
        self._show(manifest)

    def _show(self, manifest: StoredManifest) -> None:
        """Write the store's page of loads, and note since when it is there."""
        # One page for all groups, so that a request reads one key more and not one for each.
        with one_at_a_time(self._history.directory.parent / "lock", wait=True):
            page = dict(self._page())
            page[self._group.label] = manifest.commits
            self._run(self._store.put_many([(COMMITS_KEY, write_commits(page))]))
        now_us = self._clock.wall_us()
        loads = tuple(
            load if load.visible_us else msgspec.structs.replace(load, visible_us=now_us)
            for load in manifest.loads
        )
        self._history.publish(msgspec.structs.replace(manifest, loads=loads))

    # --- a store that lost the group ---

    def _page(self) -> Mapping[str, Commits]:
        (page,) = self._run(self._store.get_many([COMMITS_KEY], patient=True))
        try:
            return {} if page is None else read_commits(page)
        except StoredUnreadable:
            return {}

    def _refill_if_lost(self, db: Database, manifest: StoredManifest) -> bool:
        """Fill the store again where it does not know what the manifest says."""
        if not manifest.loads:
            return False
        if self._page().get(self._group.label) != manifest.commits:
            self._refill(db, manifest)
            return True
        if not manifest.loads[-1].visible_us:  # its process died just after it was seen
            self._show(manifest)
        return False

    def _refill(self, db: Database, manifest: StoredManifest) -> int:
        if not manifest.loads:
            return 0
        self._feed_history(db, manifest)
        newest = f"SELECT * FROM known QUALIFY {self._newest()}"
        seen = self._page().get(self._group.label, Commits())
        count = self._put(self._packed(db, newest), seen)
        self._show(manifest)
        return count

    def _feed_history(self, db: Database, manifest: StoredManifest) -> None:
        """Makes the table `known`: every row that was ever loaded, and by which load."""
        schema = pa.schema([*self._group.schema, ("_load", pa.int64())])

        def rows() -> Iterator[pa.RecordBatch]:
            for load in manifest.loads:
                for batch in self._history.batches(load):
                    number = pa.repeat(pa.scalar(load.load, pa.int64()), batch.num_rows)
                    yield pa.RecordBatch.from_arrays([*batch.columns, number], schema=schema)

        db.feed(db.con, "history", schema, rows())
        db.con.execute("CREATE OR REPLACE TABLE known AS SELECT * FROM history")

    def _newest(self, *, by_time: bool = False) -> str:
        """A condition for the newest row of each key, or of each key and event time."""
        each = f"{self._keys}, {self._time}" if by_time else self._keys
        order = f"{self._time} DESC, _load DESC"
        return f"row_number() OVER (PARTITION BY {each} ORDER BY {order}) = 1"


def _voided(manifest: StoredManifest) -> StoredManifest:
    voided = (*manifest.voided, manifest.open)
    return msgspec.structs.replace(manifest, open=0, voided=voided)


def _is_same(field: pa.Field) -> str:
    """A condition that a column of `s` and `k` has one value: null is null, NaN is NaN."""
    one, other = f's."{field.name}"', f'k."{field.name}"'
    same = f"{one} IS NOT DISTINCT FROM {other}"
    if field.type in FLOATS:  # to SQL 0.0 and -0.0 are equal
        return f"{same} AND signbit({one}) IS NOT DISTINCT FROM signbit({other})"
    return same
