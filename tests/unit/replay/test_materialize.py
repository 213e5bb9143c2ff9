"""A load is seen whole or not at all, the newest row of a key is served, and all are kept."""

import shutil
from contextlib import suppress

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hofflight as hof
from hofflight.errors import (
    OnlineUnavailable,
    SealDamaged,
    StoreLocked,
    TooLarge,
    UnknownView,
    WrongType,
)
from hofflight.online.lookups import driven
from hofflight.online.packed import Packing
from hofflight.online.protocol import Health
from hofflight.online.slots import COMMITS_KEY, key_prefix, newest_row, read_commits, row_key
from hofflight.replay.materialize import Materializer
from hofflight.replay.stored_history import StoredHistory
from hofflight.settings import ReplaySettings
from hofflight.wire.columns import to_python
from hofflight.wire.keys import KeyCodec

START = 1_780_000_000_000_000
COLUMNS = {"k": pa.string(), "ts": hof.TIMESTAMP, "x": pa.float64()}
GROUP = hof.stored_group("customer", version=1, key="k", event_time="ts", schema=COLUMNS)
OTHER = hof.stored_group("customer_2", version=1, key="k", event_time="ts", schema=COLUMNS)
SECOND = hof.stored_group("customer", version=2, key="k", event_time="ts",
                          schema=COLUMNS | {"more": pa.int8()})  # fmt: skip
KEYS = ["a", "b", "c"]


def row(key, seconds, x=None):
    return {"k": key, "ts": START + seconds * 1_000_000, "x": x}


class Customers:
    """A store with a stored group, and short words for it."""

    def __init__(self, app):
        self.app = app

    def load(self, *rows, mode="full", name="customer"):
        return self.app.materialize(name, list(rows), mode)

    def served(self, *keys, name="customer"):
        """(seconds, x) of each key, or its status where there is no row."""
        keys = list(keys) or KEYS
        vector = self.app.vector(name, keys={"k": keys})
        columns = [to_python(vector.batch[f"{name}.{c}"]) for c in ("ts", "x")]
        states = vector.status[f"{name}.k"]
        states = states if isinstance(states, list) else [states] * len(keys)
        rows = zip(states, *columns, strict=True)
        return [((t - START) // 1_000_000, x) if s == "PRESENT" else s for s, t, x in rows]

    @property
    def history(self):
        return self.app.offline().stored_history(GROUP)

    @property
    def manifest(self):
        return self.history.manifest()

    def kept(self):
        """(load, key, seconds, x) of every row of the history."""
        return kept_in(self.history)

    def refill(self):
        return self.app.offline().refill("customer", None, self.app.worker.lookups)

    def put(self, key, value):
        """Into the online store, past everything."""
        self.app.worker.lookups.run(self.app.worker.lookups.store.put_many([(key, value)]))

    def get(self, key):
        [found] = self.app.worker.lookups.run(self.app.worker.lookups.store.get_many([key]))
        return found


def kept_in(history):
    found = []
    for load in history.manifest().loads:
        batches = list(history.batches(load))
        assert sum(batch.num_rows for batch in batches) == load.rows
        for batch in batches:
            rows = zip(*map(to_python, batch.columns), strict=True)
            found += [(load.load, k, (ts - START) // 1_000_000, x) for k, ts, x in rows]
    return found


SETTINGS = {"replay": {"threads": 1}, "online": {"map_bytes": 1 << 26}}


@pytest.fixture
def opened(open_store):
    """Opens the store; again, after it was closed."""
    return lambda: Customers(open_store(GROUP, OTHER, **SETTINGS).app)


@pytest.fixture
def customers(opened):
    return opened()


# --- which rows count ---


def test_the_newest_row_of_each_key_is_served_and_all_are_kept(customers):
    """Whatever order they come in."""
    report = customers.load(row("a", 5, 1.0), row("b", 1, 2.0), row("a", 9, 3.0), row("a", 7, 4.0))

    assert (report.group, report.load, report.read, report.rows) == ("customer.1", 1, 4, 4)
    assert (report.keys, report.known, report.older, report.duplicates) == (2, 0, 0, 0)
    assert customers.served() == [(9, 3.0), (1, 2.0), "NOT_FOUND"]
    assert customers.kept() == [
        (1, "a", 5, 1.0), (1, "a", 7, 4.0), (1, "a", 9, 3.0), (1, "b", 1, 2.0)
    ]  # fmt: skip


def test_the_same_rows_again_are_no_load(customers):
    """Every night the whole table: only what is new is loaded."""
    rows = [row("a", 1, 1.0), row("b", 2), row("b", 3, float("nan"))]
    customers.load(*rows)
    before = customers.manifest
    again = customers.load(*reversed(rows))

    assert (again.load, again.read, again.known, again.rows, again.keys) == (None, 3, 3, 0, 0)
    assert customers.manifest == before
    third = customers.load(*rows, row("c", 1))
    assert (third.load, third.known, third.rows, third.keys) == (2, 3, 1, 1)


def test_a_row_with_another_value_is_no_known_row(customers):
    """One that was null before, and is null again: it is served as it came last."""
    customers.load(row("a", 1), row("b", 1, 0.0))

    assert customers.load(row("a", 1, 1.0)).rows == 1
    assert customers.load(row("a", 1)).rows == 1
    assert customers.served("a") == [(1, None)]


def test_a_zero_that_became_negative_is_another_value(customers):
    """A vector is what was loaded, to the bit; the engine tells the zeros apart elsewhere too."""
    customers.load(row("a", 1, 0.0))
    report = customers.load(row("a", 1, -0.0))

    assert (report.rows, report.known) == (1, 0)
    assert repr(customers.served("a")) == repr([(1, -0.0)])


def test_of_rows_with_equal_key_and_time_the_last_counts(customers):
    """The others are counted as duplicates, whether or not they are equal."""
    report = customers.load(
        row("a", 1, 1.0), row("a", 1, 2.0), row("b", 1, 5.0), row("b", 1, 5.0), row("a", 2, 7.0),
        row("a", 2, 3.0), row("a", 2, 4.0),
    )  # fmt: skip

    assert (report.read, report.rows, report.duplicates) == (7, 3, 4)
    assert customers.kept() == [(1, "a", 1, 2.0), (1, "a", 2, 4.0), (1, "b", 1, 5.0)]
    assert customers.served("a", "b") == [(2, 4.0), (1, 5.0)]


def test_the_last_of_many_duplicates_counts_also_across_batches(customers):
    """Rows are numbered as they come, not as a database happens to hold them."""
    tables = [pa.Table.from_pylist([row("a", 1, float(i))], pa.schema(COLUMNS.items()))
              for i in range(300)]  # fmt: skip
    report = customers.app.materialize("customer", pa.concat_tables(tables))

    assert (report.duplicates, customers.served("a")) == (299, [(1, 299.0)])


def test_an_older_row_that_comes_later_changes_no_answer_but_is_kept(customers):
    """It is history all the same."""
    customers.load(row("a", 9, 1.0))
    report = customers.load(row("a", 3, 2.0))

    assert (report.load, report.rows, report.keys) == (2, 1, 0)
    assert customers.served("a") == [(9, 1.0)]
    assert customers.kept() == [(1, "a", 9, 1.0), (2, "a", 3, 2.0)]


def test_with_equal_times_the_later_load_wins(customers):
    """A correction; and the correction of a correction, though it is the first row again."""
    for number, x in enumerate([1.0, 2.0, 1.0], 1):
        report = customers.load(row("a", 5, x))
        assert (report.load, report.known, report.keys) == (number, 0, 1)
        assert customers.served("a") == [(5, x)]

    assert customers.load(row("a", 5, 1.0)).known == 1
    assert [kept[3] for kept in customers.kept()] == [1.0, 2.0, 1.0]


def test_nulls_are_loaded_and_say_so(customers):
    """The row is there, its value is not."""
    customers.load(row("a", 1))
    vector = customers.app.vector("customer", keys={"k": "a"})

    assert vector.batch["customer.x"].to_pylist() == [None]
    assert vector.status == {
        "customer.k": "PRESENT", "customer.ts": "PRESENT", "customer.x": "NULL"
    }  # fmt: skip


def test_a_request_for_too_many_keys_is_refused(customers):
    """A view of stored groups alone has no rows that a limit would count."""
    customers.load(row("a", 1, 1.0))
    for count in (1, 100_000):
        vector = customers.app.vector("customer", keys={"k": ["a"] * count})
        assert vector.batch.num_rows == count
    with pytest.raises(TooLarge, match=r"HOF-207.*100000 rows, got 100001"):
        customers.app.vector("customer", keys={"k": ["a"] * 100_001})


# --- incremental ---


def test_an_incremental_load_takes_only_what_is_newer_than_all_there_is(customers):
    """Of any key; the others are counted, and not looked at again."""
    customers.load(row("a", 5, 1.0), row("b", 2, 1.0))
    report = customers.load(
        row("a", 5, 9.0), row("b", 4, 9.0), row("c", 6, 9.0), row("c", 6, 8.0), row("b", 7, 7.0),
        mode="incremental",
    )  # fmt: skip

    assert (report.read, report.older, report.duplicates, report.rows) == (5, 2, 1, 2)
    assert (report.known, report.keys, report.load) == (0, 2, 2)
    assert customers.served() == [(5, 1.0), (7, 7.0), (6, 8.0)]
    again = customers.load(row("b", 7, 1.0), mode="incremental")
    assert (again.load, again.older, again.rows) == (None, 1, 0)


def test_the_first_incremental_load_takes_everything(customers):
    """There is nothing that it could begin after."""
    assert customers.load(row("a", -9), row("b", 1), mode="incremental").rows == 2


@pytest.mark.parametrize("mode", ["Full", "", None, 1])
def test_there_are_two_modes(customers, mode):
    """The text names them."""
    with pytest.raises(WrongType, match=r'mode= is "full" or "incremental"'):
        customers.load(row("a", 1), mode=mode)
    assert customers.manifest.loads == ()


def test_only_a_stored_group_can_be_loaded(customers):
    """A streaming group's rows are events."""
    streaming = hof.feature_group("clicks", version=1, key="k", event_time="ts", input=COLUMNS)
    customers.app.register(streaming)

    for name in ("clicks", "nobody"):
        with pytest.raises(UnknownView, match="HOF-201"):
            customers.load(row("a", 1), name=name)


def test_groups_and_versions_have_loads_of_their_own(customers):
    """Also where one's name begins like another's."""
    customers.app.register(SECOND)
    customers.app.materialize("customer", [row("a", 1, 1.0)], version=1)
    customers.app.materialize("customer", [row("a", 2, 2.0) | {"more": 3}])
    customers.load(row("a", 3, 3.0), name="customer_2")

    assert customers.app.vector("customer", keys={"k": "a"}).to_dict()["customer.more"] == 3
    older = customers.app.vector("customer", keys={"k": ["a", "b"]}, version=1)
    assert older.batch["customer.x"].to_pylist() == [1.0, None]
    assert customers.served("a", "b", name="customer_2") == [(3, 3.0), "NOT_FOUND"]
    assert [load.load for load in customers.manifest.loads] == [1]


# --- what stands on the disk ---


def test_a_load_is_a_file_sorted_by_key_and_time_that_the_manifest_lists(customers):
    """With its size, its times, and when it was committed and seen."""
    customers.load(row("b", 2, 1.0), row("a", 9, 2.0), row("a", 1, 3.0))
    [load] = customers.manifest.loads
    table = pq.ParquetFile(customers.history.file(1)).read()

    assert table.schema.equals(GROUP.schema)
    assert table["k"].to_pylist() == ["a", "a", "b"]
    assert to_python(table["ts"].combine_chunks()) == [row("", s)["ts"] for s in (1, 9, 2)]
    assert (load.load, load.rows, load.bytes) == (1, 3, customers.history.file(1).stat().st_size)
    assert (load.oldest_us, load.newest_us) == (row("", 1)["ts"], row("", 9)["ts"])
    assert 0 < load.committed_us <= load.visible_us
    assert (customers.manifest.next, customers.manifest.open) == (2, 0)
    assert list(customers.history.directory.glob("*.tmp")) == []


def test_a_store_opened_again_has_everything(opened):
    """Answers, history, and what is known."""
    customers = opened()
    customers.load(row("a", 1, 1.0), row("b", 2))
    customers.load(row("a", 3, 3.0))
    answers, kept = customers.served(), customers.kept()
    customers.app.close()
    customers = opened()

    assert (customers.served(), customers.kept()) == (answers, kept)
    report = customers.load(row("a", 1, 1.0), row("b", 4))
    assert (report.load, report.known, report.refilled) == (3, 1, False)


# --- a store that lost what it had ---


@pytest.fixture
def lost(opened):
    """Three loads, and then the online store's folder was removed."""
    customers = opened()
    customers.load(row("a", 1, 1.0), row("b", 2, 2.0))
    customers.load(row("a", 5, 5.0), row("c", 1))
    customers.load(row("b", 1, 0.0))
    customers.load(row("a", 1, 1.0), name="customer_2")
    customers.answers = customers.served()
    customers.app.close()
    shutil.rmtree(customers.app.path / "online")
    again = opened()
    again.answers = customers.answers
    return again


def test_a_store_that_lost_its_rows_answers_unavailable_until_it_is_filled_again(lost):
    """Not NOT_FOUND: the rows are there, in the history."""
    assert lost.served() == ["UNAVAILABLE"] * 3
    assert lost.refill() == 3
    assert lost.served() == lost.answers == [(5, 5.0), (2, 2.0), (1, None)]
    assert lost.refill() == 0
    assert lost.served("a", name="customer_2") == ["UNAVAILABLE"]


@pytest.mark.parametrize("mode", ["full", "incremental"])
def test_a_load_after_a_loss_fills_the_store_again_first(lost, mode):
    """Also where it brings nothing new; it says so."""
    report = lost.load(row("a", 1, 1.0), mode=mode)

    assert (report.refilled, report.load, report.known + report.older) == (True, None, 1)
    assert lost.served() == lost.answers
    report = lost.load(row("a", 9, 9.0), mode=mode)
    assert (report.refilled, report.load, report.keys) == (False, 4, 1)
    assert lost.served() == [(9, 9.0), *lost.answers[1:]]


def test_a_refill_mends_a_row_that_cannot_be_read(customers):
    """What the error of such a row says to do."""
    customers.load(row("a", 1, 1.0), row("b", 2, 2.0))
    place = row_key("customer.1", KeyCodec(GROUP.key_schema).encode(["a"]))
    whole = customers.get(place)
    for damaged in (b"", whole[:9], whole[:25] + b"\xff" * 4 + whole[29:], whole[:-1], b"x" * 99):
        customers.put(place, damaged)
        assert customers.served("a", "b")[1] == (2, 2.0)
        customers.refill()
        assert customers.served("a", "b") == [(1, 1.0), (2, 2.0)]


@pytest.mark.parametrize("page", [b"", b"\xc1", b"\x82\xa1v\x09\xa6groups\x80"])
def test_a_damaged_list_of_loads_is_mended_by_the_next_load(customers, page):
    """Nothing is served until then."""
    customers.load(row("a", 1, 1.0))
    customers.put(COMMITS_KEY, page)

    assert customers.served("a") == ["UNAVAILABLE"]
    assert customers.load(row("a", 1, 1.0)).refilled
    assert customers.served("a") == [(1, 1.0)]


def test_rows_of_a_history_that_is_gone_are_not_seen(tmp_path, loads):
    """A new store beside an old server: loads are counted from 1 again, and are others."""
    loads.load(row("a", 1, 1.0), row("b", 1, 1.0))
    loads.load(row("c", 1, 1.0))
    fresh = Loads(tmp_path / "new")
    fresh.store.data = loads.store.data
    fresh.load(row("b", 2, 2.0))

    assert fresh.served() == [None, (2, 2.0), None]


# --- damage ---

DAMAGE = {
    "cut": lambda manifest: manifest[:-9],
    "empty": lambda _: b"",
    "no JSON": lambda _: b"hello",
    "no UTF-8": lambda _: b'{"format": 1, "x": "\xff"}',
    "another type": lambda manifest: manifest.replace(b'"rows": 2', b'"rows": "2"'),
    "an unknown field": lambda manifest: manifest.replace(b'"rows"', b'"rowz"'),
    "another format": lambda manifest: manifest.replace(b'"format": 1', b'"format": 9'),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_manifest_is_refused_and_served_on(customers, damage):
    """Loading on would write over loads that the manifest no longer knows."""
    customers.load(row("a", 1, 1.0), row("b", 2))
    path = customers.history.path
    whole = path.read_bytes()
    path.write_bytes(damage(whole))

    for work in (lambda: customers.load(row("a", 9)), customers.refill, lambda: customers.manifest):
        with pytest.raises(SealDamaged, match=r"HOF-506.*manifest of customer\.1"):
            work()
    assert customers.served("a") == [(1, 1.0)]
    path.write_bytes(whole)
    assert customers.load(row("a", 9, 9.0)).load == 2


def missing(path):
    path.unlink()


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def longer(path):
    path.write_bytes(path.read_bytes() + b"\0")


def flipped(path):
    """Somewhere in a page."""
    data = bytearray(path.read_bytes())
    data[60] ^= 0xFF
    path.write_bytes(data)


def zeros(path):
    path.write_bytes(bytes(path.stat().st_size))


WORDS = {missing: "is missing", cut: "bytes", longer: "bytes, [0-9]+ were written", flipped: ":",
         zeros: ":"}  # fmt: skip


@pytest.mark.parametrize(("damage", "words"), WORDS.items(), ids=[w.__name__ for w in WORDS])
def test_a_damaged_load_is_refused_and_nothing_is_loaded(customers, damage, words):
    """What is known cannot be told without it; answers stay."""
    customers.load(row("a", 1, 1.0), row("b", 2))
    whole = customers.history.file(1).read_bytes()
    damage(customers.history.file(1))
    before = customers.manifest

    for work in (lambda: customers.load(row("a", 9)), customers.refill):
        with pytest.raises(SealDamaged, match=rf"HOF-506: load 1 of customer\.1.*{words}"):
            work()
    assert customers.manifest == before
    assert customers.served("a") == [(1, 1.0)]
    customers.history.file(1).write_bytes(whole)
    assert customers.load(row("a", 1, 1.0), row("c", 1)).known == 1


def test_a_load_of_other_columns_is_refused(customers):
    """Files that were changed about."""
    customers.load(row("a", 1, 1.0))
    pq.write_table(pa.table({"k": ["a"], "ts": [1]}), customers.history.file(1))
    [load] = customers.manifest.loads
    size = customers.history.file(1).stat().st_size
    loads = (msgspec.structs.replace(load, bytes=size),)
    customers.history.publish(msgspec.structs.replace(customers.manifest, loads=loads))

    with pytest.raises(SealDamaged, match=r"HOF-506.*other columns"):
        customers.load(row("a", 9))


def test_wherever_a_load_is_damaged_it_is_refused_or_has_the_same_rows(loads):
    """Every byte of its file in turn: pages by their checksums, the rest by what it says."""
    loads.load(*[row(f"key{i % 9}", i, float(i)) for i in range(40)])
    path, [load] = loads.history.file(1), loads.history.manifest().loads
    whole, rows = path.read_bytes(), list(loads.history.batches(load))
    wrong = []
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        try:
            found = list(loads.history.batches(load))
        except SealDamaged:
            continue
        except Exception as error:
            wrong.append((place, repr(error)))
        else:
            wrong += [] if found == rows else [(place, sum(b.num_rows for b in found))]

    assert wrong == []


# --- loads that end too early, with a store in memory that fails on purpose ---


class Memory:
    """An OnlineStore. `fail`: called with the items of each put; what it raises is raised."""

    waits = False

    def __init__(self):
        self.data = {}
        self.fail = lambda items: None

    async def get_many(self, keys, *, patient=False):
        return [self.data.get(key) for key in keys]

    async def put_many(self, items):
        self.fail(items)
        self.data.update(items)

    async def health(self):
        return Health(True, "memory")

    async def close(self):
        self.data = {}


class Clock:
    """Each look at the wall is a microsecond later."""

    def __init__(self):
        self.now_us = START

    def wall_us(self):
        self.now_us += 1
        return self.now_us


class Loads:
    """A history and a store without anything around them."""

    def __init__(self, directory):
        self.store = Memory()
        self.history = StoredHistory(directory / "customer.1", GROUP)
        settings = ReplaySettings(threads=1, memory_mib=256)
        self.loading = Materializer(self.history, self.store, driven, settings, Clock())
        self._codec, self._packing = KeyCodec(GROUP.key_schema), Packing(GROUP.packed_schema)

    def load(self, *rows, mode="full"):
        return self.loading.load(list(rows), mode)

    def served(self, *keys):
        """As a lookup does it: the page of loads, then each row; (seconds, x) or None."""
        page = self.store.data.get(COMMITS_KEY)
        commits = None if page is None else read_commits(page)["customer.1"]
        found = []
        for key in keys or KEYS:
            value = self.store.data.get(row_key("customer.1", self._codec.encode([key])))
            newest = None if None in (value, commits) else newest_row(value, commits)
            one = None if newest is None else self._packing.unpack(newest)
            found.append(None if one is None else ((one.time_us - START) // 10**6, one.values[1]))
        return found


@pytest.fixture
def loads(tmp_path):
    return Loads(tmp_path)


class Broken(Exception):
    """What a store of these tests raises."""


def failing_at(number, error=Broken):
    """Lets so many puts pass."""
    puts = iter(range(number))

    def fail(_):
        if next(puts, None) is None:
            raise error

    return fail


BIG = [row(f"k{i}", 100, 1.0) for i in range(20_000)]


@pytest.mark.parametrize("error", [Broken, KeyboardInterrupt, OnlineUnavailable("gone")])
@pytest.mark.parametrize("puts", [0, 1, 2])
def test_a_load_that_breaks_off_is_void(loads, puts, error):
    """Rows that were put already are never seen; the next load is right, and has a new number."""
    loads.load(row("k0", 1, 0.5), row("a", 1, 1.0))
    loads.store.fail = failing_at(puts, error)
    with pytest.raises(error if isinstance(error, type) else type(error)):
        loads.load(*BIG)
    there = sum(key.startswith(key_prefix("customer.1")) for key in loads.store.data)

    assert (there > 2) == (puts > 0)
    assert loads.served("k0", "k1", "k19999", "a") == [(1, 0.5), None, None, (1, 1.0)]
    assert (loads.history.manifest().voided, loads.history.manifest().open) == ((2,), 0)
    assert [kept[:2] for kept in kept_in(loads.history)] == [(1, "a"), (1, "k0")]
    loads.store.fail = lambda _: None
    report = loads.load(row("k0", 50, 2.0), row("b", 1, 3.0))
    assert (report.load, report.rows, report.keys) == (3, 2, 2)
    assert loads.served("k0", "k1", "b", "a") == [(50, 2.0), None, (1, 3.0), (1, 1.0)]
    assert loads.load(*BIG).rows == len(BIG)
    assert loads.served("k0", "k19999", "a") == [(100, 1.0), (100, 1.0), (1, 1.0)]


def test_a_store_that_lost_nothing_is_not_filled_again(loads):
    """A load that broke off has not lost rows: reading the whole history would be for nothing."""
    loads.load(row("a", 1, 1.0))
    loads.store.fail = failing_at(0)
    with pytest.raises(Broken):
        loads.load(row("a", 2, 2.0))
    loads.store.fail = lambda _: None

    assert [loads.load(row("a", 3, 3.0)).refilled, loads.load(row("b", 3)).refilled] == [False] * 2


def test_a_load_whose_process_died_is_void(loads):
    """Nobody was left to say so: the next load does."""
    loads.load(row("a", 1, 1.0))
    loads.store.fail = failing_at(1)
    with pytest.raises(Broken):
        loads.load(*BIG)
    dead = msgspec.structs.replace(loads.history.manifest(), open=2, voided=())
    loads.history.publish(dead)
    loads.store.fail = lambda _: None

    assert loads.served("a", "k0") == [(1, 1.0), None]
    again = loads.load(row("a", 1, 1.0))
    assert (again.load, loads.history.manifest().voided) == (None, (2,))
    assert loads.load(row("b", 1, 2.0)).load == 3
    assert loads.served("a", "b", "k0") == [(1, 1.0), (1, 2.0), None]


def test_a_first_load_that_breaks_off_shows_nothing(loads):
    """There was no committed load before it, and its rows are never seen."""
    loads.store.fail = failing_at(1)
    with pytest.raises(Broken):
        loads.load(*BIG)
    assert len(loads.store.data) > 1_000
    assert loads.served("a", "k0", "k1") == [None] * 3
    loads.store.fail = lambda _: None

    assert loads.load(row("a", 1, 2.0), row("k0", 1, 3.0)).load == 2
    assert loads.served("a", "k0", "k1") == [(1, 2.0), (1, 3.0), None]


def test_a_load_that_the_store_does_not_know_of_is_shown_by_the_next_one(loads):
    """The manifest is the commit point: the same rows again are known, and the store filled."""
    loads.load(row("a", 1, 1.0))
    loads.store.fail = failing_at(1)  # the rows pass, the page of loads does not
    with pytest.raises(Broken):
        loads.load(row("a", 2, 2.0))
    loads.store.fail = lambda _: None

    assert loads.served("a") == [(1, 1.0)]
    assert [kept[0] for kept in kept_in(loads.history)] == [1, 2]
    again = loads.load(row("a", 2, 2.0))
    assert (again.load, again.known, again.refilled) == (None, 1, True)
    assert loads.served("a") == [(2, 2.0)]
    assert all(load.visible_us for load in loads.history.manifest().loads)


def test_a_source_that_breaks_off_has_begun_no_load(loads):
    """It is read before anything is written; an error that is not ours comes as it is."""
    loads.load(row("a", 1, 1.0))
    before = loads.history.manifest()

    def rows():
        yield row("a", 5, 5.0)
        raise Broken

    with pytest.raises(Broken):
        loads.loading.load(rows())
    assert loads.history.manifest() == before
    assert loads.served("a") == [(1, 1.0)]


def test_only_one_loads_a_group_at_a_time(customers):
    """The second is told, and the first goes on; another group is not concerned."""
    refused = []

    def rows():
        for work in (lambda: customers.load(row("b", 1)), customers.refill):
            with pytest.raises(StoreLocked, match=r"HOF-501.*customer\.1") as caught:
                work()
            refused.append(caught.value)
        assert customers.load(row("a", 7, 7.0), name="customer_2").load == 1
        yield row("a", 1, 1.0)

    assert customers.app.materialize("customer", rows()).load == 1
    assert len(refused) == 2
    assert customers.served("a", "b") == [(1, 1.0), "NOT_FOUND"]
    assert customers.served("a", name="customer_2") == [(7, 7.0)]
    assert customers.load(row("b", 1)).load == 2


# --- whatever comes ---

SOME = st.lists(
    st.builds(row, st.sampled_from(KEYS), st.integers(0, 4), st.sampled_from([None, 1.0, 2.0])),
    max_size=7,
)
# Rows, mode, whether the store loses everything first, and how many puts pass before one fails.
STEPS = st.lists(
    st.tuples(SOME, st.sampled_from(["full", "full", "incremental"]),
              st.sampled_from([False, False, True]), st.sampled_from([None, None, 0, 1, 2])),
    min_size=1, max_size=5,
)  # fmt: skip


class Model:
    """What is obviously right, row by row."""

    def __init__(self):
        self.kept = []  # (load, key, seconds, x), loads in order

    def load(self, rows, mode, number):
        """What a load's report must say; the rows are kept as those of this load."""
        newest = max((kept[2] for kept in self.kept), default=None)
        counts = dict.fromkeys(("older", "duplicates", "known", "rows"), 0)
        single = {}
        for each in rows:
            seconds = (each["ts"] - START) // 10**6
            if mode == "incremental" and newest is not None and seconds <= newest:
                counts["older"] += 1
                continue
            counts["duplicates"] += (each["k"], seconds) in single
            single[each["k"], seconds] = each["x"]
        current = {kept[1:3]: kept[3] for kept in self.kept}
        fresh = []
        for place, x in single.items():
            is_known = mode == "full" and place in current and current[place] == x
            counts["known" if is_known else "rows"] += 1
            fresh += [] if is_known else [(number, *place, x)]
        before = self.newest()
        self.kept += sorted(fresh, key=lambda kept: kept[1:3])
        counts["keys"] = sum(now != then for now, then in zip(self.newest(), before, strict=True))
        return counts

    def newest(self):
        """(load, key, seconds, x) by (time, load), of each key."""
        return [
            max((kept for kept in self.kept if kept[1] == key),
                key=lambda kept: (kept[2], kept[0]), default=None)
            for key in KEYS
        ]  # fmt: skip


@given(STEPS)
def test_after_any_loads_the_newest_rows_are_served_and_every_row_is_kept(tmp_path_factory, steps):
    """Some break off at a put, some find a store that lost everything; reports add up."""
    loads = Loads(tmp_path_factory.mktemp("loads"))
    model = Model()
    for rows, mode, is_lost, fail_at in steps:
        loads.store.data = {} if is_lost else loads.store.data
        loads.store.fail = (lambda _: None) if fail_at is None else failing_at(fail_at)
        before, number = [*model.kept], loads.history.manifest().next
        counts = model.load(rows, mode, number)
        report = None
        with suppress(Broken):
            report = loads.load(*rows, mode=mode)
        loads.store.fail = lambda _: None
        if report is None:
            if number not in [load.load for load in loads.history.manifest().loads]:
                model.kept = before  # it was void
            loads.load()  # nothing; what the store does not know yet is put there
        else:
            found = {name: getattr(report, name) for name in counts}
            assert (found, report.read) == (counts, len(rows))
            assert report.read == report.rows + report.known + report.older + report.duplicates
            assert report.load == (number if report.rows else None)
        served = [None if kept is None else kept[2:] for kept in model.newest()]
        assert loads.served() == served
        assert kept_in(loads.history) == model.kept


@given(st.lists(SOME, min_size=1, max_size=4), st.data())
def test_a_refill_gives_the_answers_that_there_were(tmp_path_factory, batches, data):
    """Whatever part of the store is left."""
    loads = Loads(tmp_path_factory.mktemp("loads"))
    for rows in batches:
        loads.load(*rows)
    answers = loads.served()
    places = sorted(loads.store.data)
    for place in data.draw(st.lists(st.sampled_from(places))) if places else []:
        loads.store.data.pop(place, None)
    loads.loading.refill()

    assert loads.served() == answers
