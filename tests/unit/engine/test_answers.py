"""What an opened store answers: atomic requests, peeks, statuses, versions, deadlines."""

import threading

import pyarrow as pa
import pyarrow.compute as pc
import pytest

import hofflight as hof
from hofflight.errors import (
    AnsweredTooLate,
    BadEventTime,
    BadKeys,
    BadRequest,
    CodeNotLoaded,
    DeadlinePassed,
    HofError,
    NullKey,
    SchemaMismatch,
    TieLimit,
    TooLarge,
    TransformFailed,
    UnknownView,
)
from hofflight.eventlog.protocol import Request
from hofflight.wire.ipc import encode_batch
from hofflight.wire.rows import to_batch

S = 1_000_000
HOUR = 3_600


def column(vector, name):
    return vector.batch[name].to_pylist()


def test_one_row_and_many_rows_are_answered_alike(stores, group, event):
    """A batch is its rows in order: the same windows, whatever the split."""
    rows = [event(card, second, x) for second in range(20) for card, x in ((1, 5), (2, None))]
    one, many = stores.open(group()), stores.open(group(), path=stores.directory / "other")
    single = [one.vector("g", row).to_dict() for row in rows]

    assert many.vector("g", rows).batch.to_pylist() == single


class Refused:
    """Requests with one bad row among good ones, and the code that each one gets."""

    def bad(self, event, what):
        good = [event(7, 10), event(8, 11)]
        bad = {
            "null key": event(None, 12),
            "null time": {"card": 7, "ts": None, "x": 1},
            "before 1900": {"card": 7, "ts": -(2**62), "x": 1},
            "after 2040": {"card": 7, "ts": 2**62, "x": 1},
            "int64 edge": {"card": 7, "ts": 2**63 - 1, "x": 1},
            "other int64 edge": {"card": 7, "ts": -(2**63), "x": 1},
            "overflow in an expression": event(7, 12, 2**62),
        }[what]
        return [good[0], bad, good[1]]


CODES = {
    "null key": NullKey, "null time": BadEventTime, "before 1900": BadEventTime,
    "after 2040": BadEventTime, "int64 edge": BadEventTime, "other int64 edge": BadEventTime,
    "overflow in an expression": TransformFailed,
}  # fmt: skip


@pytest.mark.parametrize("what", CODES)
@pytest.mark.parametrize("alone", [True, False], ids=["alone", "among good rows"])
def test_one_bad_row_refuses_its_whole_request_and_nothing_else(
    stores, group, event, log_of, what, alone
):
    """None of its rows counts, a void mark says so, and the next request is answered as if."""
    overflowing = group(output={"four": hof.col("x") * 4})
    app = stores.open(overflowing)
    app.vector("g", event(7, 0))
    rows = Refused().bad(event, what)
    with pytest.raises(CODES[what]) as caught:
        app.vector("g", rows[1] if alone else rows)

    assert caught.value.code in str(caught.value)
    assert app.vector("g", event(7, 13)).to_dict()["g.n"] == 2
    assert [meta.code for meta in log_of(app)] == ["OK", caught.value.code, "OK"]
    restarted = stores.crashed(overflowing)
    assert restarted.vector("g", event(7, 14)).to_dict()["g.n"] == 3


def test_a_tie_past_the_limit_refuses_its_request(stores, group, event, log_of):
    """4,096 rows of a key in one microsecond, and a void mark for one more."""
    app = stores.open(group())
    app.vector("g", [event(7, 0)] * 4_095)
    for rows in ([event(7, 0), event(7, 0)], [event(8, 0), event(7, 0), event(7, 0)]):
        with pytest.raises(TieLimit, match="HOF-210"):
            app.vector("g", rows)

    assert app.vector("g", event(7, 0)).to_dict()["g.n"] == 4_096
    assert app.vector("g", event(8, 0)).to_dict()["g.n"] == 1
    with pytest.raises(TieLimit):
        app.vector("g", event(7, 0))
    assert [meta.code for meta in log_of(app)] == ["OK", *["HOF-210"] * 2, "OK", "OK", "HOF-210"]


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        ({"card": 7, "ts": 0}, SchemaMismatch),
        ({"card": 7, "ts": 0, "x": 1, "y": 1}, SchemaMismatch),
        ({"Card": 7, "ts": 0, "x": 1}, SchemaMismatch),
        (pa.table({"card": [7], "ts": [0], "x": ["1"]}), BadRequest),
        ([], BadRequest),
        (pa.table({"card": [], "ts": [], "x": []}), BadRequest),
        ("text", BadRequest),
        (None, BadRequest),
        ({"card": 7.5, "ts": 0, "x": 1}, BadRequest),
        ({"card": 2**63, "ts": 0, "x": 1}, BadRequest),
    ],
)
def test_rows_that_do_not_fit_are_refused_before_anything_is_logged(
    stores, group, event, log_of, rows, error
):
    """The sender made a mistake; the log holds events only."""
    app = stores.open(group())
    with pytest.raises(error):
        app.vector("g", rows)

    assert log_of(app) == []
    assert app.vector("g", event(7, 0)).to_dict()["g.n"] == 1


def test_more_rows_than_the_limit_are_refused(stores, group, event, log_of):
    """The limit is exact."""
    app = stores.open(group(windows={}, derive={}))
    table = pa.table({c: pa.array([0] * 100_001) for c in ("card", "ts", "x")})

    with pytest.raises(TooLarge, match=r"HOF-207.*100000 rows, got 100001"):
        app.ingest("g", table)
    assert log_of(app) == []


def test_the_clock_of_a_sender_cannot_make_its_key_late_for_ever(stores, group, event):
    """With early= an event too far ahead of its arrival is refused, on one row and on many."""

    class Clock:
        def wall_us(self):
            return 1_000 * S

        def monotonic_s(self):
            return 0.0

    app = stores.open(group(early="10s"), clock=Clock())
    app.vector("g", event(7, 1_010))
    for rows in (event(7, 1_011), [event(7, 1_000), event(7, 1_011)]):
        with pytest.raises(BadEventTime, match=r"HOF-206.*1\.000 s further ahead than early="):
            app.vector("g", rows)

    assert app.vector("g", event(7, 1_005)).to_dict()["g.n"] == 1


def test_a_peek_answers_and_changes_nothing(stores, group, event, log_of):
    """Each row as if it came next, alone; afterwards every answer is what it would have been."""
    app = stores.open(group())
    app.vector("g", [event(7, 0), event(7, 1)])
    peeked = app.vector("g", [event(7, 2), event(7, 3), event(8, 3), event(7, -2_000)], store=False)

    assert column(peeked, "g.n") == [3, 3, 1, None]
    assert peeked.late == [False, False, False, True]
    assert app.vector("g", event(7, 9), store=False, request_id=b"p" * 16).to_dict()["g.n"] == 3
    # The id of a peek is not remembered, and neither is its event time.
    assert app.vector("g", event(7, 2), request_id=b"p" * 16).to_dict()["g.n"] == 3
    assert app.vector("g", event(8, 3)).to_dict()["g.n"] == 1
    assert [meta.rows for meta in log_of(app)] == [2, 1, 1]


def test_a_failing_peek_leaves_no_mark(stores, group, event, log_of):
    """A peek is nobody's event, so its failure is nobody's void mark."""
    app = stores.open(group())
    with pytest.raises(NullKey):
        app.vector("g", [event(7, 0), event(None, 0)], store=False)

    assert log_of(app) == []
    assert app.vector("g", event(7, 0)).to_dict()["g.n"] == 1


def test_late_rows_are_answered_with_null_windows_and_say_so(stores, group, event):
    """Derived columns are computed over those nulls; the row enters no window."""
    app = stores.open(group(derive={"more": (hof.col("n") + 1).fill_null(-1)}))
    app.vector("g", event(7, 1_000))
    late = app.vector("g", event(7, 399))
    edge = app.vector("g", event(7, 400))

    assert late.to_dict() == {
        "g.card": 7, "g.ts": late.batch["g.ts"][0].as_py(), "g.x": 1,
        "g.n": None, "g.total": None, "g.more": -1,
    }  # fmt: skip
    assert (late.late, late.status) == ([True], {"g.n": "LATE", "g.total": "LATE"})
    assert (edge.late, edge.status, edge.to_dict()["g.n"]) == ([False], {}, 1)
    assert app.vector("g", event(7, 1_000)).to_dict()["g.n"] == 3


@pytest.mark.parametrize("many", [False, True], ids=["one row", "many rows"])
def test_an_integer_sum_past_int64_is_null_with_a_status(stores, group, event, many):
    """Never a wrap, never a failed request; it recovers when the large values leave."""
    app = stores.open(group())
    rows = [event(7, 0, 2**63 - 1), event(7, 1, 1), event(7, HOUR, 1), event(7, HOUR + 1, 1)]
    if many:
        vector = app.vector("g", rows)
        totals, status = column(vector, "g.total"), vector.status["g.total"]
    else:
        answers = [app.vector("g", row) for row in rows]
        totals = [column(a, "g.total")[0] for a in answers]
        status = [a.status.get("g.total", "OK") for a in answers]

    assert totals == [2**63 - 1, None, 2, 2]
    assert status == ["OK", "OVERFLOW", "OK", "OK"]


def test_two_versions_are_served_side_by_side_from_one_log(stores, group, event, log_of):
    """The newer one sees the history it was not there for, and both go on with every event."""
    app = stores.open(group())
    app.vector("g", [event(7, second) for second in range(5)])
    newer = group(version=2, windows={"n": hof.count().over("1d"), "big": hof.max("x").lifetime()},
                  derive={})  # fmt: skip
    app.register(newer)
    through_two = app.vector("g", event(7, 5, 9), version=2).to_dict()
    through_one = app.vector("g", event(7, 6), version=1).to_dict()
    newest = app.vector("g", event(7, HOUR + 6)).to_dict()

    assert (through_two["g.n"], through_two["g.big"]) == (6, 9)
    assert through_one["g.n"] == 7
    assert (newest["g.n"], newest["g.big"]) == (8, 9)
    assert [m.group_version for m in log_of(app)] == [1, 2, 1, 2]
    restarted = stores.crashed(group(), newer)
    assert restarted.vector("g", event(7, HOUR + 6), version=1).to_dict()["g.n"] == 2
    assert restarted.vector("g", event(7, HOUR + 6), version=2).to_dict()["g.n"] == 10


def test_an_unknown_view_or_version_says_what_there_is(stores, group, event):
    """The message is enough to mend the call."""
    app = stores.open(group())
    app.view("fraud", 2, ["g.n"])

    with pytest.raises(UnknownView, match=r"HOF-201.*'nobody'.*g@1"):
        app.vector("nobody", event(7, 0))
    with pytest.raises(UnknownView, match=r"HOF-201.*\[2\], not 1"):
        app.vector("fraud", event(7, 0), version=1)
    for odd in (0, -1, 2**63, 2**70):
        with pytest.raises(UnknownView, match="HOF-201"):
            app.vector("g", event(7, 0), version=odd)
    for name in ("", "g;drop", "../g", "g\0", None, 7):
        with pytest.raises(UnknownView, match="HOF-201"):
            app.vector(name, event(7, 0))


def test_a_registered_group_whose_code_is_not_loaded_says_how_to_load_it(stores, group, event):
    """After a restart the code comes from a module, never from the store."""
    stores.open(group()).close()
    app = stores.open()

    with pytest.raises(CodeNotLoaded, match=r"HOF-504.*g@1.*Hint"):
        app.vector("g", event(7, 0))
    assert app.views() == []
    app.register(group())
    assert app.vector("g", event(7, 0)).to_dict()["g.n"] == 1


def test_stored_keys_are_refused_by_a_view_without_stored_groups(stores, group, event):
    """What is asked for is never silently left out."""
    app = stores.open(group())

    with pytest.raises(BadKeys, match="HOF-216"):
        app.vector("g", event(7, 0), keys={"customer": 1})


def test_events_taken_in_without_an_answer_count(stores, group, event):
    """Warm-up and backfill: the number of rows, and windows that have seen them."""
    app = stores.open(group())

    assert app.ingest("g", [event(7, 0), event(7, 1)]) == 2
    assert app.vector("g", event(7, 2)).to_dict()["g.n"] == 3
    assert stores.crashed(group()).vector("g", event(7, 2)).to_dict()["g.n"] == 4


class SteppingClock:
    """Goes on by itself: every look at it costs `step` seconds."""

    def __init__(self):
        self.now, self.step = 0.0, 0.0

    def wall_us(self):
        return 0

    def monotonic_s(self):
        self.now += self.step
        return self.now


def ask(app, rows, deadline_s):
    """The answer to a request with a deadline on the clock's own scale."""
    served = app.engine.bind("g", None)
    head, body = encode_batch(to_batch(rows, served.input_schema))
    answers = []
    app.engine.submit([Request(served, head, body, b"d" * 16, answers.append, deadline_s)])
    [answer] = answers
    return answer.meta


def test_a_deadline_that_passed_before_the_work_began_counts_nothing(stores, group, event, log_of):
    """Refused: the same request may be sent again."""
    clock = SteppingClock()
    app = stores.open(group(), clock=clock)
    clock.now = 5.0

    assert ask(app, event(7, 0), 4.9).code == DeadlinePassed.code
    assert log_of(app) == []
    assert ask(app, event(7, 0), 5.1).code == "OK"


def test_an_answer_that_missed_its_deadline_is_recorded(stores, group, event):
    """Indefinite: the rows count, and a retry with the same id gets the answer."""
    clock = SteppingClock()
    app = stores.open(group(), clock=clock)
    clock.step = 1.0
    code = ask(app, event(7, 0), clock.now + 1.5).code
    clock.step = 0.0

    assert code == AnsweredTooLate.code
    assert app.vector("g", event(7, 0), request_id=b"d" * 16).to_dict()["g.n"] == 1
    assert app.vector("g", event(7, 1)).to_dict()["g.n"] == 2


def test_requests_that_waited_together_are_answered_as_if_one_came_after_another(
    stores, group, event, log_of
):
    """Good, bad, peeked and repeated ones in a single turn: each has its own outcome."""
    app = stores.open(group())
    served = app.engine.bind("g", None)
    answers = {}

    def request(name, rows, request_id, **options):
        head, body = encode_batch(to_batch(rows, served.input_schema))
        return Request(
            served, head, body, request_id * 16, lambda a: answers.setdefault(name, a), **options
        )

    app.engine.submit(
        [
            request("first", event(7, 0), b"a"),
            request("null key", [event(7, 1), event(None, 1)], b"b"),
            request("peek", event(7, 1), b"c", store=False),
            request("same id", event(7, 0), b"a"),
            request("same id, other", event(7, 5), b"a"),
            request("last", [event(7, 2), event(7, 3)], b"d"),
            request("torn", event(7, 4), b"e"),
        ][:-1]
    )

    def seen(name):
        answer = answers[name]
        if answer.meta.code != "OK":
            return answer.meta.code
        from hofflight.wire.ipc import BatchReader

        batch = BatchReader(served.output_schema).read_batch(answer.head, answer.body)
        return batch["g.n"].to_pylist()

    assert {name: seen(name) for name in answers} == {
        "first": [1], "null key": "HOF-205", "peek": [2], "same id": [1],
        "same id, other": "HOF-208", "last": [2, 3],
    }  # fmt: skip
    assert [meta.code for meta in log_of(app)] == ["OK", "HOF-205", "OK"]


def test_threads_that_ask_at_once_are_all_answered_and_counted_once(stores, group, event):
    """The app is thread-safe: no count is lost and none is given twice."""
    app = stores.open(group())
    counts, errors = [], []

    def ask_many(thread):
        for second in range(50):
            try:
                counts.append(app.vector("g", event(7, thread * 50 + second)).to_dict()["g.n"])
            except HofError as error:
                errors.append(error)

    threads = [threading.Thread(target=ask_many, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []
    assert len(counts) == 200
    assert app.vector("g", event(7, 500)).to_dict()["g.n"] == 201


def test_a_closed_store_refuses_every_question(stores, group, event):
    """Groups of expressions and groups with functions alike, at once and with a code."""

    def double(batch):
        return {"y": pc.multiply(batch["x"], 2)}

    app = stores.open(group(), group(name="f", output={"y": pa.int64()})(double))
    app.vector("g", event(7, 0))
    app.vector("f", event(7, 0))
    app.close()
    app.close()

    for name in ("g", "f"):
        with pytest.raises(HofError, match="HOF-3"):
            app.vector(name, event(7, 1), deadline_ms=5_000)
    reopened = stores.open(group(), group(name="f", output={"y": pa.int64()})(double))
    assert [reopened.vector(n, event(7, 2)).to_dict()[f"{n}.n"] for n in "gf"] == [2, 2]
