"""A DuckDB that can reach nothing but what it is handed, and windows asked of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from hofflight import limits
from hofflight.errors import TieLimit
from hofflight.replay.plain_columns import retyped
from hofflight.replay.prepared import SEQ, answer_schema
from hofflight.replay.sql_shape import MACROS, quoted
from hofflight.replay.to_sql import Facts, Sql, facts_query

if TYPE_CHECKING:
    from pathlib import Path

    from hofflight.replay.prepared import AsOf, Question


def open_duckdb(
    *, memory_mib: int | None = None, threads: int | None = None, spill: Path | None = None
) -> duckdb.DuckDBPyConnection:
    """A database in memory: no files, no network, no extensions, and no way to change that.

    What does not fit into `memory_mib` is spilled to the folder `spill`, or fails without one.
    """
    config: dict[str, Any] = {
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "temp_directory": "" if spill is None else str(spill),
        # Rows are found again by `_seq`; keeping their order would cost memory.
        "preserve_insertion_order": "false",
    }
    if memory_mib is not None:
        config["memory_limit"] = f"{memory_mib}MiB"
    if threads is not None:
        config["threads"] = str(threads)
    con = duckdb.connect(":memory:", config=config)
    con.execute("SET TimeZone = 'UTC'")
    con.execute("SET enable_progress_bar = false")
    con.execute("SET enable_external_access = false")
    con.execute("SET lock_configuration = true")
    return con


class SqlEngine:
    """Windows by DuckDB. `tolerances`: a column `_scale_NAME` beside each float that it sums."""

    def __init__(
        self, question: Question, as_of: AsOf = "arrival", *, tolerances: bool = False
    ) -> None:
        self._question = question
        self._as_of = as_of
        self._tolerances = tolerances

    def answer(self, con: duckdb.DuckDBPyConnection, source: str) -> str:
        """Answer the prepared rows of a relation, in any order; gives the name of the answers.

        Columns: `answer_schema`, times and dates as integers, then the tolerances.
        Raises: TieLimit (HOF-210).
        """
        con.execute(MACROS)
        low_us, high_us, in_order = one_row(con, facts_query(self._question, source))
        facts = Facts(low_us or 0, high_us or 0, in_order)
        sql = Sql(self._question, self._as_of, source, facts, tolerances=self._tolerances)
        for name, text in (("timed", sql.timed()), ("visible", sql.visible())):
            con.execute(f"CREATE OR REPLACE TABLE {name} AS {text}")
        tie, *wide = one_row(con, sql.extremes())
        if tie >= limits.ties_max:
            msg = f"a key has more than {limits.ties_max} rows in one microsecond"
            raise TieLimit(msg, hint='replay it with engine="kernel"')
        con.execute(f"CREATE OR REPLACE TABLE plain AS {sql.plain(wide)}")
        (late,) = one_row(con, "SELECT bool_or(late) FROM timed")
        (odd,) = one_row(con, "SELECT bool_or(_odd) FROM plain")
        if odd:
            con.execute(f"CREATE OR REPLACE TABLE odd AS {sql.odd()}")
        con.execute("DROP TABLE visible")
        answers = sql.answers(some_odd=bool(odd), some_late=bool(late))
        con.execute(f"CREATE OR REPLACE VIEW answers AS {answers}")
        return "answers"

    def table(self, con: duckdb.DuckDBPyConnection, source: str) -> pa.Table:
        """The same as Arrow, in exactly `answer_schema` and the tolerances, by `_seq`."""
        answers = con.sql(f"SELECT * FROM {quoted(self.answer(con, source))} ORDER BY {SEQ}")
        schema = answer_schema(self._question)
        scales = [(n, pa.float64()) for n in answers.columns if n.startswith("_scale_")]
        wanted = pa.schema([*schema, *scales])
        batches = [retyped(batch, wanted) for batch in answers.to_arrow_table().to_batches()]
        return pa.Table.from_batches(batches, wanted)


def one_row(con: duckdb.DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    """The one row that a query gives."""
    (row,) = con.execute(query).fetchall()
    return tuple(row)
