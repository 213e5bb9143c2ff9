"""One list of small cases, each answer worked out by hand, over every engine.

A case is readable on its own: what happened, and what each row must be told. Random histories
against the oracle are in tests/property; here stands what each word of the semantics means.
"""

import math
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pytest

import hofflight as hof

S = 1_000_000
INPUT = {
    "k": pa.string(), "ts": hof.TIMESTAMP, "x": pa.float64(), "i": pa.int64(), "s": pa.string(),
    "ok": pa.bool_(),
}  # fmt: skip
DAY = 86_400


@dataclass
class Case:
    """`rows` are (second, changes); `expected` the window w of each row, "late" for a late one."""

    name: str
    window: Any
    rows: list
    expected: list
    late: str = "10m"


def r(second, x=1.0, *, k="a", **changes):
    return {"k": k, "ts": round(second * S), "x": x, "i": 1, "s": "a", "ok": True, **changes}


TIE = [r(0, 1.0), r(5, 2.0), r(5, 4.0), r(5, 8.0)]
WORDS = [r(t, s=s) for t, s in enumerate(["b", "a", None, "b", "c", "a", "c"])]


def seen(value):
    """The value; -0.0, which equals 0.0, by a name of its own."""
    is_zero = isinstance(value, float) and value == 0
    return "minus zero" if is_zero and math.copysign(1, value) < 0 else value


def is_told(told, case, tolerance):
    """Whether an engine said what it must, floats within its tolerance of all values there are."""
    if not tolerance:
        assert told == case.expected
    size = sum(abs(row["x"]) for row in case.rows if is_finite(row["x"]))
    spread = case.window.function in ("var", "std")

    def bound(value):
        return 1e-9 * abs(value) if spread else tolerance * size

    return all(
        one == other or (is_finite(one) and is_finite(other) and abs(one - other) <= bound(other))
        for one, other in zip(told, case.expected, strict=True)
    )


def is_finite(value):
    return isinstance(value, int | float) and math.isfinite(value)


CASES = [
    # --- frames
    Case("sliding leaves out what is exactly its size old", hof.count().over("10s"),
         [r(0), r(5), r(10), r(10.000001), r(14.999999), r(15)], [1, 2, 2, 3, 4, 4]),
    Case("tiled keeps whole tiles at its old end", hof.count().over("10s", tile="4s"),
         [r(0), r(3), r(4), r(13), r(14), r(17), r(18)], [1, 2, 3, 4, 3, 4, 4]),
    Case("last N is cut by rows, then nulls are left out", hof.sum("x").last(2),
         [r(0, 1.0), r(1, 2.0), r(2, None), r(3, None), r(4, 8.0)], [1, 3, 2, None, 8]),
    Case("tumbling begins again at each whole interval", hof.count().tumbling("10s"),
         [r(1), r(9), r(10), r(11), r(25)], [1, 2, 1, 2, 1]),
    Case("tumbling floors before 1970 too", hof.count().tumbling("10s"),
         [r(-11), r(-10), r(-1), r(0)], [1, 1, 2, 1]),
    Case("session ends with a pause of its gap", hof.count().session("5s"),
         [r(0), r(4.999999), r(9.999998), r(14.999998), r(15)], [1, 2, 3, 1, 2]),
    Case("session is joined by a row that comes in between", hof.count().session("5s"),
         [r(0), r(8), r(4), r(9)], [1, 1, 2, 4]),
    Case("lifetime is everything", hof.sum("x").lifetime(),
         [r(0, 1.0), r(100 * DAY, 2.0), r(9_999 * DAY, 4.0)], [1, 3, 7]),
    Case("lifetime sees rows inside late in order", hof.last("s").lifetime(),
         [r(0, s="a"), r(700, s="c"), r(650, s="b"), r(701, s=None)], ["a", "c", "b", "c"]),
    # --- which rows
    Case("keys do not see each other", hof.count().over("1h"),
         [r(0), r(1, k="b"), r(2), r(3, k="b")], [1, 1, 2, 2]),
    Case("ties: a row sees those before it, not those after", hof.sum("x").over("1s"),
         TIE, [1, 2, 6, 14]),
    Case("ties without the own row", hof.sum("x").over("10s", own_row=False),
         TIE, [None, 1, 3, 7]),
    Case("the own row is taken out after the frame is cut", hof.sum("x").last(2, own_row=False),
         TIE, [None, 1, 2, 4]),
    Case("a session without the own row", hof.count().session("5s", own_row=False),
         [r(0), r(4), r(20)], [0, 1, 0]),
    Case("tumbling without the own row", hof.max("x").tumbling("10s", own_row=False),
         [r(1, 5.0), r(2, 9.0), r(3, 1.0), r(11, 1.0)], [None, 5, 9, None]),
    Case("a row out of order sees only its past, later ones see it", hof.sum("x").over("1h"),
         [r(10, 1.0), r(20, 2.0), r(15, 4.0), r(15, 8.0), r(20, 16.0)], [1, 3, 5, 13, 31]),
    Case("late is strictly more than late= behind", hof.count().over("1h"),
         [r(100), r(40), r(39.999999), r(101), r(41), r(40.9)], [1, 1, "late", 3, 2, "late"],
         late="1m"),
    Case("a late row of one key is not late for another", hof.count().over("1h"),
         [r(5_000), r(0, k="b"), r(0)], [1, 1, "late"]),
    # --- which values
    Case("where= leaves rows out, null is false", hof.sum("x", where="ok").over("1h"),
         [r(0, 1.0), r(1, 2.0, ok=False), r(2, 4.0, ok=None), r(3, 8.0)], [1, 1, 1, 9]),
    Case("where= by an expression", hof.count(where=hof.col("x") > 1.5).over("1h"),
         [r(0, 1.0), r(1, 2.0), r(2, None), r(3, math.nan), r(4, math.inf)], [0, 1, 1, 1, 2]),
    Case("null and NaN are skipped", hof.mean("x").over("1h"),
         [r(0, None), r(1, math.nan), r(2, 4.0), r(3, None), r(4, 6.0)], [None, None, 4, 4, 5]),
    Case("a count of a column counts its values", hof.count("x").over("1h"),
         [r(0, None), r(1, math.nan), r(2, 4.0)], [0, 0, 1]),
    Case("minus zero enters as zero", hof.min("x").over("1h"), [r(0, -0.0)], [0]),
    Case("infinities follow IEEE, and NaN of them is null", hof.sum("x").over("1h"),
         [r(0, math.inf), r(1, 1.0), r(2, -math.inf), r(3_601, 1.0)],
         [math.inf, math.inf, None, -math.inf]),
    Case("what came and went leaves no trace", hof.sum("x").over("10s"),
         [r(0, 0.1), r(1, 1e30), r(2, 0.2), r(11, 0.3), r(12, 0.0)],
         [0.1, 1e30, 1e30, math.fsum([0.2, 0.3]), 0.3]),
    Case("a float sum is rounded once", hof.sum("x").over("1h"),
         [r(0, 1e16), r(1, 1.0), r(2, 1.0), r(3, -1e16)], [1e16, 1e16, 1e16 + 2, 2.0]),
    Case("an integer sum is exact", hof.sum("i").over("1h"),
         [r(0, i=2**53), r(1, i=1), r(2, i=2**62)], [2**53, 2**53 + 1, 2**62 + 2**53 + 1]),
    Case("an integer sum past int64 is null and says so", hof.sum("i").last(2),
         [r(0, i=2**63 - 1), r(1, i=1), r(2, i=-5), r(3, i=-(2**63)), r(4, i=-1)],
         [2**63 - 1, "overflow", -4, "overflow", "overflow"]),
    Case("an integer mean does not overflow", hof.mean("i").over("1h"),
         [r(0, i=2**62), r(1, i=2**62), r(2, i=2**62)], [2.0**62] * 3),
    # --- aggregates
    Case("variance is the sample's", hof.var("x").over("1h"),
         [r(0, 1.0), r(1, 3.0), r(2, 5.0), r(3, None)], [None, 2, 4, 4]),
    Case("std is its root", hof.std("i").over("1h"),
         [r(0, i=1), r(1, i=3), r(2, i=5)], [None, math.sqrt(2), 2]),
    Case("variance far from zero keeps its digits", hof.var("x").over("1h"),
         [r(0, 1e9), r(1, 1e9 + 1), r(2, 1e9 + 2)], [None, 0.5, 1]),
    Case("min and max of text", hof.max("s").over("1h"),
         WORDS, ["b", "b", "b", "b", "c", "c", "c"]),
    Case("first skips null", hof.first("s").last(3), WORDS, ["b", "b", "b", "a", "b", "b", "c"]),
    Case("last skips null", hof.last("s").over("1h"), WORDS, ["b", "a", "a", "b", "c", "a", "c"]),
    Case("count_distinct", hof.count_distinct("s").over("1h"), WORDS, [1, 2, 2, 2, 3, 3, 3]),
    Case("top_k by count, then by value", hof.top_k("s", 2).over("1h"), WORDS,
         [["b"], ["a", "b"], ["a", "b"], ["b", "a"], ["b", "a"], ["a", "b"], ["a", "b"]]),
    Case("an empty top_k is null", hof.top_k("s", 2).over("1h"), [r(0, s=None)], [None]),
    Case("the median is a value", hof.quantile("x", 0.5).over("1h"),
         [r(0, 4.0), r(1, 1.0), r(2, 3.0), r(3, 2.0)], [4, 1, 3, 2]),
    Case("a quantile is the decimal that was written", hof.quantile("i", 0.07).last(100),
         [r(t, i=t + 1) for t in range(100)], [math.ceil((t + 1) * 7 / 100) for t in range(100)]),
    Case("the last quantile is the maximum", hof.quantile("x", 1).over("1h"),
         [r(0, 4.0), r(1, 1.0), r(2, None)], [4, 4, 4]),
    Case("count_distinct of none is 0, the others null", hof.count_distinct("s").over("1h"),
         [r(0, s=None)], [0]),
    Case("the latest time", hof.max("ts").over("1h", own_row=False), [r(0)], [None]),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_window_means_what_its_words_say(engine, case):
    """The same small case, the same answers, whatever computes them."""
    group = hof.feature_group(
        "g", version=1, key="k", event_time="ts", input=INPUT, late=case.late,
        windows={"w": case.window},
    )  # fmt: skip
    found = engine(group, case.rows)

    told = [
        "late" if late else "overflow" if overflow else seen(row["w"])
        for late, overflow, row in found
    ]
    assert is_told(told, case, engine.tolerance)
    assert all(row["w"] is None for late, over, row in found if late or over)


def test_derived_columns_are_computed_over_nulls_of_late_rows(engine):
    """A late row is told null windows, and what follows from them."""
    group = hof.feature_group(
        "g", version=1, key="k", event_time="ts", input=INPUT, late="1s",
        output={"double": hof.col("x") * 2},
        windows={"n": hof.count().over("1h"), "top": hof.top_k("s", 1).over("1h")},
        derive={"per": hof.col("double") / hof.col("n"), "none": hof.col("n").is_null()},
    )  # fmt: skip
    found = engine(group, [r(10, 3.0), r(1, 5.0), r(10, 4.0)])
    names = ["double", "n", "top", "per", "none"]

    assert [(late, [row[name] for name in names]) for late, _, row in found] == [
        (False, [6.0, 1, ["a"], 6.0, False]),
        (True, [10.0, None, None, None, True]),
        (False, [8.0, 2, ["a"], 4.0, False]),
    ]


def test_a_composite_key_is_all_of_its_parts(engine):
    """(a, 1) and (a, 2) are two entities, as are ("ab", "c") and ("a", "bc")."""
    group = hof.feature_group(
        "g", version=1, key=("k", "s"), event_time="ts", input=INPUT,
        windows={"n": hof.count().over("1h")},
    )  # fmt: skip
    rows = [r(0, k="ab", s="c"), r(1, k="a", s="bc"), r(2, k="ab", s="c"), r(3, k="a", s="c")]

    assert [row["n"] for _, _, row in engine(group, rows)] == [1, 1, 2, 1]


def test_windows_over_transformed_columns_and_functions(engine):
    """A function's column is aggregated like any other."""

    def halves(batch):
        return {"half": pa.array([v / 2 for v in batch["x"].to_pylist()])}

    group = hof.feature_group(
        "g", version=1, key="k", event_time="ts", input=INPUT, output={"half": pa.float64()},
        windows={"sum": hof.sum("half").over("1h")},
    )(halves)  # fmt: skip

    rows = [r(0, 1.0), r(1, 2.0), r(2, 4.0), r(3, 8.0)]
    assert [row["sum"] for _, _, row in engine(group, rows)] == [0.5, 1.5, 3.5, 7.5]
