"""What dies, stops or lies between a client and its worker: one outcome each, counted once."""

import asyncio
import contextlib
import signal
import sqlite3
import threading
import time

import pytest

import hofflight as hof
from hofflight.errors import Indefinite, NoAnswer, Refused
from hofflight.eventlog.kafka import Cluster, partition_of_topic
from hofflight.settings import load_settings
from hofflight.testing.kafka import kafka_broker
from tests.integration.kafka_place import KafkaPlace, ended, event, send_odd_name
from tests.integration.ledger import Ledger, settled


def test_servers_workers_and_the_broker_are_killed_in_turn_under_load(tmp_path):
    """P1, P2, P6, P7 of the design: one outcome, nothing lost or doubled, no one else's answer."""
    with kafka_broker() as broker:
        place = KafkaPlace(tmp_path, broker.bootstrap, request_timeout_ms=2_000)
        place.register()
        with (
            place.serving() as (first, one),
            place.serving() as (_, two),
            Ledger([one, two]) as ledger,
        ):
            with place.working() as worker:
                settled(ledger, 2)
                worker.kill()
                worker.wait(10)
            with place.working():
                settled(ledger, 2)
                broker.kill()
                time.sleep(0.5)
                broker.start()
                settled(ledger, 4)
                first.kill()
                first.wait(10)
                settled(ledger, 2)
                with place.serving() as (_, three):
                    ledger.addresses[0] = three
                    settled(ledger, 2)
                    ledger.stop.set()
                    for thread in ledger.threads:
                        thread.join(90)
        verified = [place.verified(partition) for partition in (0, 1)]

    print(ledger.outcomes, ledger.answered)
    assert not ledger.wrong
    assert sorted(ledger.answered) == [0, 1, 2, 3]
    assert all(count > 10 for count in ledger.answered.values())
    assert [one["mismatches"] for one in verified] == [0, 0]
    # Each event is counted once, whatever became of its answers.
    assert sum(one["rows"] for one in verified) == sum(ledger.answered.values())


def stop_outside_a_write(server, registry):
    """SQLite has one lock for everybody: whoever is stopped with it stops the others too."""
    for _ in range(100):
        server.send_signal(signal.SIGSTOP)
        with contextlib.closing(sqlite3.connect(registry, timeout=0)) as database:
            try:
                database.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                server.send_signal(signal.SIGCONT)
                time.sleep(0.05)
            else:
                database.rollback()
                return
    raise AssertionError("it always writes")


def test_a_server_that_slept_past_its_lease_answers_nothing_of_before(tmp_path, broker):
    """Another one may have its topic by then; it takes a new epoch and goes on."""
    place = KafkaPlace(tmp_path, broker.bootstrap, reply_topics=1, lease_ttl_ms=1_000)
    place.register()
    with place.serving() as (server, address):
        with hof.connect(address, deadline_ms=20_000) as client:
            answers = []

            def ask():
                try:
                    answers.append(client.vector("card_tx", event(1, 0), request_id=b"1" * 16))
                except (Indefinite, Refused) as error:
                    answers.append(error)

            asking = threading.Thread(target=ask)
            asking.start()
            time.sleep(1)  # it is in the topic, and nobody works
            stop_outside_a_write(server, tmp_path / "registry.sqlite")
            time.sleep(1.5)
            with place.working():
                time.sleep(1)
                server.send_signal(signal.SIGCONT)
                asking.join(30)
                again = client.vector("card_tx", event(1, 0), request_id=b"1" * 16)
        log = server.log.read_text()

    assert again.to_dict()["card_tx.n_60"] == 1
    assert len(answers) == 1
    assert log.count('"reply_topic"') + log.count("reply_topic ") >= 2, log


def test_all_topics_are_taken_until_one_is_free(tmp_path, broker):
    place = KafkaPlace(tmp_path, broker.bootstrap, reply_topics=1, lease_ttl_ms=1_000)
    place.register()
    with place.working():
        with place.serving() as (first, _):
            refused = pytest.raises(AssertionError)  # it says nothing: it is not ready
            with refused, place.serving(wait_s=4):
                pass
        first.wait(10)
        with place.serving() as (_, address), hof.connect(address) as client:
            assert client.vector("card_tx", event(1, 0)).to_dict()["card_tx.n_60"] == 1


POISON = {
    "null": (None, []),
    "json": (b'{"card": 7}', []),
    "no requests": (b"x", [("hof-v", b"1")]),
    "wrong version": (b"x", [("hof-v", b"2")]),
    "twice": (b"x", [("hof-v", b"1"), ("hof-v", b"1")]),
    "bad msgpack": (b"x", [("hof-v", b"1"), ("hof-requests", b"\xc1")]),
}


def test_poison_goes_to_the_dead_letters_as_it_came_and_nobody_else_notices(tmp_path, broker):
    place = KafkaPlace(tmp_path, broker.bootstrap, partitions=1)
    place.register()
    cluster = Cluster(load_settings(kafka={"bootstrap": broker.bootstrap}).kafka)

    topic = f"{place.prefix}.in.card_tx.1"

    async def send():
        async with cluster.producer() as producer:
            for value, headers in POISON.values():
                await producer.send_and_wait(topic, value, key=b"", partition=0, headers=headers)
        await send_odd_name(broker.bootstrap, topic)

    async def letters():
        async with cluster.consumer() as consumer:
            key = partition_of_topic(f"{place.prefix}.dlq", 0)
            consumer.assign([key])
            consumer.seek(key, 0)
            found = []
            while len(found) < len(POISON) + 1:
                for records in (await consumer.getmany(timeout_ms=500)).values():
                    found += records
            return found

    with place.working() as worker, place.serving() as (_, address):
        with hof.connect(address, deadline_ms=20_000) as client:
            before = client.vector("card_tx", event(1, 0)).to_dict()
            asyncio.run(send())
            after = client.vector("card_tx", event(1, 1)).to_dict()
        found = asyncio.run(asyncio.wait_for(letters(), 30))
        assert ended(worker) == 0

    assert (before["card_tx.n_60"], after["card_tx.n_60"]) == (1, 2)
    sent = [*POISON.values(), (None, [])]  # the odd one cannot be read: where it lies is kept
    assert [record.value for record in found] == [value for value, _ in sent]
    for record, (_, headers) in zip(found, sent, strict=True):
        said = dict(record.headers)
        assert list(record.headers)[: len(headers)] == headers
        assert said["hof-code"] == b"HOF-220"
        assert said["hof-topic"] == f"{place.prefix}.in.card_tx.1".encode()


def test_servers_and_workers_end_though_brokers_are_away(tmp_path):
    """What is on its way is given up after some seconds; the next start goes on."""
    with kafka_broker() as broker:
        place = KafkaPlace(tmp_path, broker.bootstrap)
        place.register()
        with place.working() as worker, place.serving() as (server, address):
            with hof.connect(address, deadline_ms=20_000) as client:
                client.vector("card_tx", event(1, 0))
                broker.kill()
                with pytest.raises((Indefinite, Refused, NoAnswer)):
                    client.vector("card_tx", event(1, 1), deadline_ms=500)
            for process in (server, worker):
                process.send_signal(signal.SIGTERM)
            codes = [process.wait(60) for process in (server, worker)]
    assert codes == [0, 0], server.log.read_text()[-1500:] + worker.log.read_text()[-3000:]
