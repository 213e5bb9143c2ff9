"""One request feeds several streaming groups: all of them or none, and each counts it once."""

import threading
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress

import pyarrow as pa
import pyarrow.compute as pc
import pytest

import hofflight as hof
from hofflight.errors import (
    BadEventTime,
    HofError,
    IdReused,
    NullKey,
    StorageFailed,
    TieLimit,
    TransformFailed,
    TransformTimeout,
    Wedged,
)
from tests.unit.server.joined_views import (
    CARD,
    CUSTOMER,
    ONE,
    SHOP,
    START,
    TWO,
    WINDOWS,
    FailingLog,
    S,
    Waited,
    ask,
    facts,
    load,
    records,
    row,
)


def columns(answer, *names):
    """Values of some columns, row by row."""
    return [tuple(found[name] for name in names) for found in answer.batch.to_pylist()]


@pytest.fixture
def app(joins):
    app = joins.open()
    load(app)
    return app


# --- keyed differently ----------------------------------------------------------------------------


@pytest.mark.parametrize("view", ["several", "plain"])
@pytest.mark.parametrize("together", [True, False], ids=["in one request", "one by one"])
def test_one_row_counts_in_each_group_under_that_groups_own_key(app, view, together):
    """Cards and terminals of the same events, with stored features beside them or without."""
    pairs = [(1, "a"), (1, "b"), (2, "b"), (1, "b"), (3, "a")]
    rows = [row(second, card=c, terminal=t) for second, (c, t) in enumerate(pairs)]
    if together:
        found = columns(ask(app, view, *rows), "g.n", "h.n")
    else:
        found = [columns(ask(app, view, one), "g.n", "h.n")[0] for one in rows]

    assert found == [(1, 1), (2, 1), (1, 2), (3, 3), (1, 2)]
    assert columns(ask(app, "g", row(9, card=1)), "g.n") == [(4,)]
    assert app.vector(
        "h", {"ts": START + 9 * S, "terminal": "b", "x": 1}
    ).to_dict()["h.n"] == 4  # fmt: skip


def test_rows_as_a_frame_or_a_table_are_the_same_rows(app):
    """Columns in any order."""
    rows = [row(0), row(1, card=8)]
    table = pa.table({
        "x": pa.array([1, 1]), "terminal": ["t", "t"], "card": [7, 8],
        "ts": pa.array([START, START + S], hof.TIMESTAMP),
    })  # fmt: skip
    first = app.vector("plain", table, request_id=ONE)
    again = app.vector("plain", rows, request_id=ONE)

    assert columns(first, "g.n", "h.n") == [(1, 1), (1, 2)]
    assert facts(again) == facts(first)


def test_a_row_may_be_late_for_one_group_and_in_time_for_the_other(app):
    """Its windows are null there and counted here; `late` says whether any was."""
    ask(app, "several", row(2_000, card=1, terminal="a"))
    one = ask(app, "several", row(0, card=2, terminal="a"))
    late_card, late_terminal = row(1, card=1, terminal="new"), row(1, card=4)
    many = ask(app, "several", row(2_001, card=3), late_card, late_terminal)

    assert one.late == [True]
    assert one.group_late == {"h": [True], "g": [False]}
    assert columns(one, "h.n", "g.n") == [(None, 1)]
    assert (one.status["h.n"], "g.n" in one.status) == ("LATE", False)
    assert many.late == [False, True, True]
    assert many.group_late == {"h": [False, False, True], "g": [False, True, False]}
    assert columns(many, "h.n", "g.n") == [(1, 1), (1, None), (None, 1)]
    assert many.status["h.n"] == ["OK", "OK", "LATE"]
    assert many.status["g.n"] == ["OK", "LATE", "OK"]


def test_what_each_group_says_is_repeated(app):
    """Late rows of a request that is asked again are late again, in the same groups."""
    ask(app, "several", row(2_000, terminal="a"))
    rows = [row(2_001, terminal="b"), row(0, card=9, terminal="a")]
    first = ask(app, "several", *rows, request_id=ONE)

    assert first.group_late == {"h": [False, True], "g": [False, False]}
    assert facts(ask(app, "several", *rows, request_id=ONE)) == facts(first)


def test_a_view_of_one_group_says_late_without_naming_it(app):
    """There is no other group that could mean it."""
    ask(app, "one", row(2_000))
    late = ask(app, "one", row(0))

    assert (late.late, late.group_late) == ([True], {})
    assert late.status == {"customer.age": "PRESENT", "shop.rank": "PRESENT", "g.n": "LATE"}


# --- checked before any group counts --------------------------------------------------------------

WRONG = {
    "no card": ({"card": None}, NullKey),
    "no terminal": ({"terminal": None}, NullKey),
    "no time": ({"ts": None}, BadEventTime),
    "a time before 1900": ({"ts": -(2**62)}, BadEventTime),
    "a time after 2040": ({"ts": 2**62}, BadEventTime),
}


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("alone", [True, False], ids=["alone", "among others"])
@pytest.mark.parametrize("view", ["several", "plain"])
def test_what_one_group_would_refuse_no_group_counts(app, view, what, alone):
    """Whichever of them it is; nothing is logged, and the id is still free."""
    changes, error = WRONG[what]
    bad = row(1, **changes)
    before = records(app)
    for store in (True, False):
        with pytest.raises(error, match=error.code):
            ask(app, view, *([bad] if alone else [row(), bad]), request_id=ONE, store=store)

    assert records(app) == before
    assert columns(ask(app, view, row(2), request_id=ONE), "h.n", "g.n") == [(1, 1)]


def test_a_time_that_one_group_finds_too_early_is_refused_by_all(joins):
    """`early=` is each group's own."""
    strict = hof.feature_group(
        "early", version=1, key="card", event_time="ts", early="1m", windows=WINDOWS,
        input={"card": pa.int64(), "ts": hof.TIMESTAMP},
    )  # fmt: skip
    app = joins.open(CARD, strict, views={"both": ["g.n", "early.n"]})
    with pytest.raises(BadEventTime, match=r"HOF-206.*early="):
        ask(app, "both", row(61))

    assert records(app) == {}
    assert columns(ask(app, "both", row(58), row(59)), "g.n", "early.n") == [(1, 1), (2, 2)]


# --- a group that fails after another has counted -------------------------------------------------


class Function:
    """A function of the user's: it raises on x = 13, and hangs on x = 14 until it is let go."""

    def __init__(self):
        self.open = threading.Event()
        self.entered = threading.Event()

    def __call__(self, batch):
        if pc.any(pc.equal(batch["x"], 13)).as_py():
            msg = "unlucky"
            raise ValueError(msg)
        if pc.any(pc.equal(batch["x"], 14)).as_py():
            self.entered.set()
            self.open.wait(60)
        return {"y": batch["x"]}


FUNCTION_VIEWS = {
    "both": ["g.n", "f.n", "f.y", "customer.age"],
    "turned": ["f.n", "g.n", "customer.age"],
    "bare": ["f.n", "g.n"],
}


@pytest.fixture
def function():
    function = Function()
    yield function
    function.open.set()


@pytest.fixture
def with_function(joins, function):
    """Opens a store with a group that calls it, beside one of expressions."""

    def with_function(**options):
        group = hof.feature_group(
            "f", version=1, key="card", event_time="ts", windows=WINDOWS,
            output={"y": pa.int64()}, input={"card": pa.int64(), "ts": hof.TIMESTAMP,
                                             "x": pa.int64()},
        )(function)  # fmt: skip
        app = joins.open(CARD, CUSTOMER, SHOP, group, views=FUNCTION_VIEWS, **options)
        load(app)
        return app

    return with_function


@pytest.mark.parametrize("view", FUNCTION_VIEWS)
@pytest.mark.parametrize("when", ["at once", "after a restart"])
def test_a_function_that_raises_is_the_answer_and_the_other_group_counts_once(
    with_function, view, when
):
    """Asked again with its id it fails alike, and nobody counts it twice."""
    app = with_function()
    bad = [row(0), row(1, x=13)]
    with pytest.raises(TransformFailed, match=r"HOF-209.*unlucky") as first:
        ask(app, view, *bad, request_id=ONE)
    if when == "after a restart":
        app.close()
        app = with_function()
    with pytest.raises(TransformFailed, match=r"HOF-209.*unlucky") as second:
        ask(app, view, *bad, request_id=ONE)

    assert first.value.message == second.value.message
    assert columns(ask(app, view, row(2)), "f.n", "g.n") == [(1, 3)]


def test_more_rows_in_a_microsecond_than_one_group_takes_are_its_error(app):
    """Known only when they are folded: the other group has counted them by then."""
    ask(app, "plain", *[row(card=1)] * 2_048, *[row(card=2)] * 2_048)
    for _ in range(2):
        with pytest.raises(TieLimit, match="HOF-210"):
            ask(app, "several", row(card=3), request_id=ONE)

    assert columns(ask(app, "several", row(1, card=3)), "g.n", "h.n") == [(2, 4_097)]


@pytest.mark.parametrize("view", ["both", "turned"])
def test_a_group_that_hangs_is_retried_after_a_restart_and_counts_once(
    with_function, function, view
):
    """The other group answers out of its log."""
    app = with_function(transform_timeout_ms=200)
    ask(app, view, row(0))
    with pytest.raises(TransformTimeout, match=r"HOF-402.*f\.1"):
        ask(app, view, row(1, x=14), request_id=ONE)
    for id_ in (ONE, TWO):
        with pytest.raises(Wedged, match=r"HOF-305.*restart"):
            ask(app, view, row(1, x=14), request_id=id_)
    assert columns(app.vector("g", {"card": 7, "ts": START + 2 * S, "x": 1}), "g.n") == [(3,)]
    app.close()
    function.open.set()
    app = with_function()
    answer = ask(app, view, row(1, x=14), request_id=ONE)

    assert columns(answer, "f.n", "g.n") == [(2, 2)]
    assert facts(ask(app, view, row(1, x=14), request_id=ONE)) == facts(answer)
    assert columns(ask(app, view, row(3)), "f.n", "g.n") == [(3, 4)]


@pytest.mark.parametrize("view", ["both", "bare"])
def test_whoever_asks_while_a_function_hangs_is_not_held_up_with_it(with_function, function, view):
    """A server asks from its event loop: if that waited here, every stream would stand still."""
    app = with_function(transform_timeout_ms=200)
    handed_over = threading.Event()

    def ask_and_say(number):
        with suppress(HofError):
            ask(app, view, row(number), row(number), deadline_ms=1)
        handed_over.set()

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, app, view, row(0), row(1, x=14))
        assert function.entered.wait(10)
        second = pool.submit(ask_and_say, 2)
        is_through = handed_over.wait(2)
        function.open.set()
        wait([first, second], 10)

    assert is_through, "it waited for the function of somebody else's request"


@pytest.mark.parametrize("which", ["g.1", "h.1"])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("view", ["several", "plain"])
def test_a_group_whose_log_cannot_be_written_is_retried_and_counts_once(app, view, count, which):
    """Whether it is the first or the second: what the other one counted, it counted once."""
    rows = [row(second) for second in range(count)]
    partition = app.engine._works[which].partition
    partition.log = FailingLog(partition.log)
    for _ in range(2):
        with pytest.raises(StorageFailed, match="HOF-304"):
            ask(app, view, *rows, request_id=ONE)
    partition.log.fails = False
    answer = ask(app, view, *rows, request_id=ONE)

    expected = [(number, number) for number in range(1, count + 1)]
    assert columns(answer, "h.n", "g.n") == expected
    assert facts(ask(app, view, *rows, request_id=ONE)) == facts(answer)
    assert columns(ask(app, view, row(9)), "h.n", "g.n") == [(count + 1, count + 1)]


def test_a_group_that_has_seen_the_id_with_other_rows_refuses_the_request(app):
    """The other group has counted it; asked again it is refused alike, and counted no more."""
    ask(app, "g", row(), request_id=ONE)
    for _ in range(2):
        with pytest.raises(IdReused, match="HOF-208"):
            ask(app, "several", row(5), request_id=ONE)

    assert columns(ask(app, "plain", row(6), row(7)), "g.n", "h.n") == [(2, 2), (3, 3)]


def test_an_id_that_was_taken_in_without_an_answer_has_none_under_a_view_of_several(app):
    """Said once by the group, and so by the view."""
    app.ingest("g", {"card": 7, "ts": START, "x": 1}, request_id=ONE)
    with pytest.raises(IdReused, match=r"HOF-208.*without an answer"):
        ask(app, "several", row(), request_id=ONE)


# --- events without answers -----------------------------------------------------------------------


@pytest.mark.parametrize("view", ["one", "several", "plain", "strict"])
@pytest.mark.parametrize("count", [1, 3])
def test_events_without_answers_count_in_every_group_and_look_nothing_up(joins, view, count):
    """They name no customer: nothing of theirs is answered, so nothing is looked up."""
    store = Waited()
    app = joins.open(store=store)
    app.view("strict", 1, ["h.n", "customer.age", "g.n"], on_missing="fail")
    names = ["card", "ts", "x"] if view == "one" else list(row())
    rows = [{name: row(second)[name] for name in names} for second in range(count)]
    taken = [app.ingest(view, rows, request_id=ONE) for _ in range(2)]

    assert taken == [count, count]
    assert store.lookups == 0
    expected = {"g.1": 1} if view == "one" else {"g.1": 1, "h.1": 1}
    assert records(app) == expected
    after = ask(app, "plain", row(9), row(10))
    assert columns(after, "g.n") == [(count + 1,), (count + 2,)]
    assert columns(after, "h.n") == [(1,), (2,)] if view == "one" else columns(after, "g.n")


def test_events_that_one_group_refuses_are_taken_by_none(joins):
    """As with an answer."""
    app = joins.open(store=Waited())
    with pytest.raises(NullKey, match="HOF-205"):
        app.ingest("plain", [row(0), row(1, terminal=None)])

    assert records(app) == {}
