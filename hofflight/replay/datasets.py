"""Training datasets: a table in a file, and what is known of it: range, code, loads, statistics."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from hofflight.errors import BadRange, InvalidName
from hofflight.features.dataset import Dataset, require_document
from hofflight.replay.duckdb_engine import one_row
from hofflight.replay.windowed import database
from hofflight.wire.schema import AS_INTEGERS

if TYPE_CHECKING:
    from pathlib import Path

    from hofflight.features.registry import Registry
    from hofflight.features.view import View
    from hofflight.settings import ReplaySettings

_QUARTERS: Final = (0.25, 0.5, 0.75)
_TOP: Final = 10


def free_version(registry: Registry, name: str, version: int | None) -> int:
    """The version that a new dataset gets: the one asked for, or the next.

    Raises: InvalidName (HOF-101), that one is there, or the name means something else.
    """
    taken = [d.version for d in registry.datasets() if d.name == name]
    wanted = max(taken, default=0) + 1 if version is None else version
    require_document("dataset", name, wanted)
    registry.require_free("dataset", name)
    if wanted in taken:
        raise InvalidName(f"dataset {name}@{wanted} is there", hint=f"take {max(taken) + 1}")
    return wanted


def require_own_file(registry: Registry, file: Path) -> None:
    """Refuse a path that no new dataset can have.

    Raises: BadRange (HOF-215), it is no Parquet file, or another dataset's.
    """
    if file.suffix != ".parquet":
        raise BadRange(f"a training dataset is a .parquet file, not {file.name!r}")
    for other in registry.datasets():
        if other.file == str(file.resolve()):
            msg = f"{file.name!r} is the file of dataset {other.name}@{other.version}"
            raise BadRange(msg, hint="name another path")


def described_dataset(
    name: str,
    version: int,
    view: View,
    asked: dict[str, Any],
    path: Path,
    code_hashes: dict[str, str],
    loads: dict[str, int],
    settings: ReplaySettings,
) -> Dataset:
    """What a written training file holds, with the statistics of each of its columns.

    `asked`: start_us, end_us and as_of.
    """
    file = pq.ParquetFile(path)
    schema = file.schema_arrow
    return Dataset(
        name=name, version=version, view=view.name, view_version=view.version, **asked,
        file=str(path), rows=file.metadata.num_rows,
        columns={field.name: str(field.type) for field in schema},
        code_hashes=code_hashes, loads=loads, statistics=statistics(file, settings),
    )  # fmt: skip


def statistics(file: pq.ParquetFile, settings: ReplaySettings) -> dict[str, dict[str, Any]]:
    """What is in each column, by name.

    Rows, nulls, distinct values; of numbers min, max, mean, std (sample) and quartiles, of text and
    bools the ten most frequent values; of lists rows and nulls alone. Times count as microseconds
    since 1970, dates as days. NaN and infinities are no numbers here.
    """
    found = {}
    with database(settings) as db:
        for field in file.schema_arrow:
            schema = pa.schema([("value", field.type)])
            batches = (
                pa.RecordBatch.from_arrays(batch.columns, schema=schema)
                for batch in file.iter_batches(columns=[field.name])
            )
            db.feed(db.con, "source", schema, batches)
            db.con.execute("CREATE OR REPLACE TABLE one AS SELECT * FROM source")
            found[field.name] = _of_column(db.con, field.type)
    return found


def _of_column(con: Any, column_type: pa.DataType) -> dict[str, Any]:
    rows, nulls = one_row(con, "SELECT count(*), count(*) FILTER (WHERE value IS NULL) FROM one")
    known: dict[str, Any] = {"rows": rows, "nulls": nulls}
    if pa.types.is_list(column_type):
        return known
    (known["distinct"],) = one_row(con, "SELECT count(DISTINCT value) FROM one")
    types = pa.types
    if (
        types.is_integer(column_type)
        or types.is_floating(column_type)
        or column_type in AS_INTEGERS
    ):
        return known | _of_numbers(con)
    if column_type == pa.binary():
        return known
    top = con.execute(
        "SELECT value, count(*) FROM one WHERE value IS NOT NULL GROUP BY value "
        f"ORDER BY count(*) DESC, value LIMIT {_TOP}"
    ).fetchall()
    return known | {"top": [[value, count] for value, count in top]}


def _of_numbers(con: Any) -> dict[str, Any]:
    names = ("min", "max", "mean", "std", "q25", "q50", "q75")
    quartiles = ", ".join(f"quantile_cont(x, {quarter})" for quarter in _QUARTERS)
    values = one_row(
        con,
        f"SELECT min(x), max(x), avg(x), stddev_samp(x - least), {quartiles} FROM "
        # Squares of numbers far from zero lose what tells these apart: count from the least.
        "(SELECT value::DOUBLE AS x, min(x) OVER () AS least FROM one WHERE isfinite(x))",
    )
    plain = (v if v is None or math.isfinite(v) else None for v in values)
    return dict(zip(names, plain, strict=True))
