"""Real Spark in Real-Time Mode between real servers and a real broker."""

import asyncio
import json

import pyarrow as pa
import pytest

import hofflight as hof
from hofflight.errors import BadRequest, Indefinite, TransformFailed
from hofflight.eventlog.kafka import Cluster, partition_of_topic
from hofflight.settings import load_settings
from tests.conformance.test_engines import CASES, is_told, r, seen
from tests.integration.kafka_place import KafkaPlace
from tests.integration.spark_groups import NAMES, named

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]
MODULE = "tests.integration.spark_groups"


@pytest.fixture(scope="module")
def spark(tmp_path_factory, broker):
    """One application for all groups, and a client of a server before it.

    After all that was done to it, deaths included: each served row is what DuckDB says.
    """
    place = KafkaPlace(tmp_path_factory.mktemp("spark"), broker.bootstrap, partitions=1, nudge=1)
    place.register(MODULE)
    groups = [option for name in NAMES[1:] for option in ("--group", name)]
    with (
        place.serving() as (_, address),
        place.sparking(*groups, "--trigger", "10s", group=NAMES[0], modules=MODULE) as process,
        hof.connect(address, deadline_ms=60_000) as client,
    ):
        yield place, client, process
    for name in NAMES:
        done = place("verify", name, "--modules", MODULE, "--json", "--store", "worker")
        assert done.returncode == 0, done.stdout + done.stderr
        assert json.loads(done.stdout)["mismatches"] == 0


def told(client, group, rows, window, size):
    """(late, overflow, value) of each row, asked for `size` at once."""
    found = []
    for start in range(0, len(rows), size):
        vector = client.vector(group, rows[start : start + size])
        column = f"{group}.{window}"
        status = vector.status.get(column, "OK")
        for number, value in enumerate(vector.batch.column(column).to_pylist()):
            each = status[number] if isinstance(status, list) else status
            over = each == "OVERFLOW"
            late = vector.late[number]
            found.append("late" if late else "overflow" if over else seen(value))
    return found


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_window_means_what_its_words_say(spark, case):
    """The conformance suite, each case with keys of its own, row by row and all rows at once."""
    _, client, _ = spark
    group, window = named(case)
    for size in {1, len(case.rows)}:
        rows = [{**row, "k": f"{case.name} {size} {row['k']}"} for row in case.rows]
        assert is_told(told(client, group, rows, window, size), case, 0)


def test_composite_keys_late_rows_and_what_follows_from_them(spark):
    _, client, _ = spark
    rows = [r(10, 3.0, s="b"), r(1, 5.0, s="b"), r(10, 4.0, s="b"), r(11, 1.0, s="c")]
    vector = client.vector("derived", rows)

    assert vector.late == [False, True, False, False]
    found = vector.batch.to_pydict()
    assert found["derived.n"] == [1, None, 2, 1]
    assert found["derived.per"] == [6.0, None, 4.0, 2.0]
    assert found["derived.none"] == [False, True, False, False]


def test_functions_over_pandas_frames(spark):
    _, client, _ = spark
    rows = [r(t, 2.0**t, k="pandas", s="ab"[t % 2]) for t in range(6)]
    found = client.vector("frames", rows).batch.to_pydict()

    assert found["frames.sum"] == [0.5, 1.5, 3.5, 7.5, 15.5, 31.5]
    assert found["frames.n_a"] == [1, 1, 2, 2, 3, 3]


def test_the_same_id_is_counted_once(spark):
    _, client, _ = spark
    first = client.vector("derived", r(0, k="once"), request_id=b"o" * 16)
    again = client.vector("derived", r(0, k="once"), request_id=b"o" * 16)
    after = client.vector("derived", r(0, k="once"))
    assert [v.to_dict()["derived.n"] for v in (first, again, after)] == [1, 1, 2]
    with pytest.raises(BadRequest, match="HOF-208"):
        client.vector("derived", r(1, k="once"), request_id=b"o" * 16)


def test_rows_that_end_the_process_are_answered_with_an_error_and_the_next_go_on(spark):
    """The second death is the last: the record is skipped, and never counts."""
    _, client, _ = spark
    assert client.vector("frames", r(0, 1.0, k="deadly")).to_dict()["frames.sum"] == 0.5
    with pytest.raises(TransformFailed, match="ended twice"):
        client.vector("frames", r(1, 666.0, k="deadly"))
    assert client.vector("frames", r(2, 3.0, k="deadly")).to_dict()["frames.sum"] == 2.0
    assert client.vector("derived", r(0, k="near the deadly")).to_dict()["derived.n"] == 1


def test_a_function_that_hangs_is_given_up_and_the_next_rows_go_on(spark):
    _, client, _ = spark
    with pytest.raises(Indefinite, match="HOF-40"):  # each try hangs
        client.vector("frames", r(0, 667.0, k="sleepy"), request_id=b"s" * 16, deadline_ms=9_000)
    assert client.vector("frames", r(2, 3.0, k="sleepy")).to_dict()["frames.sum"] == 1.5


def test_poison_becomes_dead_letters_and_nobody_else_notices(spark, broker):
    place, client, _ = spark
    cluster = Cluster(load_settings(kafka={"bootstrap": broker.bootstrap}).kafka)
    poison = {
        "null": (None, []),
        "json": (b'{"card": 7}', []),
        "wrong version": (b"x", [("hof-v", b"2")]),
        "bad msgpack": (b"x", [("hof-v", b"1"), ("hof-requests", b"\xc1")]),
    }

    async def send():
        async with cluster.producer() as producer:
            for value, headers in poison.values():
                topic = f"{place.prefix}.in.derived.1"
                await producer.send_and_wait(topic, value, key=b"", partition=0, headers=headers)

    async def read(topic, count):
        async with cluster.consumer() as consumer:
            key = partition_of_topic(topic, 0)
            consumer.assign([key])
            consumer.seek(key, 0)
            found = []
            while len(found) < count:
                for records in (await consumer.getmany(timeout_ms=500)).values():
                    found += records
            return found

    client.vector("derived", r(0, k="before"))
    asyncio.run(send())
    assert client.vector("derived", r(0, k="before")).to_dict()["derived.n"] == 2
    letters = asyncio.run(asyncio.wait_for(read(f"{place.prefix}.dlq", len(poison)), 30))
    assert [letter.value for letter in letters] == [value for value, _ in poison.values()]
    assert all(dict(letter.headers)["hof-code"] == b"HOF-220" for letter in letters)


def test_what_was_answered_is_in_the_topic_of_features(spark, broker):
    place, client, _ = spark
    cluster = Cluster(load_settings(kafka={"bootstrap": broker.bootstrap}).kafka)
    ids = {client.vector("derived", r(t, k="features")).request_id for t in range(5)}

    async def exported():
        async with cluster.consumer() as consumer:
            key = partition_of_topic(f"{place.prefix}.features.derived.1", 0)
            consumer.assign([key])
            consumer.seek(key, 0)
            found = set()
            while not ids <= found:
                for records in (await consumer.getmany(timeout_ms=500)).values():
                    for record in records:
                        table = pa.ipc.open_stream(record.value).read_all()
                        found |= set(table["_request_id"].to_pylist())

    asyncio.run(asyncio.wait_for(exported(), 40))  # at the end of a trigger at the latest


def test_what_is_wrong_is_said_before_spark_starts(tmp_path, broker):
    place = KafkaPlace(tmp_path, broker.bootstrap, partitions=1)
    place.register()
    wanted = ("spark", "--group", "card_tx", "--store", "worker")
    module = place(*wanted, "--modules", "nowhere")
    trigger = place(*wanted, "--modules", "features", "--trigger", "1s")
    conf = place(*wanted, "--modules", "features", "--conf", "executor.cores=2")
    (tmp_path / "features.py").write_text(
        (tmp_path / "features.py").read_text().replace("* 2", "* 3")
    )
    changed = place(*wanted, "--modules", "features")

    assert (module.returncode, trigger.returncode, conf.returncode) == (2, 2, 2)
    assert "nowhere" in module.stderr
    assert "5 s" in trigger.stderr
    assert "'executor.cores' is no spark.KEY" in conf.stderr
    assert changed.returncode == 1
    assert "HOF-507" in changed.stderr
