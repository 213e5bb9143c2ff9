"""The kernel against the engine, row by row, and against the oracle as of the event."""

import math
import os
from random import Random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hofflight import limits
from hofflight.features import window as hof
from hofflight.replay.frames import Timeline
from hofflight.replay.kernel import COPIED_ROWS_MAX, Kernel, key_starts
from hofflight.replay.prepared import Preparation, answer_schema
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
    windows,
)
from tests.property.test_windows_oracle import LONG_WINDOWS, bits

S = 1_000_000
AS_OF = ("arrival", "event")
# Of each kind and each as_of; tests/property/test_replay_engines.py asks many keys at a time.
HISTORIES = {"fast": 15, "ci": 100, "soak": 1_000}[os.environ.get("HYPOTHESIS_PROFILE", "ci")]
PLACES_MAX = 24  # of a longer history the oracle, being slow, answers some rows alone


class Asked:
    """A case, served once, and the chunk of prepared rows that it is for the kernel."""

    def __init__(self, case):
        self.group = case.group
        self.served = run(case.group, case.table)
        batch = self.served.table.combine_chunks().to_batches()[0]
        preparation = Preparation(case.group)
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        rows = preparation.rows(columns, pa.array(range(batch.num_rows), pa.int64()))
        self.question = preparation.question
        order = [(name, "ascending") for name in (*self.question.keys, "_seq")]
        self.chunk = pa.Table.from_batches([rows]).sort_by(order).combine_chunks().to_batches()[0]

    def answers(self, as_of="arrival"):
        """(late, overflowed windows, bits of each window) of each row, in order of arrival."""
        answer = Kernel(self.question, as_of).answer(self.chunk)
        assert answer.schema.equals(answer_schema(self.question))
        assert answer.column("_seq").equals(self.chunk.column("_seq"))
        table = pa.Table.from_batches([answer]).sort_by("_seq")
        flags = {name: table[f"_overflow_{name}"] for name in self.question.sums_integers}
        overflow = [
            frozenset(name for name, flag in flags.items() if flag[row].as_py())
            for row in range(table.num_rows)
        ]
        return outcomes(self.group, table["_late"].to_pylist(), overflow, table)

    def of_engine(self):
        """The same as it was served."""
        return outcomes(self.group, self.served.late, self.served.overflow, self.served.table)

    def of_oracle(self, places, as_of):
        """The same of the rows at `places`, by the words of the spec."""
        rows = plain_rows(self.served.table.select(list(self.group.transformed)))
        return [
            (row.late, row.overflow, {name: bits(row.windows[name]) for name in self.group.windows})
            for row in replay(self.group, rows, places=places, as_of=as_of)
        ]


def outcomes(group, late, overflow, table):
    columns = {name: list(map(bits, plain_values(table[name]))) for name in group.windows}
    windows = [{name: column[row] for name, column in columns.items()} for row in range(len(late))]
    return list(zip(late, overflow, windows, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_every_row_is_told_what_it_was_served(kind):
    """Every aggregate, type, key, own_row and where=, bit for bit, late marks and overflows too."""

    @settings(max_examples=HISTORIES)
    @given(cases((kind,)))
    def check(case):
        asked = Asked(case)
        assert asked.answers() == asked.of_engine()

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_as_of_the_event_every_row_is_told_what_the_oracle_says(kind):
    """As if all rows that were not late had been there from the start."""

    @settings(max_examples=HISTORIES)
    @given(cases((kind,), windows_max=8))
    def check(case):
        asked = Asked(case)
        places = range(len(case.rows))
        if len(places) > PLACES_MAX:
            places = Random(len(places)).sample(places, PLACES_MAX)
        told = asked.answers("event")
        assert [told[place] for place in places] == asked.of_oracle(places, "event")

    check()


@st.composite
def bundles(draw):
    """Several histories of one group, each with keys of its own, in one case."""
    group = group_of(draw(st.lists(windows(), min_size=1, max_size=6)))
    rows = []
    for number in range(draw(st.integers(2, 6))):
        renamed = {7: 3 * number, -1: 3 * number + 1, 2**63 - 1: 3 * number + 2}
        rows += [{**row, "k": renamed[row["k"]]} for row in draw(histories(group, 20))]
    return Case(group, rows)


@settings(max_examples=HISTORIES)
@given(bundles(), st.sampled_from(AS_OF))
def test_other_keys_of_a_chunk_change_no_answer(case, as_of):
    """Limbs, ranks and tables are made for a whole chunk; each key is answered as if alone."""
    asked = Asked(case)
    kernel = Kernel(asked.question, as_of)
    starts = key_starts(asked.chunk, asked.question.keys).tolist()

    together = kernel.answer(asked.chunk)
    alone = pa.Table.from_batches(
        kernel.answer(asked.chunk.slice(start, end - start))
        for start, end in zip(starts, [*starts[1:], asked.chunk.num_rows], strict=True)
    )

    for name in together.schema.names:
        one, other = pa.chunked_array([together.column(name)]), alone[name]
        assert list(map(bits, plain_values(one))) == list(map(bits, plain_values(other))), name


def rows_copied(times, as_of):
    """About how many: the whole past of each row that sees something else than what precedes it."""
    copied, earliest = 0, math.inf
    for place in range(len(times) - 1, -1, -1):
        is_tied = as_of == "event" and times[place] in times[place + 1 : place + 9]
        if is_tied or (as_of == "arrival" and earliest < times[place]):
            copied += place
        earliest = min(earliest, times[place])
    return copied


@pytest.mark.parametrize("as_of", AS_OF)
def test_a_long_history_of_one_key_with_disorder(as_of):
    """4,000 rows, some out of order, some tied, some late; private copies in several slices."""
    random = Random(as_of)
    clock, rows = 0, []
    for _ in range(4_000):
        clock += random.choice((0, 1, 1, 1, 1, 1, 1, 5)) * S
        back = random.choice((0,) * 60 + (random.randint(0, 40),)) * S
        x = random.choice(
            (random.uniform(-100, 100), 1e16, -1e16, 1e30, -1e30, 3e-9, None, math.nan)
        )
        rows.append({"k": 7, "ts": clock - back, "x": x, "n": random.randint(-(10**6), 10**6),
                     "flag": random.random() < 0.5})  # fmt: skip
    asked = Asked(Case(group_of(LONG_WINDOWS, late="30s"), rows))
    assert rows_copied([row["ts"] for row in rows], as_of) > 2 * COPIED_ROWS_MAX

    told = asked.answers(as_of)

    if as_of == "arrival":
        assert told == asked.of_engine()
    places = sorted(random.sample(range(len(rows)), 30))
    assert [told[place] for place in places] == asked.of_oracle(places, as_of)


def test_many_keys_over_a_century_and_a_half():
    """Keys times span is more than int64 holds, so times go by their ranks."""
    keys = 2_200
    old, new = limits.event_time_us_min, limits.event_time_us_max
    times = [old, old + 5 * S, old + 10 * S, new - 5 * S, new]
    rows = [{"k": key, "ts": time} for time in times for key in range(keys)]
    frames = [hof.count().over("10s"), hof.count().over("10s", tile="10s"),
              hof.count().tumbling("1h"), hof.count().session("6s")]  # fmt: skip
    asked = Asked(Case(group_of(frames), rows))
    assert keys * (new - old) > 2**63

    told = [
        [windows[name][1] for name in ("w0", "w1", "w2", "w3")] for _, _, windows in asked.answers()
    ]

    expected = [[1, 1, 1, 1], [2, 2, 2, 2], [2, 3, 3, 3], [1, 1, 1, 1], [2, 2, 2, 2]]
    assert told == [answer for answer in expected for _ in range(keys)]


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from((-(2**51), -1, 0, 1, 2**51))),
             min_size=1, max_size=20),
    st.sampled_from((-(2**52), -2, -1, 0, 1, 2, 2**52)),
    st.sampled_from((1, 4_096)),
)  # fmt: skip
def test_a_bound_in_time_never_leaves_its_block(drawn, offset, apart):
    """Far before or after all that there is; by times, or by their ranks where blocks are many."""
    rows = sorted((block * apart, ts) for block, ts in drawn)
    timeline = Timeline(int64(block for block, _ in rows), int64(ts for _, ts in rows))

    found = timeline.at_or_after(
        int64(range(len(rows))), int64(ts + offset for _, ts in rows)
    ).tolist()

    assert found == [sum(other < (block, ts + offset) for other in rows) for block, ts in rows]


def int64(values):
    return np.array(list(values), np.int64)


@pytest.mark.parametrize("as_of", AS_OF)
def test_no_rows_have_no_answers(as_of):
    """Of every function that there is, with its columns and types."""
    group = group_of([hof.count().over("1m"), hof.sum("x").last(2), hof.sum("n").session("1m"),
                      hof.var("x").tumbling("1m"), hof.top_k("word", 2).over("1m"),
                      hof.quantile("x", 0.5).over("1m"), hof.max("word").over("1m"),
                      hof.first("at").lifetime(), hof.count_distinct("n").over("1m"),
                      hof.mean("n", where="flag").over("1m", own_row=False)])  # fmt: skip
    question = Preparation(group).question

    none = [pa.array([], field.type) for field in question.schema]
    chunk = pa.RecordBatch.from_arrays(none, schema=question.schema)

    answer = Kernel(question, as_of).answer(chunk)

    assert answer.num_rows == 0
    assert answer.schema.equals(answer_schema(question))


@pytest.mark.parametrize("as_of", AS_OF)
def test_a_late_row_is_told_nothing_and_counts_nowhere(as_of):
    """Not even a count of 0, and no overflow; the next row does not know of it."""
    group = group_of([hof.count().lifetime(), hof.sum("n").lifetime()], late="10s")
    largest = 2**63 - 1
    rows = [{"k": 7, "ts": ts * S, "n": n} for ts, n in [(0, 1), (20, 2), (9, largest), (21, 4)]]
    asked = Asked(Case(group, rows))

    answer = Kernel(asked.question, as_of).answer(asked.chunk)

    assert answer.to_pydict() == {
        "_seq": [0, 1, 2, 3], "_late": [False, False, True, False], "w0": [1, 2, None, 3],
        "w1": [1, 3, None, 7], "_overflow_w1": [False] * 4,
    }  # fmt: skip


def test_as_of_the_event_rows_of_a_microsecond_see_each_other():
    """Without the own row too, which then is not the last of what it sees."""
    group = group_of([hof.sum("n").over("10s"), hof.sum("n").over("10s", own_row=False),
                      hof.last("n").last(1), hof.last("n").last(1, own_row=False)])  # fmt: skip
    rows = [{"k": 7, "ts": ts * S, "n": n} for ts, n in [(0, 1), (5, 2), (5, 4), (5, 8)]]
    asked = Asked(Case(group, rows))

    answer = Kernel(asked.question, "event").answer(asked.chunk).to_pydict()

    assert answer["w0"] == [1, 15, 15, 15]
    assert answer["w1"] == [None, 13, 11, 7]
    assert answer["w2"] == [1, 8, 8, 8]
    assert answer["w3"] == [None, 8, 8, None]
