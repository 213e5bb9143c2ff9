"""What waits for a partition leaves in order, once, and as much together as a record holds."""

from hypothesis import given
from hypothesis import strategies as st

from hofflight.server.partition_queue import HEAD_BYTES, Outgoing, PartitionQueue


def item(call, *, rows=1, size=10, deadline_s=None):
    return Outgoing(call, b"x" * size, rows, deadline_s)


def queue_of(*items, rows_max=1_000, bytes_max=1_000):
    queue = PartitionQueue(rows_max, bytes_max)
    for one in items:
        queue.put(one)
    return queue


def calls(items):
    return [one.call for one in items]


def test_what_waits_leaves_together_in_order():
    """One record for all that came meanwhile."""
    queue = queue_of(*map(item, range(5)))
    assert tuple(map(calls, queue.take(0.0))) == ([0, 1, 2, 3, 4], [])
    assert len(queue) == 0


def test_one_record_is_under_way_at_a_time():
    """So two records of a partition never overtake each other."""
    queue = queue_of(item(1))
    queue.take(0.0)
    queue.put(item(2))
    assert queue.take(0.0) == ([], [])
    queue.done()
    assert calls(queue.take(0.0)[0]) == [2]


def test_nothing_under_way_is_not_busy():
    """An empty record, or one of expired requests alone, blocks nobody."""
    queue = queue_of()
    queue.take(0.0)
    queue.put(item(1, deadline_s=1.0))
    assert tuple(map(calls, queue.take(2.0))) == ([], [1])
    queue.put(item(2))
    assert calls(queue.take(2.0)[0]) == [2]


def test_rows_and_bytes_bound_a_record():
    """The next one has what does not fit; one that is too large for any leaves alone."""
    queue = queue_of(*(item(i, rows=400) for i in range(5)))
    assert calls(queue.take(0.0)[0]) == [0, 1]
    queue = queue_of(*(item(i, size=500 - HEAD_BYTES) for i in range(5)))
    assert calls(queue.take(0.0)[0]) == [0, 1]
    queue = queue_of(item(0, rows=5_000), item(1), bytes_max=5)
    assert calls(queue.take(0.0)[0]) == [0]


def test_what_is_expired_never_leaves_and_takes_no_room():
    """Nobody waits for it: it is told apart, and the others leave in its place."""
    queue = queue_of(
        item(1, rows=900, deadline_s=1.0), item(2, rows=900, deadline_s=9.0), item(3, rows=100)
    )
    leaving, expired = queue.take(5.0)
    assert (calls(leaving), calls(expired)) == ([2, 3], [1])


def test_what_is_cleared_waits_no_more():
    """And the record under way is still under way."""
    queue = queue_of(item(1))
    queue.take(0.0)
    queue.put(item(2))
    assert calls(queue.clear()) == [2]
    assert len(queue) == 0
    queue.put(item(3))
    assert queue.take(0.0) == ([], [])


steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("put"), st.integers(1, 50), st.integers(1, 50),
            st.one_of(st.none(), st.integers(0, 30)),
        ),
        st.tuples(st.just("take")),
        st.tuples(st.just("done")),
    ),
    max_size=60,
)  # fmt: skip


@given(steps)
def test_everything_put_comes_out_once_in_order_and_within_the_bounds(todo):
    """Against the words: leaving or expired, once; leaving in order; never two records at once."""
    queue = PartitionQueue(60, 70)
    waiting, out, number, now_s, under_way = [], [], 0, 0.0, False
    for step in [*todo, *[("done",), ("take",)] * 70]:
        now_s += 1.0
        if step[0] == "put":
            number += 1
            deadline_s = None if step[3] is None else now_s + step[3]
            queue.put(item(number, rows=step[1], size=step[2], deadline_s=deadline_s))
            waiting.append((number, deadline_s))
        elif step[0] == "done":
            queue.done()
            under_way = False
        else:
            leaving, expired = queue.take(now_s)
            assert not (under_way and (leaving or expired))
            under_way = under_way or bool(leaving)
            if len(leaving) > 1:
                assert sum(one.rows for one in leaving) <= 60
                assert sum(len(one.message) for one in leaving) <= 70
            assert all(one.deadline_s is None or one.deadline_s >= now_s for one in leaving)
            assert all(one.deadline_s < now_s for one in expired)
            assert calls(leaving) == sorted(calls(leaving))
            assert not out or not leaving or out[-1] < leaving[0].call
            out += calls(leaving)
            gone = {*calls(leaving), *calls(expired)}
            waiting = [one for one in waiting if one[0] not in gone]
            assert len(queue) == len(waiting)
    assert waiting == []
