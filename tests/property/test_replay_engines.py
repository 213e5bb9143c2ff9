"""The two replay engines against the oracle, many histories at a time: as keys of one question."""

import math
import os
import sys
from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hofflight.features.window import count
from hofflight.replay.duckdb_engine import SqlEngine, open_duckdb
from hofflight.replay.equality import SUM_TOLERANCE, VARIANCE_TOLERANCE
from hofflight.replay.kernel import Kernel
from hofflight.replay.prepared import Preparation
from hofflight.testing.oracle import replay
from hofflight.testing.run import run
from hofflight.testing.strategies import (
    KINDS,
    LATE,
    group_of,
    histories,
    keys,
    plain_rows,
    plain_values,
    table_of,
    windows,
)
from tests.property.test_windows_oracle import bits

# Per kind of frame; six kinds: 2,400 histories by default, 24,000 in a soak.
HISTORIES = {"fast": 24, "ci": 400, "soak": 4_000}[os.environ.get("HYPOTHESIS_PROFILE", "ci")]
BUNDLE = 12  # histories in one question


@st.composite
def bundles(draw, kinds):
    """A group, and twelve histories of it whose keys are made different."""
    declared = draw(st.lists(windows(kinds), min_size=3, max_size=6))
    group = group_of(declared, key=keys[0], late=draw(st.sampled_from(LATE)))
    rows = []
    for number in range(BUNDLE):
        history = draw(histories(group, 8, (2, 4, 5)))
        places = {}
        for row in history:
            place = places.setdefault(row["k"], len(places))
            rows.append({**row, "k": number * 10 + place})
    return group, rows


class Answers:
    """What an engine and the oracle say of the same rows."""

    def __init__(self, group, rows, as_of):
        result = run(group, table_of(group, rows))
        batch = result.table.combine_chunks().to_batches()[0]
        preparation = Preparation(group)
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        self.group, self.as_of = group, as_of
        self.question = preparation.question
        self.prepared = preparation.rows(columns, pa.array(range(len(rows)), pa.int64()))
        plain = plain_rows(result.table.select(list(group.transformed)))
        self.expected = [None] * len(rows)
        for number in {row["k"] // 10 for row in rows}:  # the oracle's work is quadratic
            mine = [place for place, row in enumerate(rows) if row["k"] // 10 == number]
            found = replay(group, [plain[place] for place in mine], as_of=as_of)
            for place, answer in zip(mine, found, strict=True):
                self.expected[place] = answer

    def kernel(self):
        order = [(name, "ascending") for name in (*self.question.keys, "_seq")]
        table = pa.Table.from_batches([self.prepared]).sort_by(order)
        chunk = table.combine_chunks().to_batches()[0]
        answer = Kernel(self.question, self.as_of).answer(chunk)
        return pa.Table.from_batches([answer]).sort_by("_seq")

    def sql(self, threads=1):
        con = open_duckdb(threads=threads)
        con.register("prepared", self.prepared)
        found = SqlEngine(self.question, self.as_of, tolerances=True).table(con, "prepared")
        con.close()
        return found

    def wrong(self, found, is_same):
        """(row, window, said, expected) of everything an engine says otherwise."""
        mistakes = []
        values = {name: plain_values(found[name]) for name in self.group.windows}
        late = found["_late"].to_pylist()
        overflow = {
            name: found[f"_overflow_{name}"].to_pylist() for name in self.question.sums_integers
        }
        for place, expected in enumerate(self.expected):
            if late[place] != expected.late:
                mistakes.append((place, "late", late[place], expected.late))
            for name, window in self.group.windows.items():
                said, wanted = values[name][place], expected.windows[name]
                scale = f"_scale_{name}"
                size = found[scale][place].as_py() if scale in found.column_names else None
                if not is_same(said, wanted, window, size):
                    mistakes.append((place, f"{name} = {window}", said, wanted))
                if name in overflow and overflow[name][place] != (name in expected.overflow):
                    mistakes.append((place, f"overflow of {name} = {window}", said, wanted))
        return mistakes


def to_the_bit(said, wanted, window, size):
    return bits(said) == bits(wanted)


def as_declared(said, wanted, window, size):
    """To the bit, or the declared tolerance where DuckDB adds floats."""
    if bits(said) == bits(wanted):
        return True
    inexact = window.function in ("sum", "mean", "var", "std")
    if not (inexact and isinstance(said, float) and isinstance(wanted, float)):
        return False
    if window.function in ("var", "std"):
        return abs(said - wanted) <= VARIANCE_TOLERANCE * max(abs(said), abs(wanted))
    if math.isinf(size) and math.isinf(said) != math.isinf(wanted):
        return True
    return abs(said - wanted) <= SUM_TOLERANCE * min(size, sys.float_info.max)


@pytest.mark.parametrize("as_of", ["arrival", "event"])
@pytest.mark.parametrize("kind", KINDS)
def test_both_engines_say_what_the_oracle_says(kind, as_of):
    """Every aggregate, own_row and where=: the kernel to the bit, SQL as it was declared."""
    seen = Counter()

    # As of the event is the rarer question, so it gets a quarter of the histories.
    @settings(max_examples=max(1, HISTORIES // BUNDLE // (1 if as_of == "arrival" else 4)))
    @given(bundles((kind,)))
    def check(bundle):
        answers = Answers(*bundle, as_of)
        seen["histories"] += BUNDLE
        assert answers.wrong(answers.kernel(), to_the_bit) == []
        assert answers.wrong(answers.sql(), as_declared) == []

    check()
    assert seen["histories"] >= HISTORIES // (1 if as_of == "arrival" else 4) - BUNDLE


@settings(max_examples=max(2, HISTORIES // 80))
@given(bundles(KINDS))
def test_threads_change_no_answer(bundle):
    """Two threads, or one: the same values, floats within what is declared."""
    answers = Answers(*bundle, "arrival")

    assert answers.wrong(answers.sql(threads=2), as_declared) == []


def test_a_broken_rule_is_caught():
    """Plain RANGE, as most would write it: it counts ties that came later, and the future."""
    second = 1_000_000
    group = group_of([count().over("10s")], late="1m")
    times = [0, 5, 5, 20, 12, 21]
    rows = [{"k": 0, "ts": time * second} for time in times]
    answers = Answers(group, rows, "arrival")
    con = open_duckdb()
    con.register("prepared", answers.prepared)
    broken = con.sql(
        "SELECT _seq, false AS _late, count(*) OVER (PARTITION BY _k0 ORDER BY _ts "
        f"RANGE BETWEEN {10 * second - 1} PRECEDING AND CURRENT ROW) AS w0 "
        "FROM prepared ORDER BY _seq"
    ).to_arrow_table()

    assert answers.wrong(answers.kernel(), to_the_bit) == []
    assert answers.wrong(answers.sql(), as_declared) == []
    wrong = answers.wrong(broken, as_declared)
    assert [(place, said, wanted) for place, _, said, wanted in wrong] == [(1, 3, 2), (3, 2, 1)]
