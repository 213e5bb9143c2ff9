"""Records that are not worked, and engines that end without a word."""

import pytest

from hofflight.engine.kafka_partition import PartitionWorker
from hofflight.errors import StorageFailed, TransformFailed
from tests.unit.engine.conftest import make_group
from tests.unit.kafka_engines import Engines, answers_of, log_of, meaning_of, record_of, state_of
from tests.unit.kafka_fakes import FakeClock

GROUP = make_group()
ERROR = TransformFailed("it ended the process")


@pytest.fixture
def engines(tmp_path):
    engines = Engines(tmp_path, FakeClock())
    yield engines
    engines.close()


class FullLog:
    """A log whose disk is full."""

    def __init__(self, log):
        self._log = log

    def __getattr__(self, name):
        return getattr(self._log, name)

    def append(self, entries):
        raise StorageFailed("No space left on device")


def worker_of(engine):
    return PartitionWorker(0, engine, {"g.1": 1}, 1 << 20)


def outcome(call, *arguments):
    """(answers by call, the refusal) of a record that is worked, or skipped."""
    got = []
    call("g.1", *arguments[:2], lambda answers, refused: got.append((answers, refused)),
         *arguments[2:])  # fmt: skip
    ((answers, refused),) = got
    return answers_of(answers), refused


def skip(worker, offset, record):
    return outcome(worker.skip, offset, record, ERROR)


def work(worker, offset, record):
    return outcome(worker.work, offset, record)


def codes(answers):
    return {call: answer.code for call, answer in answers.items()}


def test_what_is_skipped_is_refused_and_noted_with_its_offset(engines):
    """Events without answers too; a peek leaves no note. Nothing of it counts."""
    engine = engines.open(GROUP)
    worker = worker_of(engine)
    record = record_of(
        (1, [(7, 0)]), (2, [(7, 1)], {"store": False}), (3, [(7, 2)], {"wants_answer": False})
    )
    answers, refused = skip(worker, 5, record)
    assert codes(answers) == {1: "HOF-209", 2: "HOF-209", 3: "HOF-209"}
    assert refused == ""
    assert {answer.meta.error for answer in answers.values()} == {ERROR.message}
    assert [(m.offset, m.code, m.rows) for m in log_of(engine)] == [(5, "HOF-209", 0)] * 2
    assert state_of(engine, 7) == {7: 0}
    assert worker_of(engines.crashed(GROUP)).next_offset == {"g.1": 6}


def test_what_was_skipped_stays_so(engines):
    """Worked again, skipped again, asked again with its id: one note, one answer."""
    engine = engines.open(GROUP)
    worker, record = worker_of(engine), record_of((1, [(7, 0)]))
    skip(worker, 0, record)
    found = [skip(worker, 0, record), work(worker, 0, record), work(worker, 8, record)]
    assert [codes(answers) for answers, _ in found] == [{1: "HOF-209"}] * 3
    assert len(log_of(engine)) == 1
    answers, _ = work(worker_of(engines.crashed(GROUP)), 0, record)
    assert codes(answers) == {1: "HOF-209"}


def test_what_counted_before_it_was_skipped_keeps_its_answer(engines):
    """And it is no second time in the log, void or not."""
    engine = engines.open(GROUP)
    worker, record = worker_of(engine), record_of((1, [(7, 0)]))
    first, _ = work(worker, 0, record)
    again, _ = skip(worker, 0, record)
    assert meaning_of(again[1]) == meaning_of(first[1])
    assert [meta.code for meta in log_of(engine)] == ["OK"]


def test_requests_that_are_none_are_told_what_they_are(engines):
    """Skipped or not."""
    worker = worker_of(engines.open(GROUP))
    answers, _ = skip(worker, 0, record_of((1, [(7, 0)], {"view": "nobody"}), (2, [(7, 1)])))
    assert codes(answers) == {1: "HOF-201", 2: "HOF-209"}


def test_a_record_of_requests_that_are_none_is_answered_without_an_engine(engines):
    worker = worker_of(engines.open(GROUP))
    answers, _ = skip(worker, 0, record_of((1, [(7, 0)], {"view": "nobody"})))
    assert codes(answers) == {1: "HOF-201"}


def test_what_cannot_be_noted_is_refused_and_tried_again(engines):
    """Without a note it would be worked by the next process."""
    engine = engines.open(GROUP)
    worker, record = worker_of(engine), record_of((1, [(7, 0)]))
    partition = engine._works["g.1"].partition
    log, partition.log = partition.log, FullLog(partition.log)
    answers, refused = skip(worker, 0, record)
    assert codes(answers) == {1: "HOF-304"}
    assert refused == "HOF-304"
    partition.log = log
    answers, refused = skip(worker, 0, record)
    assert (codes(answers), refused) == ({1: "HOF-209"}, "")


def test_records_that_come_again_count_only_where_they_are_known(engines):
    """In one process, where ids may be forgotten since; what is new counts as ever."""
    engine = engines.open(GROUP, ids_max=1)
    worker = worker_of(engine)
    records = [record_of((n, [(7, n)])) for n in range(5)]
    for offset, record in enumerate(records):
        work(worker, offset, record)
    worker.repeats("g.1", 5)
    found = [codes(work(worker, n, one)[0])[n] for n, one in enumerate(records)]
    assert found[0] == "HOF-400"
    assert found[-1] == "OK"
    assert codes(work(worker, 5, record_of((9, [(7, 9)])))[0]) == {9: "OK"}
    assert state_of(engine, 7) == {7: 6}


def test_an_engine_that_is_abandoned_writes_nothing_and_takes_nothing(engines):
    """Its store is another process's: no snapshot, no half of one, no entry."""
    engine = engines.open(GROUP, snapshot_records=5)
    worker = worker_of(engine)
    for offset in range(16):
        work(worker, offset, record_of((offset, [(offset, offset)])))
    snapshots = engines.directory / "store" / "snapshots" / "g.1"
    assert [path.suffix for path in snapshots.iterdir()] == [".tmp"]
    engine.abandon()
    assert list(snapshots.iterdir()) == []
    answers, refused = work(worker, 16, record_of((16, [(7, 1)])))
    assert refused == codes(answers)[16]
    assert refused.startswith("HOF-3")
    assert len(log_of(engine)) == 16
