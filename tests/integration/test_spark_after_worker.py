"""A partition goes from a worker to Spark and back: one store, one history."""

import json

import pytest

import hofflight as hof
from tests.integration.kafka_place import KafkaPlace, ended, event

pytestmark = [pytest.mark.soak, pytest.mark.timeout(200)]
ROWS = 10


def asked(client, start, cards=4):
    """`n_60` of the next rows of each card."""
    found = []
    for number in range(start, start + ROWS):
        vector = client.vector("card_tx", [event(card, number) for card in range(cards)])
        found.append(set(vector.batch["card_tx.n_60"].to_pylist()))
    return found


def test_each_goes_on_where_the_other_ended(tmp_path, broker):
    """Neither counts a row again that the other one counted, nor passes one over."""
    place = KafkaPlace(tmp_path, broker.bootstrap, partitions=2, nudge=1)
    place.register()
    with (
        place.serving() as (_, address),
        hof.connect(address, deadline_ms=60_000) as client,
    ):
        counts = []
        with place.working() as worker:
            counts += asked(client, 0)
            assert ended(worker) == 0
        with place.sparking("--trigger", "10s"):
            counts += asked(client, ROWS)
        with place.working() as worker:
            counts += asked(client, 2 * ROWS)
            assert ended(worker) == 0

    assert counts == [{number + 1} for number in range(3 * ROWS)]
    done = place("verify", "card_tx", "--modules", "features", "--json", "--store", "worker")
    assert done.returncode == 0, done.stderr
    parity = json.loads(done.stdout)
    assert (parity["rows"], parity["mismatches"], parity["late"]) == (3 * 4 * ROWS, 0, 0)
