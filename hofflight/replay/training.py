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

from hofflight.errors import TransformFailed
from hofflight.features.window import HOLISTIC
from hofflight.replay.duckdb_engine import one_row
from hofflight.replay.label_join import LabelJoin
from hofflight.replay.logged import ABOUT
from hofflight.replay.plain_columns import retyped
from hofflight.replay.prepared import SEQ, TS
from hofflight.replay.transformed import Transformation
from hofflight.replay.windowed import CHUNK_ROWS, How, database, windowed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import duckdb

    from hofflight.features.group import FeatureGroup
    from hofflight.features.view import View
    from hofflight.replay.prepared import AsOf
    from hofflight.replay.read_log import History
    from hofflight.replay.span import Parts, Span
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
    table without any label. labels_unmatched: labels for which there is no row.
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
    """Everything that a training table is made of."""

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

    def schema(self) -> pa.Schema:
        """The view's columns, then labels, then `split`; before them, with `ids`, whose row."""
        ids = [("request_id", pa.binary(16)), ("row", pa.int32()), ("late", pa.bool_())]
        fields = [*(ids if self.ids else ()), *self.view.schema(self.group)]
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
        transformation = Transformation(self.group, [f.column for f in self.view.features])
        question = transformation.preparation.question
        engine = self._chosen_engine(transformation)
        report = TrainingReport(
            self.view.name, self.view.version, self.group.code_hash(), engine, self.as_of
        )
        if self.parts is not None:
            report.parts = dict.fromkeys(self.parts.names, 0)
        rows = _Rows(self, transformation, report, progress)
        how = How(engine, self.as_of)
        started_s = time.monotonic()

        def counted(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            for batch in batches:
                report.rows += batch.num_rows
                yield retyped(batch, self.schema())
            report.dropped = report.read - report.rows
            report.seconds = round(time.monotonic() - started_s, 3)

        with database(self.settings) as db:
            found = windowed(db, rows.raw(), rows.schema, question, how)
            yield counted(_finished(db, self, rows, found, report)), report

    def _chosen_engine(self, transformation: Transformation) -> Any:
        if self.engine != "auto":
            return self.engine
        question = transformation.preparation.question
        if any(w.function in HOLISTIC for w in question.windows):
            return "kernel"
        values = len(question.schema) + len(transformation.columns) + 3 * len(question.windows)
        size = self.history.extent().rows * values * _BYTES_A_VALUE
        return "kernel" if size > self.settings.memory_mib << 20 else "duckdb"


class _Rows:
    """Rows into the windows and out of them."""

    def __init__(
        self,
        training: Training,
        transformation: Transformation,
        report: TrainingReport,
        progress: Callable[[int], None],
    ) -> None:
        self._training = training
        self._transformation = transformation
        self._report = report
        self._progress = progress
        group, question = training.group, transformation.preparation.question
        self.about = [*transformation.about]
        if training.ids or (training.labels is not None and training.labels.by_request):
            self.about += ["_request_id", "_row"]
        types = {name: ABOUT.field(name).type for name in self.about[1:]}
        types |= dict(zip(question.schema.names, question.schema.types, strict=True))
        types |= {name: group.transformed[name] for name in transformation.columns}
        self.schema = pa.schema(list(types.items()))
        finding = ["_late", SEQ, *question.keys, TS, *self.about[len(transformation.about) :]]
        types["_late"] = pa.bool_()
        self.out = pa.schema([
            *((name, types[name]) for name in finding), *training.view.schema(group)
        ])  # fmt: skip

    def raw(self) -> Iterator[pa.RecordBatch]:
        """Transformed rows of the whole history: a window may reach back before the span."""
        for part in self._training.history.parts(about=self.about):
            self._report.read += part.rows.num_rows
            self._progress(part.rows.num_rows)
            yield self._transformation.apply(part.rows).select(self.schema.names)

    def finished(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Rows of the span with the view's columns, and before them what finds their labels."""
        span = self._training.span
        for batch in batches:
            chosen = batch
            if not span.is_everything:
                chosen = batch.filter(span.contains(batch.column(TS)))
            if chosen.num_rows:
                yield from self._vectors(chosen)

    def _vectors(self, rows: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        try:
            derived = self._transformation.derive(rows)
        except TransformFailed:  # a row of another version, that this one would have refused
            if rows.num_rows > 1:
                middle = rows.num_rows // 2
                yield from self._vectors(rows.slice(0, middle))
                yield from self._vectors(rows.slice(middle))
            return
        arrays = []
        for name in self.out.names:
            plain = name.split(".", 1)[-1]
            arrays.append(derived[plain] if plain in derived else rows.column(plain))
        yield pa.RecordBatch.from_arrays(arrays, schema=self.out)


def _finished(
    db: Database,
    training: Training,
    rows: _Rows,
    found: Iterator[pa.RecordBatch],
    report: TrainingReport,
) -> Iterator[pa.RecordBatch]:
    """Labels, order and split: the columns of the table, and some that the caller drops."""
    cursor = db.con.cursor()
    db.feed(cursor, "vectors", rows.out, rows.finished(found))
    joined, labels = "SELECT * FROM vectors", training.labels
    if labels is not None:
        joined = labels.sql(cursor, "vectors", rows.out.names)
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
