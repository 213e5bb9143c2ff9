"""Windows by SQL against the oracle: hostile histories, many of them in one query."""

import math
import os
from itertools import zip_longest
from random import Random

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
    con.register("prepared", pa.table(prepared).take(places))
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
