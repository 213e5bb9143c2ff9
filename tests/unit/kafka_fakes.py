"""Topics in memory, with the faults of real ones; clocks and loops whose time is the test's own."""

import asyncio
import itertools
import selectors
from collections import defaultdict
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from hofflight.errors import RegistryUnavailable

WALL_US = 1_700_000_000_000_000


class FakeClock:
    """Both clocks of a process; they go when the test says so."""

    def __init__(self, wall_us=WALL_US, monotonic_s=1_000.0):
        self.now_us = wall_us
        self.now_s = monotonic_s

    def wall_us(self):
        return self.now_us

    def monotonic_s(self):
        return self.now_s

    def advance(self, seconds):
        self.now_s += seconds
        self.now_us += int(seconds * 1e6)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time goes on when nothing else can: minutes take as long as what happens in them.

    Threads do not exist here: what asks for one is called at once, unless `threads` is set.
    """

    def __init__(self, *, threads=False):
        self.now_s = 1_000.0
        self.threads = threads
        super().__init__(_Jumping(self))

    def time(self):
        return self.now_s

    def run_in_executor(self, executor, func, *args):
        if self.threads:
            return super().run_in_executor(executor, func, *args)
        done = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:
            done.set_exception(error)
        return done


class _Jumping(selectors.DefaultSelector):
    def __init__(self, loop):
        super().__init__()
        self._loop = loop

    def select(self, timeout=None):
        found = super().select(0)
        if found or timeout == 0:
            return found
        if timeout is None:
            found = super().select(20 if self._loop.threads else 0)
            if not found:
                raise RuntimeError("everything waits for something that never comes")
            return found
        self._loop.now_s += timeout
        return found


class LoopClock:
    """Clocks that are a loop's time."""

    def __init__(self, loop, wall_us=WALL_US):
        self._loop = loop
        self._wall_us = wall_us

    def wall_us(self):
        return self._wall_us + int(self._loop.time() * 1e6)

    def monotonic_s(self):
        return self._loop.time()


def run_virtual(main: Callable):
    """Run `main(clock)` where time is virtual; nothing may be left running after it."""
    loop = VirtualLoop()
    try:
        found = loop.run_until_complete(main(LoopClock(loop)))
        left = [task for task in asyncio.all_tasks(loop) if not task.done()]
        assert left == [], f"still running: {left}"
        return found
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


class Refused(Exception):
    """What a broker says definitely: nothing was written."""


class FakeRecord(NamedTuple):
    """What a consumer gets, as aiokafka calls it."""

    offset: int
    value: bytes | None
    headers: tuple
    timestamp: int = 0
    key: bytes | None = None

    @property
    def size(self):
        return size_of(self.value, self.headers)


def size_of(value, headers):
    """The bytes that a broker counts, without its own some 70 a record batch."""
    return len(value or b"") + sum(len(n) + len(v or b"") for n, v in headers)


@dataclass
class FakeTopics:
    """Append-only lists, by (topic, partition).

    fault: asked before each produce; `ok`, or one of

    - `refused`: a definite error, nothing is there
    - `lost`: an error, nothing is there
    - `landed`: an error, and it is there
    - `later`: an error, and it is there after a while
    - `twice`: it is there two times
    - `slow`: it is there after a while; what comes behind overtakes it
    - a float: the same, after that many seconds
    """

    fault: Callable = lambda topic, partition: "ok"
    # What a topic takes in one record, by name.
    bytes_max: dict = field(default_factory=dict)
    slow_s: float = 0.5
    begins: dict = field(default_factory=lambda: defaultdict(int))
    records: dict = field(default_factory=lambda: defaultdict(list))
    commits: dict = field(default_factory=dict)
    commit_log: list = field(default_factory=list)
    offsets: dict = field(default_factory=lambda: defaultdict(itertools.count))
    _waiters: list = field(default_factory=list)
    _tasks: set = field(default_factory=set)

    def put(self, topic, partition, value, headers):
        """It is there; gives its offset."""
        at = next(self.offsets[topic, partition])
        found = FakeRecord(at, value, tuple(headers), timestamp=1_700 + at)
        self.records[topic, partition].append(found)
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        return at

    def skip(self, topic, partition, to):
        """The next record has this offset: what was before it is gone, or never was one."""
        self.offsets[topic, partition] = itertools.count(to)

    async def produce(self, topic, partition, value, headers):
        await asyncio.sleep(0)
        if size_of(value, headers) > self.bytes_max.get(topic, 1 << 30):
            raise Refused(f"{size_of(value, headers)} bytes are too many for {topic}")
        fault = self.fault(topic, partition)
        record = (topic, partition, value, list(headers))
        if fault == "refused":
            raise Refused("the broker says no")
        if fault == "lost":
            raise OSError("connection lost")
        if fault == "later":
            self._spawn(self._put_after(self.slow_s, *record))
            raise TimeoutError
        if fault == "slow" or isinstance(fault, float):
            await self._put_after(self.slow_s if fault == "slow" else fault, *record)
            return
        self.put(*record)
        if fault == "twice":
            self.put(*record)
        if fault == "landed":
            raise TimeoutError("no acknowledgement came")

    async def _put_after(self, seconds, *record):
        await asyncio.sleep(seconds)
        self.put(*record)

    def _spawn(self, work):
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def settled(self):
        """Until nothing is on its way any more."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def changed(self, timeout_s):
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await asyncio.wait([waiter], timeout=timeout_s)

    def end(self, key):
        records = self.records[key]
        return records[-1].offset + 1 if records else self.begins[key]

    def consumer(self, *args):
        """As `Cluster.consumer`."""

        @asynccontextmanager
        async def opened():
            yield FakeClient(self)

        return opened()


class FakeClient:
    """A consumer of those topics; a partition is called (topic, number)."""

    def __init__(self, topics, *, commit_fails=lambda: False):
        self.topics = topics
        self.at = {}
        self.sought = []
        self.commit_fails = commit_fails

    def assign(self, keys):
        self.at = dict.fromkeys(keys)

    def seek(self, key, offset):
        assert key in self.at, "seek before assign"
        self.at[key] = offset
        self.sought.append((key, offset))

    async def beginning_offsets(self, keys):
        await asyncio.sleep(0)
        return {key: self.topics.begins[key] for key in keys}

    async def end_offsets(self, keys):
        await asyncio.sleep(0)
        return {key: self.topics.end(key) for key in keys}

    async def position(self, key):
        return self.at[key]

    async def committed(self, key):
        await asyncio.sleep(0)
        return self.topics.commits.get(key)

    async def commit(self, offsets):
        await asyncio.sleep(0)
        if self.commit_fails():
            raise OSError("no coordinator")
        self.topics.commits.update(offsets)
        self.topics.commit_log.append(dict(offsets))

    async def getmany(self, *, timeout_ms=0, max_records=None):
        found = self._take(max_records)
        if not found:
            await self.topics.changed(timeout_ms / 1_000)
            found = self._take(max_records)
        return found

    def _take(self, max_records):
        found, left = {}, max_records or 1 << 30
        for key, at in self.at.items():
            records = [r for r in self.topics.records[key] if r.offset >= at][:left]
            if records:
                found[key] = records
                self.at[key] = records[-1].offset + 1
                left -= len(records)
            if not left:
                break
        return found


class FakeLeases:
    """Who holds which topic, by a clock; `is_away` is a registry that cannot be reached."""

    def __init__(self, clock):
        self._clock = clock
        self.held = {}
        self.history = []
        self.is_away = False
        self.before = lambda call: None

    def acquire(self, topics, instance, epoch, ttl_us):
        self._ask("acquire")
        for topic in topics:
            _, _, until_s = self.held.get(topic, ("", 0, 0.0))
            if until_s <= self._clock.monotonic_s():
                self.held[topic] = (instance, epoch, self._clock.monotonic_s() + ttl_us / 1e6)
                self.history.append((topic, instance, epoch))
                return topic
        return None

    def renew(self, topic, epoch, ttl_us):
        self._ask("renew")
        instance, holder, _ = self.held.get(topic, ("", None, 0.0))
        if holder != epoch:
            return False
        self.held[topic] = (instance, epoch, self._clock.monotonic_s() + ttl_us / 1e6)
        return True

    def release(self, topic, epoch):
        self._ask("release")
        if self.held.get(topic, ("", None, 0.0))[1] == epoch:
            del self.held[topic]

    def _ask(self, call):
        self.before(call)
        if self.is_away:
            raise RegistryUnavailable("the registry is away")
