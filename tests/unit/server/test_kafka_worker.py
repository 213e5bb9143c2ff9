"""A server before Kafka: what leaves, what comes back, and whose it is."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hofflight.eventlog.topics import input_spec
from hofflight.features.registry import Registry
from hofflight.features.sqlite import SqliteDatabase
from hofflight.server.catalog import RegistryCatalog
from hofflight.server.kafka_worker import KafkaWorker, Place
from hofflight.settings import KafkaSettings
from hofflight.wire import envelope
from hofflight.wire.envelope import AnswerMeta
from hofflight.wire.ipc import encode_batch
from hofflight.wire.kafka_record import Framing, encode_answers
from hofflight.wire.message import read_batch_header
from tests.unit.engine.conftest import make_group
from tests.unit.kafka_engines import (
    batch_of,
    cards_of,
    hash_of,
    id_of,
    request_of,
    values_of,
)
from tests.unit.kafka_fakes import FakeClock, FakeTopics, Refused

PARTITIONS = 2
EPOCH, TOPIC, REPLIES = 77, "hof.in.g.1", "hof.reply.00"
GROUP = make_group(windows={}, derive={})  # its full row is what came in
A, B = cards_of(0, PARTITIONS), cards_of(1, PARTITIONS)


class Server:
    """A worker on topics of its own, and everything that its requests were answered."""

    def __init__(self, fault=lambda topic, partition: "ok", **settings):
        self.clock = FakeClock()
        self.topics = FakeTopics(fault)
        registry = Registry(SqliteDatabase(None))
        registry.save_group(GROUP, module="", created_us=0)
        self.settings = KafkaSettings(**settings)
        self.worker = KafkaWorker(
            RegistryCatalog(registry, lambda stream: PARTITIONS), self.topics.produce,
            (Refused,), self.clock, self.settings,
        )  # fmt: skip
        self.served = self.worker.bind("g", None)
        self.take()
        self.replies = {}

    def take(self, epoch=EPOCH, seconds=1e6):
        self.worker.take(Place(REPLIES, epoch, self.clock.monotonic_s() + seconds))

    def ask(self, number, *rows, **fields):
        """Submit a request; `replies[number]` is what it gets."""
        request = request_of(self.served, *rows, number=number, **fields)
        request.reply = self.replies.setdefault(number, []).append
        if len(rows) == 1 and request.key_hash is None:
            request.key_hash = hash_of(rows[0][0])
        self.worker.submit([request])
        return request

    def codes(self):
        """{number: code}; every request has at most one outcome."""
        assert all(len(found) <= 1 for found in self.replies.values())
        return {n: found[0].meta.code for n, found in self.replies.items() if found}

    def records(self, partition=0):
        framing = Framing(GROUP.input)
        records = self.topics.records[TOPIC, partition]
        return [framing.decode(record.value, record.headers) for record in records]

    def left(self, partition=0):
        """Ids of what left for a partition, record by record."""
        return [
            [int.from_bytes(head.id, "big") for head, _, _ in record.requests]
            for record in self.records(partition)
        ]

    def answer(self, *, epoch=EPOCH, partition=0, calls=None, reverse=False):
        """Answer everything that left for a partition, with its own rows."""
        for record in self.records(partition):
            answers = [
                (head.call, meta_of(head.id), batch, body)
                for head, batch, body in record.requests
                if calls is None or head.call in calls
            ]
            self.worker.arrived(*encode_answers(epoch, answers[:: -1 if reverse else 1]))

    def is_empty(self):
        worker = self.worker
        return (
            len(worker._pending) == 0 and worker._heads == {} and not worker._sending
            and all(len(q) == 0 and not q._is_busy for q in worker._queues.values())
        )  # fmt: skip


def meta_of(request_id, code=envelope.OK, **fields):
    return envelope.write(AnswerMeta(code, 1, request_id, "g", 1, **fields))


async def settle():
    for _ in range(20):
        await asyncio.sleep(0)


def served(main):
    """A test whose body runs on a loop, with a server."""

    def test():
        asyncio.run(main())

    test.__name__, test.__doc__ = main.__name__, main.__doc__
    return test


# --- what leaves ----------------------------------------------------------------------------------


@served
async def test_a_request_leaves_at_once_and_alone():
    """At low load nothing waits; its record says all that the worker has to know."""
    server = Server()
    request = server.ask(1, (A[0], 0), store=False, deadline_s=server.clock.now_s + 3)
    await settle()
    (record,) = server.records()
    ((head, batch, body),) = record.requests

    assert (record.arrival_us, record.reply, record.epoch) == (server.clock.now_us, REPLIES, EPOCH)
    assert (batch, body) == (request.head, request.body)
    assert (head.id, head.view, head.version) == (id_of(1), "g", 1)
    assert (head.store, head.wants_answer) == (False, True)
    assert head.deadline_us == server.clock.now_us + 3_000_000


@served
async def test_a_request_without_a_deadline_gets_that_of_the_settings():
    """Nobody waits for ever."""
    server = Server(deadline_ms=1_500)
    server.ask(1, (A[0], 0))
    await settle()
    ((head, _, _),) = server.records()[0].requests
    assert head.deadline_us == server.clock.now_us + 1_500_000


@served
async def test_what_comes_while_a_record_is_under_way_leaves_together_behind_it():
    """Each partition by itself, in the order in which it came."""
    server = Server()
    for number in range(1, 8):
        server.ask(number, ((A if number % 3 else B)[number % 5], number))
    await settle()
    assert server.left(0) == [[1], [2, 4, 5, 7]]
    assert server.left(1) == [[3], [6]]


@served
async def test_requests_handed_over_together_leave_together():
    """A microbatch is one record a partition."""
    server = Server()
    requests = [request_of(server.served, (A[0], n), number=n, key_hash=hash_of(A[0]))
                for n in range(1, 5)]  # fmt: skip
    server.worker.submit(requests)
    await settle()
    assert server.left(0) == [[1, 2, 3, 4]]


@served
async def test_a_record_has_no_more_rows_than_it_may():
    """Those that do not fit are the next one."""
    server = Server(record_rows_max=5)
    for number in range(1, 5):
        server.ask(number, *((A[0], second) for second in range(2)), key_hash=hash_of(A[0]))
    await settle()
    assert server.left(0) == [[1], [2, 3], [4]]


@served
async def test_a_header_that_lies_about_its_rows_makes_no_record_longer():
    """A stranger's number of rows must not make room for those of others."""
    server = Server(record_rows_max=5)
    server.ask(1, (A[0], 0))
    request = request_of(server.served, (A[0], 0), number=2, key_hash=hash_of(A[0]))
    head = bytearray(request.head)
    at = read_batch_header(request.head).rows_at
    head[at : at + 8] = (-1_000).to_bytes(8, "little", signed=True)
    request.head = bytes(head)
    server.worker.submit([request])
    for number in range(3, 13):
        server.ask(number, (A[0], number))
    await settle()
    assert max(map(len, server.left(0))) <= 6


@served
async def test_a_request_that_no_record_holds_is_refused():
    """Definitely: it would be too large the next time as well."""
    server = Server(record_bytes_max=65_536)
    server.ask(1, *((A[0], second) for second in range(4_000)), key_hash=hash_of(A[0]))
    assert server.codes() == {1: "HOF-207"}
    assert server.is_empty()


@served
async def test_no_record_is_larger_than_its_topic_takes():
    """One that is would be refused whole: hundreds of good requests at once."""
    server = Server(record_bytes_max=65_536)
    spec = input_spec("g.1", [GROUP], server.settings)
    server.topics.bytes_max = {spec.name: spec.bytes_max}
    for number in range(1, 1_000):
        server.ask(number, (A[0], number))
    await settle()
    server.answer()
    assert set(server.codes().values()) == {"OK"}


@served
async def test_a_request_whose_time_is_over_does_not_leave():
    """It is refused, which is the truth, and not told that it may have counted."""
    server = Server()
    server.ask(1, (A[0], 0), deadline_s=server.clock.now_s - 1)
    assert server.codes() == {1: "HOF-302"}
    server.ask(2, (A[0], 0))
    server.ask(3, (A[0], 0), deadline_s=server.clock.now_s + 1)
    server.clock.advance(1.5)
    await settle()
    assert server.codes() == {1: "HOF-302", 3: "HOF-302"}
    assert server.left(0) == [[2]]
    server.answer()
    assert server.is_empty()


@served
async def test_what_is_no_request_is_refused_alone():
    """A null key, a body that lies: beside them others leave."""
    server = Server()
    bad = request_of(server.served, (A[0], 0), number=1, key_hash=5)
    bad.body += bytes(8)
    bad.reply = server.replies.setdefault(1, []).append
    null = request_of(server.served, (A[0], 0), (None, 0), number=2)
    null.reply = server.replies.setdefault(2, []).append
    good = request_of(server.served, (A[0], 0), number=3, key_hash=hash_of(A[0]))
    good.reply = server.replies.setdefault(3, []).append
    server.worker.submit([bad, null, good])
    await settle()
    server.answer()
    assert server.codes() == {1: "HOF-203", 2: "HOF-205", 3: "OK"}
    assert server.is_empty()


# --- what comes back ------------------------------------------------------------------------------


@served
async def test_an_answer_finds_its_request_in_any_order():
    """Answers overtake each other; each has its own rows."""
    server = Server()
    for number in range(1, 9):
        server.ask(number, (A[number % 5], number))
    await settle()
    server.answer(reverse=True)
    assert server.codes() == dict.fromkeys(range(1, 9), "OK")
    for number, (answer,) in server.replies.items():
        assert answer.meta.id == id_of(number)
        (row,) = values_of(answer, server.served.output_schema)
        assert (row["g.card"], row["g.x"]) == (A[number % 5], 1)
    assert server.worker.counters.answers == 8
    assert server.is_empty()


@served
async def test_answers_that_come_again_are_counted_and_dropped():
    """A worker that starts again answers a thousand records a second time."""
    server = Server()
    server.ask(1, (A[0], 0))
    await settle()
    for _ in range(1_000):
        server.answer()
    assert server.codes() == {1: "OK"}
    assert (server.worker.counters.answers, server.worker.counters.foreign) == (1, 999)


@served
async def test_answers_to_another_start_are_never_delivered():
    """Its calls have the same numbers: only the epoch tells them apart."""
    server = Server()
    server.ask(1, (A[0], 0))
    await settle()
    for epoch in (0, EPOCH - 1, EPOCH + 1, 2**63 - 1):
        server.answer(epoch=epoch)
    assert server.codes() == {}
    assert server.worker.counters.foreign == 4
    server.answer()
    assert server.codes() == {1: "OK"}


@served
async def test_an_answer_that_comes_too_late_is_dropped():
    """Its request was told so, and has one outcome."""
    server = Server(deadline_ms=1_000)
    server.ask(1, (A[0], 0))
    await settle()
    assert server.worker.next_deadline_s() == server.clock.now_s + 1.0
    server.clock.advance(1.0)
    server.worker.tick()
    server.worker.tick()
    server.answer()
    assert server.codes() == {1: "HOF-404"}
    assert (server.worker.counters.expired, server.worker.counters.foreign) == (1, 1)
    assert server.is_empty()
    assert server.worker.next_deadline_s() is None


@served
async def test_an_error_comes_back_with_the_columns_of_the_view():
    """A worker's refusal has none; the client's stream has a schema."""
    server = Server()
    server.ask(1, (A[0], 0))
    await settle()
    call = server.records()[0].requests[0][0].call
    meta = meta_of(id_of(1), "HOF-206", error="why", hint="so")
    server.worker.arrived(*encode_answers(EPOCH, [(call, meta, b"", b"")]))
    (answer,) = server.replies[1]
    assert (answer.meta.code, answer.meta.error, answer.meta.hint) == ("HOF-206", "why", "so")
    assert values_of(answer, server.served.output_schema) == []


@served
async def test_metadata_that_does_not_decode_ends_its_own_request_alone():
    """The others of the record get their answers."""
    server = Server()
    server.worker.submit([
        request_of(server.served, (A[0], 0), number=n, key_hash=hash_of(A[0]),
                   reply=server.replies.setdefault(n, []).append)
        for n in (1, 2)
    ])  # fmt: skip
    await settle()
    (one, two) = server.records()[0].requests
    answers = [(one[0].call, b"\xc1", one[1], one[2]),
               (two[0].call, meta_of(id_of(2)), two[1], two[2])]  # fmt: skip
    server.worker.arrived(*encode_answers(EPOCH, answers))
    assert server.codes() == {1: "HOF-204", 2: "OK"}
    assert server.worker.counters.bad == 1
    assert server.is_empty()


@pytest.mark.parametrize(
    ("value", "headers"),
    [(None, []), (b"x", [("hof-v", b"1")]), (b"", [("hof-v", b"1"), ("hof-kind", b"nudge")])],
)
def test_records_that_are_no_answers_are_counted(value, headers):
    """And harm nobody."""
    server = Server()
    server.worker.arrived(value, headers)
    assert server.worker.counters.bad == 1


@given(st.lists(st.tuples(st.integers(0, 3), st.binary(max_size=40), st.binary(max_size=40),
                          st.binary(max_size=20)), min_size=1, max_size=4))  # fmt: skip
def test_random_answers_with_the_right_epoch_end_their_own_calls_at_most(answers):
    """Never an exception, which would cost the server its topic."""

    async def main():
        server = Server()
        for number in (1, 2):
            server.ask(number, (A[0], 0))
        await settle()
        server.worker.arrived(*encode_answers(EPOCH, answers))
        called = {call for call, *_ in answers}
        assert {number for number in (1, 2) if number in called} == server.codes().keys()

    asyncio.run(main())


# --- requests of several partitions ---------------------------------------------------------------

MIXED = [(A[0], 1), (B[0], 2), (A[1], 3), (B[1], 4), (A[2], 5)]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_split_request_is_answered_once_in_the_order_of_its_rows(order):
    """Whichever partition answers first, and though one of them answers twice."""

    async def main():
        server = Server()
        server.ask(1, *MIXED)
        await settle()
        for partition in (order[0], order[0]):
            server.answer(partition=partition)
            assert server.codes() == {}
        server.answer(partition=order[1])
        (answer,) = server.replies[1]
        rows = values_of(answer, server.served.output_schema)
        assert [row["g.card"] for row in rows] == [card for card, _ in MIXED]
        assert server.is_empty()

    asyncio.run(main())


@served
async def test_a_split_request_of_which_one_part_is_not_answered_is_not_answered():
    """At its deadline it gets one error, and the part that came late is dropped."""
    server = Server(deadline_ms=1_000)
    server.ask(1, *MIXED)
    await settle()
    server.answer(partition=0)
    server.clock.advance(1.0)
    server.worker.tick()
    server.answer(partition=1)
    assert server.codes() == {1: "HOF-404"}
    assert server.is_empty()


@pytest.mark.parametrize("fault", ["refused", "lost"])
def test_a_split_request_of_which_one_part_did_not_leave_is_indefinite(fault):
    """The other part counts: nobody may say that nothing did."""

    async def main():
        server = Server(lambda topic, partition: fault if partition else "ok")
        server.ask(1, *MIXED)
        await settle()
        server.answer(partition=0)
        assert server.codes() == {1: "HOF-400"}
        assert server.is_empty()

    asyncio.run(main())


@served
async def test_rows_of_a_part_that_do_not_decode_end_its_own_request_alone():
    """`arrived` never raises: it would cost the server its topic and all requests their answers."""
    server = Server()
    server.ask(1, *MIXED)
    await settle()
    server.answer(partition=0)
    ((head, _, _),) = server.records(1)[0].requests
    server.worker.arrived(*encode_answers(EPOCH, [(head.call, meta_of(id_of(1)), b"x" * 8, b"")]))
    assert server.codes().keys() == {1}
    assert server.codes()[1] != "OK"


@pytest.mark.parametrize("fields", [{"late": [True]}, {"status": {"g.n": ["LATE"]}},
                                    {"status": {"g.n": {}}}])  # fmt: skip
def test_lists_of_the_wrong_length_end_their_own_request_alone(fields):
    """The same for what a part says of its rows."""

    async def main():
        server = Server()
        server.ask(1, *MIXED)
        await settle()
        server.answer(partition=0)
        ((head, batch, body),) = server.records(1)[0].requests
        meta = meta_of(id_of(1), **fields)
        server.worker.arrived(*encode_answers(EPOCH, [(head.call, meta, batch, body)]))
        assert server.codes()[1] != "OK"

    asyncio.run(main())


# --- what the brokers do not take -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "code"), [("refused", "HOF-200"), ("lost", "HOF-400"), ("landed", "HOF-400")]
)
def test_what_the_brokers_do_not_take_is_definite_only_where_they_say_so(fault, code):
    """After any other error the record may be there; its answer is foreign then."""

    async def main():
        faults = iter([fault])
        server = Server(lambda topic, partition: next(faults, "ok"))
        server.worker.submit([
            request_of(server.served, (A[0], 0), number=n, key_hash=hash_of(A[0]),
                       reply=server.replies.setdefault(n, []).append)
            for n in (1, 2)
        ])  # fmt: skip
        server.ask(3, (A[0], 0))
        await settle()
        server.answer()
        assert server.codes() == {1: code, 2: code, 3: "OK"}
        landed = 2 * (fault == "landed")
        assert (server.worker.counters.failed, server.worker.counters.foreign) == (2, landed)
        assert server.is_empty()

    asyncio.run(main())


# --- where answers go -----------------------------------------------------------------------------


def test_without_a_topic_for_answers_nothing_leaves():
    """It is refused at once, and may be sent again."""
    server = Server()
    server.worker.lose("lost")
    request = server.ask(1, (A[0], 0))
    assert server.codes() == {1: "HOF-306"}
    assert server.replies[1][0].meta.retry_after_ms > 0
    with pytest.raises(Exception, match="HOF-306"):
        server.worker.check(request)
    assert server.is_empty()


@served
async def test_a_lost_topic_ends_what_left_as_unknown_and_what_did_not_as_refused():
    """Each with the truth; nothing is left behind, and answers of then are nobody's."""
    server = Server(lambda topic, partition: "slow")
    server.topics.slow_s = 0.01
    server.ask(1, (A[0], 0))
    server.ask(2, (A[0], 0))
    server.ask(3, *MIXED)
    await settle()
    server.worker.lose("lost")
    assert server.codes() == {1: "HOF-400", 2: "HOF-306", 3: "HOF-400"}

    server.take(epoch=EPOCH + 1)
    server.ask(4, (A[0], 0))
    await asyncio.gather(*server.worker._sending)
    await asyncio.gather(*server.worker._sending)
    server.answer(epoch=EPOCH)
    assert 4 not in server.codes()
    server.answer(epoch=EPOCH + 1, calls={r[0].call for r in server.records()[-1].requests})
    assert server.codes()[4] == "OK"
    assert server.records()[-1].epoch == EPOCH + 1
    assert all(2 not in left for left in server.left(0))
    assert server.is_empty()


@served
async def test_a_server_that_slept_past_its_lease_delivers_nothing():
    """SIGSTOP: its topic may be another server's by now, and the answer too."""
    server = Server()
    server.take(seconds=10)
    server.ask(1, (A[0], 0))
    await settle()
    server.clock.advance(10.0)
    server.answer()
    assert server.codes() == {}
    assert server.worker.counters.foreign == 1
    server.ask(2, (A[0], 0))
    assert server.codes() == {2: "HOF-306"}
    server.worker.lose("over")
    assert server.codes() == {1: "HOF-400", 2: "HOF-306"}
    assert server.is_empty()


@served
async def test_a_lease_that_is_renewed_is_ours_for_longer():
    """`ReplyPath` moves `until_s` of the place that it gave."""
    server = Server()
    place = Place(REPLIES, EPOCH, server.clock.now_s + 10)
    server.worker.take(place)
    server.ask(1, (A[0], 0))
    await settle()
    server.clock.advance(9.0)
    place.until_s += 10
    server.clock.advance(9.0)
    server.answer()
    assert server.codes() == {1: "OK"}


@served
async def test_nothing_leaves_under_a_lease_that_is_over():
    """What waited behind a record would ask for answers on a topic that is another's."""
    server = Server(lambda topic, partition: 0.01)
    server.take(seconds=10)
    server.ask(1, (A[0], 0))
    server.ask(2, (A[0], 0), deadline_s=server.clock.now_s + 100)
    await settle()
    server.clock.advance(11.0)
    await asyncio.gather(*server.worker._sending)
    await asyncio.gather(*server.worker._sending)
    assert server.left(0) == [[1]]


# --- the end --------------------------------------------------------------------------------------


@served
async def test_a_server_that_drains_answers_what_it_took_and_takes_nothing_new():
    """And is through as soon as nothing is under way."""
    server = Server()
    server.ask(1, (A[0], 0))
    draining = asyncio.create_task(server.worker.drain(60.0))
    await settle()
    server.ask(2, (A[0], 0))
    assert server.codes() == {2: "HOF-303"}
    assert not draining.done()
    server.answer()
    await asyncio.wait_for(draining, 10)
    assert server.codes() == {1: "OK", 2: "HOF-303"}
    assert server.is_empty()


@served
async def test_what_is_not_answered_while_a_server_drains_is_unknown():
    """Everyone gets an outcome before it stops."""
    server = Server()
    server.ask(1, (A[0], 0), deadline_s=server.clock.now_s + 99)
    await settle()
    draining = asyncio.create_task(server.worker.drain(5.0))
    await settle()
    server.clock.advance(5.0)
    await asyncio.wait_for(draining, 10)
    assert server.codes() == {1: "HOF-400"}
    assert server.is_empty()


@served
async def test_brokers_that_do_not_answer_hold_up_no_server_that_drains():
    """Not longer than it was told; its callers have their outcomes already."""
    server = Server(lambda topic, partition: 3_600.0)
    server.ask(1, (A[0], 0), deadline_s=server.clock.now_s + 99)
    draining = asyncio.create_task(server.worker.drain(5.0))
    await settle()
    server.clock.advance(5.0)
    done, _ = await asyncio.wait([draining], timeout=0.5)
    draining.cancel()
    assert server.codes() == {1: "HOF-400"}
    assert done


def test_a_value_of_the_request_is_never_touched():
    """What came is what leaves: the caller's bytes are its own."""
    head, body = encode_batch(batch_of((A[0], 0)))
    server = Server()

    async def main():
        request = request_of(server.served, (A[0], 0), key_hash=hash_of(A[0]))
        server.worker.submit([request])
        assert (request.head, request.body) == (head, body)
        await settle()

    asyncio.run(main())


# --- nudges ---------------------------------------------------------------------------------------


def kinds(server, partition=0):
    """What left for a partition: the numbers of a record's requests, or "nudge"."""
    framing = Framing(GROUP.input)
    found = []
    for record in server.topics.records[TOPIC, partition]:
        read = framing.decode(record.value, record.headers)
        ids = [] if read is None else [head.id for head, _, _ in read.requests]
        found.append([int.from_bytes(one, "big") for one in ids] if ids else "nudge")
    return found


@served
async def test_behind_a_record_comes_a_nudge():
    """Spark's source hands a record over when it sees the next one."""
    server = Server(nudge=True)
    server.ask(1, (A[0], 0))
    server.ask(2, (B[0], 0))
    await settle()
    assert kinds(server) == [[1], "nudge"]
    assert kinds(server, 1) == [[2], "nudge"]
    (_, nudge) = server.topics.records[TOPIC, 0]
    assert (nudge.value, dict(nudge.headers)) == (None, {"hof-v": b"1", "hof-kind": b"nudge"})
    assert server.worker.counters.nudges == 2
    assert server.worker.counters.records == 2


@served
async def test_without_the_setting_there_is_none():
    """A worker needs none, and each is a record that brokers keep."""
    server = Server()
    server.ask(1, (A[0], 0))
    await settle()
    assert kinds(server) == [[1]]
    assert server.worker.counters.nudges == 0


@served
async def test_a_record_that_another_follows_needs_no_nudge():
    """The next record is one; only the last of them is followed by nothing."""
    server = Server(fault=lambda topic, partition: 0.01, nudge=True)
    server.ask(1, (A[0], 0))
    server.ask(2, (A[0], 1))
    server.ask(3, (A[0], 2))
    await asyncio.sleep(0.2)
    assert kinds(server) == [[1], [2, 3], "nudge"]


@served
async def test_a_record_whose_follower_never_left_gets_its_nudge():
    """What waited behind it was late: without a nudge its own answers would wait for a stranger."""
    server = Server(fault=lambda topic, partition: 0.05, nudge=True)
    server.ask(1, (A[0], 0))
    server.ask(2, (A[0], 1), deadline_s=server.clock.now_s + 1)
    await settle()
    server.clock.advance(2)
    await asyncio.sleep(0.3)
    assert kinds(server) == [[1], "nudge"]
    assert list(server.codes()) == [2]


@pytest.mark.parametrize("fault", ["lost", "refused"])
def test_a_nudge_that_fails_is_nobodys_affair(fault):
    """Its record says what is wrong, if anything is."""

    async def main():
        faults = iter(["ok", fault])
        server = Server(fault=lambda topic, partition: next(faults), nudge=True)
        server.ask(1, (A[0], 0))
        await settle()
        assert kinds(server) == [[1]]
        assert server.codes() == {}
        server.answer()
        assert server.codes() == {1: "OK"}
        assert server.is_empty()

    asyncio.run(main())
