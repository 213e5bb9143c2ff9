"""Training tables: which rows, which columns and in which order, and what the report says of it."""

import math
import struct
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hofflight as hof
from hofflight.errors import HofError
from hofflight.features.group import Context
from hofflight.replay.equality import SUM_TOLERANCE, same

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
    """Whether the columns are the same, types and all, to the bit."""
    assert left.schema.remove_metadata() == right.schema.remove_metadata()
    assert left.num_rows == right.num_rows
    pairs = zip(left.columns, right.columns, strict=True)
    return all(same(a.combine_chunks(), b.combine_chunks()).all() for a, b in pairs)


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


def ratio_arrow(batch):
    return pa.array([n / 2 for n in batch.column("n").to_pylist()])


def ratio_pandas(frame):
    return frame["n"] / 2


def ratio_polars(frame):
    return frame["n"] / 2


MODES = {"arrow": ratio_arrow, "pandas": ratio_pandas, "polars": ratio_polars}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("mode", MODES)
def test_columns_derived_by_a_function_are_as_served(open_app, mode, engine):
    """In Arrow, pandas and polars; beside one derived by an expression."""
    derive = {"half": (pa.float64(), MODES[mode]), "more": hof.col("n") + 1}
    app = open_app(make_group(derive=derive, mode=mode))
    app.view("v", 1, ["g.more", "g.half", "g.x"])
    served = served_table(app, [row(second, k=second % 2) for second in (0, 5, 3, 9)], "v")
    table = app.training_data("v", engine=engine)

    assert same_bits(table, served)
    assert table["g.half"].to_pylist() == [0.5, 0.5, 0.5, 1.5]


def since_arrival(batch, context: Context):
    return pa.array([context.arrival_time_us] * batch.num_rows, pa.int64())


@pytest.mark.parametrize("engine", ENGINES)
def test_a_function_is_told_when_its_row_arrived(open_app, clock, engine):
    """Not when it is replayed; also where the event times are in another order."""
    group = make_group(derive={"came": (pa.int64(), since_arrival)})
    app = open_app(group, clock=clock(step_us=7 * S))
    app.view("v", 1, ["g.came"])
    served = served_table(app, [row(second) for second in (0, 5, 3, 9)], "v")
    app.seal()

    assert same_bits(app.training_data("v", engine=engine), served)
    assert len(set(served["g.came"].to_pylist())) == 4


def test_every_type_comes_back_to_the_bit_by_the_kernel(open_app, send, group, clock):
    """Lists, times, dates, bytes, NaN and -0.0: what was answered, and nothing near it."""
    app = open_app(group(), group(2), clock=clock(step_us=S))
    send(app)
    rows = app.training_data("g", version=1, engine="kernel", ids=True).to_pylist()
    answers = {
        (part["_request_id"], part["_row"]): part["_answer"]
        for read in app.offline().history("g", 1).parts(answers=1)
        if read.version == 1
        for part in read.rows.to_pylist()
        if part["_answered"]
    }
    compared = 0
    for found in rows:
        answer = answers.get((found["request_id"], found["row"]))
        if answer is not None:
            compared += 1
            plain = {name.removeprefix("g."): found[name] for name in found}
            # A top_k that an answer has as null is one here, too: both are compared as they are.
            assert {name: bits(plain[name]) for name in answer} == {
                name: bits(value) for name, value in answer.items()
            }
    assert compared >= 6


@pytest.mark.parametrize("engine", ENGINES)
def test_edges_of_every_type_survive(open_app, engine):
    """Times at the ends of int64, dates, bytes, -0.0 and NaN, in columns and out of windows."""
    types = {"at": hof.TIMESTAMP, "day": pa.date32(), "raw": pa.binary(), "f": pa.float32()}
    windows = {f"last_{name}": hof.last(name).over("1h") for name in ("x", *types)}
    windows |= {"top": hof.top_k("at", 2).over("1h"), "low": hof.min("at").over("1h")}
    app = open_app(make_group(input={**INPUT, **types}, windows=windows))
    values = [
        {"at": -BIG, "day": date(1, 1, 1), "raw": b"", "f": -0.0, "x": -0.0},
        {"at": BIG, "day": date(9999, 12, 31), "raw": b"\x00'\xff", "f": math.nan, "x": math.nan},
        {"at": -BIG - 1, "day": None, "raw": None, "f": math.inf, "x": 5e-324},
        {"at": None, "day": date(1970, 1, 1), "raw": b"\x00", "f": None, "x": None},
    ]
    served = served_table(app, [row(n) | value for n, value in enumerate(values)])
    table = app.training_data("g", engine=engine)

    assert same_bits(table, served)
    assert bits(table["g.x"].to_pylist()) == bits([-0.0, math.nan, 5e-324, None])
    # Into a window it enters as 0.0.
    assert bits(table["g.last_x"].to_pylist()) == bits([0.0, 0.0, 5e-324, 5e-324])


def test_duckdb_adds_within_its_declared_tolerance(app):
    """1e-12 of the sum of |x|; the kernel is exact."""
    values = [0.1, 1e16, -1e16, 0.3, 1e-9, 7.7] * 20
    served = served_table(app, [row(n, x=value) for n, value in enumerate(values)])
    exact = app.training_data("g", engine="kernel")["g.total"]
    near = app.training_data("g", engine="duckdb")["g.total"]

    assert bits(exact.to_pylist()) == bits(served["g.total"].to_pylist())
    size = 0.0
    for value, one, other in zip(values, exact.to_pylist(), near.to_pylist(), strict=True):
        size += abs(value)
        assert abs(one - other) <= SUM_TOLERANCE * size


# --- rows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_rows_stand_in_the_order_of_time_then_of_arrival(app, engine):
    """Of any key, sealed or not; ids tell whose row it is."""
    sent = [(30, 1), (10, 2), (20, 1), (10, 1), (30, 2)]
    ids = []
    for number, (second, k) in enumerate(sent):
        ids.append(app.vector("g", row(second, k, x=float(number))).request_id)
        if number == 2:
            app.seal()
    app.vector("g", [row(25, 5, x=5.0), row(5, 6, x=6.0), row(25, 5, x=7.0)], request_id=b"i" * 16)
    table = app.training_data("g", engine=engine, ids=True)

    assert numbers_of(table) == [6.0, 1.0, 3.0, 2.0, 5.0, 7.0, 0.0, 4.0]
    assert table.column_names[:3] == ["request_id", "row", "late"]
    wanted = [b"i" * 16, ids[1], ids[3], ids[2], b"i" * 16, b"i" * 16, ids[0], ids[4]]
    assert table["request_id"].to_pylist() == wanted
    assert table["row"].to_pylist() == [1, 0, 0, 0, 0, 2, 0, 0]


@pytest.mark.parametrize("engine", ENGINES)
def test_late_rows_are_there_without_windows(app, engine):
    """And marked, and counted; nothing else sees them."""
    for second in (0, 3_000, 100, 3_001):
        app.vector("g", row(second))
    table = app.training_data("g", engine=engine, ids=True)

    assert table["late"].to_pylist() == [False, True, False, False]
    assert table["g.n"].to_pylist() == [1, None, 2, 3]
    assert (report_of(table)["late"], report_of(table)["rows"]) == (1, 4)


@pytest.mark.parametrize("engine", ENGINES)
def test_rows_that_were_sent_to_a_sibling_version_are_in_it(open_app, engine):
    """One log is the history of every version that reads it."""
    app = open_app(make_group(), make_group(2, windows={"m": hof.count().over("1h")}))
    for second in range(6):
        app.vector("g", row(second), version=1 + second % 2)
    app.ingest("g", [row(6)])

    for version, column in ((1, "g.n"), (2, "g.m")):
        table = app.training_data("g", version=version, engine=engine)
        assert table[column].to_pylist() == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_request_that_this_version_would_refuse_is_left_out_whole(open_app, engine):
    """A sibling took it; its good rows are not in the windows either."""
    more = {"more": hof.col("i") + 1}
    types = {**INPUT, "i": pa.int64()}
    app = open_app(make_group(input=types), make_group(2, input=types, output=more))
    app.vector("g", row(0, i=1), version=2)
    app.vector("g", [row(1, i=2), row(2, i=BIG)], version=1)
    app.vector("g", row(3, i=4), version=1)
    table = app.training_data("g", version=2, engine=engine)

    assert (table["g.more"].to_pylist(), table["g.n"].to_pylist()) == ([2, 5], [1, 2])
    report = report_of(table)
    assert (report["read"], report["dropped"], report["rows"]) == (4, 2, 2)


def fails_on_two(batch):
    if 2 in batch.column("n").to_pylist():
        raise ValueError("two is not to my taste")
    return pa.array([0.0] * batch.num_rows)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_row_whose_derived_column_fails_is_dropped_alone(open_app, engine):
    """It was in the windows of those that follow."""
    derive = {"picky": (pa.float64(), fails_on_two)}
    app = open_app(make_group(), make_group(2, derive=derive))
    app.vector("g", [row(second, x=float(second)) for second in range(5)], version=1)
    table = app.training_data("g", version=2, engine=engine)

    assert table["g.n"].to_pylist() == [1, 3, 4, 5]
    report = report_of(table)
    assert (report["read"], report["dropped"], report["rows"]) == (5, 1, 4)


@pytest.mark.parametrize("engine", ENGINES)
def test_requests_that_were_refused_leave_no_trace(app, engine):
    """Neither rows nor counts."""
    app.vector("g", row(0))
    with pytest.raises(HofError):
        app.vector("g", [row(1), row(2, k=None)])
    app.vector("g", row(3), store=False)
    app.vector("g", row(4))
    table = app.training_data("g", engine=engine)

    assert table["g.n"].to_pylist() == [1, 2]
    assert (report_of(table)["read"], report_of(table)["dropped"]) == (2, 0)


# --- ranges ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_windows_reach_back_before_the_start(app, engine):
    """A range chooses rows, not what they have seen; its end is not in it."""
    for second in range(10):
        app.vector("g", row(second, x=float(second)))
    table = app.training_data("g", (START + 4) * S, (START + 7) * S, engine=engine)

    assert numbers_of(table) == [4.0, 5.0, 6.0]
    assert table["g.n"].to_pylist() == [5, 6, 7]
    report = report_of(table)
    assert (report["read"], report["dropped"], report["rows"]) == (10, 7, 3)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("rows", [0, 5])
def test_an_empty_range_is_an_empty_table(app, engine, rows):
    """Of the same schema, with a report; also out of an empty log, with labels and a split."""
    app.view("v", 1, ["g.n", "g.s"], labels=["bad"])
    for second in range(rows):
        app.vector("v", row(second))
    ask = {"engine": engine, "ids": True, "split": {"train": 0.5, "test": 0.5}}
    whole = app.training_data("v", **ask)
    empty = app.training_data("v", START * S, START * S, **ask)

    assert (whole.num_rows, empty.num_rows) == (rows, 0)
    assert empty.schema.remove_metadata() == whole.schema.remove_metadata()
    assert report_of(empty)["parts"] == {"train": 0, "test": 0}
    assert report_of(empty)["dropped"] == report_of(empty)["read"] == rows


@pytest.mark.parametrize("engine", ENGINES)
def test_aware_times_mean_the_same_across_a_change_of_clocks(app, engine):
    """An hour that a clock shows twice is two hours."""
    berlin = ZoneInfo("Europe/Berlin")
    first = datetime(2026, 10, 25, 2, 30, tzinfo=berlin, fold=0)
    again = datetime(2026, 10, 25, 2, 30, tzinfo=berlin, fold=1)
    begin = (first.astimezone(UTC) - EPOCH) // timedelta(seconds=1)
    for minutes in range(0, 120, 15):
        app.vector("g", row(begin + minutes * 60 - START, x=float(minutes)))

    def found(start, end):
        return numbers_of(app.training_data("g", start, end, engine=engine))

    assert found(first, again) == [0.0, 15.0, 30.0, 45.0]
    assert found(again, None) == [60.0, 75.0, 90.0, 105.0]
    assert found("2026-10-25T02:45:00+02:00", "2026-10-25T02:45:00+01:00") == [
        15.0, 30.0, 45.0, 60.0,
    ]  # fmt: skip
    assert found(date(2026, 10, 26), None) == []


# --- as of ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_a_row_that_comes_after_its_time_counts_as_of_the_event_only(app, engine):
    """As of the arrival, earlier answers stay what they were."""
    for second in (10, 20, 30, 15):
        app.vector("g", row(second))

    def counts(as_of):
        return app.training_data("g", as_of=as_of, engine=engine)["g.n"].to_pylist()

    assert counts("arrival") == [1, 2, 2, 3]
    assert counts("event") == [1, 2, 3, 4]


@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=6)
@given(st.lists(st.tuples(st.integers(0, 1_500), st.integers(0, 1)), min_size=2, max_size=24))
def test_what_arrives_later_changes_no_earlier_row_as_of_the_arrival(
    tmp_path_factory, engine, sent
):
    """The table before is the table after, without the rows that came since."""
    half = len(sent) // 2
    chosen = hof.load_settings(log={"seal_bytes": 0, "seal_age_s": 0})
    with hof.open(tmp_path_factory.mktemp("p4") / "store", settings=chosen) as app:
        app.register(make_group())
        for number, (second, k) in enumerate(sent[:half]):
            app.ingest("g", row(second, k, x=float(number)))
        before = app.training_data("g", engine=engine)
        for number, (second, k) in enumerate(sent[half:], start=half):
            app.ingest("g", row(second, k, x=float(number)))
        after = app.training_data("g", engine=engine)

    assert [r for r in after.to_pylist() if r["g.x"] < half] == before.to_pylist()


# --- split ----------------------------------------------------------------------------------------


def require_no_leak(table, names):
    """Each part ends before the next begins."""
    part, ts = table["split"].to_pylist(), table["g.ts"].cast(pa.int64()).to_pylist()
    spans = [[t for p, t in zip(part, ts, strict=True) if p == name] for name in names]
    spans = [span for span in spans if span]
    assert all(max(one) < min(other) for one, other in pairwise(spans))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_split_by_share_cuts_at_times(app, engine):
    """Half, a quarter, a quarter; counted in the report."""
    for second in range(20):
        app.vector("g", row(second, k=second % 3))
    split = {"train": 0.5, "validation": 0.25, "test": 0.25}
    table = app.training_data("g", split=split, engine=engine)

    assert table["split"].to_pylist() == ["train"] * 10 + ["validation"] * 5 + ["test"] * 5
    assert report_of(table)["parts"] == {"train": 10, "validation": 5, "test": 5}
    assert table.schema.names[-1] == "split"


SHARES = st.sampled_from([
    {"train": 0.8, "test": 0.2}, {"train": 0.5, "validation": 0.3, "test": 0.2}, {"all": 1.0},
    {"a": 0.1, "b": 0.1, "c": 0.1, "d": 0.1, "e": 0.1, "f": 0.1, "g": 0.1, "h": 0.1, "i": 0.2},
])  # fmt: skip


@pytest.fixture(scope="module")
def many_stores(tmp_path_factory):
    """Makes a store of rows at these seconds, one after the other."""
    chosen = hof.load_settings(log={"seal_bytes": 0, "seal_age_s": 0})

    def make(seconds):
        app = hof.open(tmp_path_factory.mktemp("split") / "store", settings=chosen)
        app.register(make_group())
        app.ingest("g", [row(second, k=n % 2) for n, second in enumerate(seconds)])
        return app

    return make


@settings(max_examples=12)
@given(st.lists(st.integers(0, 8), min_size=1, max_size=30), SHARES, st.sampled_from([0, 1, 3]))
def test_a_split_by_share_never_parts_a_time(many_stores, seconds, shares, gap):
    """Whatever the ties: every part ends before the next begins, and a gap before that."""
    split = {**shares, "gap": f"{gap}s"} if gap else shares
    with many_stores(seconds) as app:
        whole = app.training_data("g", split=shares)
        table = app.training_data("g", split=split)

    names = list(shares)
    require_no_leak(table, names)
    assert whole.num_rows == len(seconds) == sum(report_of(whole)["parts"].values())
    report = report_of(table)
    assert sum(report["parts"].values()) == report["rows"] == len(seconds) - report["dropped"]
    begins = {}
    for part, ts in zip(whole["split"].to_pylist(), whole["g.ts"].to_pylist(), strict=True):
        begins.setdefault(part, ts)
    kept = [ts for ts in whole["g.ts"].to_pylist() if not any(
        begin - timedelta(seconds=gap) <= ts < begin
        for part, begin in begins.items() if part != names[0]
    )]  # fmt: skip
    assert table["g.ts"].to_pylist() == kept or whole["split"][0].as_py() != names[0]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_split_by_time_leaves_its_gap_out(app, engine):
    """What lies before the first is train; a gap before each part, and rows in it are dropped."""
    for second in range(20):
        app.vector("g", row(second, x=float(second)))
    split = {"validation": (START + 8) * S, "test": (START + 15) * S, "gap": "2s"}
    table = app.training_data("g", split=split, engine=engine)

    found = dict(zip(numbers_of(table), table["split"].to_pylist(), strict=True))
    assert found == (
        dict.fromkeys(map(float, range(6)), "train")
        | dict.fromkeys(map(float, range(8, 13)), "validation")
        | dict.fromkeys(map(float, range(15, 20)), "test")
    )
    report = report_of(table)
    assert report["parts"] == {"train": 6, "validation": 5, "test": 5}
    assert (report["read"], report["dropped"], report["rows"]) == (20, 4, 16)


def test_names_of_parts_are_values_and_never_sql(app):
    """Quotes, semicolons, no letters at all."""
    for second in range(4):
        app.vector("g", row(second))
    names = ["it's", '"; DROP TABLE joined; --', "", "ä'\"\\"]
    table = app.training_data("g", split=dict.fromkeys(names, 0.25))

    assert table["split"].to_pylist() == names
    assert report_of(table)["parts"] == dict.fromkeys(names, 1)


def test_shares_are_of_the_rows_of_the_range(app):
    """Not of the log."""
    for second in range(20):
        app.vector("g", row(second))
    split = {"train": 0.5, "test": 0.5}
    table = app.training_data("g", (START + 10) * S, None, split=split)

    assert report_of(table)["parts"] == {"train": 5, "test": 5}


# --- report ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_the_report_counts_what_became_of_every_row(open_app, engine):
    """Refused by this version, outside the range, in the gap, late, without a label."""
    app = open_app(make_group(), make_group(2, derive={"picky": (pa.float64(), fails_on_two)}))
    app.view("v", 1, ["g.x", "g.n", "g.picky"], labels=["bad"])
    for second in (0, 1, 2, 3_000, 10, 3_001, 3_002, 3_003, 3_004):
        app.vector("g", row(second, x=float(second)), version=1)
    labels = [{"k": 1, "ts": (START + second) * S, "bad": True} for second in (3_003, 3_004, 777)]
    split = {"test": (START + 3_003) * S, "gap": "1s"}
    table = app.training_data(
        "v", (START + 1) * S, (START + 3_004) * S, labels=labels, split=split, engine=engine
    )

    assert numbers_of(table) == [2.0, 10.0, 3_000.0, 3_001.0, 3_003.0]
    report = report_of(table)
    del report["seconds"]
    assert report == {
        "view": "v", "version": 1, "code_hash": app.engine.group("g", 2).code_hash(),
        "engine": engine, "as_of": "arrival", "rows": 5, "read": 9, "dropped": 4, "late": 1,
        "unlabeled": 4, "labels_unmatched": 2, "parts": {"train": 4, "test": 1},
        "partitions": [],
    }  # fmt: skip


def test_a_table_is_one_for_pandas_and_polars(app):
    """Types and report with it."""
    app.vector("g", row(0))
    table = app.training_data("g", split={"all": 1.0}, ids=True)

    assert table.to_pandas()["g.n"].tolist() == [1]
    assert pl.from_arrow(table)["g.total"].to_list() == [1.0]
    assert report_of(table)["rows"] == 1


@pytest.mark.parametrize("sealed", [False, True])
def test_sealed_or_not_the_table_is_the_same(app, sealed):
    """And again, byte for byte, when it is asked for twice."""
    for second in (0, 9, 4, 4, 3_000, 12):
        app.vector("g", row(second, k=second % 2))
    before = app.training_data("g", ids=True, engine="kernel")
    if sealed:
        app.seal()

    assert app.training_data("g", ids=True, engine="kernel").equals(before)
