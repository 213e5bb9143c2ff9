"""SIGKILL at any moment: what was answered is in the log exactly once, and answers go on."""

import json
import random
import subprocess
import sys
import textwrap
from collections import Counter

import pytest

import hofflight as hof

S = 1_000_000

DEFINITION = """
    import pyarrow as pa
    import hofflight as hof

    def make_group():
        return hof.feature_group(
            "g", version=1, key="card", event_time="ts",
            input={"card": pa.int64(), "ts": hof.TIMESTAMP, "x": pa.float64()},
            windows={
                "n": hof.count().over("1h"), "sum": hof.sum("x").over("10m"),
                "life": hof.mean("x").lifetime(), "std": hof.std("x").over("1d", tile="1h"),
            },
        )

    def event(number):
        back = 500 if number % 7 == 3 else 0
        return {"card": number % 5, "ts": (10_000 + number * 30 - back) * 1_000_000,
                "x": (number * 0.1) * (1e15 if number % 11 == 0 else 1)}
"""
SERVER = (
    DEFINITION
    + """
    import json, sys
    settings = hof.load_settings(engine={"snapshot_records": 20},
                                 log={"durability": sys.argv[3], "segment_bytes_max": 1 << 20})
    app = hof.open(sys.argv[1], settings=settings)
    app.register(make_group())
    number = int(sys.argv[2])
    print("ready", flush=True)
    while True:
        # An id of the event's own: what was logged but not answered is repeated, not counted.
        vector = app.vector("g", event(number), request_id=number.to_bytes(16, "big"))
        print(json.dumps([number, repr(vector.to_dict())]), flush=True)
        number += 1
"""
)
_names: dict = {"__name__": "definition"}
exec(compile(textwrap.dedent(DEFINITION), "definition", "exec"), _names)
make_group, event = _names["make_group"], _names["event"]


def serve_until_killed(path, start, durability, random_):
    """Start a server, kill it after a random number of answers; what it answered."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SERVER), str(path), str(start), durability],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    answered = {}
    assert process.stdout.readline() == "ready\n"
    for _ in range(random_.randint(1, 40)):
        number, row = json.loads(process.stdout.readline())
        answered[number] = row
    process.kill()
    rest, _ = process.communicate()
    # What stood in the pipe was answered too; a line cut by the kill was not.
    for line in rest.splitlines(keepends=True):
        if line.endswith("\n"):
            number, row = json.loads(line)
            answered[number] = row
    return answered


def kill_and_restart(path, kills, durability, seed):
    """Kill a server `kills` times; everything that was answered, by number."""
    random_ = random.Random(seed)
    answered = {}
    for _ in range(kills):
        # From a few before the last answer: some ids are repeated, one may be half-known.
        start = max(0, max(answered, default=-1) - 3)
        found = serve_until_killed(path, start, durability, random_)
        for number, row in found.items():
            assert answered.setdefault(number, row) == row, f"seed {seed}: {number} changed"
    return answered


def assert_nothing_lost_or_doubled(path, answered, seed):
    with hof.open(path) as app:
        app.register(make_group())
        log = app.engine._works["g.1"].partition.log
        logged = Counter(int.from_bytes(meta.id, "big") for _, meta in log.read_meta())
        assert set(answered) <= set(logged), f"seed {seed}"
        assert set(logged.values()) == {1}, f"seed {seed}"
        last = max(logged)
        uninterrupted = path.with_name(f"{path.name}-uninterrupted")
        with hof.open(uninterrupted) as plain:
            plain.register(make_group())
            for number in range(last + 1):
                row = repr(plain.vector("g", event(number)).to_dict())
                assert answered.get(number, row) == row, f"seed {seed}, event {number}"
            for number in range(last + 1, last + 30):
                left, right = app.vector("g", event(number)), plain.vector("g", event(number))
                assert repr(left.to_dict()) == repr(right.to_dict()), f"seed {seed}, {number}"


@pytest.mark.parametrize("durability", ["interval", "batch"])
def test_killed_servers_lose_and_double_nothing(tmp_path, durability):
    """Two kills at random moments; the seed stands in every message."""
    seed = random.randrange(2**32)
    answered = kill_and_restart(tmp_path / "store", 2, durability, seed)

    assert answered
    assert_nothing_lost_or_doubled(tmp_path / "store", answered, seed)


@pytest.mark.soak
@pytest.mark.parametrize("durability", ["interval", "batch"])
def test_twenty_kills_in_a_row_lose_and_double_nothing(tmp_path, durability):
    """The same, twenty times on one store."""
    seed = random.randrange(2**32)
    answered = kill_and_restart(tmp_path / "store", 20, durability, seed)

    assert_nothing_lost_or_doubled(tmp_path / "store", answered, seed)
