"""A request id gets one answer, whatever was loaded since, and its rows count once."""

import pytest

from hofflight.errors import (
    Draining,
    IdReused,
    Indefinite,
    StorageFailed,
    StoredMissing,
    StoredUnavailable,
)
from hofflight.eventlog.protocol import Request
from tests.unit.server.joined_views import (
    CUSTOMER,
    ONE,
    SHOP,
    THREE,
    TWO,
    AtOnce,
    FailingLog,
    S,
    Waited,
    ask,
    customer,
    facts,
    load,
    put,
    records,
    row,
    shop,
)

# Each way that a joined request can take: the view, and what its stored rows are looked up in.
WAYS = {
    "one group, lmdb": ("one", None),
    "several groups, lmdb": ("several", None),
    "stored alone, lmdb": ("alone", None),
    "one group, waited for": ("one", Waited),
    "several groups, waited for": ("several", Waited),
    "stored alone, waited for": ("alone", Waited),
}


@pytest.fixture(params=WAYS)
def way(request):
    """A view, and the store that its test will use; None: the store directory's own."""
    view, store = WAYS[request.param]
    return view, store and store()


def counts(answer):
    """How many rows each streaming group has counted, of the last row."""
    last = answer.batch.to_pylist()[-1]
    return {name: value for name, value in last.items() if name.endswith(".n")}


def ages(answer):
    return [found["customer.age"] for found in answer.batch.to_pylist()]


@pytest.mark.parametrize(
    ("when", "count"),
    [("at once", 1), ("at once", 3), ("after a restart", 3), ("after a crash", 1)],
)
def test_the_same_id_gets_the_same_answer_though_another_load_came(joins, way, when, count):
    """Values, statuses and ages; its rows count once, and a new id sees what is new."""
    view, store = way
    app = joins.open(store=store)
    load(app)
    rows = [row(second) for second in range(count)]
    joins.clock.now_us += 5 * S
    first = ask(app, view, *rows, request_id=ONE)
    load(app, age=31, second=2)
    joins.clock.now_us += 5 * S
    if when == "after a restart":
        app.close()
        app = joins.open(store=store)
    elif when == "after a crash":
        app = joins.open(store=store, crashed=True)
    again = ask(app, view, *rows, request_id=ONE)
    other = ask(app, view, row(9), request_id=TWO)

    assert facts(again) == facts(first)
    assert ages(first) == [30] * count
    assert (first.age_ms["customer.age"], first.status["customer.age"]) == (5_000, "PRESENT")
    assert (again.request_id, again.code_hash) == (ONE.bytes, first.code_hash)
    assert ages(other) == [31]
    assert other.age_ms["customer.age"] == 8_000
    assert set(counts(other).values()) <= {count + 1}


@pytest.mark.parametrize("when", ["at once", "after a restart"])
def test_marks_are_repeated_as_they_were(joins, way, when):
    """NULL, NOT_FOUND and STALE are part of the answer, though by now the rows are there."""
    view, store = way
    app = joins.open(store=store)
    put(app, CUSTOMER, customer(1, age=None), customer(3, second=-3_600))
    put(app, SHOP, shop(card=8))
    keys = {"customer": [1, 2, 3], "shop": "a"}
    rows = [row(), row(1), row(2)]
    first = ask(app, view, *rows, keys=keys, request_id=ONE)
    put(app, CUSTOMER, *[customer(number, second=1) for number in (1, 2, 3)])
    if when == "after a restart":
        app.close()
        app = joins.open(store=store)
    again = ask(app, view, *rows, keys=keys, request_id=ONE)

    assert first.status["customer.age"] == ["NULL", "NOT_FOUND", "STALE"]
    assert first.status["shop.rank"] == "NOT_FOUND"
    assert first.age_ms["customer.age"] == [0, None, 3_600_000]
    assert facts(again) == facts(first)
    assert ask(app, view, *rows, keys=keys).status["customer.age"] == "PRESENT"


def test_an_answer_without_the_store_is_repeated_without_it(joins):
    """It was marked UNAVAILABLE; the store is back, the answer stays what it was."""
    store = Waited()
    app = joins.open(store=store)
    load(app)
    for number, view in enumerate(["one", "several", "alone"]):
        id_ = bytes(15) + bytes([number])
        store.away = True
        first = ask(app, view, row(number), request_id=id_)
        store.away = False
        again = ask(app, view, row(number), request_id=id_)

        assert set(first.status.values()) == {"UNAVAILABLE"}
        assert set(first.age_ms.values()) == {None}
        assert facts(again) == facts(first)
        assert ages(ask(app, view, row(number))) == [30]


@pytest.mark.parametrize("when", ["at once", "after a restart"])
def test_the_same_id_with_other_keys_is_refused(joins, way, when):
    """Two questions under one id; the first one's answer stays."""
    view, store = way
    app = joins.open(store=store)
    load(app)
    first = ask(app, view, request_id=ONE)
    before = records(app)
    if when == "after a restart":
        app.close()
        app = joins.open(store=store)
    for other in ({"customer": 2, "shop": "a"}, {"customer": 1, "shop": "b"}):
        with pytest.raises(IdReused, match=r"HOF-208.*other keys"):
            ask(app, view, keys=other, request_id=ONE)

    assert facts(ask(app, view, request_id=ONE)) == facts(first)
    assert records(app) == before
    assert set(counts(ask(app, view, row(1))).values()) <= {2}


def test_the_same_id_with_other_rows_is_refused(joins, way):
    """Also where only the number of them differs."""
    view, store = way
    app = joins.open(store=store)
    load(app)
    ask(app, view, request_id=ONE)
    others = [(row(), row()), (row(1), row(2))]
    if view != "alone":
        others += [(row(1),), (row(x=2),)]
    for rows in others:
        with pytest.raises(IdReused, match="HOF-208"):
            ask(app, view, *rows, request_id=ONE)

    assert set(counts(ask(app, view, row(1))).values()) <= {2}


def test_another_view_of_the_group_looks_up_for_itself_and_counts_nothing(joins):
    """The id belongs to the event: each view keeps its own answer, whatever order they come in."""
    app = joins.open()
    load(app)
    rows = [row(), row(1)]
    asked = ["one", "other", "g", "several", "plain"]
    answers = {view: ask(app, view, *rows, request_id=ONE) for view in asked}
    load(app, age=31, second=1)
    joins.clock.now_us += S
    for view in asked:
        assert facts(ask(app, view, *rows, request_id=ONE)) == facts(answers[view]), view
    first = answers["several"].batch.to_pylist()

    assert [found["g.n"] for found in first] == [1, 2]
    assert answers["other"].batch.to_pylist() == [
        {"g.n": n, "customer.name": "ann"} for n in (1, 2)
    ]
    assert ask(app, "g", row(2)).to_dict()["g.n"] == 3
    assert app.streams() == {
        "g.1": 2, "h.1": 1, "one@1": 0, "other@1": 1, "several@1": 1, "plain@1": 1
    }  # fmt: skip


def test_an_id_first_seen_under_the_group_itself_is_joined_afterwards(joins):
    """One row, too; as bytes it is the same row under every view."""
    app = joins.open()
    load(app)
    odd = row(x=None)
    plain = ask(app, "g", odd, request_id=ONE)
    answers = [ask(app, view, odd, request_id=ONE) for view in ("one", "several")]
    load(app, age=31, second=1)

    assert plain.to_dict()["g.n"] == 1
    assert [found.to_dict()["g.n"] for found in answers] == [1, 1]
    for view, first in zip(("one", "several"), answers, strict=True):
        assert facts(ask(app, view, odd, request_id=ONE)) == facts(first)
    assert ask(app, "g", row(1)).to_dict()["g.n"] == 2


# --- peeks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2])
def test_a_peek_keeps_nothing(joins, way, count):
    """No row, no id, no record of what was looked up; each row is answered as if it came next."""
    view, store = way
    app = joins.open(store=store)
    load(app)
    ask(app, view, request_id=ONE)
    before = app.streams()
    rows = [row(1 + second) for second in range(count)]
    peeked = ask(app, view, *rows, store=False, request_id=TWO)

    assert app.streams() == before
    assert ages(peeked) == [30] * count
    assert peeked.status["customer.age"] == "PRESENT"
    assert set(counts(peeked).values()) <= {2}
    load(app, age=31, second=1)
    real = ask(app, view, row(1), keys={"customer": 1, "shop": "b"}, request_id=TWO)
    assert ages(real) == [31]
    assert set(counts(real).values()) <= {2}


def test_a_peek_under_an_id_that_was_answered_is_a_peek(joins, way):
    """It is looked up now, and the id keeps its answer."""
    view, store = way
    app = joins.open(store=store)
    load(app)
    first = ask(app, view, request_id=ONE)
    load(app, age=31, second=1)

    assert ages(ask(app, view, request_id=ONE, store=False)) == [31]
    assert facts(ask(app, view, request_id=ONE)) == facts(first)


def test_a_peek_wants_nothing_written(joins, way):
    """A full disk refuses events, not questions."""
    view, store = way
    app = joins.open(store=store)
    load(app)
    ask(app, view)
    for work in app.engine._works.values():
        work.partition.log = FailingLog(work.partition.log)
    for log in app.worker.logs().values():
        log.log = FailingLog(log.log)
    with pytest.raises(StorageFailed, match="HOF-304"):
        ask(app, view, row(1))

    assert ages(ask(app, view, row(1), store=False)) == [30]


# --- views that must have their stored rows -------------------------------------------------------

STRICT = {"strict": ["g.n", "customer.age"], "strict_both": ["h.n", "customer.age", "g.n"],
          "strict_alone": ["customer.age"]}  # fmt: skip


@pytest.fixture(params=STRICT)
def strict(request, joins):
    """A view that fails without its stored row, an app, and the store behind it."""

    def opened(store):
        app = joins.open(store=store)
        load(app)
        app.view(request.param, 1, STRICT[request.param], on_missing="fail")
        return app, request.param, store

    return opened


def once(app, view, second=9):
    """Whether the groups have counted one row so far, and now another."""
    answer = ask(app, view, row(second), keys={"customer": 1})
    return set(counts(answer).values()) <= {2}


@pytest.mark.parametrize("store", [AtOnce, Waited])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("what", ["is not there", "is older than its ttl"])
def test_a_row_that_must_be_there_and_is_not_is_an_error_for_good(strict, store, count, what):
    """HOF-217; its rows count once, and the id gets the same error though the row has come."""
    app, view, _ = strict(store())
    put(app, CUSTOMER, customer(3, second=-7_200))
    missing = 2 if what == "is not there" else 3
    keys = {"customer": [1, missing, 1] if count == 3 else missing}
    rows = [row()] * count
    for _ in range(2):
        with pytest.raises(StoredMissing, match=f"HOF-217.*{view}.*{what}"):
            ask(app, view, *rows, keys=keys, request_id=ONE)
        put(app, CUSTOMER, customer(missing, second=1))

    fine = ask(app, view, *rows, keys=keys, request_id=TWO)
    assert ages(fine) == [30] * count
    assert set(counts(fine).values()) <= {2 * count}


@pytest.mark.parametrize("store", [AtOnce, Waited])
@pytest.mark.parametrize("count", [1, 2])
def test_a_store_that_is_away_is_an_error_until_it_is_back(strict, store, count):
    """HOF-405 says to ask again; then the same id is answered, and its rows counted once."""
    app, view, store = strict(store())
    rows = [row(second) for second in range(count)]
    store.away = True
    for _ in range(2):
        with pytest.raises(StoredUnavailable, match=r"HOF-405.*same request id"):
            ask(app, view, *rows, keys={"customer": 1}, request_id=ONE)
    store.away = False
    answer = ask(app, view, *rows, keys={"customer": 1}, request_id=ONE)

    assert ages(answer) == [30] * count
    assert set(counts(answer).values()) <= {count}
    store.away = True
    assert facts(ask(app, view, *rows, keys={"customer": 1}, request_id=ONE)) == facts(answer)
    store.away = False
    assert set(counts(ask(app, view, row(9), keys={"customer": 1})).values()) <= {count + 1}


@pytest.mark.parametrize("when", ["a restart", "a crash"])
def test_the_error_of_a_missing_row_outlives_a_restart(joins, when):
    """It is recorded like an answer."""
    app = joins.open()
    load(app)
    app.view("strict", 1, STRICT["strict"], on_missing="fail")
    with pytest.raises(StoredMissing, match="HOF-217"):
        ask(app, "strict", keys={"customer": 2}, request_id=ONE)
    if when == "a restart":
        app.close()
    app = joins.open(crashed=when == "a crash")
    put(app, CUSTOMER, customer(2))

    with pytest.raises(StoredMissing, match="HOF-217"):
        ask(app, "strict", keys={"customer": 2}, request_id=ONE)
    assert once(app, "strict")


def test_a_peek_of_a_view_that_must_have_its_rows_fails_alike(strict):
    """And keeps nothing of it."""
    app, view, _ = strict(AtOnce())
    before = records(app)
    with pytest.raises(StoredMissing, match="HOF-217"):
        ask(app, view, keys={"customer": 2}, request_id=ONE, store=False)

    assert records(app) == before
    assert ages(ask(app, view, keys={"customer": 1}, request_id=ONE)) == [30]


# --- logs -----------------------------------------------------------------------------------------


def test_a_log_of_joins_that_cannot_be_written_refuses_and_a_retry_counts_once(joins):
    """The groups have counted the rows; asked again, they answer out of their logs."""
    store = Waited()
    app = joins.open(store=store)
    load(app)
    for view in ("one", "several", "alone"):
        app.worker.prepare(app.worker.bind(view, None))
        log = app.worker.logs()[f"{view}@1"]
        log.log = FailingLog(log.log)
        code = StorageFailed if view == "alone" else Indefinite  # nothing was counted, or rows were
        with pytest.raises(code, match=f"^{code.code}"):
            ask(app, view, request_id=ONE)
        log.log.fails = False
        answer = ask(app, view, request_id=ONE)
        store.away = True
        again = ask(app, view, request_id=ONE)
        store.away = False

        assert facts(again) == facts(answer)
        assert ages(answer) == [30]
        assert set(counts(answer).values()) <= {1}
    assert app.streams() == {"g.1": 1, "h.1": 1, "one@1": 1, "several@1": 1, "alone@1": 1}


def test_ids_outlive_the_sealing_of_their_logs(joins, way):
    """Sealed and trimmed again and again: the newest ids keep their answers."""
    view, store = way
    settings = {"ids_max": 5, "snapshot_records": 10, "log": {"seal_bytes": 0, "seal_age_s": 0}}
    app = joins.open(store=store, **settings)
    load(app)
    app.worker.prepare(app.worker.bind(view, None))
    logs = [work.partition.log for work in app.engine._works.values()]
    for log in (*logs, *(join.log for join in app.worker.logs().values())):
        log._settings = log._settings.model_copy(update={"segment_bytes_max": 1_500})
    answers = {}
    for number in range(40):
        id_ = number.to_bytes(16, "big")
        answers[id_] = row(number), facts(ask(app, view, row(number), request_id=id_))
        if number == 20:
            app.seal()
    app.seal()
    is_killed = store is not None
    if not is_killed:
        app.close()
    app = joins.open(store=store, crashed=is_killed, **settings)
    load(app, age=31, second=1)

    for id_, (asked, answer) in list(answers.items())[-5:]:
        assert facts(ask(app, view, asked, request_id=id_)) == answer
    firsts = [app.engine._works[n].partition.log.first_number() for n in ("g.1", "h.1")]
    if view != "one" or store is not None:
        firsts.append(app.worker.logs()[f"{view}@1"].log.first_number())
        assert firsts[-1] > 1, "its log was trimmed"


def test_a_log_of_joins_is_sealed_by_its_name(joins):
    """Like every log."""
    app = joins.open()
    load(app)
    ask(app, "several")
    ask(app, "alone")

    assert {"several@1", "alone@1", "g.1", "h.1"} <= {report.stream for report in app.seal()}
    assert (app.path / "sealed" / "several@1" / "manifest.json").exists()
    assert facts(ask(app, "several", request_id=THREE)) == facts(
        ask(app, "several", request_id=THREE)
    )


def test_answers_wait_for_the_disk_where_that_was_asked_for(joins, way):
    """durability=batch: the same answers, the same ids."""
    view, store = way
    app = joins.open(store=store, log={"durability": "batch"})
    load(app)
    first = ask(app, view, request_id=ONE, deadline_ms=20_000)
    load(app, age=31, second=1)
    again = ask(app, view, request_id=ONE, deadline_ms=20_000)
    app.close()
    app = joins.open(store=store, log={"durability": "batch"})

    assert facts(first) == facts(again) == facts(ask(app, view, request_id=ONE))


def test_a_closed_store_refuses_joined_requests_too(joins, way):
    """By the app, and by the worker behind a server."""
    view, store = way
    app = joins.open(store=store)
    load(app)
    ask(app, view)
    served = app.worker.bind(view, None)
    app.close()
    with pytest.raises(Draining, match="HOF-303"):
        app.vector(view, keys={})
    answers = []
    app.worker.submit([Request(served, b"", b"", ONE.bytes, answers.append)])

    assert [answer.meta.code for answer in answers] == ["HOF-303"]
