"""Window state: undo and dumps lose nothing, blocks change nothing, memory is bounded.

That every aggregate over every frame is right is shown in tests/property against the oracle; here
stands what the oracle cannot see.
"""

import math
import random

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hofflight as hof
from hofflight.errors import TieLimit
from hofflight.transform.plan import GroupPlan
from hofflight.transform.state_codec import dump_key, load_key

S = 1_000_000
MINUTE, HOUR = 60 * S, 3_600 * S
INPUT = {
    "card": pa.int64(), "ts": hof.TIMESTAMP, "x": pa.float64(), "i": pa.int64(), "s": pa.string(),
}  # fmt: skip


def plan_of(windows, late="10s"):
    group = hof.feature_group(
        "g", version=1, key="card", event_time="ts", input=INPUT, windows=windows, late=late
    )
    return GroupPlan(group)


# Every frame, every kind of partial, and where= over a null.
WINDOWS = {
    "n_5s": hof.count().over("5s"),
    "sum_5s": hof.sum("x").over("5s"),
    "std_20s": hof.std("x").over("20s"),
    "max_last": hof.max("i").last(3),
    "first_tumbling": hof.first("s").tumbling("7s"),
    "mean_session": hof.mean("x").session("3s"),
    "n_session": hof.count(where=hof.col("i") > 0).session("3s"),
    "sum_tiled": hof.sum("i").over("30s", tile="4s"),
    "var_tiled": hof.var("x").over("30s", tile="4s"),
    "distinct_tiled": hof.count_distinct("s").over("30s", tile="4s"),
    "sum_life": hof.sum("x").lifetime(),
    "last_life": hof.last("s").lifetime(),
    "std_life": hof.std("i").lifetime(own_row=False),
    "top": hof.top_k("s", 2).over("9s"),
    "median": hof.quantile("x", 0.5).last(5, own_row=False),
}
PLAN = plan_of(WINDOWS)

EVENTS = st.lists(
    st.tuples(
        st.integers(1, 2),
        st.integers(-9, 6),  # steps in time, many of them ties, back within late, or later
        st.none() | st.sampled_from([1e16, -1e16, 0.1, -0.0, 1.0, math.nan]) | st.floats(-9, 9),
        st.none() | st.integers(-3, 2**62),
        st.none() | st.sampled_from(["a", "b", "c"]),
    ),
    min_size=1,
    max_size=40,
)


def rows_of(events):
    """Raw rows; the steps add up to event times around 1970."""
    rows, now = [], 0
    for card, step, x, i, s in events:
        now = max(now, now + step)
        rows.append([card, (now + min(step, 0)) * S, x, i, s])
    return rows


def send(state, rows):
    """Answer and keep rows one by one; what the client would get, NaN made comparable."""
    answers = []
    for row in rows:
        answers.append(repr(PLAN.run_row(state, row, 0)))
        state.commit()
    return answers


def dumped(state):
    """Everything that the state holds, as plain values."""
    return {key: repr(dump_key(kept)) for key, kept in state.keys.items()}


@given(EVENTS, EVENTS)
def test_a_dump_in_the_middle_of_a_history_loses_nothing(before, after):
    """A restart from a snapshot answers the next rows bit for bit as no restart does."""
    rows = rows_of(before + after)
    kept, restarted = PLAN.new_state(), PLAN.new_state()
    send(kept, rows[: len(before)])
    for key, state in kept.keys.items():
        restarted.keys[key] = load_key(PLAN.windows, dump_key(state))

    assert dumped(restarted) == dumped(kept)
    assert send(restarted, rows[len(before) :]) == send(kept, rows[len(before) :])
    assert dumped(restarted) == dumped(kept)


@given(EVENTS, EVENTS, st.data())
def test_undo_leaves_the_state_as_it_was(before, pushed, data):
    """A refused request, a failed write and a peek leave no trace, whatever they pushed."""
    rows = rows_of(before + pushed)
    state = PLAN.new_state()
    send(state, rows[: len(before)])
    untouched = dumped(state)
    cut = data.draw(st.integers(0, len(pushed)))
    for row in rows[len(before) :][:cut]:
        PLAN.run_row(state, row, 0)
    mark, half = state.mark(), dumped(state)
    for row in rows[len(before) :][cut:]:
        PLAN.run_row(state, row, 0)

    state.undo(mark)
    assert dumped(state) == half
    state.undo()
    assert dumped(state) == untouched


@given(EVENTS, EVENTS)
def test_a_peek_changes_no_later_answer(before, after):
    """The same rows, with and without a look at each of them first."""
    rows = rows_of(before + after)
    plain, peeked = PLAN.new_state(), PLAN.new_state()
    expected = send(plain, rows)
    found = []
    for row in rows:
        mark = peeked.mark()
        looked = repr(PLAN.run_row(peeked, row, 0))
        peeked.undo(mark)
        found += send(peeked, [row])
        assert looked == found[-1]

    assert found == expected


# --- blocks ---------------------------------------------------------------------------------------

BLOCK_WINDOWS = {
    name: aggregate.over("1h")
    for name, aggregate in {
        "n": hof.count("x"), "sum": hof.sum("x"), "min": hof.min("x"), "max": hof.max("x"),
        "first": hof.first("x"), "last": hof.last("x"), "std": hof.std("x"),
    }.items()
}  # fmt: skip


def brute_force(values):
    """The seven aggregates of the values in order, each by its definition."""
    n = len(values)
    if not n:
        return [0] + [None] * 6
    mean = math.fsum(values) / n
    spread = math.fsum((v - mean) ** 2 for v in values)
    std = math.sqrt(spread / (n - 1)) if n > 1 else None
    return [n, math.fsum(values), min(values), max(values), values[0], values[-1], std]


@pytest.mark.parametrize(("rows", "seed"), [(5_000, 1), (12_000, 2), (35_000, 3)])
def test_windows_of_many_blocks_equal_a_brute_force(rows, seed):
    """In order, out of order and after eviction, at random places; blocks of all three sizes."""
    random_ = random.Random(seed)
    plan = plan_of(BLOCK_WINDOWS, late="10m")
    state = plan.new_state()
    step = HOUR // rows  # so that a full window holds about `rows` rows
    history, now = [], 0
    total = rows + rows // 2
    asked = set(random_.sample(range(total), 40)) | {total - 1}
    for number in range(total):
        now += random_.randint(0, 2 * step)
        back = random_.choice([0, 0, 0, random_.randint(0, 9 * MINUTE)]) if number % 50 == 0 else 0
        ts = max(0, now - back)
        x = random_.choice([None, 1e16, -1e16]) if number % 97 == 0 else random_.uniform(-5, 5)
        history.append((ts, number, x))
        if number in asked:
            answer = plan.run_row(state, [1, ts, x, None, None], 0).row[len(INPUT) :]
            visible = sorted(h for h in history if ts - HOUR < h[0] <= ts)
            expected = brute_force([value for _, _, value in visible if value is not None])
            assert answer[:6] == expected[:6], f"seed {seed}, row {number}"
            assert answer[6] == pytest.approx(expected[6], rel=1e-9), f"seed {seed}, row {number}"
        else:
            plan.fold_row(state, [1, ts, x, None, None], 0)
        state.commit()


# --- bounds ---------------------------------------------------------------------------------------


def fold(plan, state, rows):
    for row in rows:
        plan.fold_row(state, row, 0)
        state.commit()


def test_rows_that_no_window_reaches_are_dropped():
    """100,000 rows of one key, a window of an hour: what is kept is what the hour holds."""
    plan = plan_of({"n": hof.count().over("1h"), "sum": hof.sum("x").over("1h")}, late="1m")
    state = plan.new_state()
    largest = 0
    for number in range(100_000):
        plan.fold_row(state, [1, number * 10 * S, 1.0, None, None], 0)  # 360 an hour
        state.commit()
        largest = max(largest, len(state.keys[1].ts))

    # 366 rows are needed; a block more, and a quarter more between two looks.
    assert largest < 600
    assert [len(series.values) for series in state.keys[1].series] == [len(state.keys[1].ts)]


@pytest.mark.parametrize(
    ("windows", "rows_max", "tiles_max"),
    [
        ({"a": hof.sum("x").over("30d", tile="1d")}, 200, 35),
        ({"a": hof.std("x").lifetime()}, 200, 1),
        ({"a": hof.sum("x").last(50)}, 300, 0),
        ({"a": hof.sum("x").session("1m")}, 300, 0),
        ({"a": hof.sum("x").tumbling("1d")}, 800, 0),
        ({}, 200, 0),
    ],
    ids=["tiled", "lifetime", "last", "session", "tumbling", "none"],
)
def test_what_a_key_keeps_is_bounded_by_its_windows(windows, rows_max, tiles_max):
    """A season of an event every five minutes: tiles instead of rows, last N instead of all."""
    plan = plan_of(windows)
    state = plan.new_state()
    for number in range(120 * 288):
        plan.fold_row(state, [1, number * 300 * S, 1.0, 1, "a"], 0)
        state.commit()
    kept = state.keys[1]

    assert len(kept.ts) <= rows_max
    assert sum(len(tiles.starts) for tiles in kept.tiles) <= tiles_max
    assert kept.max_ts == (120 * 288 - 1) * 300 * S


def test_a_key_has_4096_rows_in_one_microsecond_and_not_one_more():
    """The limit is exact, the row past it is not taken in, and the next microsecond is free."""
    plan = plan_of({"n": hof.count().over("1h")})
    state = plan.new_state()
    fold(plan, state, [[1, 5, None, None, None]] * 4_096)
    for _ in range(2):
        with pytest.raises(TieLimit, match=r"HOF-210.*4096 rows.*microsecond 5"):
            plan.run_row(state, [1, 5, None, None, None], 0)

    assert plan.run_row(state, [1, 6, None, None, None], 0).row[-1] == 4_097
    assert plan.run_row(state, [2, 5, None, None, None], 0).row[-1] == 1
    assert plan.run_row(state, [1, 4, None, None, None], 0).row[-1] == 1


POOLS = {
    None: [None, True], "x": [None, 1e16, -1e16, 0.1, 0.25, 5e-324], "i": [None, 1, -3, 2**62],
    "s": [None, "a", "b", "c"],
}  # fmt: skip
LOADED = plan_of(WINDOWS | {
    "tile_2": hof.std("i").over("90s", tile="3s"),
    "session_2": hof.max("x").session("1s", own_row=False),
    "quantile": hof.quantile("i", 0.9).over("50s"),
    "life_2": hof.var("x").lifetime(),
})  # fmt: skip


def pushed_and_loaded(plan, rows):
    """One state to which every row was pushed, one that was loaded with them all."""
    pushed, loaded = plan.new_state(), plan.new_state()
    histories = {}
    for card, ts, values in rows:
        if pushed.push(card, ts, values) is not None:
            histories.setdefault(card, []).append((ts, values))
        pushed.commit()
    for card, history in histories.items():
        history.sort(key=lambda row: row[0])  # stable: ties stay in the order of arrival
        columns = [list(column) for column in zip(*(values for _, values in history), strict=True)]
        loaded.load_rows(card, [ts for ts, _ in history], columns)
    return pushed, loaded


def answers_of(state, rows):
    found = []
    for card, ts, values in rows:
        found.append(repr(state.push(card, ts, values)))
        state.commit()
    return found


def series_rows(plan, seed, count, start=0):
    """Rows as `push` takes them, of two keys: steps of some ms to minutes, some back, some late."""
    random_ = random.Random(seed)
    now, rows = start, []
    for _ in range(count):
        now += random_.choice([0, 0, 1, 5, 400, 999, 3_000, 20_000, 60_000]) * 1_000
        back = random_.choice([0, 0, 0, 0, 1_000, 4_000, 9_999, 10_001, 50_000]) * 1_000
        values = [random_.choice(POOLS[series.column]) for series in plan.windows.series]
        rows.append((random_.randrange(2), now - back, values))
    return rows, now


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 30, 70, 300]), st.integers(1, 60))
def test_loading_rows_is_pushing_each(seed, count, more):
    """A key's whole history at once: every later answer is the same to the bit."""
    rows, now = series_rows(LOADED, seed, count)
    later, _ = series_rows(LOADED, seed + 1, more, now)
    pushed, loaded = pushed_and_loaded(LOADED, rows)

    assert answers_of(loaded, later) == answers_of(pushed, later)


def test_loading_many_rows_leaves_no_more_in_memory_than_pushing_them():
    """What no window reaches any more is dropped at once."""
    plan = plan_of({"n": hof.sum("x").over("1s")}, late="1s")
    rows, _ = series_rows(plan, 1, 5_000)
    pushed, loaded = pushed_and_loaded(plan, rows)

    for card, state in loaded.keys.items():
        assert len(state.ts) <= len(pushed.keys[card].ts) + 64
        assert len(state.ts) < 500
