"""The topic for answers: taken, kept, lost and given back, with no answer of another's ever."""

import asyncio
import itertools
import threading
from contextlib import asynccontextmanager

import pytest

from hofflight.features.registry import Registry
from hofflight.features.sqlite import SqliteDatabase
from hofflight.server.catalog import RegistryCatalog
from hofflight.server.kafka_worker import KafkaWorker
from hofflight.server.reply_path import ReplyPath
from hofflight.settings import KafkaSettings
from hofflight.wire.kafka_record import Framing, encode_answers
from tests.unit.engine.conftest import make_group
from tests.unit.kafka_engines import hash_of, request_of
from tests.unit.kafka_fakes import (
    FakeClient,
    FakeLeases,
    FakeTopics,
    Refused,
    VirtualLoop,
    run_virtual,
)
from tests.unit.server.test_kafka_worker import meta_of

GROUP = make_group(windows={}, derive={})
TTL_S = 3.0
TOPICS = ("hof.reply.00", "hof.reply.01")


class Server:
    """A worker and its reply path, beside others on the same topics and leases."""

    def __init__(self, clock, topics, leases, name="one", epochs=None, pool=TOPICS, consumer=None):
        registry = Registry(SqliteDatabase(None))
        registry.save_group(GROUP, module="", created_us=0)
        self.topics = topics
        self.worker = KafkaWorker(
            RegistryCatalog(registry, lambda stream: 1), topics.produce, (Refused,), clock,
            KafkaSettings(),
        )  # fmt: skip
        numbers = epochs or itertools.count(100)
        self.path = ReplyPath(
            self.worker, leases, consumer or topics.consumer, lambda topic: (topic, 0), pool,
            instance=name, new_epoch=lambda: next(numbers), clock=clock, ttl_ms=int(TTL_S * 1_000),
        )  # fmt: skip
        self.served = self.worker.bind("g", None)
        self.replies = {}
        self.tasks = []

    async def start(self):
        self.tasks = [asyncio.create_task(w) for w in (self.path.run(), self.path.tick())]
        await asyncio.wait_for(self.path.is_ready.wait(), 60)

    async def stop(self):
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def ask(self, number):
        reply = self.replies.setdefault(number, []).append
        request = request_of(self.served, (1, number), number=number, reply=reply)
        request.key_hash = hash_of(1)
        self.worker.submit([request])

    @property
    def place(self):
        return self.worker._place

    def codes(self):
        assert all(len(found) <= 1 for found in self.replies.values())
        return {n: found[0].meta.code for n, found in self.replies.items() if found}


def answer_last(topics, epoch=None, topic=None):
    """Answer the newest record of requests, where and with which epoch it says."""
    record = topics.records["hof.in.g.1", 0][-1]
    found = Framing(GROUP.input).decode(record.value, record.headers)
    answers = [(h.call, meta_of(h.id), batch, body) for h, batch, body in found.requests]
    epoch = found.epoch if epoch is None else epoch
    topics.put(topic or found.reply, 0, *encode_answers(epoch, answers))


def virtual(main):
    """A test whose body runs where time is virtual, with topics and leases."""

    def test():
        async def run(clock):
            await main(clock, FakeTopics(), FakeLeases(clock))

        run_virtual(run)

    test.__name__, test.__doc__ = main.__name__, main.__doc__
    return test


@virtual
async def test_it_is_ready_only_after_the_place_to_read_from_is_fixed(clock, topics, leases):
    """An answer that came before that would never be read."""
    order = []

    class Slow(FakeClient):
        async def end_offsets(self, keys):
            await asyncio.sleep(1.0)
            order.append("end")
            return await super().end_offsets(keys)

        def seek(self, key, offset):
            order.append("seek")
            super().seek(key, offset)

    server = Server(clock, topics, leases, consumer=consumer_of(topics, Slow))
    take = server.worker.take
    server.worker.take = lambda place: (order.append("take"), take(place))
    task = asyncio.create_task(server.start())
    await asyncio.sleep(0.5)
    server.ask(1)
    assert not server.path.is_ready.is_set()
    assert server.codes() == {1: "HOF-306"}
    await task
    assert order == ["end", "seek", "take"]
    await server.stop()


def consumer_of(topics, kind):
    @asynccontextmanager
    async def opened():
        yield kind(topics)

    return opened


@virtual
async def test_what_was_in_the_topic_before_is_not_read(clock, topics, leases):
    """Ten minutes of another server's answers would be read first."""
    for _ in range(5):
        topics.put(TOPICS[0], 0, b"junk", [])
    server = Server(clock, topics, leases)
    await server.start()
    server.ask(1)
    await asyncio.sleep(0.1)
    answer_last(topics)
    await asyncio.sleep(0.1)
    assert server.codes() == {1: "OK"}
    assert server.worker.counters.bad == 0
    await server.stop()


@virtual
async def test_a_lease_is_kept_by_renewing_it(clock, topics, leases):
    """For hours, with one epoch."""
    server = Server(clock, topics, leases)
    await server.start()
    epoch = server.place.epoch
    for number in range(50):
        await asyncio.sleep(TTL_S)
        server.ask(number)
        await asyncio.sleep(0.1)
        answer_last(topics)
    await asyncio.sleep(0.1)
    assert set(server.codes().values()) == {"OK"}
    assert len(server.codes()) == 50
    assert (server.place.epoch, len(leases.history), server.path.lost) == (epoch, 1, 0)
    await server.stop()


@virtual
async def test_a_lost_lease_ends_what_waits_and_another_epoch_asks_on(clock, topics, leases):
    """Somebody took it: the old answers are foreign, on whichever topic they come."""
    server = Server(clock, topics, leases)
    await server.start()
    old = server.place
    server.ask(1)
    await asyncio.sleep(0.1)
    leases.held[old.topic] = ("thief", 666, clock.monotonic_s() + 1e6)
    await asyncio.sleep(TTL_S)
    assert server.codes() == {1: "HOF-400"}
    assert server.path.lost == 1
    await asyncio.wait_for(server.path.is_ready.wait(), 60)
    new = server.place
    assert (new.topic, new.epoch) != (old.topic, old.epoch)
    assert new.topic == TOPICS[1]

    server.ask(2)
    await asyncio.sleep(0.1)
    answer_last(topics, epoch=old.epoch, topic=new.topic)
    answer_last(topics, topic=old.topic)
    await asyncio.sleep(0.1)
    assert server.codes() == {1: "HOF-400"}
    answer_last(topics)
    await asyncio.sleep(0.1)
    assert server.codes() == {1: "HOF-400", 2: "OK"}
    assert leases.held[old.topic][0] == "thief"
    await server.stop()


@virtual
async def test_a_registry_that_is_away_for_less_than_a_lease_costs_nothing(clock, topics, leases):
    """Until its time is over the topic is ours, whoever does not answer."""
    server = Server(clock, topics, leases)
    await server.start()
    leases.is_away = True
    await asyncio.sleep(0.9 * TTL_S)
    server.ask(1)
    await asyncio.sleep(0.01)
    answer_last(topics)
    await asyncio.sleep(0.01)
    leases.is_away = False
    assert server.codes() == {1: "OK"}
    await asyncio.sleep(10 * TTL_S)
    assert (server.path.lost, len(leases.history)) == (0, 1)
    await server.stop()


@virtual
async def test_a_registry_that_is_away_for_longer_costs_the_topic_in_time(clock, topics, leases):
    """It is given up before anybody else may have it, and taken again when the registry is back."""
    server = Server(clock, topics, leases)
    await server.start()
    began_s = clock.monotonic_s()
    leases.is_away = True
    until_s = leases.held[TOPICS[0]][2]
    server.ask(1)
    await until(lambda: server.place is None)
    # A poll of 100 ms is how long it may not notice; by its clock it is silent at once.
    assert clock.monotonic_s() <= until_s + 0.2
    assert clock.monotonic_s() >= began_s + TTL_S / 2
    assert not server.path.is_ready.is_set()
    server.ask(2)
    assert server.codes()[2] == "HOF-306"
    await asyncio.sleep(10 * TTL_S)
    assert server.place is None
    leases.is_away = False
    await asyncio.wait_for(server.path.is_ready.wait(), 60)
    assert server.place.epoch > 100
    await server.stop()


@virtual
async def test_an_answer_that_takes_its_time_does_not_make_a_lease_longer(clock, topics, leases):
    """Its time runs from before the question."""
    loop = asyncio.get_running_loop()

    def slow(call):
        if call == "acquire":
            loop.now_s += 1.0

    leases.before = slow
    server = Server(clock, topics, leases)
    began_s = clock.monotonic_s()
    await server.start()
    assert server.place.until_s <= began_s + TTL_S
    await server.stop()


@virtual
async def test_a_server_that_was_stopped_past_its_lease_delivers_nothing(clock, topics, leases):
    """SIGSTOP, and another server has the topic when it wakes up: what comes there is not its."""
    server = Server(clock, topics, leases)
    other = Server(clock, topics, leases, "other", itertools.count(100))
    await server.start()
    server.ask(1)
    await asyncio.sleep(0.05)
    asyncio.get_running_loop().now_s += 10 * TTL_S  # nothing of it ran meanwhile
    taken = leases.acquire(TOPICS, "other", 100, int(1e9))  # the same epoch, by bad luck
    assert taken == TOPICS[0]
    answer_last(topics)
    await asyncio.sleep(1.0)
    assert server.codes()[1] in ("HOF-400", "HOF-404")
    assert server.worker.counters.answers == 0
    assert other.codes() == {}
    await server.stop()


@virtual
async def test_where_all_topics_are_leased_it_waits_for_one(clock, topics, leases):
    """And is not ready until then; requests are refused."""
    servers = [Server(clock, topics, leases, str(n), itertools.count(100 * n)) for n in range(3)]
    await servers[0].start()
    await servers[1].start()
    waiting = asyncio.create_task(servers[2].start())
    await asyncio.sleep(10 * TTL_S)
    assert not waiting.done()
    servers[2].ask(1)
    assert servers[2].codes() == {1: "HOF-306"}
    await servers[0].stop()
    await asyncio.wait_for(waiting, 2 * TTL_S)
    assert servers[2].place.topic == TOPICS[0]
    assert len({(t, e) for t, _, e in leases.history}) == 3
    for server in servers[1:]:
        await server.stop()
    assert leases.held == {}


@virtual
async def test_a_dead_servers_topic_is_taken_when_its_lease_is_over(clock, topics, leases):
    """And never before."""
    pool = TOPICS[:1]
    dead_until_s = clock.monotonic_s() + TTL_S
    leases.held[TOPICS[0]] = ("dead", 1, dead_until_s)
    server = Server(clock, topics, leases, pool=pool)
    await server.start()
    assert dead_until_s <= clock.monotonic_s() <= dead_until_s + 2 * TTL_S
    await server.stop()


@virtual
async def test_brokers_that_go_cost_the_topic_and_nothing_else(clock, topics, leases):
    """A client that fails is opened again; what waited is unknown, the lease was given back."""
    failing = iter([None, OSError("connection lost")])

    class Failing(FakeClient):
        async def getmany(self, **options):
            error = next(failing, None)
            if error is not None:
                raise error
            return await super().getmany(**options)

    server = Server(clock, topics, leases, consumer=consumer_of(topics, Failing))
    await server.start()
    server.ask(1)
    await asyncio.sleep(0.15)
    assert server.codes() == {1: "HOF-400"}
    await asyncio.wait_for(server.path.is_ready.wait(), 60)
    assert [topic for topic, _, _ in leases.history] == [TOPICS[0]] * 2
    server.ask(2)
    await asyncio.sleep(0.1)
    answer_last(topics)
    await asyncio.sleep(0.1)
    assert server.codes() == {1: "HOF-400", 2: "OK"}
    await server.stop()


@pytest.mark.parametrize("after_s", [0.0, 0.001, 0.3, 1.0, 5.0])
def test_a_cancelled_path_ends_and_gives_its_topic_back(after_s):
    """At whatever moment: nothing runs on, nobody has to wait for the lease to be over."""

    async def main(clock):
        topics, leases = FakeTopics(), FakeLeases(clock)
        server = Server(clock, topics, leases)
        starting = asyncio.create_task(server.start())
        await asyncio.sleep(after_s)
        server.ask(1)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await server.stop()
        assert leases.held == {}
        assert server.place is None
        assert 1 in server.codes()
        assert not server.path.is_ready.is_set()

    run_virtual(main)


class Gate:
    """Holds a call of the lease table, in its thread, until the test lets it go."""

    def __init__(self, call):
        self.call = call
        self.reached = threading.Event()
        self.open = threading.Event()

    def __call__(self, call):
        if call == self.call and not self.reached.is_set():
            self.reached.set()
            assert self.open.wait(10)


async def until(condition):
    for _ in range(1_000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never came")


class TrueClock:
    """The loop's own time, which threads go through too."""

    def wall_us(self):
        return 0

    def monotonic_s(self):
        return asyncio.get_running_loop().time()


def test_a_path_that_is_cancelled_while_it_gives_a_lost_topic_back_ends():
    """The registry takes its time just then; the server that stops must not wait for ever."""

    async def main():
        held, gate = FakeClockLeases(), Gate("release")
        held.before = gate
        server = Server(TrueClock(), FakeTopics(), held)
        await server.start()
        held.held[server.place.topic] = ("thief", 666, 1e18)
        await until(gate.reached.is_set)
        for task in server.tasks:
            task.cancel()
        await asyncio.sleep(0.05)
        gate.open.set()
        done, _ = await asyncio.wait(server.tasks, timeout=1.0)
        for task in server.tasks:
            task.cancel()
        await asyncio.wait(server.tasks, timeout=1.0)
        assert len(done) == 2

    asyncio.run(main())


class FakeClockLeases(FakeLeases):
    """Leases by a clock that threads may read: nothing runs out."""

    def __init__(self):
        super().__init__(self)

    def monotonic_s(self):
        return 0.0


def test_a_path_that_is_cancelled_while_it_asks_for_a_topic_leaves_none_behind():
    """The thread that asks gets its answer all the same; nobody else has that topic for a while."""

    async def main():
        held, gate = FakeClockLeases(), Gate("acquire")
        held.before = gate
        server = Server(TrueClock(), FakeTopics(), held)
        starting = asyncio.create_task(server.start())
        await until(gate.reached.is_set)
        starting.cancel()
        stopping = asyncio.create_task(server.stop())
        await asyncio.sleep(0.05)
        gate.open.set()
        await stopping
        await until(lambda: held.history)
        await asyncio.sleep(0.1)
        assert held.held == {}

    asyncio.run(main())


def test_time_in_these_tests_is_virtual():
    """An hour takes no time, and what waits for nothing is found out."""
    loop = VirtualLoop()
    began_s = loop.time()
    loop.run_until_complete(asyncio.sleep(3_600))
    assert loop.time() == pytest.approx(began_s + 3_600)
    with pytest.raises(RuntimeError, match="never comes"):
        loop.run_until_complete(asyncio.Event().wait())
    loop.close()
