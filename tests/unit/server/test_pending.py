"""Calls until their answers are back: each is found once, by whoever comes first."""

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from hofflight.eventlog.protocol import Request, Served
from hofflight.server.pending import Gathering, Pending

SERVED = Served("g", 1, "g", 1, "c0de", pa.schema([]), pa.schema([]))


def request(name):
    return Request(SERVED, b"", b"", name.encode().ljust(16), lambda answer: None)


def names(calls):
    return [call.request.id.strip().decode() for call in calls]


def test_a_call_is_found_once():
    """A second answer is nobody's."""
    pending = Pending()
    number = pending.add(request("a"), 5.0)
    assert names([pending.get(number)]) == ["a"]
    assert names([pending.pop(number)]) == ["a"]
    assert pending.pop(number) is None
    assert pending.get(number) is None
    assert len(pending) == 0


def test_no_number_is_given_twice():
    """Not after an answer, not after everything was given up."""
    pending = Pending()
    first = pending.add(request("a"), 5.0)
    pending.pop(first)
    pending.clear()
    assert pending.add(request("b"), 5.0) > first


def test_what_expires_is_given_once_in_order_of_time():
    """A deadline that is reached is over."""
    pending = Pending()
    for name, deadline_s in (("c", 3.0), ("a", 1.0), ("b", 2.0)):
        pending.add(request(name), deadline_s)
    assert names(pending.expired(2.0)) == ["a", "b"]
    assert pending.expired(2.0) == []
    assert len(pending) == 1
    assert pending.next_deadline_s() == 3.0


def test_an_answered_call_does_not_expire():
    """Nor does it keep anybody awake."""
    pending = Pending()
    pending.pop(pending.add(request("a"), 1.0))
    assert pending.next_deadline_s() is None
    pending.add(request("b"), 2.0)
    assert names(pending.expired(9.0)) == ["b"]


def test_clear_gives_every_call_and_forgets_them():
    """Then nothing expires any more."""
    pending = Pending()
    for name in "abc":
        pending.add(request(name), 1.0)
    assert names(pending.clear()) == ["a", "b", "c"]
    assert (len(pending), pending.expired(9.0), pending.next_deadline_s()) == (0, [], None)


def test_a_gathering_is_complete_with_the_last_of_its_parts():
    """In any order; a part that comes again changes nothing."""
    gathering = Gathering([[0], [1, 2], [3]])
    assert not gathering.add(2, "c")
    assert not gathering.add(0, "a")
    assert not gathering.add(0, "again")
    assert gathering.add(1, "b")
    assert gathering.answers == ["a", "b", "c"]


steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 20)),
        st.tuples(st.just("pop"), st.integers(0, 30)),
        st.tuples(st.just("expired"), st.integers(0, 25)),
        st.tuples(st.just("clear"), st.just(0)),
    ),
    max_size=60,
)


@given(steps)
def test_every_call_has_exactly_one_end(todo):
    """Answered, expired or given up; in the end nothing is left behind."""
    pending, open_calls, ended = Pending(), {}, []
    for kind, number in [*todo, ("clear", 0)]:
        if kind == "add":
            found = pending.add(request(str(len(ended) + len(open_calls))), float(number))
            open_calls[found] = float(number)
        elif kind == "pop":
            call = pending.pop(number)
            assert (call is not None) == (number in open_calls)
            ended += [number] * (number in open_calls)
            open_calls.pop(number, None)
        elif kind == "expired":
            over = [n for n, deadline_s in open_calls.items() if deadline_s <= number]
            assert len(pending.expired(float(number))) == len(over)
            ended += over
            for one in over:
                del open_calls[one]
        else:
            assert len(pending.clear()) == len(open_calls)
            ended += open_calls
            open_calls = {}
        assert len(pending) == len(open_calls)
        assert pending.next_deadline_s() == min(open_calls.values(), default=None)

    assert len(set(ended)) == len(ended)
    assert pending._deadlines == []
