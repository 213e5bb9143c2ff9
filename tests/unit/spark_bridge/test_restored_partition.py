"""A partition that goes on from its copy: its windows are as if nothing had been."""

import threading

import pytest
from structlog.testing import capture_logs

from hofflight.assemble_spark import _next_offset
from hofflight.eventlog.backup import Backup
from hofflight.eventlog.local import LocalLog, LogReader
from hofflight.eventlog.store import Store
from hofflight.features.leases import Leases
from hofflight.features.sqlite import SqliteDatabase
from hofflight.settings import LogSettings
from hofflight.spark_bridge.claims import Claims, holder_of
from hofflight.spark_bridge.holdings import Holdings
from hofflight.spark_bridge.state_store import marked
from tests.unit.eventlog.conftest import make_entry
from tests.unit.eventlog.copies import Unsynced
from tests.unit.kafka_engines import batch_of, meaning_of, state_of
from tests.unit.spark_bridge.test_features_rows import snapshot_of

RECORDS, SAVED, DIED = 60, 45, 52


@pytest.fixture
def fill():
    """Puts the same records into a partition's topic, as often as it is asked."""

    def fill(world):
        for number in range(RECORDS):
            rows = [(7 + number * k % 3, 10 * number + k, number) for k in range(1 + number % 2)]
            world.ask((number, batch_of(*rows)))
        return world

    return fill


def save(world, url):
    """Copy a partition, as its application does; between two triggers."""
    Backup(url, world.stream, 0).save(Store(world.directory), marked(world.log_path).next)


def moved(other, url):
    """Another host takes the partition; where its query begins. The topic is the same one."""
    root, other.directory = other.directory, other.directory / "0"
    root.mkdir(exist_ok=True)
    return taken(other, root, url)


def taken(other, root, url):
    registry = SqliteDatabase(None, clock=other.clock)
    claims = Claims(Leases(registry), holder_of(root), 9_000, None, other.clock)
    holdings = Holdings(root, claims, url, other.clock, _next_offset)
    holdings.claim([other.place], threading.Event())
    holdings.close()
    registry.close()
    return marked(other.log_path).next


def meanings(world, since=0):
    return {a.call: meaning_of(a) for a in world.answers() if a.call >= since}


@pytest.mark.parametrize("nudges", [0, 3])
def test_what_comes_next_is_the_record_after_the_copy(make_world, tmp_path, nudges):
    """Nothing is asked for twice or answered twice, also where the last records had no entry."""
    url = str(tmp_path / "copies")
    world, other = make_world(), make_world()
    for one in (world, other):
        for number in range(20):
            one.ask((number, batch_of((7, 10 * number))))
            for _ in range(nudges if number == 9 else 0):
                one.nudge()
    worker = world.worker()
    world.trigger(worker, 0, 10 + nudges)
    save(world, url)
    world.trigger(worker, 10 + nudges)

    begin = moved(other, url)
    assert begin == 10 + nudges
    heir = other.worker()
    with capture_logs() as told:
        other.trigger(heir, begin)
    assert "gap" not in [event["event"] for event in told]
    assert other.refetched == []
    assert [answer.call for answer in other.answers()] == list(range(10, 20))
    assert meanings(other) == meanings(world, 10)
    assert state_of(heir.engine, 7) == state_of(worker.engine, 7)


@pytest.mark.parametrize("begin", [0, SAVED, DIED])
def test_answers_go_on_as_if_nothing_had_been(make_world, fill, tmp_path, begin):
    """Also for what was worked after the copy; from wherever Spark begins, at most where it was."""
    url = str(tmp_path / "copies")
    calm, world, other = (fill(make_world(segment_bytes=2_000)) for _ in range(3))
    calm.trigger(calm.worker())

    worker = world.worker()
    world.trigger(worker, 0, SAVED)
    save(world, url)
    world.trigger(worker, SAVED, DIED)
    assert LogReader(world.log_path).segments()[1:] != []
    assert moved(other, url) == SAVED
    assert len(list(LogReader(other.log_path).read())) == SAVED

    heir = other.worker()
    other.trigger(heir, begin)
    assert meanings(other) == meanings(calm, begin)
    assert state_of(heir.engine, 7, 8, 9) == state_of(calm._workers[0].engine, 7, 8, 9)
    assert len(list(LogReader(other.log_path).read())) == RECORDS


def test_windows_of_what_was_trimmed_come_from_the_snapshot(make_world, fill, tmp_path):
    """The log alone has only the last records."""
    url = str(tmp_path / "copies")
    small = {"segment_bytes": 500, "ids_max": 1, "snapshot_records": 5}
    calm, world, other = (fill(make_world(**small)) for _ in range(3))
    calm.trigger(calm.worker())

    worker = world.worker()
    world.trigger(worker, 0, 40)
    save(world, url)
    snapshot_of(world)
    world.sealed_to = 1_000
    world.trigger(worker, 40, SAVED)
    assert LogReader(world.log_path).first_number() > 10
    save(world, url)
    assert moved(other, url) == SAVED
    assert LogReader(other.log_path).first_number() == LogReader(world.log_path).first_number()

    heir = other.worker()
    other.trigger(heir, SAVED)
    assert meanings(other) == meanings(calm, SAVED)
    assert state_of(heir.engine, 7, 8, 9) == state_of(calm._workers[0].engine, 7, 8, 9)


# --- a host that comes back -----------------------------------------------------------------------


@pytest.mark.parametrize("nudges", [0, 3])
def test_a_host_that_comes_back_has_the_windows_of_the_one_that_went_on(
    make_world, fill, tmp_path, nudges
):
    """It has a log of its own, which the other one began with. Also where that one got nudges."""
    url = str(tmp_path / "copies")
    calm, world, other = (make_world() for _ in range(3))
    for one in (calm, world, other):
        for number in range(20):
            one.ask((number, batch_of((7, 10 * number))))
        for _ in range(nudges):
            one.nudge()
        fill(one)
    calm.trigger(calm.worker())

    root = tmp_path / "root"
    world.directory = root / "0"
    Store(world.directory).require(create=True)
    world.trigger(world.worker(), 0, 20)
    save(world, url)
    begin = moved(other, url)
    other.trigger(other.worker(), begin, 20 + nudges + SAVED)
    save(other, url)
    other.close()

    world._workers[0].kill()
    began = taken(world, root, url)
    assert began == 20 + nudges + SAVED
    assert (world.directory / "aside" / f"{world.stream}-20" / "log").exists()
    world.rows.clear()
    heir = world.worker()
    world.trigger(heir, began)
    assert meanings(world) == {a.call: meaning_of(a) for a in calm.answers()[-(RECORDS - SAVED) :]}
    assert state_of(heir.engine, 7, 8, 9) == state_of(calm._workers[0].engine, 7, 8, 9)


# --- how far a log is -----------------------------------------------------------------------------


def test_a_log_is_as_far_as_its_last_record_with_an_entry_or_its_mark(make_world):
    """The mark knows of records without one; after a restart of the machine the log alone does."""
    world = make_world(segment_bytes=500)
    for number in range(10):
        world.ask((number, batch_of((7, 10 * number))))
    for _ in range(3):
        world.nudge()
    world.trigger(world.worker(), 0, 10)
    assert _next_offset(world.log_path) == 10
    world.trigger(world._workers[0], 10)
    assert _next_offset(world.log_path) == 13
    (world.log_path / "mark").unlink()
    assert _next_offset(world.log_path) == 10


def test_entries_of_no_record_do_not_say_how_far_a_log_is(tmp_path):
    """Nor is there any record in a log of those alone, or in none at all."""
    assert _next_offset(tmp_path / "log") == 0
    settings = LogSettings().model_copy(update={"segment_bytes_max": 500})
    log = LocalLog(tmp_path / "log", Unsynced(), settings)
    assert _next_offset(tmp_path / "log") == 0
    for number in range(1, 31):
        entry = make_entry(number)
        entry.meta.offset = 6 if number == 4 else -1
        log.append([entry])
    assert len(log.segments()) > 2
    assert _next_offset(tmp_path / "log") == 7
    log.close()
