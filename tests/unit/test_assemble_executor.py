"""What a Python worker of Spark's builds from names and its environment."""

import gc
import sys
import threading
from contextlib import closing

import pytest

from hofflight.assemble_executor import Assignment, answer_partition
from hofflight.assemble_registry import open_registry
from hofflight.errors import CodeChanged, HofError, KafkaUnavailable, SettingsError
from hofflight.eventlog.local import LogReader
from hofflight.features.modules import versions_of
from hofflight.settings import load_settings
from hofflight.spark_bridge.state_store import Mark
from tests.unit.engine.conftest import make_group
from tests.unit.kafka_engines import bytes_of
from tests.unit.kafka_fakes import WALL_US
from tests.unit.spark_bridge.partitions import FEATURES, KafkaRow, answers_of, batch_of, rows_of

MODULE = """
import pyarrow as pa
import hofflight as hof
group = hof.feature_group(
    "g", version=1, key="card", event_time="ts",
    input={"card": pa.int64(), "ts": hof.TIMESTAMP, "x": pa.int64()},
    windows={"n": hof.count().over("1h"), "total": hof.sum("x").over("1h")},
    derive={"more": hof.col("n") + 1},
)
"""


class Place:
    """A directory with code, a registry and a store, as the environment of a worker names them."""

    def __init__(self, directory, name):
        self.directory = directory
        self.module = name
        (directory / f"{name}.py").write_text(MODULE)
        self.group = make_group()

    def register(self):
        (group,) = versions_of(self.module, "g")
        assert group.code_hash() == self.group.code_hash()
        with closing(open_registry(load_settings())) as registry:
            registry.save_group(group, module=self.module, created_us=0)

    def assignment(self, **changes):
        fields = {
            "group": "g", "modules": self.module, "store": str(self.directory / "store"),
            "stream": "g.1", "number": 0, "partitions": 1,
            "hashes": ((1, self.group.code_hash()),), **changes,
        }  # fmt: skip
        return Assignment(**fields)

    def another_process(self):
        """What is kept in a process is kept by assignment; this one names the same code."""
        return self.assignment(modules=f"{self.module},{self.module}")

    @property
    def log(self):
        return self.directory / "store" / "0" / "log" / "g.1"


@pytest.fixture
def place(tmp_path, monkeypatch, request):
    """Imported from the current directory, as Spark's workers do."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("HOF_REGISTRY__URL", f"sqlite:///{tmp_path}/registry.sqlite")
    monkeypatch.setenv("HOF_KAFKA__BOOTSTRAP", "127.0.0.1:1")
    monkeypatch.setenv("HOF_KAFKA__REQUEST_TIMEOUT_MS", "500")
    name = f"spark_code_{abs(hash(request.node.name))}"
    found = Place(tmp_path, name)
    found.register()
    yield found
    sys.modules.pop(name, None)
    gc.unfreeze()


def row_of(offset, number):
    value, headers = bytes_of((number, [(7, number)]), arrival_us=WALL_US)
    return KafkaRow(offset, 1_700, value, headers)


def run(assignment, *rows):
    """What reached the sink, a record a batch."""
    batches = iter([batch_of([row]) for row in rows])
    return [row for batch in answer_partition(assignment, batches) for row in rows_of(batch)]


def codes(rows):
    return [(answer.call, answer.meta.code) for answer in answers_of(rows)]


def test_records_are_answered_and_exported(place):
    """One call a task, in a process that outlives it."""
    sent = run(place.assignment(), row_of(0, 1), row_of(1, 2))
    assert codes(sent) == [(1, "OK"), (2, "OK")]
    assert sent[-1].topic == FEATURES
    assert codes(run(place.assignment(), row_of(2, 3))) == [(3, "OK")]
    with closing(Mark(place.log / "mark")) as mark:
        assert (mark.generation, mark.next, mark.rows, mark.number) == (1, 3, 3, 3)


def test_two_processes_take_turns_on_one_log(place):
    """Each opens it anew when the other had it, and leaves no thread behind."""
    here, there = place.assignment(), place.another_process()
    run(here, row_of(0, 0))
    run(there, row_of(1, 1))
    threads = threading.active_count()
    for number in range(2, 10):
        run((here, there)[number % 2], row_of(number, number))
    assert threading.active_count() <= threads
    assert [entry.meta.offset for _, entry in LogReader(place.log).read()] == list(range(10))
    with closing(Mark(place.log / "mark")) as mark:
        assert mark.generation == 10


def test_a_trigger_without_records_is_one_too(place):
    assert run(place.assignment()) == []


@pytest.mark.parametrize("hashes", [((1, "other"),), (), ((1, "x"), (2, "y"))])
def test_other_code_than_the_drivers_is_refused(place, hashes):
    """An executor with an old checkout would count by another definition. No state is touched."""
    with pytest.raises(CodeChanged, match=r"HOF-507.*has another g here.*give every host the code"):
        run(place.assignment(hashes=hashes), row_of(0, 1))
    assert not place.log.exists()


@pytest.mark.parametrize(
    ("modules", "said"),
    [("no_such_code", "there is no module"), ("sys", "holds no feature group")],
)
def test_code_that_is_not_there_is_said(place, modules, said):
    with pytest.raises(HofError, match=said):
        run(place.assignment(modules=modules), row_of(0, 1))
    assert not place.log.exists()


def test_a_module_that_does_not_import_is_said(place):
    (place.directory / f"{place.module}_bad.py").write_text("1 / 0")
    with pytest.raises(SettingsError, match=r"HOF-601.*ZeroDivisionError"):
        run(place.assignment(modules=f"{place.module}_bad"), row_of(0, 1))


def test_a_mark_of_another_release_is_said_with_what_to_do(place):
    run(place.assignment(), row_of(0, 1))
    mark = place.log / "mark"
    mark.write_bytes(b"HOFMARK0" + bytes(mark.stat().st_size - 8))
    for _ in range(2):
        with pytest.raises(HofError, match=r"HOF-503.*delete it"):
            run(place.assignment(), row_of(1, 2))
    mark.unlink()
    assert codes(run(place.assignment(), row_of(1, 2))) == [(2, "OK")]


def test_a_damaged_log_leaves_no_thread_behind(place):
    """It is tried again and again, and the process may live on."""
    run(place.assignment(), row_of(0, 1))
    (_, _, path) = LogReader(place.log).segments()[0]
    path.write_bytes(b"junk" * 100)
    run_once = place.another_process()
    threads = threading.active_count()
    for _ in range(3):
        with pytest.raises(HofError, match="HOF-502"):
            run(run_once, row_of(1, 2))
    assert threading.active_count() <= threads


def test_a_gap_fails_the_task_while_brokers_are_away(place):
    """Nothing behind it is counted before it."""
    with pytest.raises(KafkaUnavailable, match="HOF-512"):
        run(place.assignment(), row_of(5, 1))
    assert list(LogReader(place.log).read()) == []
    with closing(Mark(place.log / "mark")) as mark:
        assert mark.next == 0
