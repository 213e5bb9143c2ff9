"""What workers answered, in the topics of features: everything, once or more, and as it was."""

import asyncio
import json
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hofflight as hof
from hofflight.eventlog.kafka import Cluster
from hofflight.eventlog.local import LogReader
from hofflight.settings import load_settings
from tests.integration.kafka_place import KafkaPlace, ended, event

pytestmark = pytest.mark.kafka


@pytest.fixture
def place(tmp_path, broker):
    found = KafkaPlace(tmp_path, broker.bootstrap)
    found.register()
    return found


def features(place, records_max=100_000):
    """The rows of the topic of features by (request id, row), and how many records there are."""
    bootstrap = place.environment["HOF_KAFKA__BOOTSTRAP"]
    cluster = Cluster(load_settings(kafka={"bootstrap": bootstrap}).kafka)
    topic = f"{place.prefix}.features.card_tx.1"
    tails = asyncio.run(cluster.tails([(topic, 0), (topic, 1)], records_max))
    records = [record for tail in tails.values() for record in tail]
    rows = {}
    for record in records:
        for row in pa.ipc.open_stream(record.value).read_all().to_pylist():
            key = row["_request_id"], row["_row"]
            assert rows.get(key, row) == row, "a row came twice, and not the same"
            rows[key] = row
    return rows, records


def test_what_is_answered_is_exported_though_the_worker_is_killed(place):
    """Every answer of before and after is there, in columns that need no code to be read."""
    ids = [number.to_bytes(16, "big") for number in range(300)]
    answers = {}
    with place.serving() as (_, address), hof.connect(address, deadline_ms=20_000) as client:

        def ask(numbers):
            for n in numbers:
                found = client.vector("card_tx", event(n % 7, n), request_id=ids[n])
                answers[ids[n], 0] = found.to_dict()

        with place.working() as worker:
            ask(range(200))
            worker.kill()
            worker.wait(10)
        with place.working() as worker:
            ask(range(200, 300))
            assert ended(worker) == 0

    rows, records = features(place)
    assert rows.keys() == answers.keys()
    for key, row in rows.items():
        mine = {name: value for name, value in row.items() if not name.startswith("_")}
        assert mine == {n.removeprefix("card_tx."): v for n, v in answers[key].items()}
        assert (row["_view"], row["_late"], row["_overflow"]) == ("card_tx", False, [])
    assert len(records) < len(rows), "rows that are there together leave together"
    assert dict(records[0].headers)["hof-kind"] == b"features"


def test_a_log_forgets_nothing_that_is_not_exported(place):
    """Sealed and exported: then its segments may go, and what was answered can still be read."""
    small = {"HOF_LOG__SEGMENT_BYTES_MAX": str(1 << 20), "HOF_LOG__SEAL_CHECK_S": "1",
             "HOF_LOG__SEAL_BYTES": str(1 << 20), "HOF_ENGINE__IDS_MAX": "10",
             "HOF_ENGINE__SNAPSHOT_RECORDS": "10"}  # fmt: skip
    logs = [
        LogReader(place.folder / "worker" / str(partition) / "log" / "card_tx.1")
        for partition in (0, 1)
    ]
    asked, end = 0, time.monotonic() + 60
    with place.working(**small) as worker, place.serving() as (_, address):
        with hof.connect(address, deadline_ms=20_000) as client:
            while asked < 60 or any(log.first_number() == 1 for log in logs):
                assert time.monotonic() < end, "nothing was forgotten"
                seconds = range(asked * 500, asked * 500 + 500)
                client.vector("card_tx", [event(n % 7, n) for n in seconds])
                asked += 1
        assert ended(worker) == 0
    exported, _ = features(place)
    assert len(exported) == asked * 500
    done = place("verify", "card_tx", "--modules", "features", "--store", "worker", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["rows"] == asked * 500


def test_training_data_come_from_the_topics_or_from_the_workers_and_are_the_same(place):
    """A machine without any worker's store reads the topics, and goes on from there."""
    lake = ["--store", "lake", "--modules", "features"]

    def sealed():
        done = place("log", "seal", "--from", "kafka", "--group", "card_tx", *lake, "--json")
        assert done.returncode == 0, done.stderr
        return {one["stream"]: one["rows"] for one in json.loads(done.stdout)["sealed"]}

    def trained(store):
        out = f"{store}.parquet"
        done = place("train", "card_tx", "--ids", "--modules", "features", "--store", store,
                     "--out", out)  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "partitions 0, 1" in done.stderr
        return pq.read_table(place.folder / out).sort_by("request_id").to_pylist()

    with place.working() as worker, place.serving() as (_, address):
        with hof.connect(address, deadline_ms=20_000) as client:
            for n in range(100):
                client.vector("card_tx", event(n % 7, n))
            first = sealed()
            for n in range(100, 130):
                client.vector("card_tx", event(n % 7, n))
        assert ended(worker) == 0
    second = sealed()

    assert (sum(first.values()), sum(second.values())) == (100, 30)
    assert set(first) == {"0/card_tx.1", "1/card_tx.1"}
    assert trained("lake") == trained("worker")
    done = place("verify", "card_tx", *lake, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (json.loads(done.stdout)["rows"], json.loads(done.stdout)["mismatches"]) == (130, 0)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--from", "spark"], "--from takes kafka"),
        (["--from", "kafka"], "--group"),
        (["--from", "kafka", "--group", "nobody", "--modules", "features"], "no group 'nobody'"),
        (["--group", "card_tx"], "belong to --from kafka"),
    ],
)
def test_reading_topics_says_what_it_needs(place, arguments, error):
    done = place("log", "seal", "--store", "lake", *arguments)
    assert done.returncode == 2
    assert error in done.stderr


def test_features_can_be_left_out(place):
    with place.working(HOF_KAFKA__FEATURES="false") as worker:
        with place.serving() as (_, address), hof.connect(address, deadline_ms=20_000) as client:
            client.vector("card_tx", event(1, 0))
        assert ended(worker) == 0
    assert features(place) == ({}, [])
