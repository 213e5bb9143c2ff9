"""The exchange over a stream in memory, which fails on purpose and keeps what it was sent."""

import queue
import threading

import pyarrow as pa
import pytest

from hofflight.client import exchange as subject
from hofflight.client.exchange import Exchange
from hofflight.errors import (
    BadRequest,
    ConnectionLost,
    Draining,
    HofError,
    IdReused,
    MalformedBatch,
    Overloaded,
    UnknownView,
)
from hofflight.wire import envelope

SCHEMA = pa.schema([("key", pa.int64())])
BATCH = pa.record_batch([pa.array([1])], schema=SCHEMA)
BIG = pa.record_batch([pa.array(range(10_000))], schema=SCHEMA)


class MemoryStream:
    """The `Stream` protocol with a queue at each end."""

    def __init__(self):
        self.sent = queue.Queue()
        self.answers = queue.Queue()
        self.may_write = threading.Event()
        self.may_write.set()
        self.ended_by = []

    def write(self, batch, metadata):
        self.may_write.wait(10)
        self.sent.put((threading.current_thread().name, metadata))

    def read(self):
        answer = self.answers.get()
        if isinstance(answer, HofError):
            raise answer
        return answer

    def answer(self, id_, **said):
        meta = envelope.AnswerMeta(said.pop("code", envelope.OK), id=id_, **said)
        self.answers.put((envelope.write(meta), BATCH))

    def half_close(self):
        self.ended_by.append("half close")
        self.answers.put(None)

    def cancel(self):
        self.answers.put(ConnectionLost("cancelled"))

    def close(self):
        self.ended_by.append("close")


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def stream():
    return MemoryStream()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def exchange(stream, clock):
    made = Exchange(lambda: stream, SCHEMA, clock)
    yield made
    stream.may_write.set()
    made.close()
    made.join(5)
    assert not made.alive


def id_of(number):
    return number.to_bytes(16, "big")


def warm(exchange, stream):
    """The stream is open and has answered once."""
    future = exchange.submit(id_of(0), BATCH, b"warm")
    stream.sent.get(timeout=5)
    stream.answer(id_of(0))
    future.result(5)


def test_each_answer_finds_its_request_in_any_order(exchange, stream):
    futures = [exchange.submit(id_of(n), BATCH, b"m") for n in range(1, 6)]
    for number in (3, 1, 5, 4, 2):
        stream.answer(id_of(number), view=f"for {number}")

    assert [f.result(5)[0].view for f in futures] == [f"for {n}" for n in range(1, 6)]


def test_a_small_request_is_written_by_its_caller_and_a_large_one_is_not(exchange, stream):
    warm(exchange, stream)
    exchange.submit(id_of(1), BATCH, b"small")
    exchange.submit(id_of(2), BIG, b"large")
    writers = [stream.sent.get(timeout=5) for _ in "ab"]

    assert writers == [(threading.current_thread().name, b"small"), ("hof-writer", b"large")]


def test_a_server_that_stops_reading_blocks_no_caller(exchange, stream):
    warm(exchange, stream)
    stream.may_write.clear()
    futures = [exchange.submit(id_of(n), BIG, b"m") for n in range(1, 5)]
    futures.append(exchange.submit(id_of(9), BATCH, b"m"))

    assert not any(future.done() for future in futures)


def test_a_request_given_up_before_it_was_written_is_not_sent(exchange, stream):
    warm(exchange, stream)
    stream.may_write.clear()
    exchange.submit(id_of(1), BIG, b"first")
    exchange.submit(id_of(2), BIG, b"second")
    exchange.submit(id_of(3), BIG, b"third")
    exchange.give_up(id_of(2))
    stream.may_write.set()

    assert [stream.sent.get(timeout=5)[1] for _ in "ab"] == [b"first", b"third"]


def test_one_id_is_under_way_once(exchange, stream):
    exchange.submit(id_of(1), BATCH, b"m")
    with pytest.raises(IdReused):
        exchange.submit(id_of(1), BATCH, b"m")

    exchange.give_up(id_of(1))
    again = exchange.submit(id_of(1), BATCH, b"m")
    stream.answer(id_of(1))
    stream.answer(id_of(1))
    assert again.result(5)[0].code == envelope.OK


def test_outstanding_answers_are_bounded(exchange, stream):
    for number in range(subject.OUTSTANDING_MAX):
        exchange.submit(id_of(number), BATCH, b"m")
    with pytest.raises(Overloaded) as caught:
        exchange.submit(id_of(9_999), BATCH, b"m")

    assert caught.value.retry_after_ms > 0


def test_the_end_of_a_used_stream_leaves_every_outcome_open(exchange, stream):
    warm(exchange, stream)
    futures = [exchange.submit(id_of(n), BATCH, b"m") for n in (1, 2)]
    stream.answers.put(Draining("stopping"))

    for future in futures:
        error = future.result(5)
        assert type(error) is ConnectionLost
        assert "stopping" in error.message
    with pytest.raises(ConnectionLost):
        exchange.submit(id_of(3), BATCH, b"m")


@pytest.mark.parametrize("error", [UnknownView("gone"), Draining("stopping", retry_after_ms=9)])
def test_a_stream_refused_as_a_whole_tells_everybody_why(exchange, stream, error):
    futures = [exchange.submit(id_of(n), BATCH, b"m") for n in (1, 2)]
    stream.answers.put(error)
    told = [future.result(5) for future in futures]

    assert [type(e) for e in told] == [type(error)] * 2
    assert [e.retry_after_ms for e in told] == [error.retry_after_ms] * 2
    assert told[0] is not told[1]


def test_a_protocol_error_blames_only_the_only_request(exchange, stream):
    futures = [exchange.submit(id_of(n), BATCH, b"m") for n in (1, 2)]
    stream.answers.put(MalformedBatch("lies"))

    assert {type(future.result(5)) for future in futures} == {ConnectionLost}


def test_an_answer_that_is_none_of_ours_ends_the_stream(exchange, stream):
    future = exchange.submit(id_of(1), BATCH, b"m")
    stream.answers.put((b"not msgpack", BATCH))

    assert isinstance(future.result(5), BadRequest)
    assert exchange.ended


def test_a_stream_that_cannot_be_opened_is_each_callers_error(clock):
    def refuse():
        raise ConnectionLost("nobody there")

    exchange = Exchange(refuse, SCHEMA, clock)
    exchange.join(5)

    assert exchange.ended
    assert not exchange.alive
    with pytest.raises(ConnectionLost, match="nobody there"):
        exchange.submit(id_of(1), BATCH, b"m")


def test_a_silent_stream_is_ended_by_who_waited_in_vain(exchange, stream, clock):
    warm(exchange, stream)
    exchange.submit(id_of(1), BATCH, b"m")
    clock.now += 1
    other = exchange.submit(id_of(2), BATCH, b"m")
    exchange.give_up(id_of(1))
    assert not exchange.ended

    clock.now += subject.SILENCE_S_MAX
    exchange.give_up(id_of(2))
    assert exchange.ended
    assert isinstance(other.result(5), ConnectionLost)


def test_a_stream_that_still_answers_others_is_kept(exchange, stream, clock):
    warm(exchange, stream)
    exchange.submit(id_of(1), BATCH, b"m")
    clock.now += subject.SILENCE_S_MAX + 1
    stream.answer(id_of(77))
    heard = exchange.submit(id_of(2), BATCH, b"m")
    stream.answer(id_of(2))
    heard.result(5)
    exchange.give_up(id_of(1))

    assert not exchange.ended


def test_closing_says_goodbye_before_it_lets_go(stream, clock):
    exchange = Exchange(lambda: stream, SCHEMA, clock)
    warm(exchange, stream)
    future = exchange.submit(id_of(1), BATCH, b"m")
    exchange.close()
    exchange.join(5)

    assert "closed" in future.result(0).message
    assert stream.ended_by == ["half close", "close"]
