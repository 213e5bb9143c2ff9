"""An expression gives the same bits on one row (Python) and on many (Arrow), or fails on both."""

import math
import struct
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import example, given, note
from hypothesis import strategies as st

import hofflight as hof
from hofflight.features.expression import DATE_PARTS, Call, Literal, columns_of, kind_of
from hofflight.transform.evaluate import evaluate
from hofflight.transform.row_code import compile_row

TYPES = {
    "f": pa.float64(), "g": pa.float64(), "h": pa.float32(),
    "i": pa.int64(), "j": pa.int64(), "k": pa.int16(), "u": pa.uint32(),
    "b": pa.bool_(), "c": pa.bool_(), "s": pa.string(), "t": pa.string(),
    "x": hof.TIMESTAMP, "y": hof.TIMESTAMP,
}  # fmt: skip
SLOTS = {name: slot for slot, name in enumerate(TYPES)}
BY_KIND = {
    "float": "fgh", "int": "ijku", "bool": "bc", "string": "st", "timestamp": "xy",
}  # fmt: skip

FLOATS = st.one_of(
    st.floats(),
    st.sampled_from(
        [0.0, -0.0, -1.0, 1.0, 5e-324, 1.7976931348623157e308, 2.0**53, 709.78, -745.2]
    ),
)
INTEGERS = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([0, 1, -1, 2**63 - 1, -(2**63), 2**53, 2**53 + 1, 3037000500]),
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
VALUES = {
    "f": FLOATS, "g": FLOATS, "h": st.floats(width=32), "i": INTEGERS, "j": INTEGERS,
    "k": st.integers(-(2**15), 2**15 - 1), "u": st.integers(0, 2**32 - 1),
    "b": st.booleans(), "c": st.booleans(), "s": TEXT, "t": TEXT, "x": INTEGERS, "y": INTEGERS,
}  # fmt: skip
ROWS = st.tuples(*[st.none() | VALUES[name] for name in TYPES]).map(list)
LITERALS = {"float": FLOATS, "int": INTEGERS, "bool": st.booleans(), "string": TEXT}

UNARY = {
    "log": "fi", "log1p": "fi", "log10": "fi", "exp": "fi", "sqrt": "fi", "abs": "fi",
    "negate": "fi", "~": "b", "to_float": "fib", "to_int": "ib",
    **dict.fromkeys(DATE_PARTS, "t"), "is_null": "fibst",
}  # fmt: skip
KINDS = {"f": "float", "i": "int", "b": "bool", "s": "string", "t": "timestamp"}


@st.composite
def expressions(draw, kind, depth=3):
    """An expression of this kind over the columns above, every operator included."""
    leaves = [st.sampled_from(BY_KIND[kind]).map(hof.col)]
    if kind in LITERALS:
        leaves.append(LITERALS[kind].map(Literal))
    if depth == 0 or draw(st.integers(0, 3)) == 0:
        return draw(st.one_of(leaves))

    def of(*kinds):
        return tuple(draw(expressions(k, depth - 1)) for k in kinds)

    number = st.sampled_from(["int", "float"])
    choices = ["fill_null"]
    if kind in ("int", "float"):
        choices += ["+", "-", "*", "abs", "negate"]
    if kind == "float":
        choices += ["/", "log", "log1p", "log10", "exp", "sqrt", "to_float"]
    elif kind == "int":
        choices += [*DATE_PARTS, "to_int"]
    elif kind == "bool":
        choices += ["==", "!=", "<", "<=", ">", ">=", "&", "|", "~", "is_null", "is_in"]
    op = draw(st.sampled_from(choices))
    if op in ("+", "-", "*", "fill_null"):
        # A float comes of two floats, or of an integer and a float in either order.
        mixed = draw(st.sampled_from([("float", "int"), ("int", "float"), ("float", "float")]))
        return Call(op, of(*(mixed if kind == "float" else (kind, kind))))
    if op == "/":
        return Call(op, of(draw(number), draw(number)))
    if op in ("==", "!=", "<", "<=", ">", ">="):
        same = draw(
            st.sampled_from(["string", "timestamp", *(["bool"] if op in ("==", "!=") else [])])
        )
        pair = draw(st.sampled_from([(same, same), (draw(number), draw(number))]))
        return Call(op, of(*pair))
    if op in ("&", "|"):
        return Call(op, of("bool", "bool"))
    if op == "is_in":
        member = draw(st.sampled_from(["float", "int", "string", "bool"]))
        return of(member)[0].is_in(draw(st.lists(LITERALS[member], min_size=1, max_size=3)))
    if op in ("abs", "negate"):
        return Call(op, of(kind))
    return Call(op, of(KINDS[draw(st.sampled_from(UNARY[op]))]))


def bits(value):
    """What a value is, to the last bit; every NaN is one value, as it is for a model."""
    if isinstance(value, float):
        return "nan" if value != value else struct.pack("<d", value)
    return type(value).__name__, value


def by_row(expression, rows):
    """The scalar lane; None when any row overflows."""
    function = compile_row(expression, SLOTS, TYPES)
    try:
        return [bits(function(row)) for row in rows]
    except OverflowError:
        return None


def by_column(expression, rows):
    """The Arrow lane; None when it overflows."""
    columns = {
        name: pa.array([row[SLOTS[name]] for row in rows], TYPES[name])
        for name in columns_of(expression)
    }
    try:
        array = evaluate(expression, columns, len(rows))
    except pa.ArrowInvalid:
        return None
    if array.type == hof.TIMESTAMP:
        array = array.view(pa.int64())
    return [bits(value) for value in array.to_pylist()]


def assert_lanes_agree(expression, rows):
    note(f"{expression} of {kind_of(expression, TYPES, 'test')}")
    assert by_row(expression, rows) == by_column(expression, rows)


@pytest.mark.parametrize("kind", ["float", "int", "bool", "string", "timestamp"])
def test_both_lanes_give_the_same_bits_for_any_expression(kind):
    """Serving one row and replaying a million must not differ in one bit."""

    @given(expressions(kind), st.lists(ROWS, min_size=1, max_size=3))
    def check(expression, rows):
        assert_lanes_agree(expression, rows)

    check()


COLUMN = {kind: hof.col(names[0]) for kind, names in BY_KIND.items()}
ONE_CALL = [
    *[Call(op, (COLUMN[KINDS[k]],)) for op, kinds in UNARY.items() for k in kinds],
    *[Call(op, (hof.col(a), hof.col(b))) for op in "+-*/" for a in "fi" for b in "gj"],
    *[
        Call(op, (hof.col(a), hof.col(b)))
        for op in ("==", "!=", "<", "<=", ">", ">=")
        for a, b in ("fg", "ij", "fi", "if", "st", "xy", "hk", "uk")
    ],
    *[hof.col("f").is_in(members) for members in ([0.0, 1e308], [-0.0], [math.nan], [math.inf])],
    hof.col("i").is_in([2**53, 2**63 - 1]),
    hof.col("s").is_in(["", "\uffff"]),
]


@pytest.mark.parametrize("expression", ONE_CALL, ids=str)
def test_both_lanes_agree_on_every_pair_of_adversarial_values(expression):
    """Zeros of both signs, infinities, NaN, the edges of int64 and of exactness, and null."""
    floats = [None, 0.0, -0.0, math.inf, -math.inf, math.nan, -1.0, 1e308, 5e-324, 2.0**53, 0.1]
    integers = [None, 0, 1, -1, 2**53 + 1, 2**63 - 1, -(2**63), 3037000500]
    pool = {"f": floats, "g": floats, "h": floats, "s": [None, "", "a", "\U0001f600", "\uffff"]}
    pool |= {"t": pool["s"], "b": [None, True, False], "c": [None, True, False]}
    pool |= {"k": [None, 0, -(2**15)], "u": [None, 0, 2**32 - 1]}
    names = list(columns_of(expression))
    for first in pool.get(names[0], integers):
        for second in pool.get(names[-1], integers):
            row = [None] * len(TYPES)
            row[SLOTS[names[0]]] = first
            if len(names) > 1:
                row[SLOTS[names[1]]] = second
            row[SLOTS["h"]] = struct.unpack("<f", struct.pack("<f", 0.1))[0]
            assert by_row(expression, [row]) == by_column(expression, [row]), row


@given(st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)))  # noqa: DTZ001 hypothesis adds none
@example(datetime(1900, 2, 28, 23, 59, 59, 999_999))  # noqa: DTZ001
@example(datetime(2000, 2, 29))  # noqa: DTZ001
@example(datetime(1969, 12, 31, 23, 59, 59, 999_999))  # noqa: DTZ001
def test_date_parts_are_those_of_the_calendar(naive):
    """Python's datetime is an independent judge, before 1970 and in leap years too."""
    moment = naive.replace(tzinfo=UTC)
    row = [None] * len(TYPES)
    row[SLOTS["x"]] = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    expected = {
        "minute": moment.minute, "hour": moment.hour, "day_of_week": moment.weekday(),
        "day": moment.day, "month": moment.month, "year": moment.year,
    }  # fmt: skip

    for lane in (by_row, by_column):
        found = {part: lane(Call(part, (hof.col("x"),)), [row])[0][1] for part in DATE_PARTS}
        assert found == expected


@pytest.mark.parametrize(
    "expression",
    [
        hof.col("i") + 1,
        hof.col("i") * 2,
        -hof.col("j"),
        hof.col("j").abs(),
        hof.col("j") - 1,
        hof.col("s").is_null() & (hof.col("i") + 1 > 0),
        hof.col("k").fill_null(hof.col("i") + 1),
        # The other operand is null: the overflow is still one, whichever lane looks.
        Call("+", (hof.col("u"), hof.col("i") + 1)),
        Call("<", (hof.col("u"), hof.col("i") + 1)),
    ],
    ids=str,
)
def test_integer_arithmetic_past_int64_is_refused_in_both_lanes(expression):
    """A wrapped integer is a wrong feature; both lanes refuse it, whatever stands beside it."""
    row = [None] * len(TYPES)
    row[SLOTS["i"]], row[SLOTS["j"]], row[SLOTS["k"]] = 2**63 - 1, -(2**63), 1

    assert by_row(expression, [row]) is None
    assert by_column(expression, [row]) is None


def test_null_goes_through_everything_but_what_asks_for_it():
    """Null in, null out; `is_null` and `fill_null` answer; Kleene logic decides where it can."""
    row = [None] * len(TYPES)
    row[SLOTS["c"]] = False
    null = hof.col("b")
    expected = [
        (hof.col("f") + 1, None), (hof.col("f").log(), None), (hof.col("i") == 1, None),
        (hof.col("s").is_in(["a"]), None), (~null, None), (null & hof.col("c"), False),
        (null | hof.col("c"), None), (null | ~hof.col("c"), True), (null & ~hof.col("c"), None),
        (hof.col("f").is_null(), True), (hof.col("f").fill_null(2.5), 2.5),
        (hof.col("x").year(), None), (null.to_int(), None),
    ]  # fmt: skip

    for expression, value in expected:
        assert by_row(expression, [row]) == by_column(expression, [row]) == [bits(value)], (
            expression
        )
