"""Cases small enough to be computed by hand: they check the oracle, and the engine again."""

import math
from fractions import Fraction

import pyarrow as pa
import pytest

from hofflight.features import window as hof
from hofflight.features.expression import col
from hofflight.features.group import feature_group
from hofflight.testing import oracle
from hofflight.testing.run import run
from hofflight.testing.strategies import group_of, plain_values, table_of
from hofflight.wire.schema import TIMESTAMP

S = 1_000_000  # a second
STRING = pa.string()
INF, NAN = math.inf, math.nan


def by_oracle(group, rows):
    answers = oracle.replay(group, rows)
    columns = {name: [a.windows[name] for a in answers] for name in group.windows}
    return columns, [a.late for a in answers], [a.overflow for a in answers]


def by_engine_at_once(group, rows, batch_rows=None):
    result = run(group, table_of(group, rows), batch_rows=batch_rows)
    columns = {name: plain_values(result.table[name]) for name in group.windows}
    return columns, result.late, result.overflow


def by_engine_row_by_row(group, rows):
    return by_engine_at_once(group, rows, batch_rows=1)


@pytest.fixture(params=[by_oracle, by_engine_at_once, by_engine_row_by_row])
def answer(request):
    return request.param


@pytest.fixture
def one(answer):
    """The only window's values for rows (time, value) of one key."""

    def one(window, rows, *, late="10m"):
        made = [{"k": 7, "ts": ts, **dict.fromkeys(window.columns_read(), v)} for ts, v in rows]
        columns, _, _ = answer(group_of([window], late=late), made)
        return columns["w0"]

    return one


def same(got, wanted):
    return [repr(value) for value in got] == [repr(value) for value in wanted]


# --- frames: which rows ---------------------------------------------------------------------------


def test_a_sliding_window_leaves_out_the_row_exactly_its_size_ago(one):
    rows = [(0, 1), (1, 2), (10 * S, 4), (10 * S + 1, 8), (30 * S, 16)]

    assert one(hof.sum("n").over("10s"), rows) == [1, 3, 6, 12, 16]


def test_ties_see_those_that_arrived_before_them(one):
    assert one(hof.sum("n").over("10s"), [(0, 1), (0, 2), (0, 4), (5 * S, 8)]) == [1, 3, 7, 15]
    assert one(hof.sum("n").over("1us"), [(0, 1), (0, 2), (1, 4), (1, 8)]) == [1, 3, 4, 12]


def test_a_row_out_of_order_does_not_see_its_future(one):
    rows = [(10 * S, 1), (5 * S, 2), (7 * S, 4), (10 * S, 8)]

    assert one(hof.sum("n").over("1m"), rows) == [1, 2, 6, 15]
    assert one(hof.first("n").over("1m"), rows) == [1, 2, 2, 2]
    assert one(hof.last("n").over("1m"), rows) == [1, 2, 4, 8]
    assert one(hof.first("n").last(2), rows) == [1, 2, 2, 1]  # 10 s, seq 0 stands before seq 3


def test_without_the_own_row_ties_that_came_before_stay(one):
    rows = [(0, 1), (0, 2), (10 * S, 4), (13 * S, 8)]

    assert one(hof.sum("n").over("10s", own_row=False), rows) == [None, 1, None, 4]
    assert one(hof.count().over("10s", own_row=False), rows) == [0, 1, 0, 1]


def test_a_tile_rounds_the_tail_down(one):
    # At 12 s: (12 - 10) // 3 * 3 = 0. At 13 s: 3 // 3 * 3 = 3. A tail on the edge is taken in.
    rows = [(-1, 1), (0, 2), (2 * S, 4), (3 * S, 8), (12 * S, 16), (13 * S, 32)]

    assert one(hof.sum("n").over("10s", tile="3s"), rows) == [1, 3, 7, 15, 30, 56]


def test_a_tile_rounds_down_before_1970_too(one):
    # (-1 s - 10 s) // 3 s = -4, so from -12 s on; truncation would say -9 s.
    rows = [(-12 * S - 1, 1), (-12 * S, 2), (-9 * S - 1, 4), (-S, 8)]

    assert one(hof.sum("n").over("10s", tile="3s"), rows) == [1, 3, 7, 14]


def test_last_counts_rows_before_nulls_and_where_are_left_out(one):
    rows = [(0, 1), (1, None), (2, 4), (3, 8)]

    assert one(hof.sum("n").last(2), rows) == [1, 1, 4, 12]
    assert one(hof.count("n").last(2), rows) == [1, 1, 1, 2]
    assert one(hof.sum("n", where=col("n") > 4).last(2), rows) == [None, None, None, 8]
    assert one(hof.sum("n").last(2, own_row=False), rows) == [None, 1, None, 4]
    assert one(hof.count().last(1, own_row=False), rows) == [0, 0, 0, 0]


def test_tumbling_windows_begin_at_whole_multiples_of_their_size(one):
    rows = [(9 * S, 1), (10 * S - 1, 2), (10 * S, 4), (19 * S, 8), (25 * S, 16)]

    assert one(hof.sum("n").tumbling("10s"), rows) == [1, 3, 4, 12, 16]


def test_tumbling_windows_before_1970_are_floored(one):
    # -10 s and -1 us share an interval; 0 begins the next one, where truncation would join them.
    rows = [(-10 * S - 1, 1), (-10 * S, 2), (-1, 4), (0, 8), (1, 16)]

    assert one(hof.sum("n").tumbling("10s"), rows) == [1, 2, 6, 8, 24]


def test_a_tumbling_row_out_of_order_goes_to_its_own_interval(one):
    rows = [(5 * S, 1), (12 * S, 2), (6 * S, 4), (13 * S, 8), (7 * S, 16)]

    assert one(hof.sum("n").tumbling("10s"), rows) == [1, 2, 5, 10, 21]


def test_a_gap_of_exactly_its_size_ends_a_session(one):
    rows = [(0, 1), (10 * S - 1, 2), (20 * S - 2, 4), (30 * S - 2, 8), (30 * S - 2, 16)]

    assert one(hof.sum("n").session("10s"), rows) == [1, 3, 7, 8, 24]
    assert one(hof.sum("n").session("10s", own_row=False), rows) == [None, 1, 3, None, 8]


def test_a_row_out_of_order_joins_two_sessions_for_later_rows(one):
    rows = [(0, 1), (18 * S, 2), (9 * S, 4), (18 * S, 8)]

    assert one(hof.sum("n").session("10s"), rows) == [1, 2, 5, 15]


def test_a_lifetime_holds_every_row_of_the_key_up_to_its_time(one):
    rows = [(0, 1), (10**15, 2), (10**15 - S, 4), (10**15, 8)]

    assert one(hof.sum("n").lifetime(), rows) == [1, 3, 5, 15]
    assert one(hof.count().lifetime(own_row=False), rows) == [0, 1, 1, 3]


def test_keys_do_not_see_each_other(answer):
    group = feature_group(
        "g", version=1, key=("a", "b"), event_time="ts",
        input={"a": STRING, "b": STRING, "ts": TIMESTAMP}, windows={"n": hof.count().lifetime()},
    )  # fmt: skip
    keys = [("a", "bc"), ("ab", "c"), ("a", "bc"), ("", "abc"), ("abc", ""), ("ab", "c")]
    rows = [{"a": a, "b": b, "ts": place} for place, (a, b) in enumerate(keys)]

    assert answer(group, rows)[0]["n"] == [1, 1, 2, 1, 1, 2]


# --- late rows ------------------------------------------------------------------------------------


def test_a_late_row_gets_nulls_and_enters_no_window(answer):
    group = group_of([hof.sum("n").over("1h"), hof.count().lifetime()], late="10s")
    # 20 s - 10 s = 10 s: that row is just in time, one microsecond before is not.
    rows = [(20 * S, 1), (10 * S, 2), (10 * S - 1, 4), (20 * S, 8)]
    columns, late, overflow = answer(group, [{"k": 7, "ts": ts, "n": n} for ts, n in rows])

    assert late == [False, False, True, False]
    assert columns == {"w0": [1, 2, None, 11], "w1": [1, 1, None, 3]}
    assert overflow == [frozenset()] * 4


def test_a_late_row_does_not_move_the_bound_and_keys_have_their_own(answer):
    group = group_of([hof.count().lifetime()], late="10s")
    rows = [(7, 20 * S), (7, 0), (-1, 0), (7, 10 * S), (-1, -10 * S), (-1, -10 * S - 1)]
    columns, late, _ = answer(group, [{"k": k, "ts": ts} for k, ts in rows])

    assert late == [False, True, False, False, False, True]
    assert columns == {"w0": [1, None, 1, 1, 1, None]}


# --- aggregates: which value ----------------------------------------------------------------------


def steps(values):
    return list(enumerate(values))


def test_null_nan_and_where_skip_a_value(one):
    values = [1.0, None, NAN, 2.0]

    assert one(hof.count().lifetime(), steps(values)) == [1, 2, 3, 4]
    assert one(hof.count("x").lifetime(), steps(values)) == [1, 1, 1, 2]
    assert one(hof.mean("x").lifetime(), steps(values)) == [1.0, 1.0, 1.0, 1.5]
    assert one(hof.count("x", where=col("x") > 1).lifetime(), steps(values)) == [0, 0, 0, 1]
    assert one(hof.last("x").lifetime(), steps(values)) == [1.0, 1.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("window", "empty"),
    [
        (hof.count("x"), 0), (hof.count_distinct("x"), 0), (hof.sum("x"), None),
        (hof.mean("x"), None), (hof.var("x"), None), (hof.std("x"), None), (hof.min("x"), None),
        (hof.max("x"), None), (hof.first("x"), None), (hof.last("x"), None),
        (hof.quantile("x", 0.5), None), (hof.top_k("x", 2), None),
    ],
)  # fmt: skip
def test_an_empty_window_is_null_but_counts_nought(one, window, empty):
    assert one(window.over("10s"), steps([None, NAN])) == [empty, empty]


def test_minus_zero_enters_as_zero(one):
    values = [-0.0, 0.0]

    for make in (hof.min, hof.max, hof.first, hof.last, hof.sum, hof.mean):
        assert same(one(make("x").over("10s"), steps(values)), [0.0, 0.0])
    assert one(hof.count_distinct("x").over("10s"), steps(values)) == [1, 1]
    assert same(one(hof.top_k("x", 2).over("10s"), steps(values)), [[0.0], [0.0]])
    assert same(one(hof.quantile("x", 1).over("10s"), steps(values)), [0.0, 0.0])


def test_a_float_sum_is_rounded_once(one):
    values = [1e16, 1.0, 1.0, -1e16]

    assert one(hof.sum("x").lifetime(), steps(values)) == [1e16, 1e16, 1e16 + 2, 2.0]
    assert one(hof.sum("x").last(2), steps(values)) == [1e16, 1e16, 2.0, -1e16]
    assert one(hof.sum("x").lifetime(), steps([0.1] * 10))[-1] == 1.0
    # Half-way between 1 and the next double: to even, unless anything at all tips it over.
    assert one(hof.sum("x").lifetime(), steps([1.0, 2.0**-53, 2.0**-1074]))[1:] == [
        1.0,
        1.0 + 2.0**-52,
    ]


def test_a_float_sum_past_the_largest_double_is_infinite_until_it_comes_back(one):
    values = [1e308, 1e308, -1e308]

    assert one(hof.sum("x").lifetime(), steps(values)) == [1e308, INF, 1e308]
    assert one(hof.mean("x").lifetime(), steps(values)) == [1e308, INF, 1e308 / 3]
    assert one(hof.sum("x").last(2), steps(values)) == [1e308, INF, 0.0]
    # A half step past the largest double, 2^970, is the first that rounds to infinity.
    largest = math.nextafter(INF, 0)
    below = math.nextafter(2.0**970, 0)
    assert one(hof.sum("x").lifetime(), steps([largest, below])) == [largest, largest]
    assert one(hof.sum("x").lifetime(), steps([largest, 2.0**970])) == [largest, INF]


def test_infinities_follow_ieee_and_no_number_is_null(one):
    values = [1.0, INF, -INF, 2.0]

    assert one(hof.sum("x").lifetime(), steps(values)) == [1.0, INF, None, None]
    assert one(hof.mean("x").last(2), steps(values)) == [1.0, INF, None, -INF]
    assert one(hof.var("x").last(2), steps([*values, 4.0])) == [None, None, None, None, 2.0]
    assert one(hof.max("x").last(2), steps(values)) == [1.0, INF, INF, 2.0]
    assert one(hof.sum("x").lifetime(), steps([-1e308, -1e308, INF]))[-1] == INF


def test_variance_is_of_the_sample(one):
    values = [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]  # mean 5, squares 32

    assert one(hof.var("x").lifetime(), steps(values))[-1] == 32 / 7
    assert one(hof.std("x").lifetime(), steps(values))[-1] == math.sqrt(32 / 7)
    assert one(hof.var("x").lifetime(), steps([3.0, 5.0])) == [None, 2.0]
    assert same(one(hof.std("n").lifetime(), steps([3, 3])), [None, 0.0])


def test_variance_does_not_cancel(one):
    # Around 1e9: squares need 60 bits, and their differences are ones.
    assert one(hof.var("x").lifetime(), steps([1e9, 1e9 + 1, 1e9 + 2]))[-1] == 1.0
    assert one(hof.var("n").lifetime(), steps([2**62, 2**62 + 1, 2**62 + 2]))[-1] == 1.0
    assert one(hof.var("x").lifetime(), steps([1e308, -1e308]))[-1] == INF


def test_an_integer_sum_past_int64_is_null_and_says_overflow(answer):
    group = group_of([hof.sum("n").last(2), hof.mean("n").last(2), hof.var("n").last(2)])
    top = 2**63 - 1
    rows = [{"k": 7, "ts": ts, "n": n} for ts, n in steps([top, 1, -1, -(2**63), -top])]
    columns, _, overflow = answer(group, rows)

    assert columns["w0"] == [top, None, 0, None, None]
    assert overflow == [frozenset(), {"w0"}, frozenset(), {"w0"}, {"w0"}]
    assert columns["w1"] == [2.0**63, 2.0**62, 0.0, -(2.0**62), -(2.0**63)]
    assert columns["w2"][2] == 2.0


def test_an_integer_mean_is_rounded_once(one):
    # (2^53 + 1) / 1 lies half-way between two doubles; (2^53 + 1 + 2^53 + 2) / 2 just above.
    assert one(hof.mean("n").lifetime(), steps([2**53 + 1, 2**53 + 2])) == [2.0**53, 2.0**53 + 2]


def test_quantiles_are_values_of_the_window(one):
    values = [5.0, 1.0, 4.0, 2.0, 3.0]

    assert one(hof.quantile("x", 0.5).over("1h"), steps(values)) == [5.0, 1.0, 4.0, 2.0, 3.0]
    assert one(hof.quantile("x", 1.0).over("1h"), steps(values)) == [5.0] * 5
    assert one(hof.quantile("x", 0.2).over("1h"), steps(values))[-1] == 1.0
    assert one(hof.quantile("x", 0.21).over("1h"), steps(values))[-1] == 2.0


def test_q_is_the_decimal_that_was_written(one):
    # 0.55 * 20 is 11.000000000000002 in doubles, whose ceiling is 12.
    assert one(hof.quantile("n", 0.55).over("1h"), steps(range(1, 21)))[-1] == 11
    assert one(hof.quantile("n", 0.28).over("1h"), steps(range(1, 26)))[-1] == 7


def test_top_k_breaks_ties_by_value(one):
    values = ["b", "a", "b", None, "c", "a"]

    assert one(hof.top_k("word", 2).over("1h"), steps(values)) == [
        ["b"], ["a", "b"], ["b", "a"], ["b", "a"], ["b", "a"], ["a", "b"],
    ]  # fmt: skip
    assert one(hof.top_k("flag", 3).over("1h"), steps([True, False]))[-1] == [False, True]
    assert one(hof.top_k("word", 9).over("1h"), steps(["\U0001f600", "\uffff", "é", "z"]))[-1] == [
        "z", "é", "\uffff", "\U0001f600",
    ]  # fmt: skip
    assert one(hof.top_k("raw", 9).over("1h"), steps([b"\xff", b"", b"\x00", b"a"]))[-1] == [
        b"", b"\x00", b"a", b"\xff",
    ]  # fmt: skip


def test_other_columns_keep_their_type(one):
    day = 86_400 * S
    assert one(hof.max("at").lifetime(), steps([day, -1, None])) == [day] * 3
    assert one(hof.min("word").lifetime(), steps(["b", "B", "a"])) == ["b", "B", "B"]
    assert one(hof.first("flag").lifetime(), steps([None, False, True])) == [None, False, False]
    assert one(hof.max("day").lifetime(), steps([-1, 5])) == [-1, 5]


def test_float32_is_widened_before_it_is_summed(one):
    tenth = 0.10000000149011612  # the float32 nearest to 0.1

    assert one(hof.sum("narrow").lifetime(), steps([tenth, tenth]))[-1] == 2 * tenth
    assert one(hof.max("narrow").lifetime(), steps([tenth, -tenth]))[-1] == tenth
    assert one(hof.sum("narrow").lifetime(), steps([3.4028234663852886e38] * 2))[-1] < INF


# --- where= ---------------------------------------------------------------------------------------


def test_where_takes_only_true(answer):
    group = group_of([hof.count(where="flag").lifetime(), hof.count(where=~col("flag")).lifetime()])
    rows = [{"k": 7, "ts": ts, "flag": flag} for ts, flag in steps([True, None, False])]

    assert answer(group, rows)[0] == {"w0": [1, 1, 1], "w1": [0, 0, 1]}


@pytest.mark.parametrize(
    ("expression", "wanted"),
    [
        (col("flag") & (col("x") > 0), [True, False, None, None, False]),
        (col("flag") | (col("x") > 0), [True, True, True, True, None]),
        (col("x").is_in([1.0, 2.0]), [True, True, True, None, None]),
        (col("x").is_null() | col("flag").is_null(), [False, False, True, True, True]),
        (col("x").fill_null(-1.0) < 0, [False, False, False, True, True]),
        ((col("x") - 1) / 0 == INF, [False, False, False, None, None]),
        (col("n") == 9007199254740992.0, [True, True, False, False, None]),
        (col("n") / 2 > 0, [True, True, False, True, None]),
    ],
)
def test_where_follows_the_words_of_expression(expression, wanted):
    columns = ("x", "flag", "n")
    rows = [
        (1.0, True, 2**53), (1.0, False, 2**53 + 1), (1.0, None, -1), (None, True, 1),
        (None, False, None),
    ]  # fmt: skip
    group = group_of([hof.count("x", where="flag").last(1), hof.count("n").last(1)])

    types = group.transformed
    rows = [dict(zip(columns, row, strict=True)) for row in rows]

    assert [oracle.evaluate(expression, row, types) for row in rows] == wanted


@pytest.mark.parametrize(
    ("expression", "x", "wanted"),
    [
        (col("x").log(), 0.0, -INF), (col("x").log(), -1.0, NAN), (col("x").log1p(), -1.0, -INF),
        (col("x").log10(), 1000.0, 3.0), (col("x").exp(), 1e9, INF), (col("x").exp(), -1e9, 0.0),
        (col("x").sqrt(), -1.0, NAN), (col("x").sqrt(), 4.0, 2.0), (col("x") / 0.0, 0.0, NAN),
        (col("x") / -0.0, 1.0, -INF), (col("x").abs(), -2.0, 2.0), (-col("x"), 0.0, -0.0),
        (col("x").log(), INF, INF), (col("x").log(), NAN, NAN), (col("x") == col("x"), NAN, False),
        (col("x") != col("x"), NAN, True), (col("x").is_null(), NAN, False),
    ],
)  # fmt: skip
def test_expressions_follow_ieee(expression, x, wanted):
    got = oracle.evaluate(expression, {"x": x}, group_of([hof.sum("x").last(1)]).transformed)

    assert repr(got) == repr(wanted)


def test_integer_arithmetic_past_int64_has_no_value():
    types = group_of([hof.sum("n").last(1)]).transformed

    with pytest.raises(OverflowError):
        oracle.evaluate(col("n") + 1, {"n": 2**63 - 1}, types)
    assert oracle.evaluate(col("n") + 1.0, {"n": 2**63 - 1}, types) == 2.0**63


def test_date_parts_are_of_utc():
    types = group_of([hof.count("at").last(1)]).transformed
    row = {"at": -1}  # 1969-12-31 23:59:59.999999, a Wednesday
    names = ("minute", "hour", "day_of_week", "day", "month", "year")
    parts = [oracle.evaluate(getattr(col("at"), name)(), row, types) for name in names]

    assert parts == [59, 23, 2, 31, 12, 1969]


# --- the oracle's own parts -----------------------------------------------------------------------


def test_expected_sum_is_fsum_where_fsum_can_answer():
    values = [0.1, 1e16, -3e-9, 1e30, -1e30, -1e16, 7.25]

    assert oracle.expected_sum(values) == math.fsum(values)
    assert oracle.expected_sum([2**63, 2**63]) == 2**64


def test_rounded_is_to_nearest_even():
    assert oracle.rounded(Fraction(2**53 + 1)) == 2.0**53
    assert oracle.rounded(Fraction(2**53 + 3)) == 2.0**53 + 4
    assert oracle.rounded(Fraction(-(2**1024))) == -INF


def test_places_choose_rows_and_change_no_answer():
    group = group_of([hof.count().last(3)])
    rows = [{"k": 7, "ts": ts} for ts in range(5)]

    assert oracle.replay(group, rows, places=[4, 1]) == [
        oracle.replay(group, rows)[i] for i in (4, 1)
    ]
