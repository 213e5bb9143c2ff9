"""The engine against the oracle: every aggregate over every kind of frame, on hostile histories."""

import math
import os
import struct
from random import Random

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hofflight.features import window as hof
from hofflight.features.expression import col
from hofflight.features.group import feature_group
from hofflight.testing.oracle import replay
from hofflight.testing.run import run
from hofflight.testing.strategies import (
    KINDS,
    Case,
    cases,
    group_of,
    histories,
    plain_rows,
    plain_values,
    requests,
    table_of,
)
from hofflight.wire.schema import TIMESTAMP

SECOND_US = 1_000_000
ROWS_SHORT = 60  # of a longer history the oracle, being slow, answers some rows alone
# In all six kinds together: 2,100 random histories by default, 21,000 in a soak.
HISTORIES = {"fast": 50, "ci": 350, "soak": 3_500}[os.environ.get("HYPOTHESIS_PROFILE", "ci")]


def bits(value):
    """What two values share only if they are the same to the bit; every NaN is one NaN."""
    if isinstance(value, float):
        return "nan" if value != value else struct.pack("<d", value)
    if isinstance(value, list):
        return [bits(item) for item in value]
    return type(value), value


def assert_as_oracle(case, batch_rows=None, places=None):
    """Every window, late mark and overflow of a run is what the oracle says."""
    group, table = case.group, case.table
    result = run(group, table, batch_rows=batch_rows)
    for name in table.column_names:
        assert list(map(bits, plain_values(result.table[name]))) == list(
            map(bits, plain_values(table[name]))
        ), f"input column {name} did not come back"
    assert result.table.schema.equals(group.schema)
    rows = plain_rows(result.table.select(list(group.transformed)))
    got = {name: plain_values(result.table[name]) for name in group.windows}
    if places is None:
        places = range(len(rows))
        if len(rows) > ROWS_SHORT:
            places = Random(len(rows)).sample(places, ROWS_SHORT // 2)
    for place, expected in zip(places, replay(group, rows, places=places), strict=True):
        assert result.late[place] == expected.late, f"row {place}: late"
        assert result.overflow[place] == expected.overflow, f"row {place}: overflow"
        for name, window in group.windows.items():
            wanted, value = expected.windows[name], got[name][place]
            assert bits(value) == bits(wanted), (
                f"row {place}, {name} = {window}: the engine says {value!r}, the oracle {wanted!r}"
            )


@pytest.mark.parametrize("kind", KINDS)
def test_every_aggregate_is_what_the_oracle_says(kind):
    """Types, own_row and where= included; however the rows come in requests."""
    seen = 0

    @settings(max_examples=HISTORIES)
    @given(cases((kind,)), requests())
    def check(case, batch_rows):
        nonlocal seen
        seen += 1
        assert_as_oracle(case, batch_rows)

    check()
    assert seen >= HISTORIES


@given(cases(), requests())
def test_requests_may_be_cut_anywhere(case, batch_rows):
    """One row at a time, all at once and anything between: the same answers, bit for bit."""
    whole = answers(run(case.group, case.table))

    assert answers(run(case.group, case.table, batch_rows=1)) == whole
    assert answers(run(case.group, case.table, batch_rows=batch_rows)) == whole


def answers(result):
    columns = {
        name: list(map(bits, plain_values(result.table[name])))
        for name in result.table.column_names
    }
    return columns, result.late, result.overflow


@given(cases(windows_max=6, repeats=(12,)), requests())
def test_histories_long_enough_for_blocks_of_rows(case, batch_rows):
    """Hundreds of rows, so windows are made of blocks and old rows are dropped."""
    assert_as_oracle(case, batch_rows, Random(1).sample(range(len(case.rows)), 12))


STEPS_US = [4 * SECOND_US, 1, SECOND_US, -3 * SECOND_US, 0, -3 * SECOND_US + 1, -SECOND_US]


@settings(max_examples=HISTORIES // 7)
@given(st.lists(st.sampled_from(STEPS_US), min_size=70, max_size=200), requests())
def test_rows_are_dropped_only_when_no_later_row_can_see_them(steps, batch_rows):
    """Rows as late as allowed fall between those that are gone and those that are kept."""
    frames = [
        *(lambda a, n=n: a.last(n) for n in (1, 2, 3, 8)),
        *(lambda a, size=size: a.over(size) for size in ("1us", "1s", "5s")),
        lambda a: a.over("5s", tile="2s"),
        lambda a: a.tumbling("5s"),
        lambda a: a.session("2s"),
        lambda a: a.session("5s"),
        lambda a: a.lifetime(),
    ]
    rows, newest = [], 0
    for place, step in enumerate(steps):
        rows.append({"k": 7, "ts": newest + step, "n": place})
        newest = max(newest, newest + step)
    # One frame a group: what one window keeps would hide what another one lost.
    for frame in frames:
        group = group_of([frame(hof.first("n")), frame(hof.count())], late="3s")
        assert_as_oracle(Case(group, rows), batch_rows, range(60, len(rows)))


# 1,024 rows and 32,768: blocks of 32, and blocks of those.
@pytest.mark.parametrize("seed", range(2))
def test_long_histories_of_one_key(seed):
    """Long enough for every level of partial sums, with rows that leave, tie and come late."""
    random = Random(seed)
    group = group_of(LONG_WINDOWS, late="30s")
    clock, rows = 0, []
    for _ in range(4_000):
        clock += random.choice((0, 0, 1, 1, 1, 5)) * SECOND_US
        back = random.choice((0,) * 8 + (random.randint(0, 40),)) * SECOND_US
        x = random.choice(
            (random.uniform(-100, 100), 1e16, -1e16, 1e30, -1e30, 3e-9, None, math.nan)
        )
        rows.append({"k": 7, "ts": clock - back, "x": x, "n": random.randint(-(10**6), 10**6),
                     "flag": random.random() < 0.5})  # fmt: skip

    places = [*sorted(random.sample(range(len(rows)), 40)), len(rows) - 1]
    assert_as_oracle(Case(group, rows), random.choice((None, 1, 700, [1, 1_500])), places)


@pytest.mark.parametrize(
    "frame",
    [
        lambda a: a.over("200s"),
        lambda a: a.over("200s", own_row=False),
        lambda a: a.last(200),
        lambda a: a.tumbling("300s"),
        lambda a: a.over("400s", tile="100s"),
    ],
    ids=["sliding", "without the own row", "last", "tumbling", "tiled"],
)
def test_a_window_of_a_few_blocks_slides_on_while_old_rows_are_dropped(frame):
    """Blocks are known by number, and a dropped block makes every later number another block's."""
    random = Random(7)
    # One frame alone: what another window keeps would put off the dropping.
    group = group_of([frame(hof.sum("n")), frame(hof.max("n")), frame(hof.first("n"))], late="5s")
    rows = [
        {"k": 7, "ts": (place - random.choice((0,) * 9 + (4,))) * SECOND_US,
         "n": random.randint(-(10**9), 10**9)}
        for place in range(1_500)
    ]  # fmt: skip

    assert_as_oracle(Case(group, rows), [1, 1, 1, 40], range(150, len(rows), 3))


# About 1.2 rows a second, so these hold 1,000 rows, 4,000 rows or all.
LONG_WINDOWS = [
    hof.sum("x").over("20m"),
    hof.mean("x", where="flag").over("2h", tile="1m"),
    hof.var("x").lifetime(),
    hof.sum("x").lifetime(own_row=False),
    hof.max("x").over("20m"),
    hof.std("n").last(1_500),
    hof.quantile("x", 0.9).tumbling("1h"),
    hof.count_distinct("n").session("3s"),
    hof.min("n").over("1h", own_row=False),
]

AMOUNTS = st.lists(st.sampled_from((0.1, 2.5, -7.25, 3e-9, 1.0, 1e-300)), min_size=1, max_size=40)
GIANTS = st.lists(
    st.sampled_from((1e16, -1e16, 1e30, -1e30, 1e308, 1.7976931348623157e308, math.inf)),
    min_size=1, max_size=40,
)  # fmt: skip
FLOAT_FUNCTIONS = (hof.sum, hof.mean, hof.var, hof.std, hof.min, hof.max)


@settings(max_examples=HISTORIES)
@given(giants=GIANTS, amounts=AMOUNTS, batch_rows=requests())
def test_giants_come_and_gone_leave_no_trace(giants, amounts, batch_rows):
    """Once they have left a window, its values are as if they had never been: no oracle needed."""
    clean = [{"k": 7, "ts": 60 * SECOND_US + place % 9, "x": x} for place, x in enumerate(amounts)]
    clean.append({"k": 7, "ts": 61 * SECOND_US, "x": 1.5})
    giant = [{"k": 7, "ts": place * 1_000, "x": x} for place, x in enumerate(giants)]
    frames = [
        lambda a: a.over("10s"),
        lambda a: a.over("10s", tile="5s"),
        lambda a: a.last(len(clean)),
        lambda a: a.tumbling("10s"),
        lambda a: a.session("10s"),
    ]
    group = group_of([frame(f("x")) for frame in frames for f in FLOAT_FUNCTIONS])

    after = run(group, table_of(group, giant + clean), batch_rows=batch_rows)
    never = run(group, table_of(group, clean), batch_rows=batch_rows)

    for name, window in group.windows.items():
        if window.frame.kind == "last":  # its giants have left at the last row alone
            got, wanted = after[name][-1:], never[name][-1:]
        else:
            got, wanted = after[name][len(giant) :], never[name]
        assert list(map(bits, got)) == list(map(bits, wanted)), f"{name} = {window}"


@given(
    amounts=AMOUNTS,
    giants=st.lists(st.sampled_from((1e16, 1e30, 1e300)), min_size=1, max_size=5),
    seed=st.integers(0, 99),
)
def test_giants_that_cancel_leave_no_trace_in_a_lifetime(amounts, giants, seed):
    """They never leave, so only an exact sum forgets them."""
    x = [*amounts, *giants, *(-giant for giant in giants)]
    Random(seed).shuffle(x)
    group = group_of([hof.sum("x").lifetime(), hof.mean("x").lifetime()])
    rows = [{"k": 7, "ts": place * SECOND_US * 600, "x": value} for place, value in enumerate(x)]

    result = run(group, table_of(group, rows))

    assert result["w0"][-1] == math.fsum(amounts)
    assert result["w1"][-1] == math.fsum(amounts) / len(x)


@given(data=st.data(), batch_rows=requests())
def test_windows_read_what_a_function_returned(data, batch_rows):
    """A column computed by user code feeds windows and where= like a raw one."""
    group = feature_group(
        "g", version=1, key="k", event_time="ts",
        input={"k": pa.int64(), "ts": TIMESTAMP, "x": pa.float64()},
        output={"third": pa.float64(), "known": pa.bool_(), "half": col("x") / 2},
        windows={
            "total": hof.sum("third", where="known").over("10s"),
            "top": hof.max("half", where=col("third") > 0).over("1m", own_row=False),
            "some": hof.count(where=~col("known")).last(5),
        },
        derive={"share": col("third") / col("total"), "n": col("some").fill_null(-1)},
    )(thirds)  # fmt: skip
    rows = data.draw(histories(group))

    assert_as_oracle(Case(group, rows), batch_rows)

    result = run(group, table_of(group, rows), batch_rows=batch_rows)
    for late, some, n in zip(result.late, result["some"], result["n"], strict=True):
        assert n == (-1 if late else some), "derived columns are computed over a late row's nulls"


def thirds(batch, ctx):
    return {"third": pc.divide(batch["x"], 3.0), "known": pc.is_valid(batch["x"])}


def test_a_batch_may_start_anywhere_in_its_buffers():
    """Sliced columns keep the validity bits and values of before: an offset must be minded."""
    group = group_of([hof.sum("x", where="flag").over("10s"), hof.last("word").last(3)])
    rows = [
        {"k": place % 2, "ts": place, "x": None if place % 3 else float(place),
         "flag": None if place % 5 == 0 else place % 2 == 0, "word": "ab"[: place % 3] or None}
        for place in range(40)
    ]  # fmt: skip
    table = table_of(group, rows)

    for start in (1, 7, 8, 9):
        sliced = answers(run(group, table.slice(start, 13)))
        assert sliced == answers(run(group, table_of(group, rows[start : start + 13])))
