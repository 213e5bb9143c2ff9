"""Records through a task of Spark's: answered as a worker does, counted once whatever dies."""

import pyarrow as pa
import pytest

from hofflight.errors import LogCorrupt, StorageFailed, WorkerStopped
from hofflight.eventlog.local import LocalLog, LogReader
from hofflight.eventlog.topics import shared_specs
from hofflight.settings import KafkaSettings
from hofflight.wire.ipc import encode_schema, join_message
from tests.unit.engine.conftest import make_group
from tests.unit.kafka_engines import (
    INPUT,
    batch_of,
    bytes_of,
    cards_of,
    foreign_replies,
    log_of,
    meaning_of,
    state_of,
    values_of,
)
from tests.unit.kafka_fakes import WALL_US, size_of
from tests.unit.spark_bridge.partitions import DLQ, IN, REPLIES

GROUP = make_group()
NOT_STORED = {"store": False}


@pytest.fixture
def world(make_world):
    return make_world()


def ask(world, number, *rows, **changes):
    return world.ask((number, batch_of(*(rows or [(7, number)])), changes))


# --- answers --------------------------------------------------------------------------------------


def test_records_are_answered_where_they_say(world):
    """With the epoch that they came with; each record's answers are records of their own."""
    world.ask((1, batch_of((7, 1))), (2, batch_of((8, 1), (7, 2))), epoch=5)
    world.ask((3, batch_of((7, 3))), reply="hof.reply.03", epoch=2**63 - 1)
    world.trigger(world.worker())
    assert world.codes() == [(1, "OK"), (2, "OK")]
    assert world.codes("hof.reply.03") == [(3, "OK")]
    (row,) = world.rows["hof.reply.03"]
    assert row.partition == 0
    assert dict(row.headers)["hof-epoch"] == b"%d" % (2**63 - 1)


def test_answers_are_those_of_the_windows(world):
    worker = world.worker()
    for number, card in enumerate([7, 8, 7, 7]):
        ask(world, number, (card, number, 10))
    world.trigger(worker, size=1)
    schema = worker.engine.bind("g", 1).output_schema
    rows = [row for answer in world.answers() for row in values_of(answer, schema)]
    assert [(row["g.n"], row["g.total"]) for row in rows] == [(1, 10), (1, 10), (2, 20), (3, 30)]


def test_batches_of_any_size_are_answered_the_same(make_world):
    found = []
    for size in (None, 1, 2, 7):
        world = make_world()
        for number in range(15):
            ask(world, number, (number % 3, number))
        world.trigger(world.worker(), size=size)
        found.append([meaning_of(answer) for answer in world.answers()])
    assert found == [found[0]] * 4


def test_a_batch_without_records_gives_none(world):
    with world.worker().task() as task:
        empty = pa.RecordBatch.from_pylist([], schema=pa.schema([
            ("value", pa.binary()), ("offset", pa.int64()), ("timestamp", pa.int64()),
            ("headers", pa.list_(pa.struct([("key", pa.string()), ("value", pa.binary())]))),
        ]))  # fmt: skip
        assert task.answer(empty).num_rows == 0
        assert list(task.rest()) == []


def test_a_nudge_is_passed_over(world):
    worker = world.worker()
    for number in range(3):
        ask(world, number)
        world.nudge()
    world.trigger(worker, size=1)
    assert world.codes() == [(0, "OK"), (1, "OK"), (2, "OK")]
    assert log_of(worker.engine)[-1].offset == 4
    with worker.task() as task:
        assert task._mark.next == 6


def test_an_answer_that_nobody_waits_for_is_left_out_and_counts(world):
    """By a minute: clocks differ. Its rows are in the log, and in the topic of features."""
    past, soon = WALL_US - 60_000_001, WALL_US + 10**9
    worker = world.worker()
    world.ask(
        (1, batch_of((7, 1)), {"deadline_us": past}), (2, batch_of((7, 2)), {"deadline_us": soon}),
        (3, batch_of((7, 3)), {"deadline_us": 0}),
    )  # fmt: skip
    ask(world, 4, deadline_us=past)
    world.trigger(worker)
    assert world.codes() == [(2, "OK"), (3, "OK")]
    assert len(world.rows[REPLIES]) == 1
    assert state_of(worker.engine, 7) == {7: 4}
    assert len(world.exported()) == 4


def test_answers_that_are_too_large_together_leave_in_several_records(make_world):
    world = make_world(bytes_max=4_000)
    world.ask(*((n, batch_of((7, n))) for n in range(40)))
    world.trigger(world.worker())
    assert [call for call, _ in world.codes()] == list(range(40))
    sizes = [size_of(row.value, row.headers) for row in world.rows[REPLIES]]
    assert len(sizes) > 3
    assert max(sizes) < 5_000


def test_an_answer_that_no_record_holds_is_an_error_and_the_rows_count(make_world):
    """It says so; read again it says so again."""
    world = make_world(bytes_max=2_000)
    world.ask((1, batch_of(*((7, n) for n in range(60)))), (2, batch_of((7, 60))))
    worker = world.worker()
    for _ in range(2):
        world.trigger(worker)
    assert world.codes() == [(1, "HOF-207"), (2, "OK")] * 2
    assert state_of(worker.engine, 7) == {7: 61}


def test_what_is_wrong_with_a_request_is_its_own_affair(make_world):
    """As a worker refuses it: unknown views, rows without a key, another partition's rows."""
    world = make_world()
    worker = world.worker()
    world.ask(
        (1, batch_of((7, 1))), (2, batch_of((7, 1)), {"view": "nobody"}),
        (3, batch_of((7, 1)), {"version": 9}), (4, batch_of((None, 1))), (5, batch_of((7, None))),
        (6, batch_of((7, 2)), {"id": bytes(15) + b"\1"}), (7, batch_of((7, 3))),
    )  # fmt: skip
    for _ in range(2):
        world.trigger(worker)
    wanted = {1: "OK", 2: "HOF-201", 3: "HOF-201", 4: "HOF-205", 5: "HOF-206", 6: "HOF-208",
              7: "OK"}  # fmt: skip
    codes = world.codes()
    assert dict(codes[:7]) == dict(codes[7:]) == wanted
    assert state_of(worker.engine, 7) == {7: 2}


@pytest.mark.parametrize("size", [None, 1])
def test_rows_of_another_partition_are_refused_alone(make_world, size):
    """Their windows are elsewhere; read again they are refused again."""
    world = make_world(partitions=3)
    worker = world.worker()
    (mine, *_), (strangers, *_) = cards_of(0, 3), cards_of(2, 3)
    world.ask((1, batch_of((mine, 0))), (2, batch_of((strangers, 0))))
    ask(world, 3, (strangers, 1))
    for _ in range(2):
        world.trigger(worker, size=size)
    assert [sorted(world.codes())[n::2] for n in range(2)] == [
        [(1, "OK"), (2, "HOF-221"), (3, "HOF-221")]
    ] * 2
    assert state_of(worker.engine, mine, strangers) == {mine: 1, strangers: 0}


# --- records that are none ------------------------------------------------------------------------

GOOD_VALUE, GOOD_HEADERS = bytes_of((1, [(7, 1)]))
BAD = {
    "a null value": (None, GOOD_HEADERS),
    "no headers": (b'{"card": 7}', []),
    "nothing at all": (None, []),
    "an empty value and no headers": (b"", []),
    "a null header of others": (GOOD_VALUE[:-1], [*GOOD_HEADERS, ("traceparent", None)]),
    "a null header of ours": (GOOD_VALUE, [("hof-v", None), *GOOD_HEADERS[1:]]),
    "a header twice": (GOOD_VALUE, [*GOOD_HEADERS, GOOD_HEADERS[0]]),
    "trailing bytes": (GOOD_VALUE + b"\0", GOOD_HEADERS),
    "a kind of others": (None, [("hof-v", b"1"), ("hof-kind", b"letter")]),
    "a nudge with a value": (b"x", [("hof-v", b"1"), ("hof-kind", b"nudge")]),
    **foreign_replies(IN, DLQ),
}


@pytest.mark.parametrize("size", [None, 1])
@pytest.mark.parametrize("name", BAD)
def test_a_record_that_is_none_is_kept_as_it_came_with_the_reason(world, name, size):
    """Its bytes, its headers, where it was and why; those before and behind it are answered."""
    value, headers = BAD[name]
    ask(world, 1)
    world.put(value, headers)
    ask(world, 2)
    world.trigger(world.worker(), size=size)
    (dead,) = world.rows[DLQ]
    assert (dead.partition, dead.value) == (0, value)
    assert dead.headers[: len(headers)] == headers
    about = dict(dead.headers[len(headers) :])
    assert about.pop("hof-error")
    assert about == {
        "hof-code": b"HOF-220", "hof-topic": IN.encode(), "hof-partition": b"0",
        "hof-offset": b"1", "hof-timestamp-ms": b"1701",
    }  # fmt: skip
    assert world.codes() == [(1, "OK"), (2, "OK")]


def test_bad_records_alone_end_no_task(world):
    """A stranger's topic full of junk: each is a dead letter, once a try, and it goes on."""
    for value, headers in BAD.values():
        world.put(value, headers)
    worker = world.worker()
    world.trigger(worker, size=3)
    assert [row.value for row in world.rows[DLQ]] == [value for value, _ in BAD.values()]
    with worker.task() as task:
        assert task._mark.next == len(BAD)


def test_no_record_makes_a_dead_letter_that_the_topic_does_not_take(world):
    """It came compressed. Else it would fail the task, and come again, for ever."""
    limit = {spec.name: spec.bytes_max for spec in shared_specs(KafkaSettings())}[DLQ]
    world.bytes_max = KafkaSettings().record_bytes_max
    world.put(b"x" * 1_500_000, [("mine", b"y")])
    world.put(b"x", [("mine", b"y" * 1_500_000)])
    # In Kafka it is bytes that count: 4 for each of these.
    world.put(b"x" * 100_000, [("\U0001f600" * 220_000, b"y")])
    world.put(b"x" * 890_000, [])
    world.trigger(world.worker())
    letters = world.rows[DLQ]
    for row in letters:
        size = len(row.value or b"")
        size += sum(len(n.encode()) + len(v or b"") for n, v in row.headers)
        assert size <= limit
        assert dict(row.headers)["hof-code"] == b"HOF-220"
    assert [row.value is None for row in letters] == [True, True, True, False]


def test_a_schema_of_others_with_endless_names_makes_a_short_reason(world):
    names = ["\U000e0001" * 3_000 + str(i) for i in range(2)]
    schema = join_message(encode_schema(pa.schema([(n, pa.int64()) for n in names])), b"")
    own = join_message(encode_schema(INPUT), b"")
    value, headers = bytes_of((1, [(7, 1)]))
    world.put(schema + value[len(own) :], headers)
    world.trigger(world.worker())
    (dead,) = world.rows[DLQ]
    assert len(dict(dead.headers)["hof-error"]) < 5_000


# --- records that come again ----------------------------------------------------------------------


@pytest.mark.parametrize("fresh", [False, True])
def test_records_that_come_again_get_the_same_answers_and_count_once(world, fresh):
    """In the same process, and in another one."""
    worker = world.worker()
    for number in range(6):
        ask(world, number)
    first = [meaning_of(a) for a in answers_now(world, worker)]
    if fresh:
        worker.kill()
        worker = world.worker()
    assert [meaning_of(a) for a in answers_now(world, worker, size=1)] == first
    assert state_of(worker.engine, 7) == {7: 6}
    assert len(log_of(worker.engine)) == 6


def answers_now(world, worker, **fields):
    before = len(world.answers())
    world.trigger(worker, **fields)
    return world.answers()[before:]


@pytest.mark.parametrize("fresh", [False, True])
def test_records_whose_ids_are_forgotten_are_not_counted_again(make_world, fresh):
    """A trigger may have more of them than are remembered: nobody knows, and nothing counts."""
    world = make_world(ids_max=2)
    worker = world.worker()
    for number in range(9):
        ask(world, number)
    world.trigger(worker)
    if fresh:
        worker.kill()
        worker = world.worker()
    answers = answers_now(world, worker)
    assert {a.meta.code for a in answers} == {"OK", "HOF-400"}
    assert answers[-1].meta.code == "OK"
    assert state_of(worker.engine, 7) == {7: 9}
    ask(world, 20)
    world.trigger(worker, begin=9)
    assert state_of(worker.engine, 7) == {7: 10}


def test_a_peek_is_answered_whenever_it_comes_and_kept_nowhere(world):
    worker = world.worker()
    ask(world, 1)
    ask(world, 2, (7, 5), **NOT_STORED)
    ask(world, 3)
    for _ in range(2):
        world.trigger(worker)
    assert [code for _, code in world.codes()] == ["OK"] * 6
    assert [meta.offset for meta in log_of(worker.engine)] == [0, 2]
    assert state_of(worker.engine, 7) == {7: 2}


# --- records that this host has not seen ----------------------------------------------------------


def test_records_between_two_triggers_are_fetched_and_counted(world):
    """Another host had them, as the checkpoint says: their windows are needed here too."""
    worker = world.worker()
    for number in range(9):
        ask(world, number)
    world.trigger(worker, 0, 3)
    sent = world.trigger(worker, 6, 9)
    assert world.refetched == [(3, 6)]
    assert [row.topic for row in sent[:3]] == [REPLIES] * 3
    schema = worker.engine.bind("g", 1).output_schema
    counts = [values_of(a, schema)[0]["g.n"] for a in world.answers()]
    assert counts == [1, 2, 3, 7, 8, 9]


def test_offsets_that_no_record_has_are_asked_for_once(world):
    """Marks of transactions have offsets too."""
    worker = world.worker()
    ask(world, 1)
    world.next_offset = 10
    ask(world, 2)
    world.trigger(worker, size=1)
    world.trigger(worker, begin=10)
    assert world.refetched == [(1, 10)]
    assert state_of(worker.engine, 7) == {7: 2}


def test_an_empty_store_takes_what_the_topic_still_has(world):
    """Under a checkpoint that is further."""
    for number in range(4):
        ask(world, number)
    worker = world.worker()
    world.trigger(worker, begin=3)
    assert world.refetched == [(0, 3)]
    assert state_of(worker.engine, 7) == {7: 4}


def test_records_that_cannot_be_fetched_are_asked_for_again(world):
    """Brokers are away: the task fails, and nothing behind the gap is counted before it."""
    worker = world.worker()
    for number in range(4):
        ask(world, number)
    world.trigger(worker, 0, 1)
    between, world.between = world.between, None
    for _ in range(3):
        with pytest.raises(TypeError):
            world.trigger(worker, 3, 4)
    world.between = between
    world.trigger(worker, 3, 4)
    assert world.refetched == [(1, 3)]
    assert state_of(worker.engine, 7) == {7: 4}
    assert [meta.offset for meta in log_of(worker.engine)] == [0, 1, 2, 3]


# --- what ends a task -----------------------------------------------------------------------------


class FullLog(LocalLog):
    """A log whose disk is full while `left` says so."""

    left = 0

    def append(self, entries):
        if FullLog.left:
            FullLog.left -= 1
            raise StorageFailed("the event log could not be written: No space left on device")
        return super().append(entries)


@pytest.mark.parametrize("tries", [1, 5])
@pytest.mark.parametrize("size", [None, 1])
@pytest.mark.parametrize("fresh", [False, True])
def test_what_a_full_disk_refused_is_tried_again_and_counts_once(make_world, tries, size, fresh):
    """In the same process or the next ones, however often: it is not the record's fault."""
    world = make_world(open_log=FullLog)
    worker = world.worker()
    ask(world, 0)
    world.trigger(worker)
    for number in range(1, 4):
        ask(world, number)
    for _ in range(tries):
        FullLog.left = 1
        with pytest.raises(WorkerStopped, match=r"HOF-514.*record 1 of hof.in.g.1.*HOF-304"):
            world.trigger(worker, 1, size=size)
        if fresh:
            worker.kill()
            worker = world.worker()
    world.trigger(worker, 1, size=size)
    assert world.codes() == [(number, "OK") for number in range(4)]
    assert [meta.offset for meta in log_of(worker.engine)] == [0, 1, 2, 3]
    assert state_of(worker.engine, 7) == {7: 4}


def test_a_damaged_log_is_said_and_left_as_it_is(make_world):
    """A segment that is not the last: answers out of it would be wrong."""
    world = make_world(segment_bytes=500)
    worker = world.worker()
    for number in range(20):
        ask(world, number)
    world.trigger(worker)
    worker.kill()
    (_, _, path), *more = LogReader(world.log_path).segments()
    assert len(more) > 2
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    worker = world.worker()
    for _ in range(2):
        with pytest.raises(LogCorrupt, match="HOF-502"):
            world.trigger(worker)
    path.write_bytes(data)
    world.trigger(worker)
    assert world.codes()[20:] == world.codes()[:20]


# --- another process ------------------------------------------------------------------------------


def test_a_worker_that_was_away_takes_up_what_another_counted(world):
    """Spark gave the partition to another one meanwhile."""
    here, there = world.worker(), world.worker()
    for number in range(3):
        ask(world, number)
    world.trigger(here, 0, 1)
    world.trigger(there, 1, 2)
    world.trigger(here, 2, 3)
    schema = here.engine.bind("g", 1).output_schema
    assert [values_of(a, schema)[0]["g.n"] for a in world.answers()] == [1, 2, 3]
    assert len(here.opened) == 2
    assert [meta.number for meta in log_of(here.engine)] == [1, 2, 3]


def test_what_a_worker_kept_is_never_written_over_anothers(world):
    """It forgets without a write: no snapshot, no cut of a file that another one extends."""
    here, there = world.worker(), world.worker()
    for number in range(40):
        ask(world, number)
    for turn in range(40):
        world.trigger((here, there)[turn % 2], turn, turn + 1)
    final = world.worker()
    world.trigger(final, 39)
    assert [m.number for m in log_of(final.engine)] == list(range(1, 41))
    assert state_of(final.engine, 7) == {7: 40}
