"""The online store is killed, stopped, emptied, spoiled: each answer says so, and none is wrong."""

import itertools
import json
import os
import random
import shutil
import subprocess
import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hofflight as hof
from hofflight.testing.valkey import valkey_server
from tests.integration.test_cli import COMMAND, environment

S = 1_000_000
NOON_US = 1_700_000_000 * S
THREADS = 4
CARDS = 40  # of each thread; of every ten one was never loaded
FEATURES = """
import pyarrow as pa
import hofflight as hof

card_tx = hof.feature_group(
    "card_tx", version=1, key="card", event_time="ts",
    input={"card": pa.int64(), "ts": hof.TIMESTAMP, "amount": pa.float64()},
    windows={"n": hof.count().lifetime(), "mean": hof.mean("amount").over("1h")},
)
customer = hof.stored_group(
    "customer", version=1, key="card", event_time="updated",
    schema={"card": pa.int64(), "updated": hof.TIMESTAMP, "score": pa.float64(),
            "name": pa.string()},
)
fraud = hof.view("fraud", version=1, features=["card_tx.n", "customer.score", "customer.name"])
plain = hof.view("plain", version=1, features=["card_tx.n", "card_tx.mean"])
"""


def is_loaded(card):
    return card % 10 != 9


def customers(cards, *, version=1, updated_us=NOON_US):
    """A row of each card; its values tell the card and the version."""
    cards = list(cards)
    return pa.table({
        "card": pa.array(cards, pa.int64()),
        "updated": pa.array([updated_us] * len(cards), hof.TIMESTAMP),
        "score": pa.array([card + version / 1_024 for card in cards]),
        "name": [f"card {card}" for card in cards],
    })  # fmt: skip


DECLARED = {}
exec(FEATURES, DECLARED)


class Place:
    """A directory with the module and a store, and what is run in it."""

    def __init__(self, folder, url=""):
        self.folder, self.store = folder, folder / "store"
        (folder / "features.py").write_text(FEATURES)
        self._online = {"url": url, "timeout_ms": 5_000} if url else {"map_bytes": 1 << 28}
        more = {"HOF_ONLINE__URL": url} if url else {"HOF_ONLINE__MAP_BYTES": str(1 << 28)}
        self.environment = {**environment(), **more}
        self.open().close()

    def open(self):
        """The store in this process."""
        settings = hof.load_settings(online=self._online, replay={"threads": 1})
        app = hof.open(self.store, settings=settings)
        for name in ("card_tx", "customer"):
            app.register(DECLARED[name])
        for name in ("fraud", "plain"):
            app.view(name, 1, DECLARED[name].features)
        return app

    def fill(self):
        """Load what is loaded of all cards."""
        with self.open() as app:
            app.materialize("customer", customers(filter(is_loaded, range(THREADS * CARDS))))

    def run(self, *arguments):
        """`hof ARGUMENTS --json`: what it printed."""
        done = subprocess.run(
            [*COMMAND, *arguments, "--store", "store", "--json"], cwd=self.folder,
            env=self.environment, capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def load(self, rows):
        pq.write_table(rows, self.folder / "rows.parquet")
        return self.run("materialize", "customer", "rows.parquet")

    @contextmanager
    def serving(self):
        """`hof serve` as a process: it and its address; that it did not die is seen at the end."""
        command = [*COMMAND, "serve", "--json", "--grpc", "127.0.0.1:0"]
        with subprocess.Popen(
            [*command, "--store", "store", "--modules", "features"], cwd=self.folder,
            env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        ) as process:  # fmt: skip
            try:
                yield process, json.loads(process.stdout.readline())["address"]
                assert process.poll() is None
                process.terminate()
                assert process.wait(60) == 0
            finally:
                process.kill()


class Load:
    """Threads that ask for both views by turns and check every answer.

    Each thread has cards of its own, so it knows how often each was counted. `latencies_s`: of the
    view without stored features. `states`: how often each status was seen, since `look`.
    """

    def __init__(self, clients):
        self.clients = clients
        self.counts = Counter()
        self.version = 1
        self.states = Counter()
        self.failures = []
        self.requests = 0
        self._lock = threading.Lock()
        self.at_us = itertools.count(NOON_US, 1_000)

    def run(self, requests, halfway=None):
        """So many requests of each view and thread; `halfway` is called when half were answered."""
        self.states = Counter()
        latencies_s = []
        half = threading.Event()
        done = itertools.count(1)

        def ask(place):
            try:
                for number in range(requests):
                    card = place * CARDS + number % CARDS
                    self._joined(place, card)
                    latencies_s.append(self._plain(place, card))
                    if next(done) >= THREADS * requests // 2:
                        half.set()
            except Exception as error:
                self.failures.append(repr(error))
            half.set()

        threads = [threading.Thread(target=ask, args=(place,)) for place in range(THREADS)]
        for thread in threads:
            thread.start()
        if halfway is not None:
            assert half.wait(60)
            halfway()
        for thread in threads:
            thread.join(100)
        assert self.failures == []
        assert len(latencies_s) == THREADS * requests
        self.requests += 2 * len(latencies_s)
        return latencies_s

    def until_present(self):
        """Ask until a loaded row is served again: within a few of the store's pauses."""
        for _ in range(200):
            self.states = Counter()
            self._joined(0, 0)
            if self.states["PRESENT"]:
                return
            time.sleep(0.02)
        raise AssertionError(self.states)

    def _joined(self, place, card):
        vector = self.clients[place].vector("fraud", self._row(card))
        found = vector.to_dict()
        self.counts[card] += 1
        assert found["card_tx.n"] == self.counts[card]
        values = found["customer.score"], found["customer.name"]
        state, other = vector.status["customer.score"], vector.status["customer.name"]
        assert state == other
        if state == "PRESENT":
            assert is_loaded(card)
            assert values == (card + self.version / 1_024, f"card {card}")
        else:
            assert state in ({"UNAVAILABLE"} if is_loaded(card) else {"UNAVAILABLE", "NOT_FOUND"})
            assert values == (None, None)
        with self._lock:
            self.states[state] += 1

    def _plain(self, place, card):
        row = self._row(card)
        started_s = time.perf_counter()
        vector = self.clients[place].vector("plain", row)
        took_s = time.perf_counter() - started_s
        self.counts[card] += 1
        assert vector.to_dict()["card_tx.n"] == self.counts[card]
        assert vector.status == {}
        return took_s

    def _row(self, card):
        return {"card": card, "ts": next(self.at_us), "amount": float(card)}


@contextmanager
def loaded(address):
    """A load of the server at an address, each thread by a client of its own."""
    with ExitStack() as stack:
        connect = partial(hof.connect, address, deadline_ms=30_000)
        yield Load([stack.enter_context(connect()) for _ in range(THREADS)])


def ms(latencies_s):
    return round(float(np.percentile(latencies_s, 99)) * 1e3, 2)


@pytest.mark.timeout(300)
def test_valkey_killed_emptied_and_stopped_under_load(tmp_path):
    """All is answered and marked, streaming goes on, and all is well again without a restart."""
    with valkey_server() as valkey:
        place = Place(tmp_path, valkey.url)
        place.fill()
        with place.serving() as (_, address), loaded(address) as load:
            load.run(40)
            assert set(load.states) == {"PRESENT", "NOT_FOUND"}

            # Killed under load: what is loaded is out of reach, and said to be.
            load.run(100, valkey.kill)
            killed = load.states
            assert killed["PRESENT"]
            assert killed["UNAVAILABLE"]
            # Back, and empty: nothing of it is "not found".
            valkey.restart()
            load.run(40)
            assert set(load.states) == {"UNAVAILABLE"}
            # Filled again by another process, under load.
            load.run(60, lambda: place.run("materialize", "customer", "--refill"))
            load.until_present()
            load.run(40)
            assert set(load.states) == {"PRESENT", "NOT_FOUND"}

            well, stopped = stop_and_go(valkey, load)
            load.run(40)
            assert set(load.states) == {"PRESENT", "NOT_FOUND"}
            load.version = 2
            place.load(customers(filter(is_loaded, range(160)), version=2, updated_us=NOON_US + 1))
            load.run(40)
            assert set(load.states) == {"PRESENT", "NOT_FOUND"}
            requests, counted = load.requests, sum(load.counts.values())
        parity = place.run("verify", "fraud", "--modules", "features")

    ratio = ms(stopped) / ms(well)
    print(
        f"\n{requests} requests; p99 of the streaming-only view {ms(well)} ms while Valkey "
        f"answers, {ms(stopped)} ms while it is stopped: ratio {ratio:.2f}; "
        f"killed: {dict(killed)}; verify: {parity['parts']}, {parity['unavailable']} unavailable"
    )
    assert ratio <= 3
    assert parity["mismatches"] == 0, parity["worst"]
    assert parity["unavailable"] > 0
    assert parity["rows"] == parity["parts"]["card_tx"] == counted
    assert 2 * parity["parts"]["customer"] >= counted


def stop_and_go(valkey, load):
    """Latencies of the view that needs no store while Valkey answers and while it is stopped.

    By turns, so that whatever else the machine does meets both.
    """
    well, stopped = [], []
    for _ in range(3):
        well += load.run(120)
        assert set(load.states) == {"PRESENT", "NOT_FOUND"}
        valkey.stop()
        stopped += load.run(120)
        assert set(load.states) == {"UNAVAILABLE"}
        valkey.cont()
        load.until_present()
    return well, stopped


# --- LMDB -----------------------------------------------------------------------------------------


def zeros(size):
    return bytes(size)


SPOILED = {"zeros": zeros, "noise": os.urandom}


@pytest.fixture
def local(tmp_path):
    """A store with LMDB, loaded."""
    place = Place(tmp_path)
    place.fill()
    return place


@pytest.mark.parametrize("how", SPOILED)
def test_a_spoiled_lmdb_file_is_marked_and_mended_by_a_refill_after_a_restart(local, how):
    """The server goes on; one that starts with such a file does too."""
    path = local.store / "online" / "data.mdb"
    with local.serving() as (_, address), loaded(address) as load:
        load.run(5)
        with path.open("r+b") as file:
            file.write(SPOILED[how](path.stat().st_size))
        load.run(10)
        assert set(load.states) == {"UNAVAILABLE"}
    with local.open() as app:
        load.clients = [app] * THREADS
        load.run(5)
        assert set(load.states) == {"UNAVAILABLE"}
    shutil.rmtree(local.store / "online")
    with local.open() as app:
        app.offline().refill("customer", None, app.worker.lookups)
        load.clients = [app] * THREADS
        load.run(5)
        assert set(load.states) <= {"PRESENT", "NOT_FOUND"}
        parity = app.verify("fraud")

    assert parity.mismatches == 0, parity.worst
    assert parity.unavailable == 15 * THREADS


def test_a_removed_lmdb_folder_ends_nothing(local):
    """Every answer is right or marked; the server ends as it should, and the next one is well."""
    with local.serving() as (_, address), loaded(address) as load:
        load.run(5, lambda: shutil.rmtree(local.store / "online"))
        load.run(10)
    with local.open() as app:
        load.clients = [app] * THREADS
        load.run(5)
        assert set(load.states) == {"UNAVAILABLE"}
        app.offline().refill("customer", None, app.worker.lookups)
        load.run(5)
        assert set(load.states) <= {"PRESENT", "NOT_FOUND"}
        assert app.verify("fraud").mismatches == 0


def test_a_load_after_the_lmdb_folder_was_removed_is_not_answered_with_older_rows(local):
    """The loader makes a new folder; a server with the old file open would go on with old rows."""
    with local.serving() as (_, address), hof.connect(address, deadline_ms=30_000) as client:
        assert client.vector("customer", keys={"card": 1}).status["customer.score"] == "PRESENT"
        shutil.rmtree(local.store / "online")
        local.load(customers([1], version=2, updated_us=NOON_US + 1))
        for _ in range(100):  # whatever the server needs to see it
            vector = client.vector("customer", keys={"card": 1})
            found = vector.status["customer.score"], vector.to_dict()["customer.score"]
            if found != ("PRESENT", 1 + 1 / 1_024):
                break
            time.sleep(0.05)

    assert found in [("PRESENT", 1 + 2 / 1_024), ("UNAVAILABLE", None)]


# --- a load that is killed ------------------------------------------------------------------------

ROWS = 20_000
ASKED = [0, 1, 7, ROWS // 3, ROWS // 2, ROWS - 2, ROWS - 1]


class Loads:
    """Loads of every key, one version after the other, and what of them is served meanwhile."""

    def __init__(self, place, app):
        self.place, self.app = place, app
        self.version = 0
        self.served = 0
        self.number = 0

    def begin(self):
        """`hof materialize` of the next version, as a process."""
        self.version += 1
        rows = customers(range(ROWS), version=self.version, updated_us=NOON_US + self.version)
        pq.write_table(rows, self.place.folder / "next.parquet", row_group_size=1_000)
        command = [*COMMAND, "materialize", "customer", "next.parquet", "--mode", "incremental"]
        return subprocess.Popen(
            [*command, "--store", "store"], cwd=self.place.folder, env=self.place.environment,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def check(self):
        """All keys are served by one load, and no older one than before."""
        self.number += 1
        rows = [{"card": c, "ts": NOON_US + self.number * S, "amount": 0.0} for c in ASKED]
        scores = self.app.vector("fraud", rows).batch["customer.score"].to_pylist()
        if None in scores:
            versions = set(scores)
        else:
            versions = {(score - c) * 1_024 for score, c in zip(scores, ASKED, strict=True)}
        (version,) = versions
        assert self.served <= (version or 0) <= self.version
        self.served = version or 0


def kill_loads(place, kills, seed):
    """How many loads were killed, and in which of their steps."""
    random_ = random.Random(seed)
    outcomes = Counter()
    with place.open() as app:
        loads = Loads(place, app)
        for _ in range(kills):
            with loads.begin() as loader:
                # What comes before its first row is in takes most of the time.
                line = loader.stderr.readline()
                assert line.startswith("loading customer: "), line
                end_s = time.monotonic() + random_.random() * 0.5
                while loader.poll() is None and time.monotonic() < end_s:
                    loads.check()
                loader.kill()
                loader.communicate()
            assert loader.returncode in (0, -9), f"seed {seed}"
            path = place.store / "stored" / "customer.1" / "manifest.json"
            manifest = json.loads(path.read_bytes()) if path.exists() else {"open": 0}
            outcomes[loader.returncode, bool(manifest["open"])] += 1
            loads.check()
        with loads.begin() as loader:
            while loader.poll() is None:
                loads.check()
            assert loader.returncode == 0, loader.stderr.read()
        loads.check()
        assert loads.served == loads.version, f"seed {seed}"
        asked = loads.number * len(ASKED)
        parity = app.verify("fraud")
    assert parity.mismatches == 0, (seed, parity.worst)
    assert parity.parts == {"card_tx": asked, "customer": asked}
    print(f"\n{kills} loads, by (exit code, open in the manifest): {dict(outcomes)}; seed {seed}")


def test_a_load_that_was_killed_is_never_seen_and_the_next_one_works(tmp_path):
    """Five kills at random moments; the seed stands in every message."""
    kill_loads(Place(tmp_path), 5, random.randrange(2**32))


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("store", ["lmdb", "valkey"])
def test_twenty_loads_that_were_killed_are_never_seen(tmp_path, store):
    """The same, twenty times, on either store."""
    if store == "lmdb":
        kill_loads(Place(tmp_path), 20, random.randrange(2**32))
        return
    with valkey_server() as valkey:
        kill_loads(Place(tmp_path, valkey.url), 20, random.randrange(2**32))
