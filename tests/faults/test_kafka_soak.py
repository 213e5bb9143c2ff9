"""Hours in short: what servers and workers keep while they run, and what starts leave behind."""

import asyncio
import itertools
import signal
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from aiokafka.admin import AIOKafkaAdminClient

import hofflight as hof
from tests.integration.kafka_place import KafkaPlace, ended, event

pytestmark = [pytest.mark.kafka, pytest.mark.soak]

CLIENTS, MEASURE_S, SOAK_S, SETTLE_S = 8, 20, 600, 180
STARTS = 50
# So that what is bounded is full long before the first look.
SMALL = {"HOF_ENGINE__IDS_MAX": "20000", "HOF_ENGINE__SNAPSHOT_RECORDS": "20000",
         "HOF_LOG__SEAL_BYTES": str(4 << 20), "HOF_LOG__SEGMENT_BYTES_MAX": str(4 << 20),
         "HOF_LOG__SEAL_CHECK_S": "5"}  # fmt: skip


class Load:
    """Clients that ask without pause, or together so often a second."""

    def __init__(self, address):
        self.address = address
        self.events = itertools.count()
        self.answered = 0
        self.lock = threading.Lock()

    def run(self, seconds, rate=None):
        """Answers a second."""
        end = time.monotonic() + seconds
        before = self.answered
        with ThreadPoolExecutor(CLIENTS) as pool:
            for one in [pool.submit(self._ask, n, end, rate) for n in range(CLIENTS)]:
                one.result()
        return (self.answered - before) / seconds

    def _ask(self, number, end, rate):
        turn = 0
        begin = time.monotonic()
        with hof.connect(self.address, deadline_ms=30_000) as client:
            while time.monotonic() < end:
                client.vector("card_tx", event(number, next(self.events)))
                turn += 1
                with self.lock:
                    self.answered += 1
                if rate is not None:
                    due = begin + turn * CLIENTS / rate
                    time.sleep(max(0.0, due - time.monotonic()))


def watched(processes, seconds, every_s=5.0):
    """[(second, resident bytes of each)], taken beside whatever runs."""
    found = []
    begin = time.monotonic()
    while time.monotonic() < begin + seconds:
        found.append((time.monotonic() - begin, [p.memory_info().rss for p in processes]))
        time.sleep(every_s)
    return found


def test_ten_minutes_at_half_the_maximum_rate_keep_nothing(tmp_path, broker):
    """Memory in the last quarter is that of the quarter before, for servers and for workers."""
    place = KafkaPlace(tmp_path, broker.bootstrap)
    place.register()
    with place.working(**SMALL) as worker, place.serving() as (server, address):
        load = Load(address)
        most = load.run(MEASURE_S)
        processes = [psutil.Process(p.pid) for p in (server, worker)]
        with ThreadPoolExecutor(1) as pool:
            rate = pool.submit(load.run, SOAK_S, most / 2)
            seen = watched(processes, SOAK_S - 5)
            held = rate.result()
        assert (ended(server), ended(worker)) == (0, 0)

    settled = [(second, sizes) for second, sizes in seen if second > SETTLE_S]
    for place_in, name in enumerate(("server", "worker")):
        sizes = [entry[1][place_in] / (1 << 20) for entry in settled]
        slope = statistics.linear_regression([s for s, _ in settled], sizes).slope * 60
        print(f"{name}: {sizes[0]:.1f} to {sizes[-1]:.1f} MiB, {slope:+.3f} MiB a minute")
        half = len(sizes) // 2
        before, after = statistics.median(sizes[:half]), statistics.median(sizes[half:])
        assert after < before * 1.05, f"{name} grows: {before:.1f} to {after:.1f} MiB"
    print(f"at most {most:.0f} a second; {held:.0f} a second for {SOAK_S} s")
    assert held > 0.4 * most
    verified = [place.verified(partition) for partition in (0, 1)]
    assert sum(one["rows"] for one in verified) == load.answered
    assert [one["mismatches"] for one in verified] == [0, 0]


async def leftovers(bootstrap):
    """What a cluster keeps: topics, and consumer groups."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        return set(await admin.list_topics()), set(await admin.list_consumer_groups())
    finally:
        await admin.close()


def test_fifty_starts_of_a_server_leave_nothing_behind(tmp_path, broker):
    """Every second one is killed; a pool of four topics serves them all."""
    place = KafkaPlace(tmp_path, broker.bootstrap)
    place.register()
    with place.working() as worker:
        before = None
        connections = []
        for start in range(STARTS):
            with place.serving() as (server, address):
                with hof.connect(address, deadline_ms=20_000) as client:
                    found = client.vector("card_tx", event(1, start)).to_dict()
                assert found["card_tx.n_60"] == min(start + 1, 60)
                if start % 2:
                    server.kill()
                    server.wait(10)
                else:
                    assert ended(server, signal.SIGTERM) == 0
            if start == 5:  # by then the worker's own group has its offsets
                before = asyncio.run(leftovers(broker.bootstrap))
            connections.append(len(psutil.Process(worker.pid).net_connections()))
        after = asyncio.run(leftovers(broker.bootstrap))
    assert after == before
    assert max(connections[STARTS // 2 :]) <= max(connections[: STARTS // 2])
