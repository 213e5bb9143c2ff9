"""Training tables: which rows, which columns and in which order, and what the report says of it."""

import math
import struct
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hofflight as hof
from hofflight.errors import HofError
from hofflight.features.group import Context
from hofflight.replay.equality import SUM_TOLERANCE

S = 1_000_000
DAY = 86_400
START = 1_780_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ENGINES = ["duckdb", "kernel"]
INPUT = {"k": pa.int64(), "ts": hof.TIMESTAMP, "x": pa.float64(), "s": pa.string()}
BIG = 2**63 - 1


def make_group(version=1, **changes):
    fields = {
        "input": INPUT,
        "windows": {
            "n": hof.count().over("1h"), "total": hof.sum("x").over("1h"),
            "biggest": hof.max("x").over("1d"),
        },
        **changes,
    }  # fmt: skip
    return hof.feature_group("g", version=version, key="k", event_time="ts", **fields)


def row(second, k=1, x=1.0, s="a", **changes):
    return {"k": k, "ts": (START + second) * S, "x": x, "s": s, **changes}


@pytest.fixture
def open_app(tmp_path):
    """Opens stores whose seals are asked for, and closes them at the end."""
    opened = []

    def open_app(*groups, name="store", clock=None, **replay):
        chosen = hof.load_settings(log={"seal_bytes": 0, "seal_age_s": 0}, replay=replay)
        app = hof.open(tmp_path / name, settings=chosen, clock=clock)
        opened.append(app)
        for group in groups or (make_group(),):
            app.register(group)
        return app

    yield open_app
    for app in opened:
        app.close()


@pytest.fixture
def app(open_app):
    return open_app()


def numbers_of(table):
    """`g.x`, with which these tests number their rows."""
    return table["g.x"].to_pylist()


def report_of(table):
    return hof.report_of(table)


def bits(value):
    """Comparable to the bit: NaN is NaN, and -0.0 is not 0.0."""
    if isinstance(value, float):
        return "nan" if math.isnan(value) else struct.pack(">d", value)
    return [bits(item) for item in value] if isinstance(value, list) else value


def served_table(app, rows, view="g", **options):
    """What was answered, one request a row, in the order of (event time, arrival)."""
    batches = [app.vector(view, row, **options).batch for row in rows]
    order = sorted(range(len(rows)), key=lambda place: rows[place]["ts"])
    return pa.Table.from_batches([batches[place] for place in order])


def same_bits(left, right):
    return [(name, bits(left[name].to_pylist())) for name in left.column_names] == [
        (name, bits(right[name].to_pylist())) for name in right.column_names
    ]


# --- columns --------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_columns_stand_in_the_order_of_the_view(app, engine):
    """Not in that of the group; nothing that the view does not name."""
    app.view("v", 1, ["g.total", "g.x", "g.n", "g.k"])
    app.vector("v", row(0, x=2.5))
    table = app.training_data("v", engine=engine)

    assert table.column_names == ["g.total", "g.x", "g.n", "g.k"]
    assert table.to_pylist() == [{"g.total": 2.5, "g.x": 2.5, "g.n": 1, "g.k": 1}]


def test_a_group_by_its_own_name_gives_all_of_its_columns(app):
    """As serving does."""
    app.vector("g", row(0))
    table = app.training_data("g")

    assert [name.split(".")[-1] for name in table.column_names] == [
        "k", "ts", "x", "s", "n", "total", "biggest",
    ]  # fmt: skip


def test_a_view_keeps_the_version_of_the_group_that_it_was_declared_with(open_app):
    """A newer version changes nothing of it."""
    app = open_app()
    app.view("v", 1, ["g.n"])
    app.register(make_group(2, windows={"n": hof.count().over("1s")}))
    app.view("v", 2, ["g.n"])
    for second in (0, 10, 20):
        app.vector("v", row(second), version=1)

    assert app.training_data("v", version=1)["g.n"].to_pylist() == [1, 2, 3]
    assert app.training_data("v")["g.n"].to_pylist() == [1, 1, 1]
    assert report_of(app.training_data("v", version=1))["version"] == 1
