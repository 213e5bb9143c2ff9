"""A partition's records through an engine: answered as requests are, and counted once."""

import threading
import time
from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hofflight as hof
from hofflight.engine.kafka_partition import PartitionWorker
from hofflight.replay.logged import EntryReader
from hofflight.wire.ipc import encode_batch
from tests.unit.engine.conftest import make_group
from tests.unit.kafka_engines import (
    Engines,
    answers_of,
    batch_of,
    cards_of,
    hash_of,
    heads_of,
    id_of,
    log_of,
    meaning_of,
    record_of,
    request_of,
    state_of,
    values_of,
)
from tests.unit.kafka_fakes import WALL_US, FakeClock

GROUP = make_group(late="2m")
NOT_STORED = {"store": False}
NO_ANSWER = {"wants_answer": False}


@pytest.fixture
def engines(tmp_path):
    engines = Engines(tmp_path, FakeClock())
    yield engines
    engines.close()


def worker_of(engine, number=0, partitions=1, bytes_max=1 << 20, stream="g.1"):
    return PartitionWorker(number, engine, {stream: partitions}, bytes_max)


class Asked:
    """What `done` was called with, once it was."""

    def __init__(self):
        self._came = threading.Event()
        self._calls = []

    def __call__(self, answers, refused):
        self._calls.append((answers, refused))
        self._came.set()

    def wait(self):
        assert self._came.wait(20), "no answer came"
        ((answers, self.refused),) = self._calls
        return answers_of(answers)


def ask(worker, offset, record, stream="g.1"):
    """{call: answer} of a record."""
    done = Asked()
    worker.work(stream, offset, record, done)
    found = done.wait()
    assert found.keys() == {head.call for head, _, _ in record.requests}
    assert done.refused == ""
    return found


def codes(answers):
    return {call: answer.code for call, answer in answers.items()}


# --- as an engine in the same process -------------------------------------------------------------

rows = st.lists(
    st.tuples(st.sampled_from([1, 2, 3, None]), st.sampled_from([0, 5, 60, 400, None])),
    min_size=1, max_size=3,
)  # fmt: skip
requests = st.tuples(
    st.integers(1, 25), rows, st.sampled_from([{}, {}, {}, NOT_STORED, NO_ANSWER]),
    st.sampled_from(["g", "g", "narrow", "nobody"]),
)  # fmt: skip
histories = st.lists(st.lists(requests, min_size=1, max_size=4), min_size=1, max_size=5)


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """Engines for many examples, each on stores of its own."""
    engines = Engines(tmp_path_factory.mktemp("several"), FakeClock())
    engines.register(GROUP)
    engines.view("narrow", ["g.total", "g.n"], GROUP)
    yield engines, iter(range(10**9))
    engines.close()


def record_at(arrival_us, several_requests):
    """A record: calls are places, ids are what the history says."""
    found = record_of(
        *((n, row, changes) for n, row, changes, _ in several_requests), arrival_us=arrival_us
    )
    for call, (head, _, _) in enumerate(found.requests):
        head.call, head.view = call, several_requests[call][3]
    return found


@settings(max_examples=30)
@given(histories)
def test_records_are_answered_as_requests_are_and_read_again_they_are_answered_the_same(
    several, history
):
    """Every kind of request, ids that come again with other rows too; then a crash, all once more.

    Peeks see what is there now, so they alone may be answered otherwise the second time.
    """
    engines, numbers = several
    name = str(next(numbers))
    here = engines.open(GROUP, store=f"{name}-kafka")
    embedded = engines.open(GROUP, store=f"{name}-embedded")
    worker, first = worker_of(here), []
    for offset, several_requests in enumerate(history):
        record = record_at(WALL_US + offset, several_requests)
        first.append(ask(worker, offset, record))
        expected = {}
        asked = []
        for call, (head, batch, body) in enumerate(record.requests):
            if head.view == "nobody":
                assert first[-1][call].code == "HOF-201"
                continue
            served = embedded.bind(head.view, head.version)
            request = request_of(served, (1, 1), store=head.store, wants_answer=head.wants_answer)
            request.head, request.body, request.id = batch, body, head.id
            request.reply = answer_to(expected, call)
            request.arrival_us = record.arrival_us
            asked.append(request)
        embedded.submit(asked)
        for call, answer in expected.items():
            assert meaning_of(first[-1][call]) == meaning_of(answer), several_requests[call]
    entries = log_of(here)
    assert [meta.offset for meta in entries] == sorted(meta.offset for meta in entries)

    again = engines.crashed(GROUP, store=f"{name}-kafka")
    worker = worker_of(again)
    assert worker.next_offset["g.1"] == 1 + max((meta.offset for meta in entries), default=-1)
    for offset, several_requests in enumerate(history):
        record = record_at(WALL_US + offset, several_requests)
        second = ask(worker, offset, record)
        for call, (head, _, _) in enumerate(record.requests):
            if head.store:
                assert_same(first[offset][call], second[call])
    assert log_of(again) == entries
    assert state_of(again, 1, 2, 3) == state_of(embedded, 1, 2, 3)


def answer_to(found, call):
    def reply(answer):
        assert call not in found
        found[call] = answer

    return reply


def assert_same(first, second):
    """An answer again: hints and what was never logged aside, the very same."""
    if first.code == "OK":
        assert meaning_of(first) == meaning_of(second)
    else:
        assert second.code == first.code


# --- read again -----------------------------------------------------------------------------------


def test_a_record_that_was_counted_is_not_counted_again(engines):
    """From an earlier offset, after a clean end or a crash, as often as one likes."""
    worker = worker_of(engines.open(GROUP))
    records = [record_of((n, [(7, n), (8, n)]), arrival_us=WALL_US + n) for n in range(1, 6)]
    first = [ask(worker, n, record) for n, record in enumerate(records)]
    for _ in range(3):
        engine = engines.crashed(GROUP)
        worker = worker_of(engine)
        assert worker.next_offset == {"g.1": 5}
        again = [ask(worker, n, record) for n, record in enumerate(records)]
        for one, other in zip(first, again, strict=True):
            assert {c: meaning_of(a) for c, a in one.items()} == {
                c: meaning_of(a) for c, a in other.items()
            }
        assert len(log_of(engine)) == 5
        assert state_of(engine, 7, 8) == {7: 5, 8: 5}


def test_a_record_of_which_a_crash_kept_a_part_is_answered_in_part(engines):
    """What is not in the log never counted and is not known: asked again, it counts once."""
    engine = engines.open(GROUP)
    ask(worker_of(engine), 0, record_of((1, [(7, 0)])))
    ask(worker_of(engine), 1, record_of((2, [(7, 1)])))  # of a record of two
    engine = engines.crashed(GROUP)
    worker = worker_of(engine)
    answers = ask(worker, 1, record_of((2, [(7, 1)]), (3, [(7, 2)])))
    assert codes(answers) == {2: "OK", 3: "HOF-400"}
    assert state_of(engine, 7) == {7: 2}

    answers = ask(worker, 2, record_of((3, [(7, 2)])))
    assert codes(answers) == {3: "OK"}
    assert codes(ask(worker, 3, record_of((3, [(7, 2)])))) == {3: "OK"}
    assert state_of(engine, 7) == {7: 3}


def test_a_peek_that_is_read_again_is_answered_and_kept_nowhere(engines):
    """It takes an offset and no place in the log."""
    engine = engines.open(GROUP)
    worker = worker_of(engine)
    ask(worker, 0, record_of((1, [(7, 0)])))
    ask(worker, 1, record_of((2, [(7, 1)], NOT_STORED)))
    worker = worker_of(engines.crashed(GROUP))
    assert worker.next_offset == {"g.1": 1}
    (answer,) = ask(worker, 1, record_of((2, [(7, 1)], NOT_STORED))).values()
    assert values_of(answer, worker.engine.bind("g", 1).output_schema)[0]["g.n"] == 2
    (answer,) = ask(worker, 0, record_of((3, [(7, 1)], NOT_STORED))).values()
    assert answer.code == "OK"
    assert len(log_of(worker.engine)) == 1


def test_an_empty_store_begins_at_the_beginning(engines):
    """And one of an embedded engine has no offsets."""
    assert worker_of(engines.open(GROUP)).next_offset == {"g.1": 0}
    engine = engines.open(GROUP, store="embedded")
    engine.submit([request_of(engine.bind("g", None), (7, 0))])
    assert worker_of(engines.crashed(GROUP, store="embedded")).next_offset == {"g.1": 0}


def test_an_id_with_other_rows_is_refused_and_the_first_stands(engines):
    """In the same record, in a later one, and after a restart."""
    engine = engines.open(GROUP)
    worker = worker_of(engine)
    record = record_of((1, [(7, 0)]), (2, [(7, 1)], {"id": id_of(1)}))
    assert codes(ask(worker, 0, record)) == {1: "OK", 2: "HOF-208"}
    assert codes(ask(worker, 1, record_of((1, [(7, 3)])))) == {1: "HOF-208"}
    worker = worker_of(engines.crashed(GROUP))
    assert codes(ask(worker, 0, record)) == {1: "OK", 2: "HOF-208"}
    assert codes(ask(worker, 2, record_of((1, [(7, 0)])))) == {1: "OK"}
    assert state_of(worker.engine, 7) == {7: 1}


# --- what is not for this worker ------------------------------------------------------------------


def test_what_is_not_served_here_is_refused_alone(engines):
    """Unknown views and versions, other groups' and several groups' views: the rest counts."""
    other = make_group("other")
    engines.register(GROUP, other)
    engines.view("both", ["g.n", "other.n"], GROUP, other)
    worker = worker_of(engines.open(GROUP, other))
    # Large numbers too: a database would not take them.
    views = [("g", 1), ("nobody", 1), ("g", 9), ("g", 0), ("g", -1), ("g", 2**40), ("g", 2**63),
             ("", 1), ("g\0", 1), ("x" * 5_000, 1), ("other", 1), ("both", 1)]  # fmt: skip
    record = record_of(
        *((n, [(7, 0)], {"view": v, "version": w}) for n, (v, w) in enumerate(views))
    )
    found = codes(ask(worker, 0, record))
    expected = ["OK", *["HOF-201"] * 9, "HOF-200", "HOF-200"]
    assert [found[number] for number in range(12)] == expected
    assert state_of(worker.engine, 7) == {7: 1}


@pytest.mark.parametrize("several_rows", [False, True])
def test_rows_of_another_partition_are_refused_alone(engines, several_rows):
    """Their windows are elsewhere: a wrong hash must not make a second history of a key."""
    (mine, *_), (strangers, *_) = cards_of(1, 3), cards_of(2, 3)
    worker = worker_of(engines.open(GROUP), 1, 3)
    bad = [(mine, 0), (strangers, 0), (mine, 1)] if several_rows else [(strangers, 0)]
    record = record_of((1, [(mine, 0)]), (2, bad), (3, bad, NOT_STORED), (4, [(mine, 1)]))
    answers = ask(worker, 0, record)
    assert codes(answers) == {1: "OK", 2: "HOF-221", 3: "HOF-221", 4: "OK"}
    assert f"row {int(several_rows)}" in answers[2].meta.error
    assert state_of(worker.engine, mine, strangers) == {mine: 2, strangers: 0}
    assert len(log_of(worker.engine)) == 2


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9)), min_size=1, max_size=6))
def test_a_worker_takes_exactly_the_rows_whose_hash_is_its_own(several, given_rows):
    """One row and many: the same arithmetic as on the other side."""
    engines, numbers = several
    worker = worker_of(engines.open(GROUP, store=f"here{next(numbers)}"), 1, 2)
    (answer,) = ask(worker, 0, record_of((1, given_rows))).values()
    is_here = all((hash_of(card) & 0x7FFFFFFF) % 2 == 1 for card, _ in given_rows)
    assert answer.code == ("OK" if is_here else "HOF-221")


def test_an_answer_that_no_record_holds_is_an_error_and_the_rows_count(engines):
    """It says so; read again it says so again."""
    worker = worker_of(engines.open(GROUP), bytes_max=2_000)
    record = record_of((1, [(7, n) for n in range(60)]), (2, [(7, 60)]))
    answers = ask(worker, 0, record)
    assert codes(answers) == {1: "HOF-207", 2: "OK"}
    assert "were counted" in answers[1].meta.error
    worker = worker_of(engines.crashed(GROUP), bytes_max=2_000)
    assert codes(ask(worker, 0, record)) == {1: "HOF-207", 2: "OK"}
    assert state_of(worker.engine, 7) == {7: 61}


@settings(max_examples=60)
@given(st.data())
def test_bytes_of_a_stranger_touch_only_their_own_request(several, data):
    """One byte of a message is changed: its neighbours are answered as if nothing was."""
    engines, numbers = several
    worker = worker_of(engines.open(GROUP, store=f"hurt{next(numbers)}"))
    hurt = record_of((1, [(1, 0)]), (2, [(2, 0), (2, 1)]), (3, [(3, 0)]))
    at = data.draw(st.integers(0, 2))
    head, batch, body = hurt.requests[at]
    both = bytearray(batch + body)
    both[data.draw(st.integers(0, len(both) - 1))] ^= data.draw(st.integers(1, 255))
    hurt.requests[at] = head, bytes(both[: len(batch)]), bytes(both[len(batch) :])
    done = Asked()
    worker.work("g.1", 0, hurt, done)
    answers = done.wait()
    assert answers.keys() == {1, 2, 3}
    for call in {1, 2, 3} - {at + 1}:
        assert answers[call].code == "OK"
        read = values_of(answers[call], worker.engine.bind("g", 1).output_schema)
        assert {row["g.card"] for row in read} <= {call}
        counts = [row["g.n"] for row in read]
        # The changed byte may have made another card, or another time, of its own row.
        assert counts in ([1], [2], [1, 2], [2, 3], [1, 3])


@pytest.mark.parametrize("arrival_us", [0, 1, 2**62, 2**63 - 1])
def test_an_arrival_of_any_number_is_answered_and_survives_a_restart(engines, arrival_us):
    """A server's clock may be wrong; 0 is taken for none, and what is far ahead is not believed."""
    group = make_group(early="1d")
    worker = worker_of(engines.open(group))
    (first,) = ask(worker, 0, record_of((1, [(7, 0)]), arrival_us=arrival_us)).values()
    worker = worker_of(engines.crashed(group))
    (again,) = ask(worker, 0, record_of((1, [(7, 0)]), arrival_us=arrival_us)).values()
    assert first.code == again.code == "OK"
    (meta,) = log_of(worker.engine)
    assert meta.arrival_us == min(arrival_us or WALL_US, WALL_US + 300_000_000)


# --- groups with functions ------------------------------------------------------------------------

gate, entered, calls = threading.Event(), threading.Event(), Counter()


def slow(batch):
    """Waits at the gate where a row says so, but never in a process that was told not to."""
    entered.set()
    calls["function"] += 1
    if pc.any(pc.equal(batch.column("x"), -1)).as_py():
        gate.wait(30)
    return pa.RecordBatch.from_arrays([pc.multiply(batch.column("x"), 2)], names=["y"])


class GoingClock(FakeClock):
    """A watchdog's time goes on by itself."""

    monotonic_s = staticmethod(time.monotonic)


def functions():
    return make_group(
        output={"y": pa.int64()}, windows={"n": hof.count().over("1h")}, derive={}, early="1d"
    )(slow)


@pytest.fixture
def blocked():
    """A function that waits as long as the test likes."""
    gate.clear()
    entered.clear()
    yield
    gate.set()


def test_a_function_is_called_once_for_a_record(engines):
    """That is what records are for."""
    worker = worker_of(engines.open(functions()))
    calls.clear()
    answers = ask(worker, 0, record_of(*((n, [(7, n, n)]) for n in range(20)), arrival_us=WALL_US))
    assert set(codes(answers).values()) == {"OK"}
    assert calls["function"] == 1


@pytest.mark.parametrize(
    "arrivals",
    [(10, 20, 30), (10, 20, 10), (10, 10, 20)],
)
def test_records_that_wait_for_a_lane_keep_their_own_time_of_arrival(engines, blocked, arrivals):
    """Servers' clocks differ: three records may come to a turn in any order of their times."""
    group = functions()
    worker = worker_of(engines.open(group))
    waiting = [Asked() for _ in range(1 + len(arrivals))]
    worker.work("g.1", 0, record_of((1, [(7, 0, -1)]), arrival_us=WALL_US), waiting[0])
    assert entered.wait(10)
    for number, arrival in enumerate(arrivals, 1):
        record = record_of((number + 1, [(7, number, 5)]), arrival_us=WALL_US + arrival)
        worker.work("g.1", number, record, waiting[number])
    gate.set()
    for one in waiting:
        assert set(codes(one.wait()).values()) == {"OK"}
    found = [(meta.offset, meta.arrival_us - WALL_US) for meta in log_of(worker.engine)]
    assert found == [(0, 0), *enumerate(arrivals, 1)]


def test_a_function_that_hangs_costs_its_record_and_no_other_for_ever(engines, blocked):
    """Its rows are marked void; nothing more is taken; after a restart the next ones count."""
    group = functions()
    engines.clock = GoingClock()
    engine = engines.open(group, transform_timeout_ms=50)
    worker = worker_of(engine)
    ask(worker, 0, record_of((1, [(7, 0, 1)]), arrival_us=WALL_US))
    record = record_of((2, [(7, 1, -1)]), (3, [(7, 2, 3)]), arrival_us=WALL_US)
    answers = ask(worker, 1, record)
    assert codes(answers) == {2: "HOF-402", 3: "HOF-402"}
    after = Asked()
    worker.work("g.1", 2, record_of((4, [(7, 3, 4)]), arrival_us=WALL_US), after)
    assert codes(after.wait()) == {4: "HOF-305"}
    assert after.refused == "HOF-305"
    assert [(m.offset, m.code) for m in log_of(engine)] == [
        (0, "OK"), (1, "HOF-402"), (1, "HOF-402"),
    ]  # fmt: skip

    engine = engines.crashed(group, transform_timeout_ms=5_000)
    worker = worker_of(engine)
    entered.clear()
    assert worker.next_offset == {"g.1": 2}
    assert codes(ask(worker, 1, record)) == {2: "HOF-402", 3: "HOF-402"}
    assert not entered.is_set()
    assert codes(ask(worker, 2, record_of((4, [(7, 3, 4)]), arrival_us=WALL_US))) == {4: "OK"}
    # Their clients ask again, with the same ids: a later record is a new try.
    gate.set()
    again = record_of((2, [(7, 1, -1)]), (3, [(7, 2, 3)]), arrival_us=WALL_US)
    first = ask(worker, 3, again)
    assert codes(first) == {2: "OK", 3: "OK"}
    assert {c: meaning_of(a) for c, a in ask(worker, 4, again).items()} == {
        c: meaning_of(a) for c, a in first.items()
    }

    engine = engines.crashed(group, store="crashed1")
    worker = worker_of(engine)
    for offset in (1, 3, 4):
        assert {c: meaning_of(a) for c, a in ask(worker, offset, again).items()} == {
            c: meaning_of(a) for c, a in first.items()
        }
    assert len(log_of(engine)) == 6


def test_answers_come_once_the_log_is_durable(tmp_path):
    """With `durability=batch` they come from the log's own thread; the same ones."""
    engines = Engines(tmp_path, FakeClock(), durability="batch")
    try:
        worker = worker_of(engines.open(GROUP))
        record = record_of(*((n, [(7, n)]) for n in range(5)), (9, [(None, 0)]))
        first = ask(worker, 0, record)
        assert codes(first) == {**dict.fromkeys(range(5), "OK"), 9: "HOF-205"}
        worker = worker_of(engines.crashed(GROUP))
        again = ask(worker, 0, record)
        assert codes(again) == codes(first)
        assert state_of(worker.engine, 7) == {7: 5}
    finally:
        engines.close()


def test_two_versions_of_a_group_count_what_the_other_was_asked(engines):
    """They read one topic; each answers for itself."""
    old, new = make_group(), make_group(version=2, derive={})
    worker = worker_of(engines.open(old, new))
    ask(worker, 0, record_of((1, [(7, 0)])))
    (answer,) = ask(worker, 1, record_of((2, [(7, 1)]), version=2)).values()
    schema = worker.engine.bind("g", 2).output_schema
    assert values_of(answer, schema)[0]["g.n"] == 2
    (head, message), *_ = heads_of((3, [(7, 2)]))
    assert encode_batch(batch_of((7, 2)))[0] in message
    assert head.size == len(message)


def test_a_record_whose_ids_are_forgotten_is_not_counted_again(engines):
    """Its offset says that it was read: what became of it is not known, and it stays as it was."""
    engine = engines.open(GROUP, ids_max=2)
    worker = worker_of(engine)
    records = [record_of((n, [(7, n)])) for n in range(1, 10)]
    for offset, record in enumerate(records):
        ask(worker, offset, record)
    engine.close()
    engine = engines.crashed(GROUP, ids_max=2)
    worker = worker_of(engine)
    found = [codes(ask(worker, offset, r))[offset + 1] for offset, r in enumerate(records)]
    assert set(found) == {"OK", "HOF-400"}
    assert found[-1] == "OK"
    assert state_of(engine, 7) == {7: 9}


# --- requests in parts ----------------------------------------------------------------------------


def test_rows_of_a_part_are_known_as_the_requests_own(engines):
    """The log says which of the request's rows they are: labels and explanations find them so."""
    worker = worker_of(engines.open(GROUP))
    record = record_of((1, [(7, 0), (7, 1)]))
    record.requests[0][0].places = [2, 5]
    assert codes(ask(worker, 0, record)) == {1: "OK"}
    (meta,) = log_of(worker.engine)
    assert meta.places == [2, 5]
    entries = [e for _, e in worker.engine._works["g.1"].partition.log.read()]
    assert EntryReader(GROUP.input).rows(entries)["_row"].to_pylist() == [2, 5]


@pytest.mark.parametrize("places", [[1], [1, 2, 3], [2, 2]])
def test_places_that_are_not_those_of_the_rows_are_refused(engines, places):
    worker = worker_of(engines.open(GROUP))
    record = record_of((1, [(7, 0), (7, 1)]))
    record.requests[0][0].places = places
    assert codes(ask(worker, 0, record)) == {1: "HOF-200"}
    assert log_of(worker.engine) == []
