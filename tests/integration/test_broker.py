"""A real Kafka broker that tests start, kill, stop and pause."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from hofflight.testing.kafka import kafka_broker, unused_port

REPO = Path(__file__).parents[2]
HOLDS_A_BROKER = """
import sys, time
from pathlib import Path
from hofflight.testing.kafka import kafka_broker
with kafka_broker(folder=Path(sys.argv[1])) as broker:
    print(broker.process.pid, broker.port, flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def own():
    """A broker of this file, which may be killed; it runs again after each test."""
    with kafka_broker({"message.max.bytes": 5_000}) as broker:
        yield broker


@pytest.fixture(autouse=True)
def runs_again(request):
    yield
    if "own" in request.fixturenames:
        broker = request.getfixturevalue("own")
        if broker.process is None:
            broker.start()
        broker.resume()


@contextlib.asynccontextmanager
async def opened(client):
    await client.start()
    try:
        yield client
    finally:
        await (client.close if isinstance(client, AIOKafkaAdminClient) else client.stop)()


async def new_topic(broker):
    name = f"t-{uuid.uuid4().hex}"
    async with opened(AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)) as admin:
        await admin.create_topics([NewTopic(name, 1, 1)])
    return name


async def write(broker, topic, *values):
    async with opened(AIOKafkaProducer(bootstrap_servers=broker.bootstrap)) as producer:
        for value in values:
            await producer.send_and_wait(topic, value)


async def read(broker, topic, count, **options):
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=broker.bootstrap, auto_offset_reset="earliest", **options
    )
    async with opened(consumer):
        return [(await consumer.getone()).value for _ in range(count)]


async def round_trip(broker):
    topic = await new_topic(broker)
    await write(broker, topic, b"a", b"b")
    assert await read(broker, topic, 2) == [b"a", b"b"]


def test_what_is_produced_is_consumed(broker):
    asyncio.run(round_trip(broker))


def test_a_group_commits_its_offsets(broker):
    async def main():
        topic = await new_topic(broker)
        await write(broker, topic, b"a", b"b")
        group = {"group_id": f"g-{topic}"}
        return [await read(broker, topic, 1, max_poll_records=1, **group) for _ in range(2)]

    assert asyncio.run(main()) == [[b"a"], [b"b"]]


def test_transactions_work_on_one_node(broker):
    async def main():
        topic = await new_topic(broker)
        options = {"bootstrap_servers": broker.bootstrap, "transactional_id": topic}
        async with opened(AIOKafkaProducer(**options)) as producer, producer.transaction():
            await producer.send_and_wait(topic, b"a")
        return await read(broker, topic, 1, isolation_level="read_committed")

    assert asyncio.run(main()) == [b"a"]


def test_no_topic_makes_itself(broker):
    async def main():
        topic = f"never-{uuid.uuid4().hex}"
        with pytest.raises(KafkaError):
            async with asyncio.timeout(20):
                await write_soon(broker, topic)
        async with opened(AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)) as admin:
            return topic in await admin.list_topics()

    assert asyncio.run(main()) is False


async def write_soon(broker, topic):
    options = {"bootstrap_servers": broker.bootstrap, "request_timeout_ms": 1_000}
    async with opened(AIOKafkaProducer(**options)) as producer:
        await producer.send_and_wait(topic, b"a")


def test_it_listens_on_loopback_alone(broker):
    listens = {
        connection.laddr.ip.removeprefix("::ffff:")
        for connection in psutil.Process(broker.process.pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }

    assert listens == {"127.0.0.1"}


def test_a_property_of_the_test_is_in_force(own):
    async def main():
        topic = await new_topic(own)
        await write(own, topic, bytes(4_000))
        with pytest.raises(MessageSizeTooLargeError):
            await write(own, topic, bytes(6_000))

    asyncio.run(main())


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_data_and_port_outlive_its_process(own, end):
    topic = asyncio.run(new_topic(own))
    asyncio.run(write(own, topic, b"a"))
    before, pid = own.bootstrap, own.process.pid

    getattr(own, end)()
    gone = own.answers()
    own.start()

    assert not gone
    assert own.bootstrap == before
    assert own.process.pid != pid
    assert asyncio.run(read(own, topic, 1)) == [b"a"]


def test_a_clean_stop_ends_by_sigterm_even_where_it_is_paused(own):
    process = own.process
    own.pause()

    own.stop()

    assert process.returncode == 128 + signal.SIGTERM


def test_paused_it_takes_connections_and_does_not_answer_until_it_goes_on(own):
    own.pause()
    with socket.create_connection(("127.0.0.1", own.port), 5):
        paused = own.answers(0.5)
    own.resume()

    assert not paused
    assert own.answers(5)


def test_a_second_broker_runs_beside_the_first(broker, own):
    asyncio.run(round_trip(broker))
    asyncio.run(round_trip(own))

    assert broker.bootstrap != own.bootstrap
    assert broker.folder != own.folder


def test_the_environment_does_not_reach_it(monkeypatch):
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Dhof=leaked")
    monkeypatch.setenv("HOF_SECRET", "leaked")
    with kafka_broker() as broker:
        held = Path(f"/proc/{broker.process.pid}/environ").read_bytes()
        said = broker.log_text()

    assert b"leaked" not in held
    assert "leaked" not in said


def test_a_property_that_is_wrong_is_named(tmp_path):
    with (
        pytest.raises(RuntimeError, match=r"-1 for configuration num\.io\.threads"),
        kafka_broker({"num.io.threads": -1}, folder=tmp_path),
    ):
        pass


def test_a_port_that_was_taken_meanwhile_is_chosen_anew():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        chosen = [taken.getsockname()[1]]

        def free_port():
            return chosen.pop() if chosen else unused_port()

        with kafka_broker(free_port=free_port) as broker:
            assert broker.port != taken.getsockname()[1]
            assert broker.log_text().count("Address already in use") > 0
            asyncio.run(round_trip(broker))


def test_a_broker_that_dies_at_its_start_says_why_and_leaves_nothing(own):
    own.kill()
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", own.port))
        taken.listen()
        with pytest.raises(RuntimeError, match=r"(?s)the broker died.*Address already in use"):
            own.start()

    assert own.process is None
    assert soon(lambda: left_in(own.folder) == [])


def test_nothing_is_left_at_the_end():
    with kafka_broker() as broker:
        pid = broker.process.pid

    assert not broker.folder.exists()
    assert soon(lambda: session_of(pid) == [])


@pytest.mark.parametrize("asleep", [False, True])
def test_it_dies_with_its_parent(tmp_path, asleep):
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS_A_BROKER, str(tmp_path)],
        cwd=REPO,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        pid, port = map(int, parent.stdout.readline().split())
        assert session_of(pid) != []
        if asleep:
            os.kill(pid, signal.SIGSTOP)
        parent.kill()
        parent.wait()

    assert soon(lambda: session_of(pid) == [] and not listens(port))


def soon(condition):
    """Whether it holds within 10 s: who is killed takes a moment to be gone."""
    deadline = time.monotonic() + 10
    while not (holds := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return holds


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def session_of(pid):
    """The processes of a broker's session, its own and what watches over it, that still run."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getsid(process.pid) == pid and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def left_in(folder):
    """The processes that work in a folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cwd() == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found
