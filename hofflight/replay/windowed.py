"""Rows through one of the two window engines: the same rows come out, with their windows.

`duckdb` asks SQL, over all rows at once; DuckDB spills what does not fit. `kernel` lets DuckDB sort
the rows by key and answers chunks of whole keys as they come, so its memory is that of a chunk.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import duckdb
import pyarrow as pa

from hofflight.errors import ReplayMemory
from hofflight.replay.duckdb_engine import SqlEngine, open_duckdb
from hofflight.replay.kernel import Kernel, key_starts
from hofflight.replay.plain_columns import plain_batch, plain_schema, retyped
from hofflight.replay.prepared import SEQ, answer_schema

if TYPE_CHECKING:
    from hofflight.replay.prepared import AsOf, Question
    from hofflight.settings import ReplaySettings

EngineName = Literal["duckdb", "kernel", "auto"]
CHUNK_ROWS: Final = 32_768
_SAMPLE_PARTS: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class How:
    """How windows are computed: by which engine, as of when, of which share of the keys."""

    engine: Literal["duckdb", "kernel"]
    as_of: AsOf = "arrival"
    sample: float = 1.0
    tolerances: bool = False


Rows = Iterator[pa.RecordBatch]


def windowed_schema(rows: pa.Schema, question: Question, how: How) -> pa.Schema:
    """The columns of `windowed`: those of the rows, then the answers'."""
    answers = [field for field in answer_schema(question) if field.name != SEQ]
    scales = question.adds_floats if how.tolerances else ()
    return pa.schema([*rows, *answers, *((f"_scale_{w.name}", pa.float64()) for w in scales)])


class Database:
    """DuckDB for one replay, and what went wrong in the streams that it reads."""

    def __init__(self, con: duckdb.DuckDBPyConnection) -> None:
        self.con = con
        self.failed: list[BaseException] = []

    def feed(
        self, con: duckdb.DuckDBPyConnection, name: str, schema: pa.Schema, rows: Rows
    ) -> None:
        """Give batches a name in `con`, to be read once; of plain types."""

        def watched() -> Rows:
            try:
                for batch in rows:
                    yield plain_batch(batch)
            except (Exception, KeyboardInterrupt) as error:  # DuckDB would retell it
                self.failed.append(error)
                raise

        con.register(name, pa.RecordBatchReader.from_batches(plain_schema(schema), watched()))


def windowed(db: Database, rows: Rows, schema: pa.Schema, question: Question, how: How) -> Rows:
    """Rows with their windows, in no order.

    `rows`: batches of `schema`, whose columns contain the prepared ones.
    """
    db.feed(db.con, "source", schema, rows)
    answer = _by_kernel if how.engine == "kernel" else _by_sql
    wanted = windowed_schema(schema, question, how)
    return (retyped(batch, wanted) for batch in answer(db.con, question, how))


@contextmanager
def database(settings: ReplaySettings) -> Iterator[Database]:
    """DuckDB for one replay; what it spills goes with it.

    Raises: what a stream that it read raised; ReplayMemory (HOF-509).
    """
    with _spill_folder(settings) as spill:
        con = open_duckdb(
            memory_mib=settings.memory_mib, threads=settings.threads or None, spill=Path(spill)
        )
        db = Database(con)
        try:
            yield db
        except (duckdb.Error, OSError) as error:  # OSError: an answer that fails half-way, by Arrow
            # A stream's own failure comes first: DuckDB only repeats it.
            first = _ours(db.failed[0] if db.failed else error, settings)
            if first is error:
                raise
            raise first from error
        finally:
            con.close()


def _spill_folder(settings: ReplaySettings) -> tempfile.TemporaryDirectory[str]:
    parent = settings.spill or Path(tempfile.gettempdir())
    try:
        return tempfile.TemporaryDirectory(prefix="hof-replay-", dir=parent)
    except OSError as error:
        msg = f"replay cannot spill to {str(parent)!r}: {error.strerror}"
        raise ReplayMemory(msg, hint="name another folder in replay.spill") from error


def _ours(error: BaseException, settings: ReplaySettings) -> BaseException:
    """What a user can do something about; anything else as it came."""
    text = str(error)
    if text.startswith("Out of Memory Error"):
        msg = f"replay needs more than replay.memory_mib = {settings.memory_mib}"
        return ReplayMemory(msg, hint='raise it, or take engine="kernel" and fewer threads')
    if text.startswith("IO Error"):  # DuckDB's only files are those that it spills
        msg = f"replay could not spill to disk: {text.splitlines()[0][:200]}"
        return ReplayMemory(msg, hint="free space, or name another folder in replay.spill")
    return error


def _chosen(question: Question, how: How) -> str:
    """A condition that takes the same keys each time, whole histories or nothing."""
    if how.sample >= 1.0:
        return "true"
    limit = max(1, round(how.sample * _SAMPLE_PARTS))
    # With a word beside it: alone, the hash of 0 is 0, which would be in every sample.
    return f"hash({', '.join(question.keys)}, 'sample') % {_SAMPLE_PARTS} < {limit}"


def _by_sql(con: duckdb.DuckDBPyConnection, question: Question, how: How) -> Rows:
    con.execute(
        f"CREATE OR REPLACE TABLE rows AS SELECT * FROM source WHERE {_chosen(question, how)}"
    )
    engine = SqlEngine(question, how.as_of, tolerances=how.tolerances)
    answers = engine.answer(con, "rows")
    # Kept before anybody sorts it: the join and a sort would hold their memory at the same time.
    con.execute(f"CREATE OR REPLACE TABLE found AS SELECT * FROM rows JOIN {answers} USING ({SEQ})")
    con.execute(f"DROP VIEW {answers}")
    con.execute("DROP TABLE rows")
    yield from con.sql("SELECT * FROM found").to_arrow_reader(CHUNK_ROWS)


def _by_kernel(con: duckdb.DuckDBPyConnection, question: Question, how: How) -> Rows:
    kernel = Kernel(question, how.as_of)
    order = ", ".join([*question.keys, SEQ])
    ordered = con.sql(f"SELECT * FROM source WHERE {_chosen(question, how)} ORDER BY {order}")
    prepared = question.schema.names
    for chunk in whole_keys(ordered.to_arrow_reader(CHUNK_ROWS), question.keys):
        answers = kernel.answer(retyped(chunk.select(prepared), question.schema))
        names = [*chunk.schema.names, *answers.schema.names[1:]]
        arrays = [*chunk.columns, *answers.columns[1:]]
        yield pa.RecordBatch.from_arrays(arrays, names=names)


def whole_keys(batches: Iterator[pa.RecordBatch], keys: tuple[str, ...]) -> Rows:
    """The same rows, sorted by key, in chunks that hold all rows of each of their keys."""
    kept: list[pa.RecordBatch] = []
    for batch in batches:
        if not batch.num_rows:
            continue
        kept.append(batch)
        joined = _boundary_rows(kept, keys)
        starts = key_starts(joined, keys)
        if len(starts) > 1:
            whole = pa.concat_batches(kept)
            cut = whole.num_rows - (joined.num_rows - int(starts[-1]))
            yield whole.slice(0, cut)
            kept = [whole.slice(cut)]
    if kept:
        yield pa.concat_batches(kept)


def _boundary_rows(kept: list[pa.RecordBatch], keys: tuple[str, ...]) -> pa.RecordBatch:
    """Keys of the newest batch after the last row before it: a giant key is joined only once."""
    last = kept[-1].select(keys)
    if len(kept) == 1:
        return last
    before = kept[-2].select(keys)
    return pa.concat_batches([before.slice(before.num_rows - 1), last])
