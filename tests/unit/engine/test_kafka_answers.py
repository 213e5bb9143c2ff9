"""Which answers leave, in records of which size, and what a dead letter says."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from hofflight.engine.kafka_answers import awaited, cut, reason
from hofflight.errors import BadRecord
from tests.unit.kafka_engines import record_of

NOW = 1_700_000_000_000_000
LATE = NOW - 60_000_000


def answer(call, size=0):
    return call, b"m" * (size - size // 2), b"h" * (size // 2), b""


def test_an_answer_is_awaited_up_to_a_minute_after_its_deadline():
    """Clocks differ by less; 0 is no deadline, and what is below it none that we know."""
    deadlines = {1: 0, 2: -5, 3: LATE - 1, 4: LATE, 5: NOW + 1}
    record = record_of(*((n, [(7, n)], {"deadline_us": us}) for n, us in deadlines.items()))
    found = awaited(record, [answer(n) for n in deadlines], NOW)
    assert [call for call, *_ in found] == [1, 2, 4, 5]


def test_where_nothing_is_late_all_answers_are_awaited_in_their_order():
    record = record_of((1, [(7, 0)]), (2, [(7, 1)]))
    assert awaited(record, [answer(2), answer(1)], NOW) == [answer(2), answer(1)]


@given(st.lists(st.integers(0, 400), max_size=30), st.integers(65, 1_000))
def test_answers_are_cut_into_records_that_hold_as_many_as_they_may(sizes, bytes_max):
    """Nothing is lost or out of order; one alone may be too large, and never with others."""
    answers = [answer(call, size) for call, size in enumerate(sizes)]
    parts = cut(answers, bytes_max)
    assert [one for part in parts for one in part] == answers
    costs = [[64 + len(m) + len(h) for _, m, h, _ in part] for part in parts]
    assert all(sum(part) <= bytes_max or len(part) == 1 for part in costs)
    for part, following in pairwise(costs):
        assert sum(part) + following[0] > bytes_max


def test_a_reason_says_where_a_record_was_and_why_it_is_none():
    found = reason(BadRecord("it is junk"), "hof.in.g.1", 3, 17, 1_234)
    assert found == [
        ("hof-error", b"it is junk"), ("hof-code", b"HOF-220"), ("hof-topic", b"hof.in.g.1"),
        ("hof-partition", b"3"), ("hof-offset", b"17"), ("hof-timestamp-ms", b"1234"),
    ]  # fmt: skip


def test_a_reason_has_a_bounded_number_of_words():
    """They may be a stranger's."""
    found = dict(reason(BadRecord("x" * 10**6), "t", 0, 0, 0))
    assert found["hof-error"] == b"x" * 1_000
