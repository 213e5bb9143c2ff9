"""Applications that share a registry and a folder of copies, each in a store of its own."""

import shutil
import sqlite3
from contextlib import closing, contextmanager

from hofflight.errors import StoreLocked
from hofflight.eventlog.local import LocalLog, LogReader
from hofflight.eventlog.lock import StoreLock
from hofflight.features.leases import Leases
from hofflight.features.sqlite import SqliteDatabase
from hofflight.settings import LogSettings
from hofflight.spark_bridge.application import Application
from hofflight.spark_bridge.claims import Claims, holder_of
from hofflight.spark_bridge.executor_side import Place
from hofflight.spark_bridge.holdings import Holdings
from hofflight.spark_bridge.state_store import Mark, marked
from tests.unit.eventlog.conftest import make_entry
from tests.unit.eventlog.copies import Unsynced
from tests.unit.kafka_fakes import FakeClock

TTL_S = 9.0
LOOK_S = 0.25
PLACES = [Place("g.1", number, "hof") for number in range(3)]


class Shared:
    """What the applications share: a registry in a file, a folder, and their time."""

    def __init__(self, directory):
        self.directory = directory
        self.clock = FakeClock()
        self._path = directory / "registry.sqlite"
        self._opened = []

    def leases(self):
        """Another connection, as of another process."""
        self._opened.append(SqliteDatabase(self._path, clock=self.clock, busy_s=0.0))
        return Watched(Leases(self._opened[-1]))

    def change(self, statement):
        """Somebody has the database in hand."""
        with closing(sqlite3.connect(self._path, isolation_level=None)) as database:
            database.execute(statement)

    def rob(self, place):
        """Another one takes a partition, though nobody's time is over; gives that one."""
        thief = self.claims("thief")
        topic = f"{place.topic}/{place.number}"
        self.change(f"UPDATE leases SET expires_us = 0 WHERE topic = '{topic}'")
        assert thief.claim(place)
        return thief

    @contextmanager
    def away(self):
        """A registry that answers nobody."""
        with closing(sqlite3.connect(self._path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            yield

    def claims(self, store="a", takeover_s=None):
        (self.directory / store).mkdir(exist_ok=True)
        holder = holder_of(self.directory / store)
        return Claims(self.leases(), holder, int(TTL_S * 1e3), takeover_s, self.clock)

    def survivor(self, store="a", *, takeover_s=None, backups=True):
        return Survivor(self, store, takeover_s, backups=backups)

    def pass_time(self, seconds, *survivors):
        """So long, all of them look several times a second."""
        for _ in range(round(seconds / LOOK_S)):
            self.clock.advance(LOOK_S)
            for one in survivors:
                one.share()

    def close(self):
        for database in self._opened:
            database.close()


class Watched:
    """Leases that note what they are asked; `before` sees each call first."""

    def __init__(self, leases):
        self._leases = leases
        self.calls = []
        self.before = lambda call: None

    def __getattr__(self, name):
        def asked(*args):
            self.calls.append(name)
            self.before(name)
            return getattr(self._leases, name)(*args)

        return asked


class Patience:
    """What ends an application, which nobody does; time goes on while it is waited for."""

    def __init__(self, shared, *others):
        self._shared = shared
        self._others = others
        self.waited_s = 0.0

    def is_set(self):
        return False

    def wait(self, seconds):
        self.waited_s += seconds
        self._shared.pass_time(seconds, *self._others)
        return False


class Keeper:
    """Stands for the thread of `Claims.kept`, whose time is the test's."""

    def __init__(self, claims, clock):
        self._claims = claims
        self._clock = clock
        self._next_s = clock.now_s

    def share(self):
        if self._clock.now_s >= self._next_s:
            self._next_s = self._clock.now_s + TTL_S / 3
            self._claims.renew()


class Query:
    """One of Spark's; ends when the test says so."""

    def __init__(self):
        self.isActive = True
        self.is_stopped = False

    def exception(self):
        return "it died"

    def stop(self):
        self.is_stopped = True


class Survivor:
    """An application in a store, without Spark."""

    def __init__(self, shared, store, takeover_s, *, backups):
        self.shared = shared
        self.claims = shared.claims(store, takeover_s)
        self.copies = shared.directory / "copies"
        self.holdings = Holdings(
            shared.directory / store, self.claims, str(self.copies) if backups else "",
            shared.clock, next_offset,
        )  # fmt: skip
        self.wanted = []
        self.others = PLACES if takeover_s is not None else []
        self.application = Application(
            [], self._start, shared.clock, self.holdings.give_up if self.others else None
        )
        self.queries = {}
        self.refusing = []  # places whose queries end at once
        self._keeper = Keeper(self.claims, shared.clock)

    def _start(self, place):
        assert place in self.holdings.places, "a query of what is not ours"
        assert place not in self.running, "a second query"
        self.queries[place] = Query()
        self.queries[place].isActive = place not in self.refusing
        return self.queries[place]

    @property
    def leases(self):
        return self.claims._leases

    @property
    def running(self):
        """The partitions that have a query."""
        return [p for p, query in self.queries.items() if query.isActive and not query.is_stopped]

    @property
    def numbers(self):
        """The partitions that are its own, which are those that it works."""
        assert sorted(self.running) == sorted(self.holdings.places)
        return sorted(place.number for place in self.holdings.places)

    def start(self, *wanted, patience=None):
        """Begin with what was asked for; how long it waited for that."""
        patience = patience or Patience(self.shared)
        self.wanted = wanted
        self.holdings.claim(wanted, patience)
        for place in self.holdings.places:
            self.application.add(place)
        self.application.look()
        return patience.waited_s

    def share(self):
        """One look, as of its main thread; and what its other one does meanwhile."""
        self._keeper.share()
        self.holdings.share(self.application, self.wanted, self.others)
        self.application.look()

    def write(self, place, count, size=40):
        """Entries of a partition, as its Python workers log them: each is a record's."""
        log = LocalLog(self.holdings.log(place), Unsynced(), LogSettings())
        first = log.last_number() + 1
        for number in range(first, first + count):
            log.append([make_entry(number, size=size)])
        log.close()
        with closing(Mark(self.holdings.log(place) / "mark")) as mark:
            mark.took_over(first + count - 2)

    def logged(self, place):
        return [meta.number for _, meta in LogReader(self.holdings.log(place)).read_meta()]

    def begins(self, place):
        """The offset that a partition's query begins at, as its mark says; None: nothing says."""
        mark = marked(self.holdings.log(place))
        return mark and mark.next

    def stop(self):
        self.application.stop()
        self.holdings.close()

    def die(self):
        """Its process ends: locks go, leases stay."""
        for lock in self.holdings._locks.values():
            lock.release()
        self.holdings._locks = {}


def next_offset(log):
    """Each entry is a record; a mark may know of more."""
    mark = marked(log)
    counted = [meta.number for _, meta in LogReader(log).read_meta()]
    return max([*counted, 0 if mark is None else mark.next], default=0)


def is_locked(survivor, place):
    try:
        StoreLock(survivor.holdings.store(place).lock).release()
    except StoreLocked:
        return True
    return False


def spoil(copies, what):
    if what == "away":
        copies.rename(copies.with_name("elsewhere"))
        copies.write_bytes(b"")
    else:
        (path,) = copies.glob("backup/g.1/0/manifest-*")
        path.write_bytes(b"{")


def mend(copies, what):
    if what == "away":
        copies.unlink()
        copies.with_name("elsewhere").rename(copies)
    else:
        shutil.rmtree(copies)
