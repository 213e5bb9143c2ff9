"""Training data: a view's vectors as they were served, replayed from the log, with labels.

1. history is read, transformed and given its windows (`windowed`)
2. derived columns follow, and the view's columns are chosen
3. labels are joined, rows are put in the order of time and told their part of the split

Each step hands batches to the next; what must be held is held by DuckDB, which spills.
"""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from hofflight.features.view import code_hash_of
from hofflight.features.window import HOLISTIC
from hofflight.replay.duckdb_engine import one_row
from hofflight.replay.label_join import LabelJoin
from hofflight.replay.part_rows import PartRows
from hofflight.replay.plain_columns import retyped
from hofflight.replay.prepared import SEQ, TS
from hofflight.replay.span import Span
from hofflight.replay.windowed import CHUNK_ROWS, How, database

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import duckdb

    from hofflight.features.group import FeatureGroup
    from hofflight.features.stored import StoredGroup
    from hofflight.features.view import AnyGroup, View
    from hofflight.replay.prepared import AsOf
    from hofflight.replay.read_log import History
    from hofflight.replay.span import Parts
    from hofflight.replay.stored_join import StoredJoin
    from hofflight.replay.windowed import Database, EngineName
    from hofflight.settings import ReplaySettings

SPLIT: Final = "split"
_METADATA: Final = b"hofflight"
# A value in DuckDB's hands, its place in a sort and in window state: measured 60 to 90 bytes.
_BYTES_A_VALUE: Final = 80


@dataclass(slots=True)
class TrainingReport:
    """What became of the log's rows, and how.

    read: rows in the log. dropped: of those, rows that this version refuses, that lie outside the
    range, or in a split's gap. late: rows of the table without windows. unlabeled: rows of the
    table without any label. labels_unmatched: labels for which there is no row. partitions: whose
    rows these are, of a worker's store.
    """

    view: str
    version: int
    code_hash: str
    engine: str
    as_of: str
    rows: int = 0
    read: int = 0
    dropped: int = 0
    late: int = 0
    unlabeled: int = 0
    labels_unmatched: int = 0
    parts: dict[str, int] = field(default_factory=dict)
    partitions: list[int] = field(default_factory=list)
    seconds: float = 0.0


def report_of(table: pa.Table | pa.Schema) -> dict[str, Any]:
    """The report that a training table (or its Parquet schema) carries."""
    schema = table if isinstance(table, pa.Schema) else table.schema
    report: dict[str, Any] = json.loads((schema.metadata or {}).get(_METADATA, b"{}"))
    return report


def metadata_of(report: TrainingReport) -> dict[bytes, bytes]:
    """A report as Arrow and Parquet keep it."""
    return {_METADATA: json.dumps(asdict(report)).encode()}


@dataclass(frozen=True, slots=True)
class Training:
    """Everything that a training table is made of.

    group: the view's first streaming group, whose key and event time a row has. others: more of
    them, with their histories. stored: how stored features are joined.
    """

    history: History
    group: FeatureGroup
    view: View
    labels: LabelJoin | None
    span: Span
    parts: Parts | None
    engine: EngineName
    as_of: AsOf
    settings: ReplaySettings
    ids: bool = False
    others: tuple[tuple[History, FeatureGroup], ...] = ()
    stored: StoredJoin | None = None

    @property
    def groups(self) -> list[AnyGroup]:
        """Every group of the view."""
        return [self.group, *(group for _, group in self.others), *self._stored_groups()]

    def _stored_groups(self) -> list[StoredGroup]:
        return [] if self.stored is None else [r.group for r in self.stored.relations]

    def schema(self) -> pa.Schema:
        """The view's columns, then labels, then `split`; before them, with `ids`, whose row."""
        ids = [("request_id", pa.binary(16)), ("row", pa.int32()), ("late", pa.bool_())]
        fields = [*(ids if self.ids else ()), *self.view.schema(*self.groups)]
        if self.labels is not None:
            fields += list(self.labels.types.items())
        if self.parts is not None:
            fields.append((SPLIT, pa.string()))
        return pa.schema(fields)

    @contextmanager
    def batches(
        self, progress: Callable[[int], None] = lambda _: None
    ) -> Iterator[tuple[Iterator[pa.RecordBatch], TrainingReport]]:
        """The table's batches, by (event time, arrival); the report is true once all were taken.

        `progress` is told how many more rows of the log were read.
        Raises: SealDamaged (HOF-506), LogCorrupt (HOF-502).
        """
        rows = [
            PartRows(self.view, history, group, self._about(), progress, self._stored_groups())
            for history, group in ((self.history, self.group), *self.others)
        ]
        engine = self._chosen_engine(rows)
        report = TrainingReport(
            self.view.name, self.view.version, code_hash_of(self.groups), engine, self.as_of,
            partitions=self.history.partitions,
        )  # fmt: skip
        if self.parts is not None:
            report.parts = dict.fromkeys(self.parts.names, 0)
        started_s = time.monotonic()

        def counted(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            for batch in batches:
                report.rows += batch.num_rows
                yield retyped(batch, self.schema())
            report.read = rows[0].read
            report.dropped = report.read - report.rows
            report.seconds = round(time.monotonic() - started_s, 3)

        with database(self.settings) as db:
            yield counted(_finished(db, self, rows, How(engine, self.as_of), report)), report

    def _about(self) -> list[str]:
        """What of the log finds a row's labels, and its other parts."""
        about = []
        if self.others or self.stored is not None:
            about.append("_arrival")
        by_request = self.labels is not None and self.labels.by_request
        if self.ids or self.others or by_request:
            about += ["_request_id", "_row"]
        return about

    def _chosen_engine(self, rows: Sequence[PartRows]) -> Any:
        if self.engine != "auto":
            return self.engine
        size = 0
        for part in rows:
            question = part.question
            if any(w.function in HOLISTIC for w in question.windows):
                return "kernel"
            values = len(part.schema) + 3 * len(question.windows)
            size = max(size, part.history.extent().rows * values * _BYTES_A_VALUE)
        return "kernel" if size > self.settings.memory_mib << 20 else "duckdb"


def _finished(
    db: Database, training: Training, rows: Sequence[PartRows], how: How, report: TrainingReport
) -> Iterator[pa.RecordBatch]:
    """Labels, order and split: the columns of the table, and some that the caller drops."""
    cursor = db.con.cursor()
    joined, columns = _vectors(db, cursor, training, rows, how)
    labels = training.labels
    if labels is not None:
        joined = labels.sql(cursor, f"({joined})", columns)
    if training.parts is not None:
        joined = _split_sql(cursor, joined, training.parts)
    answer = cursor.sql(f"{joined} ORDER BY {TS}, {SEQ}")
    for batch in answer.to_arrow_reader(CHUNK_ROWS):
        report.late += batch.column("_late").true_count
        if labels is not None:
            report.unlabeled += labels.count(batch)
        if training.parts is not None:
            _count_parts(batch, report.parts)
        yield _with_ids(batch) if training.ids else batch
    if labels is not None:
        report.labels_unmatched = labels.unmatched
    cursor.close()


def _vectors(
    db: Database,
    cursor: duckdb.DuckDBPyConnection,
    training: Training,
    rows: Sequence[PartRows],
    how: How,
) -> tuple[str, list[str]]:
    """A query for the view's rows, all parts joined, and the names of its columns."""
    first, *others = rows
    for place, part in enumerate(others, start=1):
        # Whole, before the first begins: both would be at work in the same tables of DuckDB.
        db.feed(cursor, "part", part.out, part.vectors(db, how, Span.of(None, None)))
        cursor.execute(f"CREATE TEMP TABLE part{place} AS SELECT * FROM part")
    db.feed(cursor, "vectors", first.out, first.vectors(db, how, training.span))
    query, columns = "SELECT * FROM vectors", list(first.out.names)
    for place, part in enumerate(others, start=1):
        query = _with_part(query, f"part{place}", part)
        columns += [name for name in part.out.names if name not in columns]
    if training.stored is not None:
        cursor.execute(f"CREATE TEMP TABLE streamed AS {query}")
        query = training.stored.sql(db, cursor, "streamed", training.as_of)
        columns += [r.named(c) for r in training.stored.relations for c in r.columns]
    return query, columns


def _with_part(query: str, name: str, part: PartRows) -> str:
    """The rows that another group of the view has too: those of the same request.

    An id may come again after it was forgotten, so of several the one that arrived next to it.
    """
    group = f"{part.group.name}."
    features = ", ".join(f'p."{column}"' for column in part.out.names if column.startswith(group))
    keys = [column for column in part.out.names if column.startswith("_row_key")]
    found = "".join(f", coalesce(v.{key}, p.{key}) AS {key}" for key in keys)
    replaced = f" EXCLUDE (_late{''.join(f', {key}' for key in keys)})"
    nearest = "row_number() OVER (PARTITION BY v._seq ORDER BY abs(v._arrival - p._arrival)) = 1"
    return (
        f"SELECT v.*{replaced}, v._late OR p._late AS _late{found}, {features} "
        f"FROM ({query}) v JOIN {name} p ON v._request_id = p._request_id AND v._row = p._row "
        f"QUALIFY {nearest}"
    )


def _split_sql(cursor: duckdb.DuckDBPyConnection, joined: str, parts: Parts) -> str:
    """Adds the part of each row; rows in a gap go. Shares of rows become times first."""
    begins = [int(begin) for begin in parts.begins]
    if parts.by_share:
        cursor.execute(f"CREATE TEMP TABLE joined AS {joined}")
        joined = "SELECT * FROM joined"
        (rows,) = one_row(cursor, "SELECT count(*) FROM joined")
        begins = []
        for share in parts.begins:
            place = min(max(rows - 1, 0), round(share * rows))
            nth = f"SELECT {TS} FROM joined ORDER BY {TS} LIMIT 1 OFFSET {place}"
            begins.append(one_row(cursor, nth)[0] if rows else 0)
    # Names are the user's: they go in as values, never as text of the query.
    cases = " ".join(
        f"WHEN {TS} >= {begin} THEN {place}"
        for place, begin in reversed(list(enumerate(begins, start=1)))
    )
    gaps = (
        " AND ".join(f"NOT ({TS} < {begin} AND {TS} >= {begin - parts.gap_us})" for begin in begins)
        or "true"
    )
    cursor.register("part_names", pa.table({"_place": range(len(parts.names)), SPLIT: parts.names}))
    case = f"CASE {cases} ELSE 0 END" if cases else "0"
    return (
        f"SELECT * FROM (SELECT *, {case} AS _place FROM ({joined}) WHERE {gaps}) "
        "JOIN part_names USING (_place)"
    )


def _count_parts(batch: pa.RecordBatch, counts: dict[str, int]) -> None:
    for entry in batch.column(SPLIT).value_counts().to_pylist():
        counts[entry["values"]] += entry["counts"]


def _with_ids(batch: pa.RecordBatch) -> pa.RecordBatch:
    names = {"_request_id": "request_id", "_row": "row", "_late": "late"}
    return batch.rename_columns([names.get(name, name) for name in batch.schema.names])
