"""Joined views for tests: their groups, a clock that stands still, stores that fail on purpose."""

import asyncio
import itertools
import threading
import time
import uuid

import pyarrow as pa

import hofflight as hof
from hofflight.app import App
from hofflight.engine.views import joined_view
from hofflight.errors import OnlineUnavailable, StorageFailed
from hofflight.eventlog.local import LocalLog, SyncThread
from hofflight.features.view import declare_view
from hofflight.online.lookups import Lookups
from hofflight.online.packed import Packing
from hofflight.online.protocol import Health
from hofflight.online.slots import (
    COMMITS_KEY,
    Commits,
    read_commits,
    replaced,
    row_key,
    write_commits,
)
from hofflight.server.join import Joiner
from hofflight.settings import load_settings
from hofflight.wire.columns import from_python
from hofflight.wire.keys import KeyCodec

S = 1_000_000
HOUR = 3_600 * S
START = 1_780_000_000 * S
ONE, TWO, THREE = (uuid.UUID(int=number) for number in (1, 2, 3))

WINDOWS = {"n": hof.count().over("1h")}
CARD = hof.feature_group(
    "g", version=1, key="card", event_time="ts", windows=WINDOWS,
    input={"card": pa.int64(), "ts": hof.TIMESTAMP, "x": pa.int64()},
)  # fmt: skip
TERMINAL = hof.feature_group(
    "h", version=1, key="terminal", event_time="ts", windows=WINDOWS,
    input={"ts": hof.TIMESTAMP, "terminal": pa.string(), "x": pa.int64()},
)  # fmt: skip
CUSTOMER = hof.stored_group(
    "customer", version=1, key="customer", event_time="updated", ttl="1h",
    schema={"customer": pa.int64(), "updated": hof.TIMESTAMP, "age": pa.int32(),
            "name": pa.string()},
)  # fmt: skip
# Its key's first part is a column of every row, the second is given beside it.
SHOP = hof.stored_group(
    "shop", version=1, key=("card", "shop"), event_time="since",
    schema={"card": pa.int64(), "shop": pa.string(), "since": hof.TIMESTAMP, "rank": pa.float64()},
)  # fmt: skip
GROUPS = (CARD, TERMINAL, CUSTOMER, SHOP)
VIEWS = {
    "one": ["customer.age", "g.n", "shop.rank", "g.x"],
    "other": ["g.n", "customer.name"],
    "several": ["h.n", "customer.age", "g.n", "shop.rank", "h.x"],
    "alone": ["shop.rank", "customer.name", "customer.age"],
    "plain": ["h.n", "g.n", "g.x"],
}
KEYS = {"customer": 1, "shop": "a"}


def served_of(features, *groups, on_missing="mark"):
    """A joined view as a server has it."""
    known = {(group.name, group.version): group for group in groups}
    newest = {group.name: group for group in groups}

    def group_of(name, version):
        return newest[name] if version is None else known[name, version]

    view = declare_view("v", 1, features, (), group_of, on_missing)
    return joined_view(view, [group_of(*group) for group in (*view.streaming, *view.stored)])


def row(second=0, **changes):
    """A row that every streaming group takes, some columns too many for each."""
    return {"card": 7, "ts": START + second * S, "terminal": "t", "x": 1, **changes}


def rows_for(app, view, *rows):
    """What a view takes of rows: one as a dict, several as a list, none for stored features."""
    names = app.worker.bind(view, None).input_schema.names
    found = [{name: one[name] for name in names} for one in rows]
    return (found[0] if len(found) == 1 else found) if names else None


def customer(key=1, *, age=30, name="ann", second=0):
    return {"customer": key, "updated": START + second * S, "age": age, "name": name}


def shop(card=7, name="a", *, rank=0.5, second=0):
    return {"card": card, "shop": name, "since": START + second * S, "rank": rank}


def facts(vector):
    """All that a repeated answer must repeat."""
    return vector.batch.to_pylist(), vector.status, vector.age_ms, vector.late, vector.group_late


class Clock:
    """The wall stands where a test puts it, `step_us` further at each look; other time is real."""

    def __init__(self, step_us=0):
        self.now_us = START
        self.step_us = step_us

    def wall_us(self):
        self.now_us += self.step_us
        return self.now_us

    def monotonic_s(self):
        return time.monotonic()


class MemoryStore:
    """Rows by key in a dict. `away`: it does not answer."""

    def __init__(self):
        self.rows = {}
        self.away = False
        self.lookups = 0

    def find(self, keys):
        self.lookups += 1
        if self.away:
            return OnlineUnavailable("the store is away")
        return [self.rows.get(key) for key in keys]

    async def get_many(self, keys, *, patient=False):
        found = self.find(keys)
        if isinstance(found, OnlineUnavailable):
            raise found
        return found

    async def put_many(self, items):
        self.rows.update(items)

    async def health(self):
        return Health(True, "in memory")

    async def close(self):
        """Its rows are there when it is opened again."""


class AtOnce(MemoryStore):
    """It never waits. `meanwhile` is called once, after the next lookup and before its answer."""

    waits = False

    def __init__(self):
        super().__init__()
        self.meanwhile = None

    def get_now(self, keys):
        found = self.find(keys)
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        if isinstance(found, OnlineUnavailable):
            raise found
        return found


class Waited(MemoryStore):
    """It is waited for. Lookups are answered in the loop's next step, or `held` for `release`."""

    waits = True

    def __init__(self):
        super().__init__()
        self.holds = False
        self.held = []
        self.timeouts = []
        self._came = threading.Condition()

    def start_get(self, keys, timeout_s, done):
        loop, found = asyncio.get_running_loop(), self.find(keys)
        self.timeouts.append(timeout_s)
        if not self.holds:
            loop.call_soon(done, found)
            return
        with self._came:
            self.held.append(lambda: loop.call_soon_threadsafe(done, found))
            self._came.notify_all()

    def wait_for(self, count):
        """Until so many lookups are held."""
        with self._came:
            assert self._came.wait_for(lambda: len(self.held) >= count, 10)

    def release(self):
        """Answer the oldest of them with what was there when it came."""
        self.held.pop(0)()


class FailingLog:
    """A log in front of another one; while it `fails` nothing can be written."""

    def __init__(self, log):
        self.log = log
        self.fails = True

    def __getattr__(self, name):
        return getattr(self.log, name)

    def append(self, entries):
        if self.fails:
            msg = "the event log could not be written: no space left"
            raise StorageFailed(msg)
        return self.log.append(entries)


class MemoryLog:
    """A log that is durable when a test says so: `sync`, or `break_down`."""

    is_durable_at_once = False

    def __init__(self):
        self.failed = ""
        self.entries = []
        self.waiting = []
        self.asked = threading.Semaphore(0)

    def append(self, entries):
        self.entries += entries
        return [entry.meta.number for entry in entries]

    def last_number(self):
        return len(self.entries)

    def read_meta(self, after=0):
        return ((entry.meta.number, entry.meta) for entry in self.entries[after:])

    def entry_at(self, position):
        return self.entries[position - 1]

    def when_durable(self, done):
        self.waiting.append(done)
        self.asked.release()

    def sync(self):
        waiting, self.waiting = self.waiting, []
        for done in waiting:
            done()

    def break_down(self):
        self.failed = "the event log could not be made durable: input/output error"
        self.sync()

    def close(self):
        """Nothing to let go of."""


def with_store(app, store, *, open_log=None, log=None):
    """The same store directory, its stored rows in a store of the test's own."""
    settings = load_settings(log=log or {}).log
    sync = SyncThread(settings)

    def open_local(name):
        return LocalLog(app.path / "log" / name, sync, settings)

    joiner = Joiner(
        app.engine, Lookups(store, 10_000), open_log or open_local, app._clock,
        app.engine._settings,
    )  # fmt: skip

    def on_close():
        sync.stop()
        app.worker.close()
        app._on_close()

    app._closed = True  # the other one is closed in its place
    return App(
        app.engine, joiner, app._clock, path=app.path, offline=app.offline, announce=app.announce,
        on_close=on_close, start_spark=app._start_spark,
    )  # fmt: skip


class Joins:
    """Opens the test's store with all groups and views; `crashed` opens what a kill would leave."""

    def __init__(self, stores):
        self.stores = stores
        self.clock = Clock()
        self._opened = []
        self._numbers = itertools.count()

    def open(self, *groups, store=None, views=None, crashed=False, open_log=None, **settings):
        opening = self.stores.crashed if crashed else self.stores.open
        app = opening(*(groups or GROUPS), clock=self.clock, **settings)
        for name, features in (VIEWS if views is None else views).items():
            app.view(name, 1, features)
        if store is not None:
            app = with_store(app, store, open_log=open_log, log=settings.get("log"))
        self._opened.append(app)
        return app

    def close(self):
        for app in self._opened:
            app.close()


def packed(group, load, values):
    """A row as a load brings it."""
    columns = [from_python([values[f.name]], f.type) for f in group.packed_schema]
    times = pa.array([values[group.event_time]], pa.int64()).view(hof.TIMESTAMP)
    return Packing(group.packed_schema).pack(times, pa.array([load]), columns)[0].as_py()


def put(app, group, *rows):
    """Load rows into the online store alone: 1 ms, where `materialize` takes 40."""
    lookups, codec = app.worker.lookups, KeyCodec(group.key_schema)
    keys = [row_key(group.label, codec.encode([one[n] for n in group.key])) for one in rows]
    page, *values = lookups.run(lookups.store.get_many([COMMITS_KEY, *keys]))
    groups = dict(read_commits(page)) if page else {}
    before = groups.get(group.label, Commits(0))
    for key, value, one in zip(keys, values, rows, strict=True):
        newer = replaced(value, packed(group, before.last + 1, one), before)
        if newer is not None:
            lookups.run(lookups.store.put_many([(key, newer)]))
    page = write_commits(groups | {group.label: Commits(before.last + 1)})
    lookups.run(lookups.store.put_many([(COMMITS_KEY, page)]))


def load(app, *, age=30, second=0):
    """A row in each stored group."""
    put(app, CUSTOMER, customer(age=age, second=second))
    put(app, SHOP, shop(rank=age / 2, second=second))


def ask(app, view, *rows, keys=None, **options):
    """The vector of some rows, or of their keys where the view has stored features alone."""
    rows = rows or (row(),)
    served = app.worker.bind(view, None)
    given = {"card": rows[0]["card"]} | (KEYS if keys is None else keys)
    given = {name: value for name, value in given.items() if name in served.keys.names}
    if not len(served.input_schema) and len(rows) > 1:
        lists = {n: v if isinstance(v, list) else [v] * len(rows) for n, v in given.items()}
        given = lists | ({"card": [one["card"] for one in rows]} if "card" in given else {})
    return app.vector(view, rows_for(app, view, *rows), keys=given or None, **options)


def records(app):
    """How many records each log has, those of joins under their view's name."""
    return {name: count for name, count in app.streams().items() if count}
