"""Servers and workers apart: requests and answers through a real broker."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

import hofflight as hof
from hofflight.errors import NoAnswer
from tests.integration.kafka_place import KafkaPlace, ended, event

SERVERS, WORKERS, CLIENTS, EACH = 3, 2, 8, 2_500


@pytest.fixture
def place(tmp_path, broker):
    made = KafkaPlace(tmp_path, broker.bootstrap)
    made.register()
    return made


def test_register_makes_the_topics_that_are_missing(tmp_path, broker):
    place = KafkaPlace(tmp_path, broker.bootstrap)
    first, again = place.register(), place.register()

    assert f"+ topic {place.prefix}.in.card_tx.1 created" in first
    assert f"+ topic {place.prefix}.reply.03 created" in first
    assert "topic" not in again


def test_a_request_is_answered_through_the_topics(place):
    with place.working(), place.serving() as (_, address), hof.connect(address) as client:
        first = client.vector("card_tx", event(7, 0))
        second = client.vector("fraud", event(7, 1))
        several = client.vector("card_tx", [event(card, 0) for card in range(20)])
        client.ingest("card_tx", [event(card, 1) for card in range(20)])
        peek = client.vector("fraud", event(3, 2), store=False)
        again = client.vector("fraud", event(3, 2), store=False)

    assert first.to_dict()["card_tx.n_10m"] == 1
    assert second.to_dict() == {"card_tx.sum_1h": 3.0, "card_tx.n_10m": 2, "card_tx.card": 7}
    assert several.batch["card_tx.card"].to_pylist() == list(range(20))
    assert several.batch["card_tx.n_10m"].to_pylist() == [1] * 7 + [2] + [1] * 12
    assert peek.to_dict()["card_tx.n_10m"] == again.to_dict()["card_tx.n_10m"] == 3
    assert sum(place.verified(partition)["rows"] for partition in (0, 1)) == 22


def test_every_answer_is_its_own_with_several_servers_and_workers(place):
    """Clients of several servers ask for cards of their own; each card's windows say its story."""

    def ask(number, address):
        with hof.connect(address, deadline_ms=30_000) as client:
            return [
                client.vector("card_tx", event(number * 10 + turn % 3, turn)).to_dict()
                for turn in range(EACH)
            ]

    with ExitStack() as stack:
        for number in range(WORKERS):
            stack.enter_context(place.working(str(number)))
        addresses = [stack.enter_context(place.serving())[1] for _ in range(SERVERS)]
        pool = stack.enter_context(ThreadPoolExecutor(CLIENTS))
        asked = [pool.submit(ask, number, addresses[number % SERVERS]) for number in range(CLIENTS)]
        answers = [one.result(100) for one in asked]

    for number, found in enumerate(answers):
        assert [a["card_tx.card"] for a in found] == [number * 10 + t % 3 for t in range(EACH)]
        # Three cards by turns, one event a second: the last 600 s hold 200 of each.
        assert [a["card_tx.n_10m"] for a in found] == [min(t // 3 + 1, 200) for t in range(EACH)]
    verified = [place.verified(partition) for partition in range(WORKERS)]
    assert sum(one["rows"] for one in verified) == CLIENTS * EACH
    assert [one["mismatches"] for one in verified] == [0, 0]


def test_a_killed_worker_answers_again_what_it_had_counted(place):
    """The same ids get the same answers, from the start after the kill."""
    ids = [number.to_bytes(16, "big") for number in range(60)]
    with place.serving() as (_, address), hof.connect(address, deadline_ms=20_000) as client:
        with place.working() as worker:
            first = [
                client.vector("card_tx", event(n % 5, n), request_id=id_).to_dict()
                for n, id_ in enumerate(ids)
            ]
            worker.kill()
            worker.wait(10)
        with pytest.raises(NoAnswer):
            client.vector("card_tx", event(9, 0), deadline_ms=300, request_id=b"9" * 16)
        with place.working():
            late = client.vector("card_tx", event(9, 0), request_id=b"9" * 16).to_dict()
            again = [
                client.vector("card_tx", event(n % 5, n), request_id=id_).to_dict()
                for n, id_ in enumerate(ids)
            ]
            fresh = client.vector("card_tx", event(0, 60)).to_dict()

    assert again == first
    assert late["card_tx.n_10m"] == 1
    assert fresh["card_tx.n_10m"] == 13
    assert sum(place.verified(partition)["rows"] for partition in (0, 1)) == 62


def test_servers_and_workers_end_in_good_order(place):
    with place.working() as worker, place.serving() as (server, address):
        with hof.connect(address) as client:
            client.vector("card_tx", event(1, 0))
        assert (ended(server), ended(worker)) == (0, 0)
    with place.working(), place.serving() as (_, address), hof.connect(address) as client:
        assert client.vector("card_tx", event(1, 1)).to_dict()["card_tx.n_10m"] == 2
