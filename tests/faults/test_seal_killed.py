"""SIGKILL while a log is sealed: the next seal goes on, and every row is there exactly once."""

import random
import subprocess
import sys
import time
from collections import Counter

import pyarrow as pa
import pytest

import hofflight as hof

S = 1_000_000
BATCH = 40
SETTINGS = {
    "log": {"segment_bytes_max": 1 << 20, "seal_bytes": 0, "seal_age_s": 0},
    "engine": {"ids_max": 10, "ids_age_s": 1, "snapshot_records": 50},
}


def make_group():
    return hof.feature_group(
        "g", version=1, key="card", event_time="ts",
        input={"card": pa.int64(), "ts": hof.TIMESTAMP, "x": pa.float64(), "text": pa.string()},
        windows={
            "n": hof.count().over("1h"), "sum": hof.sum("x").over("10m"),
            "life": hof.mean("x").lifetime(), "std": hof.std("x").over("1d", tile="1h"),
        },
    )  # fmt: skip


def rows_of(request):
    """Rows that need some room, so that segments fill; some come too late."""
    numbers = range(request * BATCH, (request + 1) * BATCH)
    return [
        {"card": n % 7, "ts": (10**9 + n - (900 if n % 31 == 5 else 0)) * S, "x": n * 0.1,
         "text": random.Random(n).randbytes(200).hex()}
        for n in numbers
    ]  # fmt: skip


def open_store(path):
    app = hof.open(path, settings=hof.load_settings(**SETTINGS))
    app.register(make_group())
    return app


def send(app, requests):
    """What was answered, comparable to the bit."""
    return [
        repr(app.vector("g", rows_of(n), request_id=n.to_bytes(16, "big")).batch.to_pylist())
        for n in requests
    ]


def seal(path, *, kill_after_s=None):
    """`hof log seal` as a process; whether it was killed before its end."""
    command = [sys.executable, "-c", PROGRAM, str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if kill_after_s is not None:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        time.sleep(kill_after_s)
        process.kill()
    _, error = process.communicate()
    assert process.returncode in ((0,) if kill_after_s is None else (0, -9)), error
    return process.returncode != 0


# The command, told to seal in small parts: a kill then falls between, before or into any of them.
PROGRAM = """
import sys
import pyarrow as pa
import pyarrow.parquet as pq
from hofflight.cli.main import main
from hofflight.replay import offline, seal
seal_all = seal.seal
def seal_in_small_parts(*args, **options):
    # What is loaded on first use would take most of the time in which a kill may fall.
    table = pa.table({"x": pa.array([0.0]).to_numpy()}).sort_by("x")
    pq.write_table(table, pa.BufferOutputStream(), compression="zstd")
    print("ready", flush=True)
    return seal_all(*args, rows_max=50, **options)
offline.seal = seal_in_small_parts
sys.argv = ["hof", "log", "seal", "--store", sys.argv[1]]
main()
"""


def assert_every_row_once(path, requests, seed):
    """By their ids and places, out of the whole history, and out of the files that are there."""
    with open_store(path) as app:
        history = app.offline().history("g")
        found = Counter()
        for part in history.parts():
            ids, rows = part.rows.column("_request_id"), part.rows.column("_row")
            found.update(zip(ids.to_pylist(), rows.to_pylist(), strict=True))
        expected = {(n.to_bytes(16, "big"), row) for n in range(requests) for row in range(BATCH)}
        assert set(found) == expected, f"seed {seed}"
        assert set(found.values()) == {1}, f"seed {seed}"
        manifest = history.sealed.manifest()
        listed = {history.sealed.directory / file.path for file in manifest.files}
        assert set(history.sealed.directory.rglob("*.parquet")) == listed, f"seed {seed}"
        return manifest.sealed_to, app.engine._works["g.1"].partition.log.first_number()


def kill_seals(path, kills, seed):
    """Send, kill a seal, open and close (which trims), again; then seal to the end, and compare."""
    random_ = random.Random(seed)
    killed, done = 0, 0
    answers, step = [], 12
    for _ in range(kills):
        with open_store(path) as app:
            answers += send(app, range(done, done + step))
        done += step
        killed += seal(path, kill_after_s=random_.random() * 0.25)
        with open_store(path):
            pass
    seal(path)
    sealed_to, first = assert_every_row_once(path, done, seed)
    assert sealed_to == done, f"seed {seed}"
    with open_store(path) as app:
        answers += send(app, range(done, done + 5))
    with open_store(path.with_name("uninterrupted")) as plain:
        assert send(plain, range(done + 5)) == answers, f"seed {seed}"
    return killed, first


def test_a_seal_that_was_killed_is_gone_on_with(tmp_path):
    """Three kills at random moments; the seed stands in every message."""
    kill_seals(tmp_path / "store", 3, random.randrange(2**32))


@pytest.mark.soak
def test_twenty_seals_that_were_killed_lose_and_double_nothing(tmp_path):
    """The same, twenty times on one store; the log is trimmed on the way."""
    killed, first = kill_seals(tmp_path / "store", 20, random.randrange(2**32))

    assert killed > 3
    assert first > 1
