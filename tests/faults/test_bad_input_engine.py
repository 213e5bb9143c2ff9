"""Poison stays put: hostile bytes and bad functions touch their own request and nobody else's."""

import threading

import pyarrow as pa
import pyarrow.compute as pc
import pytest

import hofflight as hof
from hofflight.errors import (
    HofError,
    InternalError,
    NoAnswer,
    TransformFailed,
    TransformTimeout,
    Wedged,
)
from hofflight.eventlog.protocol import Request
from hofflight.wire.ipc import encode_batch
from hofflight.wire.rows import to_batch

S = 1_000_000
INPUT = {"card": pa.int64(), "ts": hof.TIMESTAMP, "x": pa.int64(), "s": pa.string()}
WINDOWS = {"n": hof.count().over("1h"), "total": hof.sum("x").over("1h")}


def group_with(function=None, *, name="g", version=1, **changes):
    """A group of expressions, or with a function that computes y."""
    fields = {"key": "card", "event_time": "ts", "input": INPUT, "windows": WINDOWS, **changes}
    if function is None:
        return hof.feature_group(name, version=version, **fields)
    return hof.feature_group(name, version=version, output={"y": pa.int64()}, **fields)(function)


def event(second, x=1, s="a", card=7):
    return {"card": card, "ts": second * S, "x": x, "s": s}


@pytest.fixture
def open_app(tmp_path):
    opened = []

    def open_app(*groups, **engine):
        app = hof.open(tmp_path / "store", settings=hof.load_settings(engine=engine))
        opened.append(app)
        for group in groups:
            app.register(group)
        return app

    yield open_app
    for app in opened:
        app.close()


def codes(app, stream="g.1"):
    return [meta.code for _, meta in app.engine._works[stream].partition.log.read_meta()]


class Sender:
    """Sends raw bytes, as the server would, and keeps every answer."""

    def __init__(self, app, view="g"):
        self.app = app
        self.served = app.engine.bind(view, None)
        self.answers = []
        self._sent = 0

    def bytes_of(self, rows):
        return encode_batch(to_batch(rows, self.served.input_schema))

    def request(self, head, body, **options):
        self._sent += 1
        request_id = self._sent.to_bytes(16, "big")
        return Request(self.served, head, body, request_id, self.answers.append, **options)

    def send(self, *messages):
        """Submit together; the codes of the answers, in the order they came."""
        before = len(self.answers)
        self.app.engine.submit([self.request(*message) for message in messages])
        return [answer.meta.code for answer in self.answers[before:]]


def test_bytes_that_are_no_batch_are_refused_among_good_requests(open_app):
    """Submitted together: each hostile one gets its code, each good one its answer."""
    app = open_app(group_with())
    sender = Sender(app)
    head, body = sender.bytes_of(event(0))
    hostile = [
        (b"", b""), (b"\0" * 8, body), (head, b""), (head, body[:-8]), (head, body + bytes(8)),
        (head[:40], body), (bytes(len(head)), body), (head, bytes([0xFF]) * len(body)),
        (b"A" * 100_000, body), (body, head),
    ]  # fmt: skip
    for bad in hostile:
        assert sender.send((head, body), bad, (head, body))[-3:].count("OK") == 2

    found = [answer.meta.code for answer in sender.answers if answer.meta.code != "OK"]
    assert len(found) == len(hostile)
    assert set(found) <= {"HOF-203", "HOF-207"}
    # Nothing of them is in the log, and exactly the good ones count.
    assert codes(app) == ["OK"] * 2 * len(hostile)
    assert app.vector("g", event(1)).to_dict()["g.n"] == 2 * len(hostile) + 1


def test_every_changed_byte_of_a_request_is_answered_with_a_code(open_app):
    """One answer each, never InternalError, and the store counts what it says it counted."""
    app = open_app(group_with())
    sender = Sender(app)
    head, body = sender.bytes_of(event(0, s="hello"))
    message = head + body
    for at in range(len(message)):
        changed = bytearray(message)
        changed[at] ^= 0x81
        sender.send((bytes(changed[: len(head)]), bytes(changed[len(head) :])))

    found = [answer.meta.code for answer in sender.answers]
    assert len(found) == len(message)
    assert InternalError.code not in found
    assert set(found) <= {"OK", "HOF-203", "HOF-205", "HOF-206", "HOF-207"}
    assert codes(app).count("OK") == found.count("OK")
    again = open_and_replay(app)
    assert again == app.vector("g", event(2_000, card=7), store=False).to_dict()


def open_and_replay(app):
    """The next answer of a store rebuilt from the same log, without closing the first."""
    import shutil

    path = app.engine._snapshots.parent
    copy = path.with_name("copy")
    shutil.copytree(path, copy)
    (copy / "lock").unlink()
    with hof.open(copy) as other:
        other.register(group_with())
        return other.vector("g", event(2_000, card=7), store=False).to_dict()


def failing(batch):
    if pc.any(pc.equal(batch["x"], 13)).as_py():
        raise ValueError("unlucky")
    return {"y": pc.multiply(batch["x"], 2)}


def test_a_function_that_raises_on_one_request_fails_that_request_alone(open_app):
    """Even when it is called once for many requests: then it is called for each."""
    app = open_app(group_with(failing))
    sender = Sender(app)
    done = threading.Event()
    sent = [event(0), event(1, x=13), [event(2), event(3)], [event(4), event(5, x=13)]]
    requests = [sender.request(*sender.bytes_of(rows)) for rows in sent]
    for request in requests:
        inner = request.reply
        request.reply = lambda a, inner=inner: (
            inner(a), done.set() if len(sender.answers) == 4 else None,
        )  # fmt: skip
    app.engine.submit(requests)
    assert done.wait(10)

    assert [a.meta.code for a in sender.answers] == ["OK", "HOF-209", "OK", "HOF-209"]
    assert "raised ValueError: unlucky" in sender.answers[1].meta.error
    assert codes(app) == ["OK", "HOF-209", "OK", "HOF-209"]
    assert app.vector("g", event(6)).to_dict()["g.n"] == 4


def deeper(batch):
    return deeper(batch)


WRONG = {
    "raises": lambda batch: 1 // 0,
    "rows": lambda batch: {"y": pa.array([], pa.int64())},
    "type": lambda batch: {"y": batch["s"]},
    "names": lambda batch: {"z": batch["x"]},
    "names of two kinds": lambda batch: {"y": batch["x"], 1: batch["x"]},
    "nothing": lambda batch: None,
    "endless recursion": deeper,
}


@pytest.mark.parametrize("what", WRONG)
def test_a_function_that_returns_something_else_is_the_requests_error(open_app, what):
    """HOF-209 to its sender, a void mark in the log; the group and the others go on."""
    wrong = WRONG[what]
    app = open_app(
        group_with(lambda batch: wrong(batch) if batch["x"][0].as_py() == 13 else
                   {"y": batch["x"]}),
        group_with(name="other"),
    )  # fmt: skip
    app.vector("g", event(0))
    with pytest.raises(TransformFailed, match=r"HOF-209.*g@1"):
        app.vector("g", event(1, x=13))

    assert app.vector("g", event(2)).to_dict()["g.n"] == 2
    assert app.vector("other", event(0)).to_dict()["other.n"] == 1
    assert codes(app) == ["OK", "HOF-209", "OK"]


def test_a_derived_function_that_fails_refuses_its_request(open_app):
    """Its windows were pushed already: they are taken back."""

    def ratio(rows):
        return pc.divide(rows["x"], pc.subtract(rows["x"], 13))

    app = open_app(group_with(derive={"d": (pa.int64(), ratio)}))
    app.vector("g", event(0))
    for rows in (event(1, x=13), [event(1), event(2, x=13)]):
        with pytest.raises(TransformFailed, match=r"HOF-209.*'d'"):
            app.vector("g", rows)

    assert app.vector("g", event(3)).to_dict()["g.n"] == 2
    assert codes(app) == ["OK", "HOF-209", "HOF-209", "OK"]


class Gate:
    """A function that hangs on x = 13 until it is let go."""

    def __init__(self):
        self.open = threading.Event()
        self.entered = threading.Event()

    def __call__(self, batch):
        if pc.any(pc.equal(batch["x"], 13)).as_py():
            self.entered.set()
            self.open.wait(60)
        return {"y": batch["x"]}


def test_a_function_that_hangs_wedges_its_group_alone(open_app):
    """An indefinite error in time, then a refusal at once; other groups answer; a restart mends."""
    gate = Gate()
    app = open_app(group_with(gate), group_with(name="other"), transform_timeout_ms=200)
    app.vector("g", event(0))
    with pytest.raises(TransformTimeout, match=r"HOF-402.*g\.1.*200 ms"):
        app.vector("g", event(1, x=13), request_id=b"h" * 16)
    with pytest.raises(Wedged, match=r"HOF-305.*restart"):
        app.vector("g", event(2))
    assert app.vector("other", event(0)).to_dict()["other.n"] == 1
    assert codes(app) == ["OK", "HOF-402"]
    app.close()
    gate.open.set()

    restarted = open_app(group_with(gate))
    assert restarted.vector("g", event(3)).to_dict()["g.n"] == 2
    # The outcome was indefinite: the same id may be tried again, and counts once.
    assert restarted.vector("g", event(1, x=13), request_id=b"h" * 16).to_dict()["g.n"] == 2
    assert restarted.vector("g", event(1, x=13), request_id=b"h" * 16).to_dict()["g.n"] == 2
    assert restarted.vector("g", event(4)).to_dict()["g.n"] == 4


def test_another_version_that_hangs_voids_nothing_that_was_answered(open_app):
    """Version 2 only folds what version 1 answered: the rows are logged, and stay counted."""
    gate = Gate()
    groups = group_with(), group_with(gate, version=2)
    app = open_app(*groups, transform_timeout_ms=200)
    with pytest.raises(TransformTimeout):
        app.vector("g", event(1, x=13), version=1, request_id=b"h" * 16)
    assert codes(app) == ["OK"]
    app.close()
    gate.open.set()

    restarted = open_app(*groups)
    again = restarted.vector("g", event(1, x=13), version=1, request_id=b"h" * 16)
    assert again.to_dict()["g.n"] == 1
    assert restarted.vector("g", event(2), version=1).to_dict()["g.n"] == 2
    assert codes(restarted) == ["OK", "OK"]


def test_everyone_who_waits_for_a_function_that_hangs_is_answered(open_app):
    """Those behind it in the queue too, and whoever comes in that very moment."""
    gate = Gate()
    app = open_app(group_with(gate), transform_timeout_ms=300)
    errors = []

    def ask(number):
        try:
            app.vector("g", event(number, x=13 if number == 0 else 1), deadline_ms=20_000)
        except HofError as error:
            errors.append(error.code)

    threads = [threading.Thread(target=ask, args=(0,))]
    threads[0].start()
    assert gate.entered.wait(10)
    threads += [threading.Thread(target=ask, args=(number,)) for number in range(1, 20)]
    for thread in threads[1:]:
        thread.start()
    for thread in threads:
        thread.join()
    gate.open.set()

    assert len(errors) == 20
    assert set(errors) <= {TransformTimeout.code, Wedged.code}
    # A function that comes back late finds its work given up: nothing more is logged.
    assert set(codes(app)) == {TransformTimeout.code}


def test_a_caller_need_not_wait_longer_than_its_deadline(open_app):
    """The function still runs; the rows count, and the same id gets the answer afterwards."""
    gate = Gate()
    app = open_app(group_with(gate), transform_timeout_ms=30_000)
    with pytest.raises(NoAnswer, match=r"HOF-404.*20 ms.*same request id"):
        app.vector("g", event(0, x=13), deadline_ms=20, request_id=b"s" * 16)
    gate.open.set()

    assert app.vector("g", event(0, x=13), request_id=b"s" * 16).to_dict()["g.n"] == 1
    assert app.vector("g", event(1)).to_dict()["g.n"] == 2


def test_a_large_request_of_a_quick_function_is_no_hang(open_app):
    """The timeout is the function's: folding many rows takes longer, and is not its fault."""
    windows = {f"w{i}": hof.std("x").over(f"{i + 1}h") for i in range(3)}
    app = open_app(
        group_with(lambda batch: {"y": batch["x"]}, windows=windows), transform_timeout_ms=60
    )
    rows = 20_000
    table = pa.table(
        {
            "card": pa.array([i % 50 for i in range(rows)]),
            "ts": pa.array([i * S for i in range(rows)]),
            "x": pa.array([i % 7 for i in range(rows)]),
            "s": pa.array(["a"] * rows),
        }
    )

    assert app.vector("g", table).batch.num_rows == rows


def test_a_function_that_exits_does_not_end_the_process(open_app):
    """`sys.exit` in a function is a failing function."""

    def leaving(batch):
        raise SystemExit(3)

    app = open_app(group_with(leaving), group_with(name="other"), transform_timeout_ms=300)
    with pytest.raises(TransformFailed, match="raised SystemExit: 3"):
        app.vector("g", event(0))

    assert app.vector("other", event(0)).to_dict()["other.n"] == 1
