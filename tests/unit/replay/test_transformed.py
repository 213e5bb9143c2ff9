"""Raw rows on their way to the windows: as served, and without what this version would refuse."""

import pyarrow as pa
import pyarrow.compute as pc
import pytest

import hofflight as hof
from hofflight import limits
from hofflight.replay.transformed import Transformation

S = 1_000_000
INPUT = {"k": pa.int64(), "ts": hof.TIMESTAMP, "x": pa.float64(), "i": pa.int64()}


def make_group(**changes):
    fields = {
        "key": "k", "event_time": "ts", "input": INPUT,
        "windows": {"n": hof.count().over("1h")},
        **changes,
    }  # fmt: skip
    return hof.feature_group("g", version=1, **fields)


def batch(*requests, arrival=10):
    """Requests as lists of rows (k, ts, x, i), numbered from 1; in reverse order of arrival."""
    rows = []
    for number, request in enumerate(requests, start=1):
        for place, (k, ts, x, i) in enumerate(request):
            seq, came = number << 20 | place, arrival * number
            rows.append({"_seq": seq, "_arrival": came * S, "k": k, "ts": ts * S, "x": x, "i": i})
    schema = pa.schema([("_seq", pa.int64()), ("_arrival", hof.TIMESTAMP), *INPUT.items()])
    return pa.RecordBatch.from_pylist(rows[::-1], schema=schema)


def numbers(rows):
    return sorted({seq >> 20 for seq in rows.column("_seq").to_pylist()})


GOOD = (1, 100, 0.5, 1)


@pytest.mark.parametrize(
    ("key", "bad"),
    [
        ("k", (None, 100, 0.5, 1)), ("k", (1, -(2**43), 0.5, 1)),
        ("x", (1, 100, None, 1)), ("x", (1, 100, float("nan"), 1)),
    ],
)  # fmt: skip
def test_a_request_with_a_row_that_is_refused_is_left_out_as_a_whole(key, bad):
    """A null or NaN in the key, a time that is none: its good rows go with it."""
    transformation = Transformation(make_group(key=key))
    rows = transformation.apply(batch([GOOD], [GOOD, bad, GOOD], [GOOD, GOOD]))

    assert numbers(rows) == [1, 3]
    assert transformation.rows_left_out == 3


def test_times_at_the_edges_are_accepted():
    """1900-01-01 to 2040-12-31, and not a microsecond more."""
    low, high = limits.event_time_us_min, limits.event_time_us_max
    schema = batch([GOOD]).schema
    rows = [
        {"_seq": n << 20, "_arrival": 0, "k": 1, "ts": ts, "x": 0.0, "i": 0}
        for n, ts in enumerate([low - 1, low, high, high + 1], start=1)
    ]
    got = Transformation(make_group()).apply(pa.RecordBatch.from_pylist(rows, schema=schema))

    assert numbers(got) == [2, 3]


def test_rows_ahead_of_their_arrival_are_refused_where_that_is_declared():
    """By more than `early`."""
    requests = ([(1, 10, 0.0, 0)], [(1, 80, 0.0, 0)], [(1, 91, 0.0, 0)])

    assert numbers(Transformation(make_group(early="1m")).apply(batch(*requests))) == [1, 2]
    assert numbers(Transformation(make_group()).apply(batch(*requests))) == [1, 2, 3]


def test_columns_are_those_of_the_rows_then_outputs_then_prepared():
    """Row by row, in the order in which they came in."""
    group = make_group(
        output={"twice": hof.col("x") * 2.0},
        windows={"n": hof.count(where=hof.col("twice") > 1).over("1h")},
    )
    given = batch([(1, 100, 0.5, 1), (2, 101, None, 2)], [(3, 102, 3.0, 3)])
    rows = Transformation(group).apply(given)

    assert rows.schema.names == [*given.schema.names, "twice", "_k0", "_ts", "_f0"]
    assert rows.select(given.schema.names) == given
    assert rows.column("twice").to_pylist() == [6.0, None, 1.0]
    assert rows.column("_f0").to_pylist() == [True, None, False]
    assert rows.column("_ts").to_pylist() == [102 * S, 101 * S, 100 * S]


@pytest.mark.parametrize("where_bad", [0, 1, 5, 9])
def test_an_expression_that_fails_costs_the_request_that_fails_alone(where_bad):
    """Integers that leave int64; all others are transformed."""
    group = make_group(output={"more": hof.col("i") + 2**62})
    requests = [[(1, n, 0.0, n), (1, n, 0.0, n)] for n in range(10)]
    requests[where_bad][1] = (1, 1, 0.0, 2**62)
    transformation = Transformation(group)
    rows = transformation.apply(batch(*requests))

    assert numbers(rows) == [n for n in range(1, 11) if n != where_bad + 1]
    assert transformation.rows_left_out == 2
    assert sorted(set(rows.column("more").to_pylist())) == sorted(
        2**62 + n for n in range(10) if n != where_bad
    )


def test_nothing_is_left_where_every_request_fails():
    """No rows, of the full schema."""
    group = make_group(output={"more": hof.col("i") + 1})
    rows = Transformation(group).apply(batch(*[[(1, n, 0.0, 2**63 - 1)] for n in range(5)]))

    assert rows.num_rows == 0
    assert rows.schema == Transformation(group).apply(batch([GOOD])).schema


def test_no_rows_are_no_rows():
    """An empty part of a log."""
    assert Transformation(make_group()).apply(batch([GOOD]).slice(0, 0)).num_rows == 0


def test_a_function_sees_rows_in_the_order_of_arrival_and_fails_alone():
    """It is the one that serves."""
    seen = []

    def function(rows):
        seen.append(rows["i"].to_pylist())
        if 3 in seen[-1]:
            raise ValueError
        return {"y": pc.multiply(rows["i"], 10)}

    group = make_group(output={"y": pa.int64()})(function)
    transformation = Transformation(group)
    rows = transformation.apply(batch(*[[(1, n, 0.0, n), (1, n, 0.0, n)] for n in range(6)]))

    assert seen[0] == [n // 2 for n in range(12)]
    assert numbers(rows) == [1, 2, 3, 5, 6]
    assert transformation.rows_left_out == 2
    pairs = zip(rows.column("i").to_pylist(), rows.column("y").to_pylist(), strict=True)
    assert all(y == 10 * i for i, y in pairs)


def test_a_function_that_asks_for_the_context_is_called_once_an_arrival():
    """And told when that was."""
    seen = []

    def function(rows, context):
        seen.append((context.arrival_time_us // S, context.group, context.version, len(rows)))
        return {"y": pa.array([context.arrival_time_us] * len(rows), pa.int64())}

    group = make_group(output={"y": pa.int64()})(function)
    rows = Transformation(group).apply(batch([GOOD], [GOOD, GOOD], [GOOD]))

    assert seen == [(10, "g", 1, 1), (20, "g", 1, 2), (30, "g", 1, 1)]
    assert rows.column("y").to_pylist() == [30 * S, 20 * S, 20 * S, 10 * S]


def test_only_what_is_wanted_is_derived_and_what_it_reads_is_kept():
    """Columns and windows that nobody will look at are not."""
    group = make_group(
        windows={"n": hof.count().over("1h"), "total": hof.sum("x").over("1h")},
        derive={"more": hof.col("n") + 1, "mean": hof.col("total") / hof.col("n")},
    )
    transformation = Transformation(group, ["more", "i"])

    assert transformation.derives == ("more",)
    assert transformation.windows == ("n",)
    assert "i" in transformation.columns
    assert "x" not in transformation.columns
    rows = pa.RecordBatch.from_pydict({"i": [1, 2], "n": pa.array([3, None], pa.int64())})
    chosen = rows.select([*[n for n in transformation.columns if n == "i"], "n"])
    assert transformation.derive(chosen)["more"].to_pylist() == [4, None]
