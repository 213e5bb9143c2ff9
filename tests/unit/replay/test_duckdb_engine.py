"""Windows by SQL against the oracle: hostile histories, many of them in one query."""

import math
import os
from itertools import zip_longest
from random import Random

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hofflight import limits
from hofflight.errors import TieLimit
from hofflight.features import window as hof
from hofflight.features.group import feature_group
from hofflight.replay.duckdb_engine import SqlEngine, open_duckdb
from hofflight.replay.prepared import Preparation, answer_schema
from hofflight.testing.oracle import replay
from hofflight.testing.strategies import (
    KINDS,
    LATE,
    Case,
    cases,
    group_of,
    histories,
    plain_rows,
    plain_values,
    table_of,
    windows,
)
from hofflight.transform.evaluate import evaluate
from hofflight.wire.schema import TIMESTAMP

TABLES = {"fast": 4, "ci": 10, "soak": 200}[os.environ.get("HYPOTHESIS_PROFILE", "ci")]
INEXACT = ("sum", "mean", "var", "std")
LARGEST = 1.7976931348623157e308


@pytest.fixture(scope="module")
def con():
    with open_duckdb(threads=2) as con:
        yield con


def transformed(group, rows):
    """Raw and transformed columns of rows, as one table."""
    table = table_of(group, rows).combine_chunks()
    columns = {name: table[name].combine_chunks() for name in table.column_names}
    for name, expression in group.output.items():
        columns[name] = evaluate(expression, dict(columns), len(rows))
    return pa.table(columns)


def answered(con, group, table, as_of="arrival", engine=SqlEngine):
    """Answers to the rows of a table, handed over in no order, in order."""
    preparation = Preparation(group)
    columns = {name: table[name].combine_chunks() for name in table.column_names}
    prepared = preparation.rows(columns, pa.array(range(table.num_rows), pa.int64()))
    places = list(range(table.num_rows))
    Random(table.num_rows).shuffle(places)
    con.register("prepared", pa.table(prepared).take(pa.array(places, pa.int64())))
    return engine(preparation.question, as_of, tolerances=True).table(con, "prepared")


def is_same(window, value, expected, scale):
    """Whether an answer is the oracle's: to the bit, but for what DuckDB adds in its own way."""
    if value is None or expected is None or window.function not in INEXACT:
        return repr(value) == repr(expected)  # of floats, too, only the same bits print the same
    if not isinstance(expected, float):
        return value == expected
    # Beyond the largest double there is no distance; what lies just below is as near.
    a, b = (max(-LARGEST, min(LARGEST, number)) for number in (value, expected))
    if window.function in ("var", "std"):
        if window.function == "std":
            a, b = min(LARGEST, a * a), min(LARGEST, b * b)
        return abs(a - b) <= 2e-9 * max(abs(a), abs(b)) + 5e-324
    if math.isinf(value) or math.isinf(expected):
        return value == expected or math.isinf(scale)
    return abs(a - b) <= 1e-12 * min(scale, 1e3 * LARGEST)


def differences(got, case, as_of, start=0):
    """What the answers from row `start` on say otherwise than the oracle, as lines."""
    group = case.group
    rows = plain_rows(transformed(group, case.rows))
    late, windows = got["_late"].to_pylist(), group.windows
    values = {name: plain_values(got[name]) for name in windows}
    found = []
    for place, expected in enumerate(replay(group, rows, as_of=as_of)):
        at = start + place
        overflow = {
            n[len("_overflow_") :]
            for n in got.column_names
            if n.startswith("_overflow_") and got[n][at].as_py()
        }
        if late[at] != expected.late or overflow != expected.overflow:
            found.append(f"row {place}: late {late[at]}, overflow {overflow}: {expected}")
        for name, window in windows.items():
            scale = f"_scale_{name}"
            scale = got[scale][at].as_py() if scale in got.column_names else 0.0
            value, wanted = values[name][at], expected.windows[name]
            if not is_same(window, value, wanted, scale):
                found.append(
                    f"row {place}, {name} = {window}: SQL says {value!r}, the oracle {wanted!r}, "
                    f"scale {scale}"
                )
    return found


def assert_as_oracle(con, case, as_of="arrival"):
    got = answered(con, case.group, transformed(case.group, case.rows), as_of)
    assert not (wrong := differences(got, case, as_of)), "\n".join([*wrong[:5], repr(case)])


@st.composite
def tables(draw, kinds=KINDS, histories_max=6):
    """Several histories of one group, each with keys of its own, so that one query answers all."""
    declared = draw(st.lists(windows(kinds), min_size=1, max_size=8))
    group = group_of(declared, late=draw(st.sampled_from(LATE)))
    found = []
    for number in range(draw(st.integers(1, histories_max))):
        rows = draw(histories(group, rows_max=40, repeats=(1,)))
        renamed = {7: 0, -1: 1, 2**63 - 1: 2}
        rows = [{**row, "k": 3 * number + renamed[row["k"]]} for row in rows]
        found.append(Case(group, rows))
    return found


def assert_all_as_oracle(con, found, as_of):
    """One query for all histories, which arrive row by row, one of each at a time."""
    group = found[0].group
    mixed = [row for turn in zip_longest(*(case.rows for case in found)) for row in turn if row]
    got = answered(con, group, transformed(group, mixed), as_of)
    assert got.schema.names[: len(answer_schema(Preparation(group).question))]
    places = {id(row): place for place, row in enumerate(mixed)}
    for case in found:
        mine = got.take([places[id(row)] for row in case.rows])
        wrong = differences(mine, case, as_of)
        assert not wrong, "\n".join([*wrong[:5], repr(case)])


@pytest.mark.parametrize("as_of", ["arrival", "event"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_aggregate_is_what_the_oracle_says(con, kind, as_of):
    """Ties, disorder, extremes, where= and own_row included."""

    @settings(max_examples=TABLES)
    @given(tables((kind,)))
    def check(found):
        assert_all_as_oracle(con, found, as_of)

    check()


@settings(max_examples=3 * TABLES)
@given(cases(rows_max=30, windows_max=4, repeats=(1,)), st.sampled_from(["arrival", "event"]))
def test_keys_may_be_of_any_type(con, case, as_of):
    """Composite ones, and parts that are equal once glued together."""
    assert_as_oracle(con, case, as_of)


def seconds(group_windows, times, x, late="30d"):
    """A case of one key: event times in seconds, values of x."""
    group = group_of(group_windows, late=late)
    rows = [
        {"k": 7, "ts": time * 1_000_000, "x": value} for time, value in zip(times, x, strict=True)
    ]
    return Case(group, [{name: row[name] for name in group.input.names} for row in rows])


def test_the_comparison_finds_a_broken_rule(con):
    """RANGE over plain event time counts ties that came later; the oracle does not."""
    case = seconds([hof.count().over("10s")], [0, 5, 5], [1.0, 1.0, 1.0])
    table = transformed(case.group, case.rows)

    class Broken(SqlEngine):
        def table(self, con, source):
            good = super().table(con, source)
            counts = con.sql(
                "SELECT count(*) OVER (PARTITION BY _k0 ORDER BY _ts "
                f"RANGE 9999999 PRECEDING) AS w0 FROM {source} ORDER BY _seq"
            ).to_arrow_table()
            return good.set_column(2, "w0", counts["w0"])

    assert differences(answered(con, case.group, table), case, "arrival") == []
    wrong = differences(answered(con, case.group, table, engine=Broken), case, "arrival")
    assert [line.split(":")[0] for line in wrong] == [f"row 1, w0 = {case.group.windows['w0']}"]


def test_the_tolerance_is_the_sum_of_magnitudes(con):
    """Beside a sum the sum of |x|, beside a mean that over the count; of plain and of odd rows."""
    frames = [hof.sum("x").over("1m"), hof.mean("x").over("1m"), hof.var("x").over("1m")]
    case = seconds(frames, [0, 9, 5], [1.0, -2.0, 4.5])

    got = answered(con, case.group, transformed(case.group, case.rows))

    assert got["_scale_w0"].to_pylist() == [1.0, 3.0, 5.5]
    assert got["_scale_w1"].to_pylist() == [1.0, 1.5, 2.75]
    assert got["_scale_w2"].to_pylist() == [1.0, 3.0, 5.5]


def test_more_ties_than_the_order_holds_are_refused(con):
    """4,096 rows of a key in one microsecond are answered, one more is an error with a code."""
    full = seconds([hof.count().over("10s")], [5] * 4_096, [None] * 4_096)
    got = answered(con, full.group, transformed(full.group, full.rows))
    assert got["w0"].to_pylist() == list(range(1, 4_097))

    over = Case(full.group, [*full.rows, full.rows[0]])
    with pytest.raises(TieLimit):
        answered(con, over.group, transformed(over.group, over.rows))


def test_no_rows_have_no_answers(con):
    case = seconds([hof.sum("x").over("10s"), hof.top_k("x", 2).last(3)], [], [])

    assert answered(con, case.group, transformed(case.group, case.rows)).num_rows == 0


@pytest.mark.parametrize("as_of", ["arrival", "event"])
def test_all_of_time_fits_the_order(con, as_of):
    """From the first moment of 1900 to the last of 2040, a window of a century between."""
    group = group_of([hof.count().over("36525d"), hof.count().over("1us", own_row=False)])
    times = [limits.event_time_us_min, limits.event_time_us_min, limits.event_time_us_max]

    assert_as_oracle(con, Case(group, [{"k": 7, "ts": time} for time in times]), as_of)


@pytest.mark.parametrize("threads", [1, 2])
def test_little_memory_is_enough_with_a_folder_to_spill_to(tmp_path, threads):
    """Whatever the folder is called: its name is a setting, never SQL."""
    spill = tmp_path / 'it\'s "spilled"; view=.. x'
    spill.mkdir()
    rows = 300_000
    group = group_of([hof.count().over("7d"), hof.sum("x").over("7d")])
    columns = {
        "k": pa.array([row % 97 for row in range(rows)], pa.int64()),
        "ts": pa.array([row * 1_000_000 for row in range(rows)], TIMESTAMP),
        "x": pa.array([float(row % 89) for row in range(rows)]),
    }
    table = pa.table({name: columns[name] for name in group.input.names})

    with (
        open_duckdb(threads=2) as free,
        open_duckdb(memory_mib=60, threads=threads, spill=spill) as bounded,
    ):
        wanted = answered(free, group, table)
        got = answered(bounded, group, table)

    assert got.equals(wanted), "these sums are of whole numbers, so exact"


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM read_csv('{file}')",
        "COPY (SELECT 1) TO '{file}'",
        "ATTACH '{file}'",
        "INSTALL httpfs",
        "SET enable_external_access = true",
        "SET memory_limit = '1TB'",
        "SET lock_configuration = false",
    ],
)
def test_the_database_reaches_nothing_and_stays_so(tmp_path, query):
    """No file but in the folder to spill to, no extension, and no setting can be changed."""
    spill, file = tmp_path / "spill", tmp_path / "rows.csv"
    spill.mkdir()
    file.write_text("a\n1\n")
    with open_duckdb(memory_mib=100, spill=spill) as con, pytest.raises(duckdb.Error):
        con.execute(query.format(file=file))


def test_settings_are_as_asked():
    with open_duckdb(memory_mib=128, threads=1) as con:
        names = ("memory_limit", "threads", "TimeZone", "temp_directory", "enable_progress_bar")
        found = [con.execute("SELECT current_setting(?)", [name]).fetchone()[0] for name in names]

    assert found == ["128.0 MiB", 1, "UTC", "", False]


def test_a_window_may_have_any_name(con):
    """Also one that the text uses itself, of plain rows and of odd ones."""
    names = ("odd", "moved", "late", "tie", "o", "r", "back", "plain", "select", "newest")
    for as_of in ("arrival", "event"):
        group = feature_group(
            "g", version=1, key="k", event_time="ts",
            input={"k": pa.int64(), "ts": TIMESTAMP},
            windows={name: hof.count().over("10s") for name in names},
        )  # fmt: skip
        case = Case(group, [{"k": 7, "ts": time} for time in (0, 5, 5, 3)])
        assert_as_oracle(con, case, as_of)


def test_a_quantile_may_be_as_small_as_a_double(con):
    assert_as_oracle(con, seconds([hof.quantile("x", 5e-324).over("10s")], [0, 1], [2.0, 1.0]))


@pytest.mark.timeout(30)
def test_a_key_with_much_disorder_is_answered_in_time(con):
    """Work grows with the rows that odd rows see, not with a power of them."""
    rows = 2_000
    times = [place ^ 1 for place in range(rows)]  # every other row comes after a later one
    case = seconds([hof.var("x").lifetime(), hof.sum("x").lifetime()], times, [0.5, 2.5] * 1_000)

    got = answered(con, case.group, transformed(case.group, case.rows))

    assert got["w1"].to_pylist()[-1] == 1.5 * rows - 0.5  # the row before it has a later time
