"""A store that was damaged, is full, locked, foreign or newer: refused by name, never half-read."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing

import pyarrow as pa
import pytest

import hofflight as hof
from hofflight.assemble import read_store
from hofflight.errors import Indefinite, LogCorrupt, StorageFailed, StoreFormat, StoreLocked

S = 1_000_000


def make_group():
    return hof.feature_group(
        "g", version=1, key="card", event_time="ts",
        input={"card": pa.int64(), "ts": hof.TIMESTAMP, "s": pa.string()},
        windows={"n": hof.count().over("1h")},
    )  # fmt: skip


def event(second, s="a"):
    return {"card": 7, "ts": second * S, "s": s}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def filled(path):
    """A closed store with ten events."""
    with hof.open(path) as app:
        app.register(make_group())
        for second in range(10):
            app.vector("g", event(second))
    return path


def next_count(path):
    with hof.open(path) as app:
        app.register(make_group())
        return app.vector("g", event(10), store=False).to_dict()["g.n"]


def run(program, *arguments, **options):
    """A program of its own, with our code on its path; its output as lines."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)],
        capture_output=True, text=True, timeout=60, check=False, **options,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


FULL_DISK = """
    import resource, sys
    import pyarrow as pa
    import hofflight as hof
    from hofflight.errors import StorageFailed

    app = hof.open(sys.argv[1])
    app.register(hof.feature_group(
        "g", version=1, key="card", event_time="ts",
        input={"card": pa.int64(), "ts": hof.TIMESTAMP, "s": pa.string()},
        windows={"n": hof.count().over("1h")},
    ))
    event = lambda second, s="a": {"card": 7, "ts": second * 1_000_000, "s": s}
    print(app.vector("g", event(0)).to_dict()["g.n"])
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, hard))
    refused = 0
    for second in range(1, 60):
        try:
            # Larger than what is reserved ahead: the file has to grow, and may not.
            app.vector("g", event(second, "x" * 4_000_000), request_id=bytes([second]) * 16)
        except StorageFailed as error:
            refused += 1
            last = str(error)
    print(refused > 20, last)
    counted = 60 - refused
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    # What was refused was not counted, and the same id may be sent again.
    print(app.vector("g", event(59, "x" * 4_000_000), request_id=bytes([59]) * 16)
          .to_dict()["g.n"] == counted + 1)
    print(app.vector("g", event(60)).to_dict()["g.n"] == counted + 2)
    app.close()
    print(counted + 2)
"""


def test_a_full_disk_refuses_what_it_cannot_keep_and_recovers(path):
    """Nothing is counted that is not logged; with room again, serving goes on by itself."""
    first, refused, repeated, next_, counted = run(FULL_DISK, path)

    assert first == "1"
    assert refused.startswith("True HOF-304: the event log could not be written: File too large")
    assert (repeated, next_) == ("True", "True")
    with hof.open(path) as app:
        app.register(make_group())
        assert app.vector("g", event(61), store=False).to_dict()["g.n"] == int(counted) + 1


ROTATION = """
    import os, resource, sys
    import pyarrow as pa
    import hofflight as hof
    from hofflight.errors import StorageFailed

    settings = hof.load_settings(log={"segment_bytes_max": 1 << 20})
    app = hof.open(sys.argv[1], settings=settings)
    app.register(hof.feature_group(
        "g", version=1, key="card", event_time="ts",
        input={"card": pa.int64(), "ts": hof.TIMESTAMP, "s": pa.string()},
        windows={"n": hof.count().over("1h")},
    ))
    event = lambda second, s="a": {"card": 7, "ts": second * 1_000_000, "s": s}
    app.vector("g", event(0, "x" * 2_000_000))
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    for second in range(1, 4):
        try:
            app.vector("g", event(second))
        except StorageFailed as error:
            print("refused")
    if sys.argv[2] == "killed":
        os.kill(os.getpid(), 9)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    print(app.vector("g", event(4)).to_dict()["g.n"])
    app.close()
"""


@pytest.mark.parametrize("end", ["recovered", "killed"])
def test_a_disk_that_is_full_when_a_segment_is_to_begin(path, end):
    """The new segment cannot be made: refused, and the log stays readable whatever happens next."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(ROTATION), str(path), end],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert done.returncode == (0 if end == "recovered" else -signal.SIGKILL), done.stderr
    assert done.stdout.split() == ["refused"] * 3 + (["2"] if end == "recovered" else [])
    assert next_count(path) == (3 if end == "recovered" else 2)


def test_an_event_log_that_cannot_be_synced_acknowledges_nothing_more(path, monkeypatch):
    """In batch mode an answer means "on disk": when fsync fails there is no such answer."""
    settings = hof.load_settings(log={"durability": "batch"})
    with hof.open(path, settings=settings) as app:
        app.register(make_group())
        assert app.vector("g", event(0)).to_dict()["g.n"] == 1

        def fails(fd):
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "fdatasync", fails)
        with pytest.raises(Indefinite, match=r"HOF-400.*could not be made durable"):
            app.vector("g", event(1), deadline_ms=10_000)
        with pytest.raises(StorageFailed, match="could not be made durable"):
            app.vector("g", event(2), deadline_ms=10_000)


def test_an_answer_in_batch_mode_is_on_disk(path):
    """`durability=batch`: answered, repeated and counted like any other."""
    settings = hof.load_settings(log={"durability": "batch"})
    with hof.open(path, settings=settings) as app:
        app.register(make_group())
        counts = [app.vector("g", event(second)).to_dict()["g.n"] for second in range(20)]
    assert counts == list(range(1, 21))
    with hof.open(path) as app:
        app.register(make_group())
        assert app.vector("g", event(20), store=False).to_dict()["g.n"] == 21


def segment_of(path):
    [segment] = (path / "log" / "g.1").glob("*.log")
    return segment


def test_a_torn_tail_loses_only_what_was_torn(filled):
    """A power loss in the middle of a write: the rest is served, and new events follow it."""
    segment = segment_of(filled)
    for snapshot in (filled / "snapshots" / "g.1").iterdir():
        snapshot.unlink()
    segment.write_bytes(segment.read_bytes()[:-5])

    assert next_count(filled) == 10


def test_a_hole_in_the_log_is_refused_and_named(path):
    """An earlier segment is damaged: no answer at all is better than a wrong one."""
    settings = hof.load_settings(log={"segment_bytes_max": 1 << 20})
    with hof.open(path, settings=settings) as app:
        app.register(make_group())
        for second in range(6):
            app.vector("g", event(second, "x" * 600_000))
    for snapshot in (path / "snapshots" / "g.1").iterdir():
        snapshot.unlink()
    segments = sorted((path / "log" / "g.1").glob("*.log"))
    assert len(segments) >= 3
    data = bytearray(segments[1].read_bytes())
    data[100_000] ^= 1
    segments[1].write_bytes(data)

    with hof.open(path) as app, pytest.raises(LogCorrupt, match=rf"HOF-502.*{segments[1].name}"):
        app.register(make_group())


def test_a_second_process_is_told_who_writes_the_store(path):
    """One writing process per store; the first goes on undisturbed, and readers are welcome."""
    program = """
        import sys
        import hofflight as hof
        try:
            hof.open(sys.argv[1])
        except hof.HofError as error:
            print(error.code, error.message)
    """
    with hof.open(path) as app:
        app.register(make_group())
        app.vector("g", event(0))
        [line] = run(program, path)
        assert line.startswith(f"HOF-501 process {os.getpid()} is writing this store")
        with pytest.raises(StoreLocked):
            hof.open(path)
        registry, logs = read_store(path)
        with closing(registry):
            assert [g.name for g in registry.groups()] == ["g"]
            assert [entry.meta.number for _, entry in logs["g.1"].read()] == [1]
        assert app.vector("g", event(1)).to_dict()["g.n"] == 2


def test_a_directory_that_is_no_store_is_left_alone(tmp_path):
    """A name typed wrongly must not fill somebody's home directory."""
    (tmp_path / "thesis.txt").write_text("years of work")

    for attempt in (hof.open, read_store):
        with pytest.raises(StoreFormat, match=r"HOF-503.*not a store"):
            attempt(tmp_path)
    with pytest.raises(StoreFormat, match="HOF-503"):
        read_store(tmp_path / "nothing")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_store_of_a_newer_release_is_refused(filled):
    """By the store's own mark, and by the registry's."""
    mark = filled / "hofflight.json"
    right = mark.read_bytes()
    mark.write_bytes(json.dumps({"format": 2}).encode())
    for attempt in (hof.open, read_store):
        with pytest.raises(StoreFormat, match=r"HOF-503.*format 2.*upgrade"):
            attempt(filled)
    mark.write_bytes(right)
    with closing(sqlite3.connect(filled / "registry.sqlite")) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreFormat, match=r"HOF-503.*format 99"):
        hof.open(filled)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff"])
def test_a_damaged_mark_is_refused_with_a_code(filled, content):
    """A crash while the store was made, or an editor."""
    (filled / "hofflight.json").write_bytes(content)

    for attempt in (hof.open, read_store):
        with pytest.raises(StoreFormat, match="HOF-503"):
            attempt(filled)


def test_a_damaged_registry_is_refused_and_the_store_can_be_opened_once_it_is_mended(filled):
    """A failed opening lets go of the lock, in this process too."""
    registry = filled / "registry.sqlite"
    right = registry.read_bytes()
    registry.write_bytes(b"garbage" * 1_000)
    for _ in range(2):
        with pytest.raises(StoreFormat, match=r"HOF-503.*registry.sqlite"):
            hof.open(filled)
    registry.write_bytes(right)

    assert next_count(filled) == 11
