"""Prepared columns: keys, times and values, named so that no user can have named them."""

import math

import pyarrow as pa
import pytest

import hofflight as hof
from hofflight.replay.prepared import Preparation, answer_schema

INPUT = {
    "k": pa.float64(), "d": pa.date32(), "at": hof.TIMESTAMP, "ts": hof.TIMESTAMP,
    "x": pa.float64(), "i": pa.int64(), "flag": pa.bool_(),
}  # fmt: skip
WINDOWS = {
    "n": hof.count().over("1h"),
    "yes": hof.count(where="flag").over("1h"),
    "sum_x": hof.sum("x", where=hof.col("flag")).over("1h"),
    "sum_i": hof.sum("i").over("2h"),
    "total": hof.sum("i", where=hof.col("x") > 0).lifetime(),
    "newest": hof.max("at").over("1h"),
    "day": hof.first("d").over("1h"),
    "top": hof.top_k("x", 3).over("1h"),
    "median": hof.quantile("x", 0.5).last(9),
}
GROUP = hof.feature_group(
    "g", version=1, key=("k", "d", "at"), event_time="ts", input=INPUT, windows=WINDOWS
)


def columns(**values):
    return {name: pa.array(values.get(name, [None] * 3), t) for name, t in INPUT.items()}


def test_keys_are_normal_and_times_are_integers():
    """-0.0 and 0.0 are one key; dates and timestamps are what they count."""
    given = columns(
        k=[-0.0, 0.0, 1.5], d=[-1, 0, 9], at=[5, -5, 0], ts=[1, 2, 3], x=[-0.0, math.nan, None]
    )
    rows = Preparation(GROUP).rows(given, pa.array([7, 8, 9], pa.int64()))

    assert [math.copysign(1, v) for v in rows.column("_k0").to_pylist()] == [1, 1, 1]
    assert rows.column("_k1").to_pylist() == [-1, 0, 9]
    assert rows.column("_k2").to_pylist() == [5, -5, 0]
    assert rows.column("_ts").to_pylist() == [1, 2, 3]
    assert rows.column("_seq").to_pylist() == [7, 8, 9]
    assert repr(rows.column("_c_x").to_pylist()) == "[-0.0, nan, None]"
    assert rows.schema == Preparation(GROUP).question.schema


def test_equal_conditions_are_computed_once():
    """A column of its name and `hof.col` of it are one."""
    question = Preparation(GROUP).question
    where = {asked.name: asked.where for asked in question.windows}

    assert where["yes"] == where["sum_x"] == "_f0"
    assert where["total"] == "_f1"
    assert where["n"] is None
    given = columns(k=[1.0] * 3, d=[1] * 3, at=[1] * 3, ts=[1] * 3, flag=[True, False, None])
    rows = Preparation(GROUP).rows(given, pa.array([1, 2, 3], pa.int64()))
    assert rows.column("_f0").to_pylist() == [True, False, None]


def test_a_question_has_the_windows_that_are_asked_for_and_reads_no_more():
    """In the order of their declaration."""
    question = Preparation(GROUP, ["median", "n", "yes"]).question

    assert [asked.name for asked in question.windows] == ["n", "yes", "median"]
    assert question.schema.names == ["_k0", "_k1", "_k2", "_ts", "_seq", "_c_x", "_f0"]
    assert question.windows[-1].parameter == 0.5


def test_only_integer_sums_can_overflow():
    """They have a column that says so."""
    question = Preparation(GROUP).question

    assert question.sums_integers == ("sum_i", "total")
    names = answer_schema(question).names
    assert names[:2] == ["_seq", "_late"]
    assert names[2:-2] == list(WINDOWS)
    assert names[-2:] == ["_overflow_sum_i", "_overflow_total"]
    types = answer_schema(question)
    assert types.field("newest").type == hof.TIMESTAMP
    assert types.field("top").type == pa.list_(pa.float64())


def test_a_condition_that_leaves_int64_is_an_error():
    """Which the caller narrows down to the request."""
    group = hof.feature_group(
        "g", version=1, key="i", event_time="ts", input=INPUT,
        windows={"n": hof.count(where=hof.col("i") + 1 > 0).over("1h")},
    )  # fmt: skip
    given = columns(i=[1, 2**63 - 1, 2], ts=[1, 2, 3])

    with pytest.raises(pa.ArrowInvalid):
        Preparation(group).rows(given, pa.array([1, 2, 3], pa.int64()))
