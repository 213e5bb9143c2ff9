"""Rows of a stored group as people bring them, checked; nothing is loaded where one is wrong."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hofflight import limits
from hofflight.errors import BadRequest, BadStoredRows, HofError
from hofflight.online.packed import Packing
from hofflight.replay.files import read_file
from hofflight.wire.rows import to_batch, to_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from hofflight.features.stored import StoredGroup

_BATCH_ROWS: Final = 65_536
_DICTS: Final = 8_192
_ROW: Final = re.compile(r"^row ([0-9]+)")


class Source(NamedTuple):
    """Where rows come from; `rows`: how many, where that is known before they are read."""

    batches: Iterator[pa.RecordBatch]
    rows: int | None


def open_source(source: Any, group: StoredGroup) -> Source:
    """Rows of a Parquet file or folder, a Delta table, another file, a table, a frame or dicts.

    Columns that the group does not have are left out; each of its own must be there, of its type.
    Raises: BadStoredRows (HOF-218), also from the batches, naming the row.
    """
    try:
        found = _opened(source, group)
    except HofError:
        raise
    except (OSError, pa.ArrowException, TypeError, ValueError) as error:
        name = Path(source).name if isinstance(source, str | Path) else type(source).__name__
        msg = f"{name!r} cannot be read as rows of {group.name}: {_first_line(error)}"
        raise BadStoredRows(msg, hint=_HINT) from error
    return Source(_checked(found.batches, group), found.rows)


_HINT: Final = "Parquet, a Delta table, CSV with a header, JSON lines, Arrow, a table, or rows"


def _opened(source: Any, group: StoredGroup) -> Source:
    if isinstance(source, str | Path):
        path = Path(source)
        if (path / "_delta_log").is_dir():
            return _delta(path)
        if path.is_dir() or path.suffix == ".parquet":
            return _parquet(sorted(path.rglob("*.parquet")) if path.is_dir() else [path])
        table = read_file(path, group.schema)
    elif isinstance(source, list | tuple):
        parts = (to_batch(rows, group.schema) for rows in _slices(source, group.schema.names))
        return Source(parts, len(source))
    elif hasattr(source, "iloc"):  # pandas: as in a request, NaN stays NaN in a float column
        names = [name for name in group.schema.names if name in source.columns]
        return Source(iter([to_batch(source[names], group.schema)]), len(source))
    else:
        table = to_table(source)
    return Source(iter(table.to_batches(max_chunksize=_BATCH_ROWS)), table.num_rows)


def _parquet(paths: list[Path]) -> Source:
    if not paths:
        raise BadStoredRows("the folder holds no .parquet file", hint=_HINT)
    files = [pq.ParquetFile(path) for path in paths]
    rows = sum(file.metadata.num_rows for file in files)
    return Source((b for file in files for b in file.iter_batches(_BATCH_ROWS)), rows)


def _delta(path: Path) -> Source:
    try:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError
    except ModuleNotFoundError:
        msg = "a Delta table needs the extra `delta`"
        raise BadStoredRows(msg, hint="pip install 'hofflight[delta]'") from None
    try:
        dataset = DeltaTable(str(path)).to_pyarrow_dataset()
    except DeltaError as error:
        msg = f"the Delta table {path.name!r} cannot be read: {_first_line(error)}"
        raise BadStoredRows(msg) from error
    return Source(dataset.to_batches(batch_size=_BATCH_ROWS), dataset.count_rows())


def _slices(rows: Iterable[Any], names: list[str]) -> Iterator[list[Any]]:
    """Some rows at a time, dicts without what the group does not have."""
    waiting = iter(rows)
    while part := list(islice(waiting, _DICTS)):
        yield [
            {name: row[name] for name in names if name in row} if isinstance(row, dict) else row
            for row in part
        ]


def _checked(batches: Iterator[pa.RecordBatch], group: StoredGroup) -> Iterator[pa.RecordBatch]:
    first = 0
    try:
        for batch in batches:
            if batch.num_rows:
                yield _checked_batch(batch, group, first)
            first += batch.num_rows
    except (OSError, pa.ArrowException) as error:
        msg = f"rows of {group.name} from {first} on cannot be read: {_first_line(error)}"
        raise BadStoredRows(msg, hint=_HINT) from error
    except BadRequest as error:
        if isinstance(error, BadStoredRows):
            raise
        # A row is named by its place in its batch; say it by its place among all.
        said = _ROW.sub(lambda found: f"row {int(found[1]) + first}", error.message)
        raise BadStoredRows(f"rows of {group.name}: {said}", hint=error.hint) from error


def _checked_batch(batch: pa.RecordBatch, group: StoredGroup, first: int) -> pa.RecordBatch:
    names = batch.schema.names
    if missing := [name for name in group.schema.names if names.count(name) != 1]:
        msg = f"rows of {group.name}: the columns {missing} are missing, or there twice"
        raise BadStoredRows(msg, hint=f"they have {names}")
    rows = to_batch(pa.Table.from_batches([batch.select(group.schema.names)]), group.schema)
    for name in (*group.key, group.event_time):
        if rows.column(name).null_count:
            row = first + pc.index(pc.is_null(rows.column(name)), True).as_py()
            raise BadStoredRows(f"rows of {group.name}, row {row}: {name!r} is null")
    times = rows.column(group.event_time).cast(pa.int64())
    low, high = limits.event_time_us_min, limits.event_time_us_max
    outside = pc.or_(pc.less(times, low), pc.greater(times, high))
    if pc.any(outside).as_py():
        row = first + pc.index(outside, True).as_py()
        msg = f"rows of {group.name}, row {row}: {group.event_time!r} is outside 1900 to 2040"
        raise BadStoredRows(msg, hint="event times are timestamps in UTC")
    sizes = Packing(group.packed_schema).sizes([rows.column(n) for n in group.packed_schema.names])
    longest = pc.max(sizes).as_py()
    if longest > limits.stored_row_bytes_max:
        row = first + pc.index(sizes, longest).as_py()
        msg = f"rows of {group.name}, row {row}: {longest} bytes, at most "
        hint = "keep texts and bytes short, or a reference to them"
        raise BadStoredRows(f"{msg}{limits.stored_row_bytes_max}", hint=hint)
    return rows


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200]
