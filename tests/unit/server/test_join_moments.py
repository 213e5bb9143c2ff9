"""Requests that meet: two of one id at the same moment are one request, whoever is faster."""

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from hofflight.errors import DeadlinePassed, HofError, Indefinite, StoredMissing
from hofflight.eventlog.protocol import Request
from hofflight.wire.ipc import encode_batch
from hofflight.wire.rows import to_request
from tests.unit.server.joined_views import (
    CUSTOMER,
    KEYS,
    ONE,
    AtOnce,
    MemoryLog,
    S,
    Waited,
    ask,
    customer,
    facts,
    load,
    put,
    records,
    row,
    rows_for,
)

STORES = {"lmdb": None, "waited for": Waited}


def outcome(app, view, *rows, **options):
    """The facts of an answer, or the code of its error."""
    try:
        return facts(ask(app, view, *rows, **options))
    except HofError as error:
        return error.code


@pytest.mark.parametrize("view", ["one", "several", "alone"])
@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("count", [1, 3])
def test_one_id_asked_by_many_threads_has_one_answer(joins, view, store, count):
    """Each of them comes at another time, so their ages would differ."""
    joins.clock.step_us = S
    app = joins.open(store=STORES[store] and STORES[store]())
    load(app)
    rows = [row(second) for second in range(count)]
    ask(app, view, row(0), store=False)
    barrier = threading.Barrier(6)

    def ask_together():
        barrier.wait(10)
        return outcome(app, view, *rows, request_id=ONE)

    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(ask_together) for _ in range(6)]
        answers = [one.result(30) for one in asked]

    assert all(answer == answers[0] for answer in answers), answers
    assert answers[0][1]["customer.age"] == "PRESENT"
    after = ask(app, view, row(9)).to_dict()
    assert {v for name, v in after.items() if name.endswith(".n")} <= {count + 1}


@pytest.mark.parametrize("view", ["one", "several", "alone"])
@pytest.mark.parametrize("count", [1, 2])
def test_a_load_between_two_lookups_of_one_id_leaves_one_answer(joins, view, count):
    """The second was answered while the first still looked up: both get what was recorded."""
    store = AtOnce()
    app = joins.open(store=store)
    load(app)
    rows = [row(second) for second in range(count)]
    inner = []

    def meanwhile():
        load(app, age=31, second=1)
        joins.clock.now_us += S
        inner.append(outcome(app, view, *rows, request_id=ONE))

    store.meanwhile = meanwhile
    outer = outcome(app, view, *rows, request_id=ONE)

    assert outer == inner[0]
    assert outer == outcome(app, view, *rows, request_id=ONE)


@pytest.mark.parametrize("inner_view", ["other", "g", "narrow", "shops"])
@pytest.mark.parametrize("count", [1, 2])
def test_another_view_in_that_very_moment_leaves_each_its_own_answer(joins, inner_view, count):
    """Of more, fewer, or no stored features: an id is repeated under each view as it was there."""
    store = AtOnce()
    app = joins.open(store=store)
    app.view("narrow", 1, ["customer.age", "g.x"])
    app.view("shops", 1, ["shop.rank", "g.n"])
    load(app)
    rows = [row(second) for second in range(count)]
    inner = []
    store.meanwhile = lambda: inner.append(outcome(app, inner_view, *rows, request_id=ONE))
    outer = outcome(app, "one", *rows, request_id=ONE)
    load(app, age=31, second=1)
    joins.clock.now_us += S

    assert isinstance(outer, tuple), outer
    assert [found["customer.age"] for found in outer[0]] == [30] * count
    assert outcome(app, "one", *rows, request_id=ONE) == outer
    assert outcome(app, inner_view, *rows, request_id=ONE) == inner[0]
    assert ask(app, "g", row(9)).to_dict()["g.n"] == count + 1


STRICT = {"strict": ["g.n", "customer.age"], "strict_both": ["h.n", "customer.age", "g.n"],
          "strict_alone": ["customer.age"]}  # fmt: skip


@pytest.mark.parametrize("view", STRICT)
@pytest.mark.parametrize("first", ["there", "missing"])
def test_a_row_that_comes_or_goes_between_two_lookups_of_one_id_leaves_one_answer(
    joins, view, first
):
    """What was recorded first counts, also where the second found an error."""
    store = Waited()
    app = joins.open(store=store)
    app.view(view, 1, STRICT[view], on_missing="fail")
    load(app)
    store.holds = True
    lookups = {"there": lambda: None, "missing": store.rows.clear}
    rows = dict(store.rows)
    answers = []
    with ThreadPoolExecutor(2) as pool:
        for found in (first, *(lookups.keys() - {first})):
            store.rows.update(rows)
            lookups[found]()
            if found == "missing":
                store.rows.update({k: v for k, v in rows.items() if k == b"commits"})
            asked = pool.submit(outcome, app, view, keys={"customer": 1}, request_id=ONE)
            answers.append(asked)
            store.wait_for(len(answers))
        store.release()
        answers[0].result(10)
        store.release()
        found = [one.result(10) for one in answers]

    assert found[0] == found[1]
    assert (found[0] == StoredMissing.code) == (first == "missing")
    store.holds = False
    store.rows.update(rows)
    assert outcome(app, view, keys={"customer": 1}, request_id=ONE) == found[0]


@pytest.mark.parametrize("view", ["one", "several", "alone"])
def test_a_lookup_ends_before_the_deadline_does(joins, view):
    """A tenth of the time is left for what comes after it."""
    store = Waited()
    app = joins.open(store=store)
    load(app)
    ask(app, view, deadline_ms=1_000)

    assert 0.5 < store.timeouts[-1] <= 0.9
    ask(app, view, row(1))
    assert store.timeouts[-1] == 10.0, "the store's own time"


@pytest.mark.parametrize("view", ["one", "several", "alone"])
@pytest.mark.parametrize("store", STORES)
def test_a_request_whose_deadline_had_passed_is_refused_and_keeps_nothing(joins, view, store):
    """A mark that only says "too late" would be the answer to its id for good."""
    app = joins.open(store=STORES[store] and STORES[store]())
    load(app)
    served = app.worker.bind(view, None)
    message = encode_batch(to_request(rows_for(app, view, row()), served.input_schema))
    keys = {name: value for name, value in {**KEYS, "card": 7}.items() if name in served.keys.names}
    answered: Future = Future()
    passed_s = time.monotonic() - 1
    reply = answered.set_result
    app.worker.submit([Request(served, *message, ONE.bytes, reply, passed_s, keys=keys)])

    assert answered.result(10).meta.code == DeadlinePassed.code
    assert records(app) == {}
    assert ask(app, view, request_id=ONE).to_dict()["customer.age"] == 30


def test_a_slow_store_does_not_hold_up_the_groups(joins):
    """Their rows are counted while the lookup is under way."""
    store = Waited()
    app = joins.open(store=store)
    load(app)
    store.holds = True
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, app, "several")
        store.wait_for(1)
        try:
            poll(lambda: records(app) == {"g.1": 1, "h.1": 1})
            assert not asked.done()
            assert ask(app, "g", row(1)).to_dict()["g.n"] == 2
        finally:
            store.release()
        answer = asked.result(10).to_dict()

    assert (answer["g.n"], answer["customer.age"]) == (1, 30)


def poll(is_so):
    """Wait for what another thread does and tells nobody."""
    waiting = threading.Event()
    for _ in range(5_000):
        if is_so():
            return
        waiting.wait(0.002)
    pytest.fail("it never came to that")


def test_a_store_that_lost_everything_is_unavailable_and_not_empty(joins):
    """Restarted without its rows: nobody says NOT_FOUND before they are loaded again."""
    store = Waited()
    app = joins.open(store=store)
    load(app)
    store.rows.clear()
    for view in ("one", "several", "alone"):
        assert set(ask(app, view, row()).status.values()) == {"UNAVAILABLE"}
    put(app, CUSTOMER, customer())
    found = ask(app, "one", row(1)).status

    assert found == {"customer.age": "PRESENT", "shop.rank": "UNAVAILABLE"}


# --- durable before it is answered ----------------------------------------------------------------


class Disk:
    """Logs of joins that are durable when a test says so."""

    def __init__(self):
        self.logs = {}

    def open_log(self, name):
        return self.logs.setdefault(name, MemoryLog())


@pytest.fixture
def batch(joins):
    """A store whose joined answers wait for the disk, and that disk."""
    disk = Disk()
    app = joins.open(store=Waited(), open_log=disk.open_log)
    load(app)
    return app, disk


def waits_for(log):
    """Until one more answer waits for the disk."""
    return log.asked.acquire(timeout=1)


@pytest.mark.parametrize("view", ["one", "several", "alone"])
def test_no_answer_leaves_before_it_is_durable(batch, view):
    """Neither the first one nor its repetition: both were promised to outlive a power loss."""
    app, disk = batch
    app.worker.prepare(app.worker.bind(view, None))
    log = disk.logs[f"{view}@1"]
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(outcome, app, view, request_id=ONE)
        assert waits_for(log)
        again = pool.submit(outcome, app, view, request_id=ONE)
        is_waiting = waits_for(log)
        early = first.done(), again.done()
        log.sync()
        assert first.result(10) == again.result(10)

    assert early == (False, False)
    assert is_waiting


@pytest.mark.parametrize("view", ["one", "several", "alone"])
def test_an_answer_whose_record_did_not_get_to_the_disk_is_not_given(batch, view):
    """Nobody knows what a power loss would leave: as a group's own log says it."""
    app, disk = batch
    app.worker.prepare(app.worker.bind(view, None))
    log = disk.logs[f"{view}@1"]
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(outcome, app, view, request_id=ONE)
        assert waits_for(log)
        log.break_down()

        assert asked.result(10) == Indefinite.code
