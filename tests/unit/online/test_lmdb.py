"""LMDB as a store: what damages it, who shares it, and what it leaves on the disk."""

import os
import random
import shutil
import subprocess
import sys
import threading
from contextlib import suppress

import pytest

from hofflight.errors import OnlineUnavailable
from hofflight.online.lmdb import LmdbStore
from hofflight.settings import OnlineSettings

MIB = 1 << 20


class Lmdb:
    """A store and short words for it."""

    def __init__(self, directory, *, read_only=False, **settings):
        self.directory = directory
        self.file = directory / "data.mdb"
        chosen = OnlineSettings(**{"map_bytes": 1 << 30} | settings)
        self.store = LmdbStore(directory, chosen, read_only=read_only)

    def get(self, *keys):
        return driven(self.store.get_many(keys))

    def put(self, *items):
        driven(self.store.put_many(items))

    def health(self):
        return driven(self.store.health())

    def close(self):
        driven(self.store.close())


def driven(coroutine):
    """What it returns; it never waits, so it needs no event loop."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waited")


@pytest.fixture
def opened(tmp_path):
    """Opens a store in the test's directory; the one before it is closed."""
    stores = []

    def opened(directory=tmp_path / "store" / "online", **options):
        for store in stores:
            store.close()
        stores.append(Lmdb(directory, **options))
        return stores[-1]

    yield opened
    for store in stores:
        store.close()


ITEMS = [(b"k%08d" % number, b"v%d" % number * 8) for number in range(20_000)]


# --- files ----------------------------------------------------------------------------------------


def test_nothing_is_made_before_the_first_call_and_then_for_the_owner_only(opened):
    """What is in it are features of people."""
    store = opened()
    assert not store.directory.exists()
    store.put((b"a", b"1"))

    modes = {path.name: path.stat().st_mode & 0o777 for path in store.directory.iterdir()}
    assert modes == {"data.mdb": 0o600, "lock.mdb": 0o600}
    assert store.directory.stat().st_mode & 0o777 == 0o700


def test_the_map_is_address_space_and_not_disk(opened):
    """16 GiB by default, of a file that holds one row."""
    store = opened(map_bytes=OnlineSettings().map_bytes)
    store.put((b"a", b"1"))

    assert store.file.stat().st_size < MIB
    assert store.health().detail == "lmdb, 1 keys, 0 MiB of 16384"


def test_reads_between_the_writes_do_not_let_the_file_grow(opened):
    """A snapshot that stayed open would keep every page that was replaced since."""
    store = opened()
    value = os.urandom(100_000)
    for _ in range(5):
        store.put(*[(b"k%d" % number, value) for number in range(10)])
        store.get(b"k1")
    size = store.file.stat().st_size
    for _ in range(50):
        store.put(*[(b"k%d" % number, value) for number in range(10)])
        store.get(b"k1")

    assert store.file.stat().st_size <= size * 1.5


# --- sharing --------------------------------------------------------------------------------------


def another_process(store, code):
    """Runs code with `environment`, the same one opened elsewhere, with a map of its own size."""
    opening = f"import lmdb; environment = lmdb.open({str(store.directory)!r}, map_size=1 << 30)\n"
    return subprocess.Popen([sys.executable, "-c", opening + code], stdout=subprocess.PIPE)


def test_what_another_process_commits_is_seen_by_the_next_get(opened):
    store = opened()
    store.put((b"a", b"1"))
    with another_process(store, "with environment.begin(write=True) as t: t.put(b'a', b'2')"):
        pass

    assert store.get(b"a") == [b"2"]


@pytest.mark.parametrize("first", ["get", "put", "health"])
def test_a_map_that_another_process_has_grown_is_adopted(opened, first):
    """By whatever call meets it first."""
    store = opened(map_bytes=MIB)
    store.put((b"a", b"1"))
    code = "with environment.begin(write=True) as t: t.put(b'large', b'x' * (5 << 20))"
    with another_process(store, code):
        pass

    if first == "put":
        store.put((b"b", b"2"))
    elif first == "health":
        assert store.health().ok
    assert store.get(b"a", b"large") == [b"1", b"x" * (5 * MIB)]


def test_a_map_is_grown_under_readers_in_many_threads(opened):
    """Adopting the size ends the snapshots of the others, which read again."""
    store = opened(map_bytes=MIB)
    store.put((b"a", b"1"))
    done = threading.Event()
    failed, turns = [], [0] * 4

    def read(number):
        while not done.is_set():
            try:
                assert store.get(b"a") == [b"1"]
                turns[number] += 1
            except BaseException as error:
                failed.append(error)
                return

    threads = [threading.Thread(target=read, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    code = (
        "for megabytes in range(2, 60):\n"
        "    with environment.begin(write=True) as t: t.put(b'large', b'x' * (megabytes << 20))\n"
    )
    with another_process(store, code):
        pass
    before = sum(turns)
    while sum(turns) < before + 1_000 and not failed:
        pass
    done.set()
    for thread in threads:
        thread.join()

    assert failed == []


def test_a_reader_that_was_killed_does_not_let_the_file_grow(opened):
    """Its snapshot is let go of by the next write."""
    store = opened()
    value = os.urandom(MIB)
    store.put((b"a", value))
    code = "t = environment.begin(); t.get(b'a'); print(flush=True); import time; time.sleep(600)"
    reader = another_process(store, code)
    reader.stdout.readline()
    reader.kill()
    reader.communicate()
    for _ in range(30):
        store.put((b"a", value))

    assert store.file.stat().st_size < 10 * MIB


def test_a_writer_that_was_killed_leaves_all_of_a_put_or_nothing(opened):
    """Killed again and again in the middle of writing; what there is is of one write."""
    store = opened()
    keys = [b"k%d" % number for number in range(200)]
    code = (
        "import itertools, os\n"
        "print(flush=True)\n"
        "for n in itertools.count():\n"
        "    with environment.begin(write=True) as t:\n"
        "        for k in range(200): t.put(b'k%d' % k, b'%d %d ' % (os.getpid(), n) * 300)\n"
    )
    store.get(b"k1")
    for _ in range(8):
        writer = another_process(store, code)
        writer.stdout.readline()
        found = before = store.get(*keys)
        while found == before:  # it is writing now
            found = store.get(*keys)
        with suppress(subprocess.TimeoutExpired):
            writer.wait(random.uniform(0, 0.02))
        writer.kill()
        writer.communicate()
        assert len(set(store.get(*keys))) == 1
        store.put((b"after", b"%d" % writer.pid))
        assert store.get(b"after") == [b"%d" % writer.pid]


def test_a_read_only_store_reads_beside_the_writer_and_changes_nothing(opened, tmp_path):
    """What `hof describe` and its like open."""
    writer = opened()
    writer.put((b"a", b"1"))
    copy = tmp_path / "copy"
    shutil.copytree(writer.directory, copy)
    reader = opened(copy, read_only=True)

    assert reader.get(b"a", b"b") == [b"1", None]
    with pytest.raises(OnlineUnavailable, match="read-only"):
        reader.put((b"a", b"2"))


def test_a_read_only_store_makes_no_files(opened):
    """Where nothing was loaded yet there is nothing to read."""
    store = opened(read_only=True)
    with pytest.raises(OnlineUnavailable, match="cannot be opened"):
        store.get(b"a")

    assert not store.health().ok
    assert not store.directory.exists()


def test_a_second_store_of_one_directory_in_one_process_is_refused(opened):
    """LMDB's locks belong to the process: closing one would take them from the other."""
    first = opened()
    first.put((b"a", b"1"))
    second = Lmdb(first.directory)
    with pytest.raises(OnlineUnavailable, match="already open in this process"):
        second.get(b"a")
    first.close()

    assert second.get(b"a") == [b"1"]
    second.close()


# --- damage ---------------------------------------------------------------------------------------


def test_a_full_store_says_which_setting_to_raise_and_keeps_what_it_has(opened):
    """None of the put that did not fit is there; with a larger map it fits."""
    store = opened(map_bytes=MIB)
    store.put((b"a", b"1"))
    large = [(b"a", b"2"), (b"large", b"x" * 2 * MIB)]
    with pytest.raises(OnlineUnavailable, match=r"full: 1 MiB.*raise online\.map_bytes"):
        store.put(*large)
    assert store.get(b"a", b"large") == [b"1", None]
    store.put((b"a", b"still works"))

    roomy = opened(map_bytes=8 * MIB)
    roomy.put(*large)
    assert roomy.get(b"a", b"large") == [b"2", b"x" * 2 * MIB]


DAMAGES = {
    "text": lambda file: file.write_bytes(b"hello\n"),
    "noise": lambda file: file.write_bytes(random.Random(7).randbytes(100_000)),
    "no head": lambda file: overwrite(file, 0, 8_192),
    "only the head": lambda file: os.truncate(file, 8_192),
    "half of it": lambda file: os.truncate(file, file.stat().st_size // 2),
    "without its last page": lambda file: os.truncate(file, file.stat().st_size - 4_096),
    "a directory": lambda file: (file.unlink(), file.mkdir()),
}


def overwrite(file, start, length):
    data = bytearray(file.read_bytes())
    data[start : start + length] = random.Random(7).randbytes(length)
    file.write_bytes(data)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_file_is_refused_and_the_process_lives(opened, damage):
    """Reading behind the end of a map would be SIGBUS. Put right, it works without a restart."""
    store = opened()
    store.put(*ITEMS)
    store.close()
    whole = store.file.read_bytes()
    damage(store.file)

    damaged = opened()
    for _ in range(2):
        with pytest.raises(OnlineUnavailable, match=r"damaged|cannot be opened"):
            damaged.get(b"k00000007")
    with pytest.raises(OnlineUnavailable):
        damaged.put((b"a", b"1"))
    assert not damaged.health().ok

    shutil.rmtree(damaged.directory)
    damaged.directory.mkdir()
    damaged.file.write_bytes(whole)
    assert damaged.get(ITEMS[7][0]) == [ITEMS[7][1]]


def test_pages_that_are_not_what_was_written_are_an_error_and_not_a_value(opened):
    """Everything behind the head is noise."""
    store = opened()
    store.put(*ITEMS)
    store.close()
    overwrite(store.file, 8_192, store.file.stat().st_size - 8_192)

    with pytest.raises(OnlineUnavailable, match="CORRUPTED"):
        opened().get(*[key for key, _ in ITEMS])


def test_a_place_where_no_directory_can_be_is_refused(opened, tmp_path):
    """A file is in the way."""
    (tmp_path / "store").write_text("in the way")
    store = opened()

    with pytest.raises(OnlineUnavailable, match="Not a directory"):
        store.get(b"a")
    assert not store.health().ok


def test_a_store_that_is_closed_while_others_read_refuses_them(opened):
    """With our error, in every thread, whatever they were at."""
    store = opened()
    store.put(*ITEMS)
    keys = [key for key, _ in ITEMS]
    ends = []
    reading = threading.Barrier(5)

    def read():
        reading.wait()
        try:
            while True:
                store.get(*keys)
        except BaseException as error:
            ends.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    reading.wait()
    store.close()
    for thread in threads:
        thread.join()

    assert [type(end) for end in ends] == [OnlineUnavailable] * 4


def test_the_lock_file_of_a_power_loss_does_not_matter(opened):
    """It holds nothing that outlives the processes."""
    store = opened()
    store.put((b"a", b"1"))
    store.close()
    (store.directory / "lock.mdb").write_bytes(os.urandom(8_192))

    again = opened()
    assert again.get(b"a") == [b"1"]
    again.put((b"a", b"2"))
    assert again.get(b"a") == [b"2"]
