"""What the demos count and measure."""

import pyarrow as pa
import pytest

from hofflight.cli.exchange import Answers, Latencies
from hofflight.cli.flights_demo import chosen_histories, is_same
from hofflight.wire.envelope import OK, AnswerMeta


def batch(rows):
    return pa.record_batch({"x": pa.array(range(rows), pa.int64())})


def test_answers_count_rows_and_keep_what_was_refused():
    answers = Answers()
    answers.add(AnswerMeta(OK), batch(3))
    answers.add(AnswerMeta("HOF-301"), batch(0))
    answers.add(AnswerMeta(OK, late=[False, True]), batch(2))
    answers.add(AnswerMeta(OK, late=True), batch(1))

    assert answers.rows == 6
    assert answers.late == [False, False, False, False, True, True]
    assert [meta.code for meta in answers.refused] == ["HOF-301"]


def test_percentiles_are_values_that_were_measured():
    latencies = Latencies([[float(n) for n in range(1, 61)], [float(n) for n in range(61, 101)]])

    assert latencies.percentiles() == {"p50": 50.0, "p90": 90.0, "p99": 99.0}


def test_percentiles_of_one_value_are_that_value():
    assert Latencies([[7.0]]).percentiles() == {"p50": 7.0, "p90": 7.0, "p99": 7.0}


@pytest.mark.parametrize(
    ("got", "expected", "same"),
    [
        (1.0, 1.0, True),
        (float("nan"), float("nan"), True),
        (None, None, True),
        (3, 3, True),
        (0.0, -0.0, False),
        (1, 1.0, False),
        (True, 1, False),
        (None, 0, False),
        (0.1 + 0.2, 0.3, False),
    ],
)
def test_answers_are_compared_bit_for_bit(got, expected, same):
    assert is_same(got, expected) is same


def test_whole_histories_are_chosen_smallest_first():
    rows = pa.table({"carrier": list("AABBBC"), "origin": ["x"] * 6})

    assert chosen_histories(rows, 3) == [[5], [0, 1]]
    assert chosen_histories(rows, 100) == [[5], [0, 1], [2, 3, 4]]
