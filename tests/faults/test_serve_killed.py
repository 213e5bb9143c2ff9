"""SIGKILL of `hof serve` under load: what clients were answered is in the log exactly once."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import pyarrow as pa
import pytest

import hofflight as hof
from benchmarks.workloads import events, expressions
from hofflight.assemble import read_store
from hofflight.wire.ipc import join_message

CLIENTS = 4


class Server:
    """A `hof serve` of the benchmark's expressions, to be killed."""

    def __init__(self, store):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hofflight.cli.main", "serve", "--json", "--store", str(store),
             "--modules", "benchmarks.workloads", "--grpc", "127.0.0.1:0"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={**os.environ, "HOF_ENGINE__SNAPSHOT_RECORDS": "500"},
        )  # fmt: skip
        self.address = json.loads(self.process.stdout.readline())["address"]

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()


def load_until_killed(server, numbers, answered, enough):
    """Clients ask one row after the other until the server is gone."""

    def ask(client):
        with client:
            for number in numbers:
                row = events(1, first=number)
                try:
                    vector = client.vector(
                        expressions.name,
                        row,
                        request_id=number.to_bytes(16, "big"),
                        deadline_ms=400,
                    )
                except hof.HofError:
                    return
                answered[number] = vector.batch
                if len(answered) % 100 == 0:
                    enough.set()

    threads = [
        threading.Thread(target=ask, args=(hof.connect(server.address),)) for _ in range(CLIENTS)
    ]
    for thread in threads:
        thread.start()
    assert enough.wait(60)
    time.sleep(random.random() / 5)
    server.kill()
    for thread in threads:
        thread.join()


def check_log(store, answered):
    """Each answered request is logged once, as answered; the raw rows in the order of the log."""
    _, logs = read_store(store)
    entries = [entry for _, entry in logs[f"{expressions.name}.1"].read()]
    times_logged = Counter(entry.meta.id for entry in entries)
    assert set(times_logged.values()) == {1}
    recorded = {int.from_bytes(e.meta.id, "big"): e for e in entries}
    for number, batch in answered.items():
        assert number in recorded, f"{number} was answered and is not in the log"
        entry = recorded[number]
        full = read(entry.answer_head, entry.answer_body, expressions.schema)
        assert [c.to_pylist() for c in full.columns] == [c.to_pylist() for c in batch.columns]
    return [read(e.head, e.body, expressions.input) for e in entries]


def read(head, body, schema):
    return pa.ipc.read_record_batch(pa.py_buffer(join_message(head, body)), schema)


def kill_and_check(store, kills):
    numbers = itertools.count()  # next() of a C iterator is one step for all threads
    answered = {}
    for _ in range(kills):
        load_until_killed(Server(store), numbers, answered, threading.Event())
    logged = check_log(store, answered)

    more = [events(1, first=next(numbers)) for _ in range(200)]
    with hof.open(store) as app:
        app.register(expressions)
        after = [app.vector(expressions.name, row).batch for row in more]

    uninterrupted = hof.testing.run(
        expressions, pa.Table.from_batches([*logged, *more]), batch_rows=1
    )
    expected = uninterrupted.table.slice(len(logged)).to_pylist()
    got = [row for batch in after for row in batch.to_pylist()]
    prefix = f"{expressions.name}."
    assert [{k.removeprefix(prefix): v for k, v in row.items()} for row in got] == expected


@pytest.mark.timeout(180)
def test_three_kills_in_a_row_lose_and_double_nothing(tmp_path):
    """The log, snapshots taken meanwhile, and the answers after the last restart."""
    kill_and_check(tmp_path / "store", 3)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_twenty_kills_in_a_row_lose_and_double_nothing(tmp_path):
    """The same, twenty times."""
    kill_and_check(tmp_path / "store", 20)
