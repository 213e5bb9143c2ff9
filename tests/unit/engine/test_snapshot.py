"""Snapshots shorten a restart and change no answer: taken while serving, damaged, or missing."""

import os
import random
import uuid
from contextlib import nullcontext

import pyarrow as pa
import pytest

import hofflight as hof
from hofflight.engine.runner import Runner
from hofflight.engine.snapshot import SnapshotWriter, load_snapshot, write_snapshot

S = 1_000_000
INPUT = {"card": pa.int64(), "shop": pa.string(), "ts": hof.TIMESTAMP, "x": pa.float64()}


def make_group(version=1, **changes):
    """Every kind of state: rows, sessions, tiles, a lifetime; a composite key."""
    fields = {
        "windows": {
            "n": hof.count().over("1h"),
            "std": hof.std("x").over("1h"),
            "session": hof.sum("x").session("2m"),
            "tiled": hof.mean("x").over("30d", tile="1h"),
            "life": hof.sum("x").lifetime(),
            "last": hof.max("x").last(5),
        },
        **changes,
    }
    return hof.feature_group(
        "g", version=version, key=("card", "shop"), event_time="ts", input=INPUT, **fields
    )


def history(seed, rows):
    """Twelve entities, a minute or so between events, some out of order, some late."""
    random_ = random.Random(seed)
    events = []
    for number in range(rows):
        back = random_.choice([0, 0, 0, 300, 3_000])
        events.append(
            {
                "card": random_.randrange(4), "shop": random_.choice("abc"),
                "ts": (100_000 + number * 20 - back) * S,
                "x": random_.choice([None, 1e16, -1e16, random_.random()]),
            }
        )  # fmt: skip
    return events


def requests_of(events, seed):
    """The events as requests of one row and of several."""
    random_ = random.Random(seed)
    while events:
        size = random_.choice([1, 1, 1, 2, 5])
        yield events[:size]
        events = events[size:]


def answers(app, events, **options):
    """What a client would see for these events, comparable to the bit."""
    found = []
    for number, rows in enumerate(requests_of(events, 9)):
        vector = app.vector("g", rows, request_id=uuid.UUID(int=options["ids_from"] + number))
        found.append((repr(vector.batch.to_pylist()), vector.late))
    return found


def snapshots(app):
    return sorted((app.engine._snapshots / "g.1").glob("*.snap"))


@pytest.mark.parametrize("records", [1, 7, 50])
def test_a_snapshot_taken_while_serving_changes_no_answer(stores, records):
    """A crash at any moment: snapshot and log together give what an uninterrupted run gives."""
    events = history(records, 220)
    plain = stores.open(make_group(), path=stores.directory / "plain")
    serving = stores.open(make_group(), snapshot_records=records)
    for start in range(0, 180, 60):
        part = events[start : start + 60]
        assert answers(serving, part, ids_from=start * 10) == answers(
            plain, part, ids_from=start * 10
        )
        crashed = stores.crashed(make_group())
        ahead = [{**event, "x": 0.5} for event in events[start + 60 : start + 80]]
        for event in ahead:
            left = crashed.vector("g", event, store=False)
            right = plain.vector("g", event, store=False)
            assert repr(left.to_dict()) == repr(right.to_dict()), (start, event)

    assert snapshots(serving)
    after_crash = stores.crashed(make_group())
    assert answers(after_crash, events[180:], ids_from=9_000) == answers(
        plain, events[180:], ids_from=9_000
    )


def test_closing_writes_a_snapshot_and_at_most_two_are_kept(stores):
    """A restart after a clean stop folds nothing; old snapshots do not pile up."""
    for number in range(4):
        app = stores.open(make_group())
        answers(app, history(number, 20), ids_from=number * 100)
        app.close()
        assert 1 <= len(snapshots(app)) <= 2
        assert list(snapshots(app)[-1].parent.glob("*.tmp")) == []


def test_a_snapshot_that_another_process_left_half_is_not_written_into(tmp_path):
    """It may still have the file open, and write to it when it ends: of the same log and number."""
    runner = Runner(make_group(), nullcontext())
    runner.folded = 7
    writer = SnapshotWriter(runner, tmp_path, number=7, ids_after=0)
    (half,) = tmp_path.iterdir()
    others = tmp_path / half.name.replace(str(os.getpid()), "1")
    writer.abandon()
    others.write_bytes(b"half")
    write_snapshot(runner, tmp_path)
    assert others.read_bytes() == b"half"
    assert load_snapshot(Runner(make_group(), nullcontext()), tmp_path, 7) == 7


def damage(path, how):
    data = path.read_bytes()
    changed = {
        "empty": b"",
        "only its first bytes": data[:8],
        "foreign": b"HOFSNAP9" + data[8:],
        "cut in half": data[: len(data) // 2],
        "cut by a byte": data[:-1],
        "a bit flipped early": data[:20] + bytes([data[20] ^ 1]) + data[21:],
        "a bit flipped late": data[:-20] + bytes([data[-20] ^ 1]) + data[-19:],
        "zeros": bytes(len(data)),
        "a frame of 4 GB": data[:8] + b"\xff\xff\xff\xff" + data[12:],
    }[how]
    path.write_bytes(changed)


HOW = [
    "empty", "only its first bytes", "foreign", "cut in half", "cut by a byte",
    "a bit flipped early", "a bit flipped late", "zeros", "a frame of 4 GB",
]  # fmt: skip


@pytest.mark.parametrize("every", [False, True], ids=["the newest", "all"])
@pytest.mark.parametrize("how", HOW)
def test_a_damaged_snapshot_is_passed_over(stores, how, every):
    """The log has everything: the answers are the same, only the start takes longer."""
    app = stores.open(make_group())
    answers(app, history(1, 40), ids_from=0)
    app.close()
    app = stores.open(make_group())
    answers(app, history(2, 40), ids_from=500)
    expected = [repr(app.vector("g", e, store=False).to_dict()) for e in history(3, 10)]
    app.close()
    assert len(snapshots(app)) == 2
    for path in snapshots(app) if every else snapshots(app)[-1:]:
        damage(path, how)

    again = stores.open(make_group())

    assert [repr(again.vector("g", e, store=False).to_dict()) for e in history(3, 10)] == expected


def test_every_version_has_its_own_snapshot(stores):
    """Two versions of one log, both restored, both right."""
    newer = make_group(2, windows={"n": hof.count().over("2h")})
    app = stores.open(make_group(), newer, snapshot_records=5)
    answers(app, history(1, 100), ids_from=0)
    probe = history(1, 101)[-1]
    expected = [app.vector("g", probe, version=v, store=False).to_dict() for v in (1, 2)]
    for again in (stores.crashed(make_group(), newer), app):
        again.close()
        names = [path.name for path in snapshots(again)]
        assert {name.split("-")[0] for name in names} == {"v1", "v2"}

    reopened = stores.open(make_group(), newer)
    found = [reopened.vector("g", probe, version=v, store=False).to_dict() for v in (1, 2)]
    assert repr(found) == repr(expected)


def test_a_snapshot_that_cannot_be_written_costs_no_answer(stores):
    """Something stands where the snapshots belong; serving and closing go on."""
    app = stores.open(make_group(), snapshot_records=1)
    (stores.path / "snapshots").write_bytes(b"")
    found = answers(app, history(1, 30), ids_from=0)
    app.close()

    assert len(found) == len(list(requests_of(history(1, 30), 9)))
    (stores.path / "snapshots").unlink()
    plain = stores.open(make_group(), path=stores.directory / "plain")
    assert found == answers(plain, history(1, 30), ids_from=0)
    again = stores.open(make_group())
    assert answers(again, history(2, 30), ids_from=700) == answers(
        plain, history(2, 30), ids_from=700
    )
