"""Any schedule of records, deaths and repeats: the answers of a run that nothing interrupted."""

from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hofflight.eventlog.local import LocalLog
from hofflight.replay.logged import EntryReader
from hofflight.testing import oracle
from hofflight.wire.envelope import OK
from tests.unit.engine.conftest import S, make_group
from tests.unit.kafka_engines import batch_of, id_of, log_of, meaning_of, state_of
from tests.unit.spark_bridge.partitions import DLQ, REPLIES, Killed, World, answers_of

GROUP = make_group(late="2m")
CARDS = (1, 2, 3)


class Fate:
    """When a process dies: `at` counts down with each chance; where it is 0, it does."""

    def __init__(self):
        self.at = None
        self.spared = set()

    def is_first(self, offset):
        """Whether no process died over that record; if it dies now, then so be it."""
        if self.at == 0 and offset not in self.spared:
            self.spared.add(offset)
            return True
        return self.at != 0

    def maybe(self, where):
        if self.at is None:
            return
        if self.at == 0:
            self.at = None
            raise Killed(where)
        self.at -= 1


class MortalLog(LocalLog):
    """A log whose process may die just before a write, or just after it."""

    fate = Fate()

    def append(self, entries):
        # Once for each record: a second time alone, and it would be skipped, as it should be.
        if MortalLog.fate.is_first(entries[0].meta.offset):
            MortalLog.fate.maybe("before the write")
        found = super().append(entries)
        MortalLog.fate.maybe("after the write")
        return found


class MortalClock:
    """Looked at when answers are there, before the mark says so."""

    def __init__(self, clock):
        self._clock = clock
        self.monotonic_s = clock.monotonic_s

    def wall_us(self):
        MortalLog.fate.maybe("with the answers")
        return self._clock.wall_us()


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    directory = tmp_path_factory.mktemp("crashes")
    return (directory / str(number) for number in count())


rows = st.lists(
    st.tuples(st.sampled_from([*CARDS, None]), st.sampled_from([0, 5, 60, 400, None])),
    min_size=1, max_size=3,
)  # fmt: skip
kept = st.tuples(st.integers(1, 20), rows, st.sampled_from([{}, {}, {}, {"wants_answer": False}]))
records = st.one_of(
    st.lists(kept, min_size=1, max_size=3),
    st.lists(kept, min_size=1, max_size=3),
    st.lists(kept, min_size=1, max_size=3),
    st.sampled_from(["nudge", "junk", "peek"]),
)
# How far each trigger goes, in batches of which size; after how many chances its tasks die, one
# after the other; whether another host had it instead.
triggers = st.lists(
    st.tuples(
        st.integers(1, 6), st.sampled_from([1, 1, 2, None]),
        st.lists(st.integers(0, 9), max_size=2), st.sampled_from([False] * 5 + [True]),
        st.booleans(),
    ),
    min_size=1, max_size=4,
)  # fmt: skip


def put_all(world, history):
    """Records, whose epochs are their offsets; calls are places, ids what the history says."""
    for record in history:
        if record == "nudge":
            world.nudge()
        elif record == "junk":
            world.put(b"junk", [("mine", None)])
        elif record == "peek":
            world.ask((99, batch_of((1, 5)), {"store": False}), epoch=1 << 40)
        else:
            asked = [
                (place, batch_of(*several), {"id": id_of(number), **changes})
                for place, (number, several, changes) in enumerate(record)
            ]
            world.ask(*asked, epoch=world.next_offset)


@settings(max_examples=40)
@given(st.lists(records, min_size=1, max_size=12), triggers)
def test_no_death_changes_an_answer_or_counts_a_row_twice(directories, history, schedule):
    """Deaths before, in and after each write, before and after the sink; gaps; other processes."""
    MortalLog.fate = Fate()
    calm = World(next(directories), GROUP)
    world = World(next(directories), GROUP, open_log=MortalLog)
    world.task_clock = MortalClock(world.clock)
    try:
        for one in (calm, world):
            put_all(one, history)
        calm_worker = calm.worker()
        expected = {}
        for offset in range(calm.next_offset):
            sent = calm.trigger(calm_worker, offset, offset + 1)
            expected[offset] = [told(answer) for answer in answers_of(sent)]
        seen, elsewhere = interrupted(world, schedule)
        compare(world, expected, seen, elsewhere, history)
        final = world.worker()
        world.trigger(final, world.next_offset - 1)
        exported = {row["_request_id"] for row in world.exported()}
        assert exported >= {
            meta.id
            for meta in log_of(final.engine)
            if meta.code == OK and meta.answered and meta.offset not in elsewhere
        }
        assert [outcome(m) for m in log_of(final.engine)] == [
            outcome(m) for m in log_of(calm_worker.engine)
        ]
        assert state_of(final.engine, *CARDS, at=300) == counts_by_oracle(final, 300)
    finally:
        calm.close()
        world.close()


def interrupted(world, schedule):
    """Run triggers as scheduled; (answers by offset as they were sent, offsets done elsewhere)."""
    worker, begin, seen, elsewhere = world.worker(), 0, {}, set()
    everything = (world.next_offset, None, [], False, False)
    for length, size, deaths, is_elsewhere, is_sent in [*schedule, everything]:
        end = min(begin + length, world.next_offset)
        if is_elsewhere and end < world.next_offset:
            elsewhere |= set(range(begin, end))
            begin = end
            continue
        for at in [*deaths, None]:
            MortalLog.fate.at = at
            try:
                for sent in run(world, worker, begin, end, size):
                    note(world, seen, sent)
                    MortalLog.fate.maybe("after the sink" if is_sent else "before the commit")
            except Killed:
                worker.kill()
                worker = world.worker()
                continue
            MortalLog.fate.at = None
            break
        begin = end
    return seen, elsewhere


def run(world, worker, begin, end, size):
    for rows in worker.run(world.slice(begin, end), size):
        MortalLog.fate.maybe("before the sink")
        world.send(rows)
        yield rows


def note(world, seen, rows):
    """Answers are told apart by the record's epoch, which is its offset here."""
    for row in rows:
        if row.topic == REPLIES:
            epoch = int(dict(row.headers)["hof-epoch"])
            seen.setdefault(epoch, []).append([told(a) for a in answers_of([row])])


def told(answer):
    """An answer, its hint aside: what was refused has none when it is told again."""
    meta, batch = meaning_of(answer)
    return answer.call, {**meta, "hint": ""}, batch


def outcome(meta):
    return meta.offset, meta.id, meta.code, meta.rows if meta.code == OK else 0, meta.late


def compare(world, expected, seen, elsewhere, history):
    for offset, record in enumerate(history):
        if offset in elsewhere:
            continue
        if record == "junk":
            assert offset in {int(dict(r.headers)["hof-offset"]) for r in world.rows[DLQ]}
        elif record not in ("nudge", "peek"):
            assert seen[offset]
            for answers in seen[offset]:
                assert sorted(answers, key=str) == sorted(expected[offset], key=str)


def counts_by_oracle(worker, at):
    """What a peek at each card must count: all rows of the log, by brute force."""
    entries = [e for _, e in worker.opened[-1].log.read() if e.meta.code == OK]
    table = EntryReader(GROUP.input).rows(entries)
    plain = [
        {"card": card, "ts": ts, "x": x}
        for card, ts, x in zip(
            table["card"].to_pylist(), table["ts"].cast("int64").to_pylist(),
            table["x"].to_pylist(), strict=True,
        )
    ]  # fmt: skip
    found = {}
    for card in CARDS:
        asked = [*plain, {"card": card, "ts": at * S, "x": 1}]
        (row,) = oracle.replay(GROUP, asked, places=[len(plain)])
        found[card] = None if row.late else row.windows["n"] - 1
    return found
