"""A user's function: the same values in every mode, and a clear HOF-209 when it does wrong."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import hofflight as hof
from hofflight.errors import TransformFailed
from hofflight.features.group import Context
from hofflight.transform import udf_step

COLUMNS = {
    "card": pa.int64(), "ts": hof.TIMESTAMP, "f": pa.float64(), "s": pa.string(),
    "b": pa.bool_(), "r": pa.binary(), "small": pa.int8(), "day": pa.date32(), "h": pa.float32(),
}  # fmt: skip
# Values that a careless conversion changes: 2^53 + 1, null beside integers, NaN beside null.
ROWS = [
    [2**53 + 1, 1_700_000_000_123_456, 0.1, "héllo", True, b"\0\xff", -128, 19_000, 0.5],
    [-(2**63), -1, float("nan"), "", False, b"", 127, -1, float("inf")],
    [7, 0, None, None, None, None, None, None, None],
    [2**63 - 1, 2_240_611_199_999_999, -0.0, "\U0001f600", True, b"x", 0, 0, -1.5],
]
CONTEXT = Context(5, "g", 1)


def called(group, batch, context):
    """What the group's function gives, called as the plan calls it."""
    return udf_step.run_function(group, udf_step.with_context(group.function), batch, context)


def called_derived(group, name, batch, context):
    """The same for the function of a derived column."""
    function = udf_step.with_context(group.derive[name][1])
    return udf_step.run_derived(group, name, function, batch, context)


def batch_of(rows):
    schema = pa.schema(list(COLUMNS.items()))
    arrays = [
        pa.array([row[i] for row in rows], column_type)
        for i, column_type in enumerate(schema.types)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def group_with(function, *, mode="arrow", output=None):
    """A group whose function computes `output`; {"y": float64} unless told."""
    return hof.feature_group(
        "g", version=1, key="card", event_time="ts", input=COLUMNS, mode=mode,
        output=output or {"y": pa.float64()},
    )(function)  # fmt: skip


def same(left, right):
    """Equal in type, length, nulls and values, NaN equal to NaN."""
    if not pa.types.is_floating(left.type):
        return left.type == right.type and left.equals(right)
    return left.type == right.type and repr(left.to_pylist()) == repr(right.to_pylist())


@pytest.mark.parametrize("mode", ["arrow", "pandas", "polars"])
@pytest.mark.parametrize("rows", [ROWS, *[[row] for row in ROWS]], ids=["all", "0", "1", "2", "3"])
def test_a_column_passed_through_keeps_every_value(mode, rows):
    """Nulls, integers past 2^53, NaN, times, text, bytes and bools come out as they went in."""
    names = [name for name in COLUMNS if name != "card"]

    def through(frame):
        return {f"{name}_out": frame[name] for name in names}

    group = group_with(through, mode=mode, output={f"{name}_out": COLUMNS[name] for name in names})
    batch = batch_of(rows)
    found = called(group, batch, CONTEXT)

    assert {n: same(found[f"{n}_out"], batch[n]) for n in names} == dict.fromkeys(names, True)


def scaled_arrow(batch):
    return {
        "big": pc.subtract(batch["card"], 1),
        "ratio": pc.divide(batch["f"], 3.0),
        "high": pc.greater(batch["f"], 0.0),
        "upper": pc.utf8_upper(batch["s"]),
    }


def scaled_pandas(frame):
    return {
        "big": frame["card"] - 1,
        "ratio": frame["f"] / 3.0,
        "high": frame["f"] > 0.0,
        "upper": frame["s"].str.upper(),
    }


def scaled_polars(frame):
    return frame.select(
        (pl.col("card") - 1).alias("big"),
        (pl.col("f") / 3.0).alias("ratio"),
        # Polars orders NaN above all numbers; Arrow and pandas follow IEEE.
        (pl.col("f").fill_nan(-1.0) > 0.0).alias("high"),
        pl.col("s").str.to_uppercase().alias("upper"),
    )


SCALED = {"big": pa.int64(), "ratio": pa.float64(), "high": pa.bool_(), "upper": pa.string()}


@pytest.mark.parametrize("rows", [[0, 2, 3], [0], [2], [3]], ids=str)
def test_one_function_in_three_modes_gives_the_same_columns(rows):
    """A user may move between modes, and between one row and many, without new features."""
    batch = batch_of([ROWS[i] for i in rows])
    arrow = called(group_with(scaled_arrow, output=SCALED), batch, CONTEXT)
    pandas = called(group_with(scaled_pandas, output=SCALED, mode="pandas"), batch, CONTEXT)
    polars = called(group_with(scaled_polars, output=SCALED, mode="polars"), batch, CONTEXT)

    for name in SCALED:
        assert same(pandas[name], arrow[name]), name
        assert same(polars[name], arrow[name]), name


@pytest.mark.parametrize(
    ("mode", "build"),
    [
        ("arrow", lambda b: {"y": b["f"]}),
        ("arrow", lambda b: pa.RecordBatch.from_pydict({"y": b["f"]})),
        ("arrow", lambda b: pa.table({"y": pa.chunked_array([b["f"][:1], b["f"][1:]])})),
        ("arrow", lambda b: {"y": b["f"].to_pylist()}),
        ("arrow", lambda b: {"y": b["h"].cast("float64").to_numpy(zero_copy_only=False)}),
        ("pandas", lambda b: b[["f"]].rename(columns={"f": "y"})),
        ("pandas", lambda b: {"y": b["f"].sort_index()}),
        ("pandas", lambda b: {"y": b["h"].to_numpy(dtype="float64", na_value=0.0)}),
        ("polars", lambda b: b.select(y="f")),
        ("polars", lambda b: {"y": b["f"]}),
    ],
)
def test_columns_may_come_back_in_any_usual_form(mode, build):
    """Arrays, chunks, tables, frames, series, numpy and lists."""
    found = called(group_with(build, mode=mode), batch_of(ROWS), CONTEXT)

    assert (found["y"].type, len(found["y"])) == (pa.float64(), len(ROWS))


def test_a_function_takes_the_context_if_it_asks_for_it():
    """Arrival time, group and version: all that replay can repeat."""
    seen = []

    def with_context(batch, ctx):
        seen.append(ctx)
        return {"y": batch["f"]}

    called(group_with(with_context), batch_of(ROWS), CONTEXT)
    called(group_with(lambda batch: {"y": batch["f"]}), batch_of(ROWS), CONTEXT)
    called(group_with(lambda batch, ctx=None: seen.append(ctx) or {"y": batch["f"]}),
                 batch_of(ROWS), CONTEXT)  # fmt: skip

    assert seen == [CONTEXT, CONTEXT]


def test_a_value_bound_by_default_is_not_replaced_by_the_context():
    """`lambda batch, factor=2.0: ...` is how Python binds a loop variable."""

    def scaled(batch, factor=2.0):
        return {"y": pc.multiply(batch["f"], factor)}

    found = called(group_with(scaled), batch_of(ROWS[:1]), CONTEXT)

    assert found["y"].to_pylist() == [0.2]


def raises(batch):
    raise ValueError("no such\ncategory")


class Raising:
    """Looks like a polars column and fails when it is read."""

    def to_arrow(self):
        raise RuntimeError("no")


WRONG = [
    ("raises", "arrow", raises, ["g@1", "raised ValueError: no such"]),
    ("raises without text", "arrow", lambda b: {}[1], ["raised KeyError"]),
    ("asserts", "arrow", lambda b: (_ for _ in ()).throw(AssertionError), ["no message"]),
    ("returns nothing", "arrow", lambda b: None, ["dict of columns", "NoneType"]),
    ("returns an array", "arrow", lambda b: b["f"], ["dict of columns"]),
    ("no column", "arrow", lambda b: {}, ["[]", "['y']"]),
    ("another name", "arrow", lambda b: {"z": b["f"]}, ["['z']", "['y']"]),
    ("one too many", "arrow", lambda b: {"y": b["f"], "z": b["f"]}, ["'z'"]),
    ("names of two kinds", "arrow", lambda b: {"y": b["f"], 1: b["f"]}, ["1", "'y'"]),
    ("another type", "arrow", lambda b: {"y": b["card"]}, ["'y'", "int64", "double"]),
    ("float32", "arrow", lambda b: {"y": b["h"]}, ["'y'", "float", "cast"]),
    ("text", "arrow", lambda b: {"y": b["s"]}, ["'y'", "string"]),
    ("all null", "arrow", lambda b: {"y": [None] * b.num_rows}, ["'y'", "null"]),
    ("dictionary", "arrow", lambda b: {"y": b["f"].dictionary_encode()}, ["'y'", "dictionary"]),
    ("a row short", "arrow", lambda b: {"y": b["f"][1:]}, ["'y'", "3 rows for 4"]),
    ("a row long", "arrow", lambda b: {"y": [0.0] * 5}, ["5 rows for 4"]),
    ("a scalar", "arrow", lambda b: {"y": 1.0}, ["'y'", "float", "not a column"]),
    ("an arrow scalar", "arrow", lambda b: {"y": pc.sum(b["f"])}, ["'y'", "not a column"]),
    ("a function", "arrow", lambda b: {"y": len}, ["'y'", "not a column"]),
    ("an object that raises", "arrow", lambda b: {"y": Raising()}, ["'y'", "not a column"]),
    ("pandas names twice", "pandas",
     lambda b: pd.concat([b[["f"]], b[["f"]]], axis=1).set_axis(["y", "y"], axis=1), ["'y'"]),
    ("mixed objects", "arrow", lambda b: {"y": [1.0, "a", None, 2]}, ["'y'", "not a column"]),
    ("pandas objects", "pandas", lambda b: {"y": pd.Series([1, "a", None, 2.5])}, ["'y'"]),
    ("pandas numpy integers", "pandas", lambda b: {"y": pd.Series(np.arange(4))}, ["int64"]),
    ("pandas short", "pandas", lambda b: {"y": b["f"].dropna()}, ["3 rows for 4"]),
    ("pandas names", "pandas", lambda b: b[["f"]], ["['f']", "['y']"]),
    ("polars lazy", "polars", lambda b: b.lazy().select(y="f"), ["g@1"]),
    ("polars objects", "polars",
     lambda b: {"y": pl.Series([object()] * 4, dtype=pl.Object)}, ["'y'"]),
    ("polars column", "polars", lambda b: {"y": pl.col("f")}, ["'y'"]),
    ("polars integers", "polars", lambda b: {"y": b["card"]}, ["int64"]),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore::polars.exceptions.PerformanceWarning")
@pytest.mark.parametrize(
    ("mode", "function", "words"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG]
)
def test_a_function_that_does_wrong_is_told_so(mode, function, words):
    """Whatever it raises or returns is the request's error: HOF-209, and it says what."""
    with pytest.raises(TransformFailed, match="HOF-209") as caught:
        called(group_with(function, mode=mode), batch_of(ROWS), CONTEXT)

    assert [word for word in words if word not in str(caught.value)] == []
    assert "\n" not in str(caught.value)


def derived_by(function, *, mode="arrow"):
    return hof.feature_group(
        "g", version=1, key="card", event_time="ts", input=COLUMNS, mode=mode,
        derive={"d": (pa.float64(), function)},
    )  # fmt: skip


@pytest.mark.parametrize("mode", ["arrow", "pandas", "polars"])
def test_a_derived_column_is_one_column_in_every_mode(mode):
    """The function returns the column itself, not a dict."""
    group = derived_by(lambda rows: rows["f"], mode=mode)

    assert same(called_derived(group, "d", batch_of(ROWS), CONTEXT), batch_of(ROWS)["f"])


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (raises, ["raised ValueError"]),
        (lambda rows: rows["card"], ["int64", "double"]),
        (lambda rows: rows["f"][:1], ["1 rows for 4"]),
        (lambda rows: None, ["not a column"]),
        (lambda rows: {"d": rows["f"]}, ["'d'"]),
    ],
)
def test_a_derived_column_that_is_wrong_names_itself(function, words):
    """The group, the version and the column are in the message."""
    with pytest.raises(TransformFailed, match=r"HOF-209.*'d' of g@1") as caught:
        called_derived(derived_by(function), "d", batch_of(ROWS), CONTEXT)

    assert [word for word in words if word not in str(caught.value)] == []


def test_a_function_cannot_change_the_rows_it_was_given():
    """The log must hold what was sent, whatever a function does to its frame."""

    def greedy(frame):
        frame["card"] = 0
        frame["f"] = 1.0
        return {"y": frame["f"].astype("double[pyarrow]")}

    batch = batch_of(ROWS[:1])
    called(group_with(greedy, mode="pandas"), batch, CONTEXT)

    assert batch.equals(batch_of(ROWS[:1]))
