"""Users' functions in Spark's workers: slow, hanging, and those that end the process."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

import hofflight as hof
from hofflight.errors import WorkerStopped
from tests.unit.engine.conftest import make_group
from tests.unit.kafka_engines import batch_of, id_of, log_of, meaning_of, state_of, values_of
from tests.unit.kafka_fakes import FakeClock
from tests.unit.spark_bridge import deadly
from tests.unit.spark_bridge.partitions import World

HUNG = "HOF-402"


def arrow(batch):
    return pa.RecordBatch.from_arrays([pc.multiply(batch.column("x"), 2)], names=["y"])


def pandas(frame):
    return (frame[["x"]] * 2).rename(columns={"x": "y"})


def polars(frame):
    return frame.select((frame["x"] * 2).alias("y"))


gate, entered, returned = threading.Event(), threading.Event(), threading.Event()


def hangs(batch):
    """Waits at the gate where a row says so."""
    if pc.any(pc.equal(batch.column("x"), -1)).as_py():
        entered.set()
        gate.wait(30)
        returned.set()
    return arrow(batch)


def raises(batch):
    if pc.any(pc.equal(batch.column("x"), -1)).as_py():
        raise ValueError("not that one")
    return arrow(batch)


def group_of(function, mode="arrow"):
    return make_group(
        output={"y": pa.int64()}, derive={}, early="1d", mode=mode,
        windows={"n": hof.count().over("1h"), "ys": hof.sum("y").over("1h")},
    )(function)  # fmt: skip


class GoingClock(FakeClock):
    """A watchdog's time goes on by itself."""

    monotonic_s = staticmethod(time.monotonic)


@pytest.fixture
def blocked():
    """A function that waits as long as the test likes."""
    for event in (gate, entered, returned):
        event.clear()
    yield
    gate.set()


@pytest.fixture
def make_world(tmp_path):
    worlds = []

    def make(*groups, **fields):
        worlds.append(World(tmp_path / str(len(worlds)), *groups, **fields))
        return worlds[-1]

    yield make
    gate.set()
    for world in worlds:
        world.close()


def ask(world, number, x, second=None, **changes):
    rows = batch_of((7, number if second is None else second, x))
    return world.ask((number, rows, changes))


@pytest.mark.parametrize("size", [None, 1])
@pytest.mark.parametrize("function", [arrow, pandas, polars])
def test_functions_of_every_kind_are_called(make_world, function, size):
    """Pandas and polars are imported where Spark's worker is, and nowhere before."""
    world = make_world(group_of(function, function.__name__), transform_timeout_ms=20_000)
    worker = world.worker()
    for number in range(6):
        ask(world, number, 10 * number)
    world.trigger(worker, size=size)
    schema = worker.engine.bind("g", 1).output_schema
    answers = sorted(world.answers(), key=lambda answer: answer.call)
    rows = [values_of(answer, schema)[0] for answer in answers]
    assert [row["g.y"] for row in rows] == [20 * number for number in range(6)]
    assert [row["g.n"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[-1]["g.ys"] == 20 * 15


def test_rows_that_a_function_refuses_are_refused_alone(make_world):
    """Noted in the log, and told the same when they come again."""
    world = make_world(group_of(raises))
    worker = world.worker()
    for number, x in enumerate([1, -1, 2]):
        ask(world, number, x)
    for _ in range(2):
        world.trigger(worker)
        worker.kill()
        worker = world.worker()
    assert sorted(world.codes()) == [(n, "HOF-209" if n == 1 else "OK") for n in (0, 0, 1, 1, 2, 2)]
    world.trigger(worker)
    assert [meta.code for meta in log_of(worker.engine)] == ["OK", "HOF-209", "OK"]


# --- functions that hang --------------------------------------------------------------------------


def test_a_function_that_hangs_costs_its_record_and_then_its_process(make_world, blocked):
    """The record gets its error; the next one fails the task and counts in the next try."""
    world = make_world(group_of(hangs), clock=GoingClock(), transform_timeout_ms=50)
    worker = world.worker()
    for number, x in enumerate([1, -1, 2]):
        ask(world, number, x)
    with pytest.raises(WorkerStopped, match=r"HOF-514.*record 2 .*HOF-305"):
        world.trigger(worker, size=1)
    assert world.codes() == [(0, "OK"), (1, HUNG)]
    worker.kill()
    entered.clear()
    world.trigger(world.worker(), size=1)
    assert world.codes()[2:] == [(0, "OK"), (1, HUNG), (2, "OK")]
    assert not entered.is_set()


def test_a_worker_goes_on_after_a_function_that_hung(make_world, blocked):
    """Where Spark gives the next try to the same process: with state that does not hang."""
    world = make_world(group_of(hangs), clock=GoingClock(), transform_timeout_ms=50)
    worker = world.worker()
    for number, x in enumerate([1, -1, 2]):
        ask(world, number, x)
    with pytest.raises(WorkerStopped):
        world.trigger(worker, size=1)
    world.trigger(worker, size=1)
    assert world.codes()[2:] == [(0, "OK"), (1, HUNG), (2, "OK")]
    gate.set()
    assert returned.wait(10)
    world.trigger(worker, size=1)
    assert [meta.code for meta in log_of(worker.engine)] == ["OK", HUNG, "OK"]
    assert state_of(worker.engine, 7) == {7: 2}


def test_records_together_with_one_that_hangs_are_not_at_work_when_a_task_ends(make_world, blocked):
    """Each has an outcome before the lock is let go: another process may have the log then."""
    world = make_world(group_of(hangs), clock=GoingClock(), transform_timeout_ms=50)
    worker = world.worker()
    for number, x in enumerate([-1, 1, 2, 3]):
        ask(world, number, x)
    try:
        world.trigger(worker)
    except WorkerStopped:
        world.trigger(worker)
    codes = dict(world.codes())
    assert codes[0] == HUNG
    assert set(codes) == {0, 1, 2, 3}
    found = log_of(worker.engine)
    assert [meta.offset for meta in found] == [0, 1, 2, 3]
    counted = [meta.code for meta in found].count("OK")
    assert state_of(worker.engine, 7) == {7: counted}


def test_a_retry_of_what_hung_is_tried_once_and_not_again_with_its_own_record(make_world, blocked):
    """It hangs again, and every try of its trigger would hang at it, for ever."""
    world = make_world(group_of(hangs), clock=GoingClock(), transform_timeout_ms=50)
    worker = world.worker()
    ask(world, 1, -1)
    world.trigger(worker)
    worker.kill()
    worker = world.worker()
    ask(world, 1, -1)  # a client asks again, with the same id
    entered.clear()
    world.trigger(worker, 1)
    assert entered.is_set()
    worker.kill()
    entered.clear()
    ask(world, 2, 5)
    world.trigger(world.worker(), 1)
    assert not entered.is_set()
    assert world.codes() == [(1, HUNG), (1, HUNG), (1, HUNG), (2, "OK")]


# --- functions that end the process ---------------------------------------------------------------


def run(directory, *arguments):
    """A Python worker as a process of its own; (exit code, codes of its answers)."""
    root = str(Path(__file__).parents[3])
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.spark_bridge.deadly", str(directory), *arguments],
        cwd=root, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout.split()


def test_a_record_that_ends_its_process_twice_alone_is_skipped(tmp_path):
    """For real, by `os._exit`: first with others, then by itself; those around it count."""
    for _ in range(3):
        assert run(tmp_path) == (deadly.CODE, [])
    assert run(tmp_path) == (0, ["0:OK", "1:OK", "2:HOF-209", "3:OK"])


# --- what is skipped ------------------------------------------------------------------------------


def skipped(world, *offsets):
    """Say that these records ended two processes."""
    for offset in offsets:
        for _ in range(2):
            worker = world.worker()
            with worker.task() as task:
                task._mark.begin(offset, offset)
            worker.kill()
    worker = world.worker()
    with worker.task():
        pass
    return worker


def test_what_is_skipped_is_told_so_and_noted(make_world):
    """It never counts, also when it comes again; a peek too, which no log has."""
    world = make_world(group_of(arrow))
    for number in range(4):
        ask(world, number, 5, store=number != 2)
    worker = skipped(world, 1, 2)
    for _ in range(2):
        world.trigger(worker)
    expected = [(0, "OK"), (1, "HOF-209"), (2, "HOF-209"), (3, "OK")]
    assert world.codes() == 2 * expected
    assert "ended twice" in world.answers()[1].meta.error
    assert [(m.offset, m.code) for m in log_of(worker.engine)] == [
        (0, "OK"), (1, "HOF-209"), (3, "OK"),
    ]  # fmt: skip
    assert state_of(worker.engine, 7) == {7: 2}


def test_what_was_counted_before_is_not_void_because_its_retry_was_skipped(make_world):
    """A record may hold several requests: known ones get their answers, the others are told."""
    world = make_world(group_of(arrow))
    ask(world, 1, 5)
    first = world.worker()
    world.trigger(first)
    first.kill()
    world.ask((1, batch_of((7, 1, 5))), (2, batch_of((7, 2, 5))), (3, batch_of((7, None))))
    worker = skipped(world, 1)
    world.trigger(worker, 1)
    one, *others = sorted(world.answers()[1:], key=lambda answer: answer.call)
    assert meaning_of(one) == meaning_of(world.answers()[0])
    assert [answer.meta.code for answer in others] == ["HOF-209", "HOF-209"]
    assert state_of(worker.engine, 7) == {7: 1}


def test_a_skipped_peek_with_the_id_of_what_counted_is_not_run(make_world, blocked):
    """Its function would end the process a third time; here it would hang."""
    world = make_world(group_of(hangs), clock=GoingClock(), transform_timeout_ms=5_000)
    ask(world, 1, 5)
    first = world.worker()
    world.trigger(first)
    first.kill()
    ask(world, 2, -1, id=id_of(1), store=False)
    worker = skipped(world, 1)
    world.trigger(worker, 1)
    assert world.codes() == [(1, "OK"), (2, "HOF-209")]
    assert not entered.is_set()


def test_a_skipped_retry_of_what_hung_is_not_run(make_world, blocked):
    """That it hung is no outcome; that it ended its process is one."""
    world = make_world(group_of(hangs), clock=GoingClock(), transform_timeout_ms=50)
    first = world.worker()
    ask(world, 1, -1)
    world.trigger(first)
    first.kill()
    entered.clear()
    ask(world, 1, -1)
    world.settings = world.settings.model_copy(update={"transform_timeout_ms": 5_000})
    worker = skipped(world, 1)
    for _ in range(2):
        world.trigger(worker, 1)
    assert world.codes() == [(1, HUNG), (1, "HOF-209"), (1, "HOF-209")]
    assert not entered.is_set()
