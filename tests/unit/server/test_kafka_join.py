"""Stored rows on their way: looked up once, recorded where the rows are, never taken on trust."""

import asyncio

import msgspec
import pyarrow as pa
import pytest

from hofflight.engine.kafka_partition import PartitionWorker
from hofflight.eventlog.joins import JoinRecord, pack_join
from hofflight.eventlog.protocol import Request
from hofflight.features.view import declare_view
from hofflight.online.lookups import Lookups
from hofflight.online.slots import COMMITS_KEY, Commits, replaced, row_key, write_commits
from hofflight.server.catalog import RegistryCatalog
from hofflight.server.join_received import ReceivedJoins
from hofflight.server.kafka_join import KafkaJoiner
from hofflight.server.kafka_worker import KafkaWorker, Place
from hofflight.settings import KafkaSettings
from hofflight.wire.columns import batch_of_rows
from hofflight.wire.ipc import encode_batch
from hofflight.wire.kafka_record import Framing, encode_answers
from hofflight.wire.key_hash import murmur2, partition_of
from hofflight.wire.keys import KeyCodec
from tests.unit.kafka_engines import Engines, id_of, log_of, values_of
from tests.unit.kafka_fakes import FakeClock, FakeTopics, Refused
from tests.unit.server.joined_views import (
    CARD,
    CUSTOMER,
    SHOP,
    START,
    AtOnce,
    customer,
    packed,
    row,
    shop,
)

PARTITIONS, EPOCH, REPLIES = 2, 77, "hof.reply.00"
VIEWS = {
    "one": (["customer.age", "g.n", "shop.rank", "g.x"], "mark"),
    "must": (["g.n", "customer.age"], "fail"),
    "turned": (["shop.rank", "g.n", "customer.name", "customer.age"], "mark"),
}
KEYS = {"customer": 1, "shop": "a"}


class Cluster:
    """A server, the workers of two partitions, and the topics between them."""

    def __init__(self, directory):
        self.clock = FakeClock(wall_us=START)
        self.engines = Engines(directory, self.clock)
        registry = self.engines.registry
        self.engines.register(CARD)
        for group in (CUSTOMER, SHOP):
            registry.save_stored(group, created_us=0)
        by_name = {(g.name, v): g for g in (CARD, CUSTOMER, SHOP) for v in (g.version, None)}
        for name, (features, on_missing) in VIEWS.items():
            view = declare_view(name, 1, features, (), lambda n, v: by_name[n, v], on_missing)
            registry.save_view(view, created_us=0)
        self.topics = FakeTopics()
        self.store = AtOnce()
        catalog = RegistryCatalog(registry, lambda stream: PARTITIONS, looks_up=True)
        kafka = KafkaWorker(catalog, self.topics.produce, (Refused,), self.clock, KafkaSettings())
        kafka.take(Place(REPLIES, EPOCH, 1e9))
        self.kafka = kafka
        self.server = KafkaJoiner(kafka, Lookups(self.store, 20), self.clock)
        self.workers = [
            PartitionWorker(
                number, self.engines.open(CARD, store=f"p{number}"), {"g.1": PARTITIONS}, 1 << 20,
                ReceivedJoins(),
            )
            for number in range(PARTITIONS)
        ]  # fmt: skip
        self.read = [0] * PARTITIONS
        self.put((CUSTOMER, customer()), (SHOP, shop()))

    def put(self, *rows, load=1):
        """Rows in the store, of one load."""
        items = [(COMMITS_KEY, write_commits({g.label: Commits(load) for g in (CUSTOMER, SHOP)}))]
        for group, values in rows:
            encoded = KeyCodec(group.key_schema).encode([values[n] for n in group.key])
            key, fresh = row_key(group.label, encoded), packed(group, load, values)
            items.append((key, replaced(self.store.rows.get(key), fresh, Commits(load - 1))))
        asyncio.run(self.store.put_many(items))

    def ask(self, view, *rows, number=1, keys=KEYS, **fields):
        """The answer to a request, through topics and workers."""
        served = self.server.bind(view, None)
        names = served.input_schema.names
        batch = batch_of_rows([[one[n] for n in names] for one in rows], served.input_schema)
        replies = []
        given = {name: value for name, value in keys.items() if name in served.keys.names}
        request = Request(
            served, *encode_batch(batch), id_of(number), replies.append, keys=given, **fields
        )

        async def main():
            self.server.submit([request])
            for _ in range(20):
                await asyncio.sleep(0)
                self.work()

        asyncio.run(main())
        (answer,) = replies
        return answer

    def work(self):
        """Let the workers answer what is new in their topics."""
        framing = Framing(CARD.input)
        for number, worker in enumerate(self.workers):
            records = self.topics.records["hof.in.g.1", number][self.read[number] :]
            self.read[number] += len(records)
            for record in records:
                found = framing.decode(record.value, record.headers)
                worker.work("g.1", record.offset, found, self.answered)

    def answered(self, answers, refused):
        assert refused == ""
        self.kafka.arrived(*encode_answers(EPOCH, answers))

    def values(self, answer, view):
        return values_of(answer, self.server.bind(view, None).output_schema)

    def logged(self):
        return [meta for worker in self.workers for meta in log_of(worker.engine)]


@pytest.fixture
def cluster(tmp_path):
    found = Cluster(tmp_path)
    yield found
    found.engines.close()


def cards_of(partition, count):
    codec = KeyCodec(pa.schema([CARD.input.field("card")]))
    hashes = ((card, murmur2(codec.encode([card]))) for card in range(1_000))
    found = (card for card, hashed in hashes if partition_of(hashed, PARTITIONS) == partition)
    return [next(found) for _ in range(count)]


def test_a_row_gets_its_stored_columns_and_its_worker_records_them(cluster):
    answer = cluster.ask("one", row())
    assert cluster.values(answer, "one") == [
        {"customer.age": 30, "g.n": 1, "shop.rank": 0.5, "g.x": 1}
    ]
    assert set(answer.meta.status.values()) == {"PRESENT"}
    (meta,) = cluster.logged()
    (join,) = meta.joined
    assert (join.as_of, join.numbers, join.asked_us) == ([1, 1], [], START)


def test_rows_of_two_partitions_take_each_its_own(cluster):
    """Ages and statuses stand in the request's order again."""
    cards = [card for pair in zip(cards_of(0, 3), cards_of(1, 3), strict=True) for card in pair]
    cluster.put(*[(SHOP, shop(card, rank=float(card))) for card in cards[:4]])
    keys = {"customer": [1, 2, 1, 2, 1, 2], "shop": "a"}
    answer = cluster.ask("one", *[row(card=card) for card in cards], keys=keys)
    rows = cluster.values(answer, "one")
    assert [r["customer.age"] for r in rows] == [30, None] * 3
    assert [r["shop.rank"] for r in rows] == [*map(float, cards[:4]), None, None]
    assert answer.meta.status["customer.age"] == ["PRESENT", "NOT_FOUND"] * 3
    assert answer.meta.status["shop.rank"] == ["PRESENT"] * 4 + ["NOT_FOUND"] * 2
    assert answer.meta.age_ms["customer.age"] == [0, None] * 3
    assert sorted(meta.rows for meta in cluster.logged()) == [3, 3]


def test_stored_groups_stand_in_the_views_order_at_both_ends(cluster):
    """Not in that of the registry: else one group's rows would be read as the other's."""
    answer = cluster.ask("turned", row())
    assert cluster.values(answer, "turned") == [
        {"shop.rank": 0.5, "g.n": 1, "customer.name": "ann", "customer.age": 30}
    ]
    assert set(answer.meta.status.values()) == {"PRESENT"}


def test_an_id_that_comes_again_gets_what_was_recorded(cluster):
    first = cluster.ask("one", row())
    cluster.put((CUSTOMER, customer(age=31, second=1)), load=2)
    again = cluster.ask("one", row())
    other = cluster.ask("one", row(), keys={"customer": 2, "shop": "a"})
    fresh = cluster.ask("one", row(second=1), number=2)
    assert (again.body, again.meta.status, again.meta.age_ms) == (
        first.body, first.meta.status, first.meta.age_ms,
    )  # fmt: skip
    assert other.meta.code == "HOF-208"
    assert cluster.values(fresh, "one")[0]["customer.age"] == 31
    assert len(cluster.logged()) == 2


def test_an_id_of_another_view_is_looked_up_now(cluster):
    """Nothing was recorded for it under this one."""
    cluster.ask("g", row(), keys={})
    answer = cluster.ask("one", row())
    assert cluster.values(answer, "one")[0]["customer.age"] == 30
    assert len(cluster.logged()) == 1


@pytest.mark.parametrize(("missing", "code"), [("gone", "HOF-217"), ("stale", "HOF-217")])
def test_a_view_that_must_have_its_rows_gets_an_error_and_the_row_counts(cluster, missing, code):
    """The same error for the same id, though the row is there by then."""
    if missing == "stale":
        cluster.clock.advance(3_600)
        cluster.put((CUSTOMER, customer()))
    keys = {"customer": 9 if missing == "gone" else 1}
    assert cluster.ask("must", row(), keys=keys).meta.code == code
    cluster.put((CUSTOMER, customer(keys["customer"], second=4_000)), load=2)
    assert cluster.ask("must", row(), keys=keys).meta.code == code
    answer = cluster.ask("must", row(second=1), number=2, keys=keys)
    assert cluster.values(answer, "must") == [{"g.n": 2, "customer.age": 30}]


def test_a_store_that_is_away_counts_nothing_where_the_view_must_have_it(cluster):
    """Elsewhere the answer says so beside each feature."""
    cluster.store.away = True
    assert cluster.ask("must", row()).meta.code == "HOF-405"
    assert cluster.logged() == []
    marked = cluster.ask("one", row(), number=2)
    assert marked.meta.status == {"customer.age": "UNAVAILABLE", "shop.rank": "UNAVAILABLE"}
    cluster.store.away = False
    answer = cluster.ask("must", row())
    assert cluster.values(answer, "must") == [{"g.n": 2, "customer.age": 30}]


def test_peeks_are_joined_and_change_nothing(cluster):
    answer = cluster.ask("one", row(), store=False)
    assert cluster.values(answer, "one")[0]["customer.age"] == 30
    assert cluster.logged() == []


def test_events_without_answers_need_no_lookup(cluster):
    cluster.store.away = True
    assert cluster.ask("must", row(), keys={}, wants_answer=False).meta.code == "OK"
    (meta,) = cluster.logged()
    assert (meta.answered, meta.joined) == (False, [])


@pytest.mark.parametrize(
    "keys", [{}, {"customer": "1", "shop": "a"}, {"customer": [1, 1], "shop": "a"}]
)
def test_keys_that_do_not_fit_are_refused_before_anything_leaves(cluster, keys):
    assert cluster.ask("one", row(), keys=keys).meta.code == "HOF-216"
    assert cluster.topics.records["hof.in.g.1", 0] == []


def test_keys_for_a_view_without_stored_groups_are_refused(cluster):
    served = cluster.server.bind("g", None)
    replies = []
    batch = batch_of_rows([[7, START, 1]], served.input_schema)
    request = Request(served, *encode_batch(batch), id_of(1), replies.append, keys={"customer": 1})
    cluster.server.submit([request])
    assert replies[0].meta.code == "HOF-216"


GOOD = JoinRecord(START, [], [1, 1], [b"k", b"k"], [None, None])
HOSTILE = {
    "nothing": b"",
    "no msgpack": b"\xc1",
    "no array": msgspec.msgpack.encode({"a": 1}),
    "no record": msgspec.msgpack.encode([1]),
    "other rows": pack_join([GOOD, GOOD]),
    "no rows": pack_join([]),
    "other groups": pack_join([JoinRecord(START, [], [1], [b"k"], [None])]),
    "uneven": pack_join([JoinRecord(START, [], [1, 1], [b"k", b"k"], [None])]),
    "nested": b"\x91" * 5_000,
}


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_what_is_no_lookup_of_these_rows_is_refused_and_counts_nothing(cluster, name):
    """A record's header is a stranger's; its other requests are answered."""
    cluster.ask("one", row(), store=False)
    (record,) = [r for n in range(2) for r in cluster.topics.records["hof.in.g.1", n]]
    framing = Framing(CARD.input)
    found = framing.decode(record.value, record.headers)
    ((head, _, _),) = found.requests
    head.store, head.joined = True, HOSTILE[name]
    got = []
    for worker in cluster.workers:
        if record in cluster.topics.records["hof.in.g.1", worker.number]:
            worker.work("g.1", 9, found, lambda answers, refused: got.append((answers, refused)))
    ((((_, meta, _, _),), refused),) = got
    assert refused == ""
    assert b"HOF-20" in meta
    assert cluster.logged() == []


def test_rows_that_nobody_can_unpack_are_marked(cluster):
    """What is in the store may be damaged: the vector has a mark there, and the rest."""
    key = row_key(CUSTOMER.label, KeyCodec(CUSTOMER.key_schema).encode([1]))
    asyncio.run(cluster.store.put_many([(key, b"\x00junk")]))
    answer = cluster.ask("one", row())
    assert answer.meta.status["customer.age"] == "UNAVAILABLE"
    assert cluster.values(answer, "one")[0]["g.n"] == 1


def test_what_was_looked_up_counts_for_how_long_a_record_is(cluster):
    """Headers are of the record too: brokers refuse what is longer than they take."""
    rows = [row(card=card) for card in cards_of(0, 1) * 3_000]
    cluster.put((CUSTOMER, customer(name="x" * 500)))
    answer = cluster.ask("one", *rows)
    assert answer.meta.code == "HOF-207"
    assert cluster.logged() == []
