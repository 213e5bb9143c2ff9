"""What a partition answered, on its way to topics of features: all of it, and then it may go."""

import time

import pytest

from hofflight.engine.answer_export import next_entries
from hofflight.eventlog.local import LogReader
from tests.unit.engine.conftest import make_group
from tests.unit.kafka_engines import batch_of, log_of, state_of
from tests.unit.spark_bridge.partitions import FEATURES, rows_of
from tests.unit.spark_bridge.partitions import batch_of as arrow_batch_of

GROUP = make_group()


def ask(world, *numbers, **changes):
    for number in numbers:
        world.ask((number, batch_of((7, number)), changes))


def exported(world, topic=FEATURES):
    """Numbers of the requests whose rows reached the topic."""
    return [int.from_bytes(row["_request_id"], "big") for row in world.exported(topic)]


def test_what_was_answered_is_sent_at_the_end_of_a_trigger(make_world):
    """Full rows, of this partition, each once."""
    world = make_world()
    worker = world.worker()
    world.ask((1, batch_of((7, 0), (8, 0))), (2, batch_of((7, 1))), (3, batch_of((None, 1))))
    ask(world, 4, store=False)
    ask(world, 5, wants_answer=False)
    sent = world.trigger(worker, size=1)
    assert exported(world) == [1, 1, 2]
    assert [row["n"] for row in world.exported()] == [1, 1, 2]
    assert sent[-1].topic == FEATURES
    assert sent[-1].partition == 0
    world.trigger(worker, world.next_offset)
    assert exported(world) == [1, 1, 2]


def test_it_is_sent_once_a_second_meanwhile(make_world):
    """A trigger of Real-Time Mode lasts minutes."""
    world = make_world()
    ask(world, *range(6))
    with world.worker().task() as task:
        found = []
        for number in range(6):
            world.clock.advance(0.4)
            (row,) = world.slice(number, number + 1)
            made = answered(task, row)
            found.append(sum(one.topic == FEATURES for one in made))
            world.send(made)
        assert found == [0, 0, 1, 0, 0, 1]
        assert exported(world) == [0, 1, 2, 3, 4, 5]
        assert [batch.num_rows for batch in task.rest()] == [0]


def answered(task, row):
    return rows_of(task.answer(arrow_batch_of([row])))


def test_each_version_has_a_topic_of_its_own(make_world):
    world = make_world(GROUP, make_group(version=2, derive={}))
    world.ask((1, batch_of((7, 1))))
    world.ask((2, batch_of((7, 2)), {"version": 2}))
    world.ask((3, batch_of((7, 3))))
    world.trigger(world.worker())
    assert exported(world) == [1, 3]
    assert exported(world, "hof.features.g.2") == [2]


def test_where_features_are_off_none_are_sent_and_the_log_is_trimmed(make_world):
    """By what is sealed alone."""
    world = make_world(segment_bytes=500, ids_max=1, snapshot_records=5)
    world.outlets = False
    worker = world.worker()
    ask(world, *range(50))
    world.trigger(worker, 0, 40)
    world.sealed_to = 1_000
    snapshot_of(world)
    world.trigger(worker, 40)
    assert LogReader(world.log_path).first_number() > 10
    assert set(world.rows) == {"hof.reply.00"}


@pytest.mark.parametrize("fresh", [False, True])
def test_what_was_sent_and_not_committed_is_sent_again(make_world, fresh):
    """The trigger comes again from its first record on, and what came of it too: no less."""
    world = make_world(segment_bytes=500)
    worker = world.worker()
    ask(world, *range(10))
    world.trigger(worker, 0, 4)
    lost = list(worker.run(world.slice(4, 10)))  # Spark died before its sink had it
    assert lost
    if fresh:
        worker.kill()
        worker = world.worker()
    world.trigger(worker, 4)
    assert exported(world) == list(range(10))


def test_what_was_answered_and_never_sent_is_sent_by_the_next_process(make_world):
    """It died before a second was over."""
    world = make_world(segment_bytes=500)
    worker = world.worker()
    ask(world, *range(10))
    world.trigger(worker, 0, 4)
    with worker.task() as task:
        for row in world.slice(4, 9):
            answered(task, row)
    worker.kill()
    assert exported(world) == [0, 1, 2, 3]
    world.trigger(world.worker(), 4)
    assert exported(world) == list(range(10))


def test_no_batch_of_rows_is_without_bounds(make_world):
    """After a death a trigger's rows may be many: neither memory nor answers wait for all."""
    world = make_world()
    world.outlets = True
    worker = world.worker()
    ask(world, *range(2_500))
    world.trigger(worker)
    worker.kill()
    with world.worker().task() as task:
        answered(task, world.topic[0])
        sizes = [batch.num_rows for batch in task.rest()]
    assert len(sizes) >= 3
    log = LogReader(world.log_path)
    found, is_more = next_entries(log, 0)
    assert is_more
    assert len(found) == 1_000


def test_rows_that_are_behind_are_sent_without_a_pause(make_world):
    """As much as one go takes with each record, until nothing is left."""
    world = make_world()
    worker = world.worker()
    ask(world, *range(2_500))
    world.trigger(worker)
    worker.kill()
    before = len(exported(world))
    with world.worker().task() as task:
        for offset in range(5):
            world.clock.advance(1.0 if offset == 1 else 0.0)
            world.send(answered(task, world.topic[offset]))
            found = len(exported(world)) - before
            assert found == [0, 1_000, 2_000, 2_500, 2_500][offset]


# --- trimming -------------------------------------------------------------------------------------


def snapshot_of(world):
    """Wait for the snapshot that 32 records make: what is behind it no state needs."""
    end_s = time.monotonic() + 20
    while not list((world.directory / "snapshots").glob("*/*.snap")):
        assert time.monotonic() < end_s, "no snapshot was written"
        time.sleep(0.005)


def test_the_log_is_trimmed_once_it_is_sealed_sent_and_committed(make_world):
    """By the next trigger's first record."""
    world = make_world(segment_bytes=500, ids_max=1, snapshot_records=5)
    worker = world.worker()
    ask(world, *range(50))
    world.trigger(worker, 0, 40)
    snapshot_of(world)
    world.sealed_to = 1_000
    log = LogReader(world.log_path)
    assert log.first_number() == 1
    world.trigger(worker, 40, 41)
    assert log.first_number() > 10
    assert exported(world) == list(range(41))
    worker.kill()
    worker = world.worker()
    world.trigger(worker, 41)
    assert exported(world) == list(range(50))
    assert state_of(worker.engine, 7) == {7: 50}


@pytest.mark.parametrize("missing", ["seal", "commit", "export", "snapshot", "ids"])
def test_nothing_is_trimmed_that_is_needed(make_world, missing):
    """By whoever seals, by a trigger that comes again, by the topic, by windows or by ids."""
    ids_max = 1_000 if missing == "ids" else 1
    snapshot_records = 1_000 if missing == "snapshot" else 5
    world = make_world(segment_bytes=500, ids_max=ids_max, snapshot_records=snapshot_records)
    worker = world.worker()
    ask(world, *range(50))
    if missing == "export":
        with worker.task() as task:
            for row in world.slice(0, 40):
                answered(task, row)
    else:
        world.trigger(worker, 0, 40)
    if missing != "snapshot":
        snapshot_of(world)
    world.sealed_to = 0 if missing == "seal" else 1_000
    world.trigger(worker, 0 if missing == "commit" else 40, 50)
    assert [meta.number for meta in log_of(worker.engine)] == list(range(1, 51))
