"""The loop of a worker: every record is dealt with once, and passed over only then."""

import asyncio
import random
import threading

import pyarrow as pa
import pytest

from hofflight.engine.kafka_consumer import Consumer, Place
from hofflight.engine.kafka_partition import PartitionWorker
from hofflight.errors import WorkerStopped
from hofflight.eventlog.topics import input_spec, reply_topics, shared_specs
from hofflight.settings import KafkaSettings
from hofflight.wire import envelope
from hofflight.wire.envelope import AnswerMeta
from hofflight.wire.ipc import encode_schema, join_message
from hofflight.wire.kafka_record import NUDGE, decode_answers
from tests.unit.engine.conftest import make_group
from tests.unit.kafka_engines import INPUT, Engines, bytes_of, foreign_replies, log_of
from tests.unit.kafka_fakes import (
    WALL_US,
    FakeClient,
    FakeClock,
    FakeTopics,
    LoopClock,
    run_virtual,
    size_of,
)

SETTINGS = KafkaSettings()
IN, DLQ, REPLIES = "hof.in.g.1", "hof.dlq", "hof.reply.00"
KEY = (IN, 0)
GROUP = make_group()


class FakeWorker:
    """Takes records, and answers them when the test says so; at once where `is_quick`."""

    def __init__(self, next_offset=0, number=0):
        self.next_offset = {"g.1": next_offset}
        self.is_quick = True
        self.taken = []
        self.answer_bytes = 8

    def work(self, stream, offset, record, done):
        self.taken.append((offset, record, done))
        if self.is_quick:
            self.answer(len(self.taken) - 1)

    @property
    def offsets(self):
        return [offset for offset, _, _ in self.taken]

    def answer(self, place, refused=""):
        _, record, done = self.taken[place]
        answers = [
            (h.call, envelope.write(AnswerMeta("OK", 1, h.id)), b"h" * self.answer_bytes, b"")
            for h, _, _ in record.requests
        ]
        done(answers, refused)


class Bench:
    """A consumer of one partition on topics of its own."""

    def __init__(self, clock, *, fault=None, next_offset=0, commit_fails=None, workers=None):
        self.topics = FakeTopics(fault or (lambda topic, partition: "ok"))
        self.worker = FakeWorker(next_offset)
        workers = workers or {0: self.worker}
        self.client = FakeClient(self.topics, commit_fails=commit_fails or (lambda: False))
        self.consumer = Consumer(
            self.client, self.topics.produce, workers,
            [Place("g.1", number, (IN, number)) for number in workers], {"g.1": INPUT},
            frozenset(reply_topics(SETTINGS)), clock,
        )  # fmt: skip
        self.stop = asyncio.Event()
        self.task = None

    def start(self):
        self.task = asyncio.create_task(self.consumer.run(self.stop))

    async def ended(self):
        """Stop, and wait for the end."""
        self.stop.set()
        await asyncio.wait_for(self.task, 60)

    async def failed(self):
        """Wait for it to fail by itself."""
        with pytest.raises(WorkerStopped, match="HOF-514") as raised:
            await asyncio.wait_for(self.task, 60)
        return raised.value

    def put(self, *numbers, partition=0, **fields):
        for number in numbers:
            value, headers = bytes_of((number, [(7, number)]), **fields)
            self.topics.put(IN, partition, value, headers)

    @property
    def committed(self):
        return self.topics.commits.get(KEY)

    @property
    def counters(self):
        return self.consumer.counters

    def answered(self, topic=REPLIES):
        """Calls of every answer that left, in order."""
        found = []
        for record in self.topics.records[topic, 0]:
            answers = decode_answers(record.value, record.headers)
            found += [head.call for head, _, _ in answers.answers]
        return found

    def dead(self):
        return self.topics.records[DLQ, 0]


def virtual(main):
    def test():
        run_virtual(main)

    test.__name__, test.__doc__ = main.__name__, main.__doc__
    return test


# --- answers and commits --------------------------------------------------------------------------


@virtual
async def test_records_are_answered_where_they_say_and_then_passed_over(clock):
    """With the epoch that they came with."""
    bench = Bench(clock)
    bench.put(1, 2, epoch=5)
    bench.put(3, reply="hof.reply.03", epoch=2**63 - 1)
    bench.start()
    await asyncio.sleep(5)
    assert bench.answered() == [1, 2]
    assert bench.answered("hof.reply.03") == [3]
    (record,) = bench.topics.records["hof.reply.03", 0]
    assert decode_answers(record.value, record.headers).epoch == 2**63 - 1
    assert bench.committed == 3
    await bench.ended()
    assert (bench.counters.records, bench.counters.answers) == (3, 3)


@virtual
async def test_only_what_is_answered_is_committed_in_whatever_order_answers_come(clock):
    """The first that is not holds up all behind it; nothing is ever committed beyond."""
    bench = Bench(clock)
    bench.worker.is_quick = False
    bench.put(*range(6))
    bench.start()
    await asyncio.sleep(3)
    assert bench.committed is None
    for place, expected in ((1, None), (5, None), (0, 2), (3, 2), (2, 4), (4, 6)):
        bench.worker.answer(place)
        await asyncio.sleep(3)
        assert bench.committed == expected
    await bench.ended()


@virtual
async def test_answers_that_are_on_their_way_are_not_committed(clock):
    """A kill now would lose them; the next start answers again."""
    bench = Bench(clock, fault=lambda topic, partition: 10.0 if topic == REPLIES else "ok")
    bench.put(1)
    bench.start()
    await asyncio.sleep(5)
    assert bench.committed is None
    await asyncio.sleep(10)
    assert bench.committed == 1
    await bench.ended()


@virtual
async def test_offsets_that_no_record_has_are_passed_over(clock):
    """Marks of transactions have offsets too."""
    bench = Bench(clock)
    bench.put(1)
    bench.topics.skip(IN, 0, 10)
    bench.put(2)
    bench.start()
    await asyncio.sleep(3)
    assert bench.worker.offsets == [0, 10]
    assert bench.committed == 11
    await bench.ended()


@virtual
async def test_each_partition_is_committed_by_itself(clock):
    """One that hangs holds up no other."""
    workers = {0: FakeWorker(), 1: FakeWorker()}
    workers[0].is_quick = False
    bench = Bench(clock, workers=workers)
    bench.put(1, 2)
    bench.put(3, 4, partition=1)
    bench.start()
    await asyncio.sleep(3)
    assert bench.topics.commits == {(IN, 1): 2}
    for place in (0, 1):
        workers[0].answer(place)
    await bench.ended()
    assert bench.topics.commits == {(IN, 0): 2, (IN, 1): 2}


@virtual
async def test_a_commit_that_fails_is_made_up_for_by_the_next(clock):
    """Nothing stops, nothing is forgotten."""
    away = [True]
    bench = Bench(clock, commit_fails=lambda: away[0])
    bench.put(1, 2)
    bench.start()
    await asyncio.sleep(5)
    assert (bench.committed, bench.answered()) == (None, [1, 2])
    away[0] = False
    await asyncio.sleep(2)
    assert bench.committed == 2
    await bench.ended()


@virtual
async def test_nothing_is_committed_twice(clock):
    """An idle worker leaves the brokers alone."""
    bench = Bench(clock)
    bench.put(1)
    bench.start()
    await asyncio.sleep(60)
    await bench.ended()
    assert bench.topics.commit_log == [{KEY: 1}]


@virtual
async def test_a_nudge_is_passed_over(clock):
    """It asks for nothing."""
    bench = Bench(clock)
    for value in (None, b""):
        bench.topics.put(IN, 0, value, NUDGE)
    bench.start()
    await asyncio.sleep(3)
    await bench.ended()
    assert (bench.counters.nudges, bench.committed, bench.worker.taken) == (2, 2, [])


@pytest.mark.parametrize("fault", ["lost", "refused", "landed"])
def test_answers_that_do_not_leave_are_counted_and_passed_over(fault):
    """Whoever waits asks again, with the same id."""

    async def main(clock):
        bench = Bench(clock, fault=lambda topic, partition: fault if topic == REPLIES else "ok")
        bench.put(1, 2)
        bench.start()
        await asyncio.sleep(3)
        await bench.ended()
        assert (bench.counters.unsent, bench.committed) == (2, 2)

    run_virtual(main)


@virtual
async def test_an_answer_that_nobody_waits_for_is_not_sent(clock):
    """By a minute: clocks differ. The others of its record are; all of it is passed over."""
    bench = Bench(clock)
    past, soon = clock.wall_us() - 60_000_001, clock.wall_us() + 10**9
    value, headers = bytes_of(
        (1, [(7, 1)], {"deadline_us": past}), (2, [(7, 2)], {"deadline_us": soon}),
        (3, [(7, 3)], {"deadline_us": 0}), (4, [(7, 3)], {"deadline_us": -5}),
    )  # fmt: skip
    bench.topics.put(IN, 0, value, headers)
    bench.put(5, 6)
    value, headers = bytes_of((7, [(7, 1)], {"deadline_us": past}))
    bench.topics.put(IN, 0, value, headers)
    bench.start()
    await asyncio.sleep(3)
    await bench.ended()
    assert bench.answered() == [2, 3, 4, 5, 6]
    assert (bench.counters.expired, bench.committed) == (2, 4)
    assert [len(record.requests) for _, record, _ in bench.worker.taken] == [4, 1, 1, 1]


@virtual
async def test_a_worker_has_a_bounded_number_of_records_in_its_hands(clock):
    """What is read and not answered is memory, and what a kill has to answer again."""
    bench = Bench(clock)
    bench.worker.is_quick = False
    bench.put(*range(1_500))
    bench.start()
    await asyncio.sleep(10)
    assert len(bench.worker.taken) == 1_000
    bench.worker.answer(0)
    await asyncio.sleep(1)
    assert len(bench.worker.taken) == 1_001
    bench.worker.is_quick = True
    for place in range(1, 1_001):
        bench.worker.answer(place)
    await asyncio.sleep(5)
    assert bench.committed == 1_500
    await bench.ended()


@virtual
async def test_no_record_of_answers_is_larger_than_its_topic_takes(clock):
    """An answer has more columns than its request: two or three of a full record's are too many."""
    bench = Bench(clock)
    for spec in shared_specs(SETTINGS):
        bench.topics.bytes_max[spec.name] = spec.bytes_max
    bench.worker.answer_bytes = 1_000
    value, headers = bytes_of(*((n, [(7, n)]) for n in range(1_000)))
    assert size_of(value, headers) < SETTINGS.record_bytes_max
    bench.topics.put(IN, 0, value, headers)
    bench.start()
    await asyncio.sleep(3)
    await bench.ended()
    assert sorted(bench.answered()) == list(range(1_000))
    assert bench.counters.unsent == 0


# --- records that are none ------------------------------------------------------------------------

GOOD_VALUE, GOOD_HEADERS = bytes_of((1, [(7, 1)]))
TRACED = [*GOOD_HEADERS, ("traceparent", None)]
BAD = {
    "a null value": (None, GOOD_HEADERS),
    "no headers": (b'{"card": 7}', []),
    "nothing at all": (None, []),
    "a null header of others": (GOOD_VALUE[:-1], TRACED),
    "trailing bytes": (GOOD_VALUE + b"\0", GOOD_HEADERS),
    **foreign_replies(IN, DLQ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_record_that_is_none_is_kept_as_it_came_with_the_reason(name):
    """Its bytes, its headers, where it was and why; those before and behind it are answered."""

    async def main(clock):
        value, headers = BAD[name]
        bench = Bench(clock)
        bench.put(1)
        bench.topics.put(IN, 0, value, headers)
        bench.put(2)
        bench.start()
        await asyncio.sleep(3)
        await bench.ended()
        (dead,) = bench.dead()
        assert dead.value == value
        assert list(dead.headers[: len(headers)]) == headers
        about = dict(dead.headers[len(headers) :])
        assert about.pop("hof-error")
        assert about == {
            "hof-code": b"HOF-220", "hof-topic": IN.encode(), "hof-partition": b"0",
            "hof-offset": b"1", "hof-timestamp-ms": b"1701",
        }  # fmt: skip
        assert bench.answered() == [1, 2]
        assert (bench.counters.dead_letters, bench.committed) == (1, 3)

    run_virtual(main)


@pytest.mark.parametrize("fault", ["lost", "refused", "landed"])
def test_where_dead_letters_are_not_taken_nothing_is_passed_over(fault):
    """It stops; the next start reads the record again."""

    async def main(clock):
        bench = Bench(clock, fault=lambda topic, partition: fault if topic == DLQ else "ok")
        bench.put(1)
        bench.topics.put(IN, 0, b"junk", [])
        bench.put(2)
        bench.start()
        error = await bench.failed()
        assert DLQ in error.message
        assert bench.committed == 1

    run_virtual(main)


@virtual
async def test_no_record_makes_a_dead_letter_that_the_topic_does_not_take(clock):
    """Else a stranger's record stops every start of the worker, for ever."""
    bench = Bench(clock)
    for spec in shared_specs(SETTINGS):
        bench.topics.bytes_max[spec.name] = spec.bytes_max
    names = ["\U000e0001" * 7_000 + str(i) for i in range(2)]
    schema = join_message(encode_schema(pa.schema([(n, pa.int64()) for n in names])), b"")
    own = join_message(encode_schema(INPUT), b"")
    most = input_spec("g.1", [], SETTINGS).bytes_max
    # As large as its topic takes: the one request's message is mostly room.
    value, headers = bytes_of((1, [(7, second) for second in range(37_000)]))
    value = schema + value[len(own) :]
    assert most - 50_000 < size_of(value, headers) <= most
    bench.topics.put(IN, 0, value, headers)
    bench.start()
    await asyncio.sleep(3)
    await bench.ended()
    assert len(bench.dead()) == 1
    assert bench.committed == 1


# --- what stops it --------------------------------------------------------------------------------


@virtual
async def test_a_refusal_stops_it_and_its_record_is_not_passed_over(clock):
    """What was answered before is committed; what was behind it is not, though it is answered."""
    bench = Bench(clock)
    bench.worker.is_quick = False
    bench.put(*range(4))
    bench.start()
    await asyncio.sleep(1)
    for place in (0, 2, 3):
        bench.worker.answer(place)
    await asyncio.sleep(0.05)
    bench.worker.answer(1, refused="HOF-304")
    error = await bench.failed()
    assert "HOF-304" in error.message
    assert bench.committed == 1
    assert 1 not in bench.answered()


@virtual
async def test_nothing_more_is_taken_after_a_refusal(clock):
    """Each record counted behind one that is not would be out of order."""
    bench = Bench(clock)
    refused = bench.worker.answer
    bench.worker.answer = lambda place: refused(place, "HOF-305" if place == 1 else "")
    bench.put(*range(50))
    bench.start()
    await bench.failed()
    assert bench.worker.offsets == [0, 1]
    assert bench.committed == 1


@virtual
async def test_a_client_that_fails_ends_it_and_what_was_answered_is_committed(clock):
    """Its caller decides what then."""
    bench = Bench(clock)
    bench.put(1, 2)
    bench.start()
    await asyncio.sleep(0.5)

    async def gone(**options):
        raise OSError("the brokers are gone")

    bench.client.getmany = gone
    with pytest.raises(OSError, match="gone"):
        await asyncio.wait_for(bench.task, 60)
    assert bench.committed == 2


@virtual
async def test_it_stops_when_it_is_told_to(clock):
    """Within a poll, where nothing is under way."""
    bench = Bench(clock)
    bench.start()
    await asyncio.sleep(10)
    began_s = clock.monotonic_s()
    await bench.ended()
    assert clock.monotonic_s() - began_s <= 1.0


@virtual
async def test_it_waits_for_answers_that_are_on_their_way(clock):
    """And commits them."""
    bench = Bench(clock, fault=lambda topic, partition: 3.0)
    bench.put(1, 2, 3)
    bench.start()
    await asyncio.sleep(1)
    await bench.ended()
    assert (sorted(bench.answered()), bench.committed) == ([1, 2, 3], 3)


@virtual
async def test_it_waits_for_records_that_are_worked_on(clock):
    """`until everything read is answered`: a group with functions answers from its own thread."""
    bench = Bench(clock)
    bench.worker.is_quick = False
    bench.put(1, 2, 3)
    bench.start()
    await asyncio.sleep(1)
    bench.stop.set()
    await asyncio.sleep(0.5)
    for place in range(3):
        bench.worker.answer(place)
    await asyncio.wait_for(bench.task, 60)
    assert (bench.answered(), bench.committed) == ([1, 2, 3], 3)


# --- where it begins ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("committed", "counted", "begins", "expected"),
    [
        (None, 0, 0, 0),  # new
        (None, 0, 4, 4),  # new, and the oldest are gone: what there is
        (None, 7, 0, 7),  # counted, never committed
        (7, 0, 0, 0),  # the store is new: all of it again
        (7, 0, 4, 4),
        (5, 7, 0, 5),  # counted, not answered: answered again
        (7, 5, 0, 5),  # answered, lost at a power loss: counted again
        (7, 7, 7, 7),
        (3, 7, 5, 5),  # only what is there can be answered again
        (7, 7, 0, 7),
    ],
)
def test_it_begins_at_the_earlier_of_what_is_counted_and_what_is_answered(
    committed, counted, begins, expected
):
    """Nothing is left out, and nothing is read that is neither."""

    async def main(clock):
        bench = Bench(clock, next_offset=counted)
        bench.put(*range(9))
        if committed is not None:
            bench.topics.commits[KEY] = committed
        bench.topics.begins[KEY] = begins
        bench.start()
        await asyncio.sleep(3)
        assert bench.worker.offsets == list(range(expected, 9))
        assert bench.client.sought == [(KEY, expected)]
        await bench.ended()
        assert bench.committed == 9

    run_virtual(main)


@pytest.mark.parametrize("committed", [None, 3])
def test_a_gap_behind_what_is_counted_stops_it(committed):
    """Rows would be missing in windows for ever, and nobody would know."""

    async def main(clock):
        bench = Bench(clock, next_offset=4)
        bench.put(*range(9))
        bench.topics.begins[KEY] = 5
        if committed is not None:
            bench.topics.commits[KEY] = committed
        bench.start()
        error = await bench.failed()
        assert "5" in error.message
        assert "4" in error.message
        assert bench.worker.taken == []
        assert bench.committed == committed

    run_virtual(main)


@virtual
async def test_what_was_never_to_be_counted_is_no_gap(clock):
    """A week of peeks, nudges and dead letters: dealt with, committed, and deleted by now."""
    bench = Bench(clock, next_offset=4)
    bench.put(*range(9))
    bench.topics.commits[KEY] = 9
    bench.topics.begins[KEY] = 8
    bench.start()
    await asyncio.sleep(1)
    await bench.ended()
    assert bench.worker.offsets == [8]


# --- with engines ---------------------------------------------------------------------------------


def test_records_of_strangers_stop_nothing(tmp_path):
    """Changed bytes of value and headers among good records: each is answered or a dead letter."""
    engines = Engines(tmp_path, FakeClock())
    engine = engines.open(GROUP)
    seen = random.Random(5)

    async def main(clock):
        bench = Bench(clock, workers={0: PartitionWorker(0, engine, {"g.1": 1}, 1 << 20)})
        good = []
        for number in range(300):
            value, headers = bytes_of((number, [(7, number % 100)]), arrival_us=WALL_US)
            if number % 3:
                value, headers = hurt(seen, value, headers)
            else:
                good.append(number)
            bench.topics.put(IN, 0, value, headers)
        bench.start()
        await asyncio.sleep(30)
        await bench.ended()
        assert bench.committed == 300
        for topic in reply_topics(SETTINGS):
            for record in bench.topics.records[topic, 0]:
                for head, _, _ in decode_answers(record.value, record.headers).answers:
                    if head.call in good:
                        good.remove(head.call)
        assert good == []
        assert len(bench.dead()) == bench.counters.dead_letters > 50
        return bench

    try:
        run_virtual(main)
        assert len(log_of(engine)) >= 100
    finally:
        engines.close()


def hurt(seen, value, headers):
    """A byte of the value or of a header is another one; or one of them is missing."""
    kind = seen.randrange(4)
    if kind == 0:
        return value[: seen.randrange(len(value))], headers
    if kind == 1:
        return value, [h for h in headers if h is not seen.choice(headers)][: seen.randrange(6)]
    at = seen.randrange(len(headers)) if kind == 2 else -1
    data = bytearray(headers[at][1] if kind == 2 else value)
    data[seen.randrange(len(data))] ^= seen.randrange(1, 256)
    if kind == 3:
        return bytes(data), headers
    return value, [*headers[:at], (headers[at][0], bytes(data)), *headers[at + 1 :]]


def test_answers_from_another_thread_reach_the_loop():
    """A group with functions answers from its lane."""

    async def main():
        bench = Bench(LoopClock(asyncio.get_running_loop()))
        answer, threads = bench.worker.answer, []

        def from_a_thread(place):
            threads.append(threading.Thread(target=answer, args=(place,)))
            threads[-1].start()

        bench.worker.answer = from_a_thread
        bench.put(*range(20))
        bench.start()
        for _ in range(2_000):
            await asyncio.sleep(0.01)
            if len(bench.answered()) == 20:
                break
        await bench.ended()
        for thread in threads:
            thread.join()
        assert bench.committed == 20
        assert sorted(bench.answered()) == list(range(20))

    asyncio.run(main())
