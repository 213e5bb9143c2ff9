"""Stored features over Kafka: looked up by the server, recorded by the worker, proven by replay."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hofflight as hof
from hofflight.errors import IdReused, StoredMissing, StoredUnavailable
from hofflight.testing.valkey import valkey_server
from tests.integration.kafka_place import FEATURES, NOON_US, KafkaPlace, ended, event

pytestmark = pytest.mark.kafka

JOINED = """
customer = hof.stored_group(
    "customer", version=1, key="customer", event_time="updated",
    schema={"customer": pa.int64(), "updated": hof.TIMESTAMP, "age": pa.int32()},
)
known = hof.stored_group(
    "known", version=1, key="card", event_time="updated",
    schema={"card": pa.int64(), "updated": hof.TIMESTAMP, "limit": pa.float64()},
)
scored = hof.view(
    "scored", version=1,
    features=["customer.age", "card_tx.n_60", "known.limit", "card_tx.card"],
)
strict = hof.view("strict", version=1, features=["card_tx.n_60", "known.limit"], on_missing="fail")
"""
TYPES = {
    "customer": [("customer", pa.int64()), ("updated", hof.TIMESTAMP), ("age", pa.int32())],
    "known": [("card", pa.int64()), ("updated", hof.TIMESTAMP), ("limit", pa.float64())],
}


class JoinedPlace(KafkaPlace):
    def __init__(self, folder, bootstrap, valkey):
        super().__init__(folder, bootstrap)
        (folder / "features.py").write_text(FEATURES + JOINED)
        self.environment["HOF_ONLINE__URL"] = valkey.url
        self.environment["HOF_ONLINE__TIMEOUT_MS"] = "2000"
        self.environment["HOF_ONLINE__RETRY_AFTER_MS"] = "1"
        self.register()

    def load(self, group, *rows):
        """Rows are (key, day, value)."""
        names = [name for name, _ in TYPES[group]]
        day_us = 86_400_000_000
        found = [
            dict(zip(names, (key, NOON_US + day * day_us, value), strict=True))
            for key, day, value in rows
        ]
        pq.write_table(pa.Table.from_pylist(found, pa.schema(TYPES[group])), self.folder / "rows")
        (self.folder / "rows").rename(self.folder / "rows.parquet")
        done = self("materialize", group, "rows.parquet", "--store", "worker")
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def valkey():
    with valkey_server() as server:
        yield server


@pytest.fixture(scope="module")
def place(tmp_path_factory, broker, valkey):
    found = JoinedPlace(tmp_path_factory.mktemp("joined"), broker.bootstrap, valkey)
    found.load("customer", (1, 0, 31), (2, 0, 52))
    found.load("known", *[(card, 0, 100.0 + card) for card in (*range(8), 30, 31)])
    return found


@pytest.fixture(scope="module")
def client(place):
    """Of a server before a worker, which has no online store. Each test has cards of its own."""
    with place.working(HOF_ONLINE__URL="") as worker, place.serving() as (server, address):
        with hof.connect(address, deadline_ms=20_000) as client:
            yield client
        assert (ended(server), ended(worker)) == (0, 0)


def test_the_vector_is_joined_in_the_views_order(client):
    """One row and many, over both partitions; what is not there is marked and has no value."""
    one = client.vector("scored", event(3, 0), keys={"customer": 2})
    many = client.vector(
        "scored", [event(card, 1) for card in range(12)],
        keys={"customer": [2, 2, 7, 8] * 3},
    )  # fmt: skip
    peek = client.vector("scored", event(3, 2), keys={"customer": 2}, store=False)
    plain = client.vector("card_tx", event(3, 3))

    assert list(one.to_dict().items()) == [
        ("customer.age", 52), ("card_tx.n_60", 1), ("known.limit", 103.0), ("card_tx.card", 3),
    ]  # fmt: skip
    assert one.status["customer.age"] == one.status["known.limit"] == "PRESENT"
    assert many.batch["card_tx.card"].to_pylist() == list(range(12))
    assert many.batch["customer.age"].to_pylist() == [52, 52, None, None] * 3
    assert many.batch["known.limit"].to_pylist() == [100.0 + c for c in range(8)] + [None] * 4
    assert many.batch["card_tx.n_60"].to_pylist() == [1, 1, 1, 2] + [1] * 8
    found = ["PRESENT", "PRESENT", "NOT_FOUND", "NOT_FOUND"] * 3
    assert many.status["customer.age"] == found
    assert many.status["known.limit"] == ["PRESENT"] * 8 + ["NOT_FOUND"] * 4
    assert [age is None for age in many.age_ms["customer.age"]] == [s != "PRESENT" for s in found]
    assert peek.to_dict()["customer.age"] == 52
    assert plain.to_dict()["card_tx.n_60"] == 3


def test_the_same_id_gets_what_was_recorded(place, client):
    """Though other rows were loaded since; with other keys it is refused."""
    ask = {"request_id": b"1" * 16, "keys": {"customer": 1}}
    first = client.vector("scored", event(20, 0), **ask)
    place.load("customer", (1, 1, first.to_dict()["customer.age"] + 1))
    again = client.vector("scored", event(20, 0), **ask)
    fresh = client.vector("scored", event(20, 1), keys={"customer": 1})
    with pytest.raises(IdReused, match="HOF-208"):
        client.vector("scored", event(20, 0), request_id=b"1" * 16, keys={"customer": 2})

    assert again.to_dict() == first.to_dict()
    assert fresh.to_dict()["customer.age"] == first.to_dict()["customer.age"] + 1
    assert fresh.to_dict()["card_tx.n_60"] == 2


def test_a_view_that_must_have_its_rows_says_what_is_missing(client, valkey):
    """A row that is not there counts the event; a store that is away counts nothing."""
    assert client.vector("strict", event(30, 0)).to_dict()["known.limit"] == 130.0
    for _ in range(2):  # the second one is the first one's
        with pytest.raises(StoredMissing, match="HOF-217"):
            client.vector("strict", event(99, 0), request_id=b"9" * 16)
    valkey.stop()
    try:
        with pytest.raises(StoredUnavailable, match="HOF-405"):
            client.vector("strict", event(30, 1), request_id=b"2" * 16, deadline_ms=500)
        marked = client.vector("scored", event(31, 0), keys={"customer": 1})
        plain = client.vector("card_tx", event(99, 1))
    finally:
        valkey.cont()
    late = client.vector("strict", event(30, 1), request_id=b"2" * 16)

    assert marked.status["customer.age"] == "UNAVAILABLE"
    assert marked.to_dict() == {
        "customer.age": None, "card_tx.n_60": 1, "known.limit": None, "card_tx.card": 31,
    }  # fmt: skip
    assert plain.to_dict()["card_tx.n_60"] == 2
    assert late.to_dict() == {"card_tx.n_60": 2, "known.limit": 130.0}


def test_what_was_served_is_what_replay_makes_of_it(place, client):
    """Windows and stored rows, of every answer of both partitions."""
    for number in range(40):
        client.vector("scored", event(40 + number % 7, number), keys={"customer": number % 4})
    place.load("customer", (0, 0, 18), (3, 0, 20))
    for number in range(40, 80):
        client.vector("scored", event(40 + number % 7, number), keys={"customer": number % 4})

    done = place("verify", "scored", "--modules", "features", "--store", "worker", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    assert said["rows"] >= 80
    assert said["mismatches"] == 0
