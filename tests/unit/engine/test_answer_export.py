"""Answers on their way to topics of features: all of them, whatever the brokers do."""

import asyncio

import pyarrow as pa
import pytest

from hofflight.engine.answer_export import AnswerExport, Outlet
from hofflight.engine.kafka_partition import PartitionWorker
from hofflight.eventlog.local import LogReader
from hofflight.replay.answer_records import AnswerRecords, offset_said
from tests.unit.engine.conftest import make_group
from tests.unit.kafka_engines import Engines, id_of, record_of
from tests.unit.kafka_fakes import FakeClock, FakeTopics, run_virtual

TOPIC, LIMIT = "hof.features.g.1", 1 << 20


@pytest.fixture
def engines(tmp_path):
    found = Engines(tmp_path, FakeClock())
    yield found
    found.close()


class Bench:
    """A partition of one, its log, and topics that fail as the test says."""

    def __init__(self, engines, *groups, fault=lambda topic, partition: "ok", bytes_max=LIMIT):
        self.groups = groups or (make_group(),)
        self.engines = engines
        self.topics = FakeTopics(fault)
        self.worker = PartitionWorker(0, engines.open(*self.groups), {"g.1": 1}, LIMIT)
        self.bytes_max = bytes_max
        self.offset = -1

    def ask(self, *requests, **view):
        """A record of requests, answered; its offset."""
        self.offset += 1
        self.worker.work("g.1", self.offset, record_of(*requests, **view), lambda *_: None)
        return self.offset

    def export(self):
        """A new process's, which knows only what the topics say."""
        outlets = {}
        for group in self.groups:
            topic = f"hof.features.g.{group.version}"
            tail = self.topics.records[topic, 0][-16:]
            begin = max((offset_said(record.headers) for record in tail), default=-1)
            full = self.engines.registry.group("g", group.version).schema
            records = AnswerRecords("g", group.version, full, self.bytes_max)
            outlets[group.version] = Outlet(topic, records, begin)
        log = LogReader(self.engines.directory / "store" / "log" / "g.1")
        return AnswerExport(log, 0, outlets, self.topics.produce)

    def rows(self, topic=TOPIC):
        """Every row of a topic, in order."""
        records = self.topics.records[topic, 0]
        return [r for one in records for r in pa.ipc.open_stream(one.value).read_all().to_pylist()]


def numbers(rows):
    return [int.from_bytes(row["_request_id"], "big") for row in rows]


def test_what_was_answered_is_there_as_it_was(engines):
    """Full rows, with what is known of them; each once, in the log's order."""
    bench = Bench(engines)
    bench.ask((1, [(7, 0)]), (2, [(7, 1), (8, 1)]))
    bench.ask((3, [(7, 2)]))
    export = bench.export()
    asyncio.run(export.catch_up())

    rows = bench.rows()
    assert numbers(rows) == [1, 2, 2, 3]
    assert [row["_row"] for row in rows] == [0, 0, 1, 0]
    assert [(row["card"], row["n"]) for row in rows] == [(7, 1), (7, 2), (8, 1), (7, 3)]
    assert {row["_view"] for row in rows} == {"g"}
    assert export.number == 3
    (record,) = bench.topics.records[TOPIC, 0]
    assert dict(record.headers) == {
        "hof-v": b"1", "hof-kind": b"features", "hof-group": b"g", "hof-version": b"1",
        "hof-offset": b"1",
    }  # fmt: skip


def test_it_goes_on_where_it_was(engines):
    """What came since, and nothing again."""
    bench = Bench(engines)
    export = bench.export()
    for number in range(1, 6):
        bench.ask((number, [(7, number)]))
        asyncio.run(export.catch_up())
    assert numbers(bench.rows()) == [1, 2, 3, 4, 5]


def test_what_was_refused_or_wanted_no_answer_is_left_out(engines):
    """The topic has answers; the log has the rest."""
    bench = Bench(engines)
    bench.ask((1, [(7, None)]), (2, [(7, 1)], {"wants_answer": False}), (3, [(7, 2)]))
    asyncio.run(bench.export().catch_up())
    assert numbers(bench.rows()) == [3]


def test_another_process_sends_what_the_topic_does_not_have(engines):
    """The last record may come again: some of its input record's rows may be missing."""
    bench = Bench(engines)
    bench.ask((1, [(7, 0)]))
    asyncio.run(bench.export().catch_up())
    bench.topics.put(TOPIC, 0, b"junk of a stranger", [("hof-offset", b"\xff")])
    bench.ask((2, [(7, 1)]))
    bench.ask((3, [(7, 2)]))
    bench.topics.records[TOPIC, 0].pop()
    asyncio.run(bench.export().catch_up())
    assert numbers(bench.rows()) == [1, 1, 2, 3]


def test_brokers_that_fail_cost_no_row(engines):
    """What was refused is sent again; what landed unseen is there twice."""
    faults = iter(["lost", "landed", "ok", "ok"])
    bench = Bench(engines, fault=lambda topic, partition: next(faults, "ok"))
    bench.ask((1, [(7, 0)]))
    export = bench.export()
    for _ in range(2):
        with pytest.raises((OSError, TimeoutError)):
            asyncio.run(export.catch_up())
        assert export.number == 0, "nothing may be forgotten yet"
    asyncio.run(export.catch_up())
    assert numbers(bench.rows()) == [1, 1]
    assert export.number == 1


def test_it_tries_again_by_itself(engines):
    """A broker that is away is asked every second."""
    faults = iter(["lost"] * 3)
    bench = Bench(engines, fault=lambda topic, partition: next(faults, "ok"))
    bench.ask((1, [(7, 0)]))

    async def main(clock):
        task = asyncio.create_task(bench.export().run())
        await asyncio.sleep(3.5)
        assert bench.rows() == []
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run_virtual(main)
    assert numbers(bench.rows()) == [1]


def test_every_version_has_a_topic(engines):
    """Two versions that read one log."""
    bench = Bench(engines, make_group(), make_group(version=2))
    bench.ask((1, [(7, 0)]))
    bench.ask((2, [(7, 1)]), version=2)
    bench.ask((3, [(7, 2)]))
    asyncio.run(bench.export().catch_up())
    assert numbers(bench.rows()) == [1, 3]
    assert numbers(bench.rows("hof.features.g.2")) == [2]


def test_no_record_is_longer_than_topics_take(engines):
    """Rows of a request may need several; only the last says that all are there."""
    bench = Bench(engines, bytes_max=20_000)
    bench.ask((1, [(7, 0)]))
    bench.ask((2, [(card, 1) for card in range(500)]))
    asyncio.run(bench.export().catch_up())
    records = bench.topics.records[TOPIC, 0]
    assert max(len(record.value) for record in records) <= 20_000
    assert numbers(bench.rows()) == [1] + [2] * 500
    assert [offset_said(r.headers) for r in records] == [0] * (len(records) - 1) + [1]


def test_ids_are_the_clients_own(engines):
    bench = Bench(engines)
    bench.ask((77, [(7, 0)]))
    asyncio.run(bench.export().catch_up())
    assert bench.rows()[0]["_request_id"] == id_of(77)
