"""What a joined view asks of its parts and of the store, and what it makes of the answers."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hofflight as hof
from hofflight.errors import BadKeys, MalformedBatch, OnlineUnavailable
from hofflight.eventlog.joins import UNAVAILABLE, JoinRecord, decode_joins, encode_joins
from hofflight.online.packed import Packing
from hofflight.online.slots import COMMITS_KEY, Commits, replaced, row_key, write_commits
from hofflight.server.join_plan import JoinPlan, require_no_keys
from hofflight.wire.columns import batch_of_rows, from_python, to_python
from hofflight.wire.ipc import BatchReader, encode_batch
from hofflight.wire.keys import KeyCodec
from hofflight.wire.schema import TIMESTAMP
from tests.unit.online.interrupted import interrupted, lines_of
from tests.unit.online.test_packed import values_of
from tests.unit.server.joined_views import CARD, CUSTOMER, SHOP, START, TERMINAL, S, served_of

BOTH = ["shop.rank", "h.n", "customer.name", "g.x", "customer.age", "g.n", "h.terminal"]
GROUPS = (CARD, TERMINAL, CUSTOMER, SHOP)
AWAY = OnlineUnavailable("the store is away")
COMMITTED = {"customer.1": Commits(3), "shop.1": Commits(2)}


def plan_of(*features):
    return JoinPlan(served_of(features, *GROUPS))


def encoded(plan, *rows):
    """A request's bytes; its columns by name."""
    schema = plan.served.input_schema
    return encode_batch(batch_of_rows([[row[n] for n in schema.names] for row in rows], schema))


def decoded(schema, head, body):
    return BatchReader(schema).read_batch(head, body)


def event(card=7, terminal="t", x=1):
    return {"card": card, "ts": START, "terminal": terminal, "x": x}


def packed(group, load, time_us=START, **values):
    """A row of a stored group, as a load brings it."""
    columns = [from_python([values.get(f.name)], f.type) for f in group.packed_schema]
    stamps = pa.array([time_us], pa.int64()).view(TIMESTAMP), pa.array([load], pa.int64())
    return Packing(group.packed_schema).pack(*stamps, columns)[0].as_py()


def key_of(group, *values):
    return row_key(group.label, KeyCodec(group.key_schema).encode(values))


def customer_row(load=1, time_us=START, age=30, name="ann"):
    return packed(CUSTOMER, load, time_us, customer=1, age=age, name=name)


def value_of(row):
    """What is under a key after one load."""
    return replaced(None, row, Commits(0))


# --- 1. split ---


@pytest.mark.parametrize("count", [1, 3])
def test_each_group_gets_its_own_columns_of_the_rows(count):
    """In its own order, as bytes like any request to it alone."""
    plan = plan_of("h.n", "g.n", "customer.age")
    rows = [event(card=i, terminal=None if i == 1 else f"t{i}", x=i) for i in range(count)]
    head, body = encoded(plan, *rows)
    parts = plan.split(head, body, plan.rows(head, body))

    for group, (part_head, part_body) in zip((TERMINAL, CARD), parts, strict=True):
        found = decoded(group.input, part_head, part_body)
        expected = [[row[n] for n in group.input.names] for row in rows]
        assert found == batch_of_rows(expected, group.input)
        assert (part_head, part_body) == encode_batch(batch_of_rows(expected, group.input))


def test_a_group_that_takes_the_whole_row_gets_the_bytes_as_they_came():
    """And nobody looks into them, where no key is in them."""
    plan = plan_of("g.n", "customer.age")
    head, body = encoded(plan, event())
    rows = plan.rows(head, body)

    assert plan.split(head, body, rows) == [(head, body)]
    assert (rows.size, rows.raw, rows.batch) == (1, None, None)
    assert plan.is_whole


def test_bytes_that_are_no_rows_are_refused():
    """Before any group sees them."""
    plan = plan_of("g.n", "h.n")

    with pytest.raises(MalformedBatch, match="HOF-203"):
        plan.rows(b"no header", b"")


# --- 2. keys ---


@given(st.data())
def test_one_row_and_many_rows_have_the_same_keys(data):
    """Composite, half of it in the row and half given; null where the row's part is."""
    plan = plan_of("g.n", "customer.age", "shop.rank")
    size = data.draw(st.integers(1, 5))
    cards = [data.draw(st.none() | values_of(pa.int64())) for _ in range(size)]
    customers = [data.draw(values_of(pa.int64())) for _ in range(size)]
    shops = [data.draw(values_of(pa.string())) for _ in range(size)]
    messages = [encoded(plan, event(card=card)) for card in cards]
    alone = [
        plan.keys_of(plan.rows(*message), {"customer": c, "shop": s})
        for message, c, s in zip(messages, customers, shops, strict=True)
    ]
    head, body = encoded(plan, *[event(card=card) for card in cards])
    together = plan.keys_of(plan.rows(head, body), {"customer": customers, "shop": shops})

    assert together == [keys for (keys,) in alone]
    assert together == [
        [key_of(CUSTOMER, c), None if card is None else key_of(SHOP, card, s)]
        for card, c, s in zip(cards, customers, shops, strict=True)
    ]


def test_a_given_value_is_for_all_rows_and_a_list_has_one_for_each():
    """Mixed as one likes."""
    plan = plan_of("g.n", "customer.age", "shop.rank")
    head, body = encoded(plan, event(card=1), event(card=2))
    keys = plan.keys_of(plan.rows(head, body), {"customer": 5, "shop": ["a", "b"]})

    assert keys == [
        [key_of(CUSTOMER, 5), key_of(SHOP, 1, "a")], [key_of(CUSTOMER, 5), key_of(SHOP, 2, "b")]
    ]  # fmt: skip


def test_groups_with_one_key_are_found_each_under_its_own_name():
    """The key is encoded once, the rows are two."""
    account = hof.stored_group(
        "account", version=2, key="customer", event_time="at",
        schema={"customer": pa.int64(), "at": hof.TIMESTAMP, "limit": pa.float64()},
    )  # fmt: skip
    plan = JoinPlan(served_of(["account.limit", "customer.age"], account, CUSTOMER))
    [keys] = plan.keys_of(None, {"customer": 5})

    assert keys == [key_of(account, 5), key_of(CUSTOMER, 5)]
    assert len(plan._sources) == 1


@pytest.mark.parametrize(
    "given_keys",
    [
        None, {}, {"customer": 1}, {"shop": "a"}, {"customer": 1, "shop": "a", "more": 1},
        {"customer": 1, "shop": "a", "card": 7}, {"customer": None, "shop": "a"},
        {"customer": "1", "shop": "a"}, {"customer": 1.0, "shop": "a"},
        {"customer": True, "shop": "a"}, {"customer": 2**63, "shop": "a"},
        {"customer": 1, "shop": b"a"}, {"customer": 1, "shop": 1}, {"customer": [], "shop": "a"},
        {"customer": [1, 2], "shop": "a"}, {"customer": [[1]], "shop": "a"},
        {"Customer": 1, "shop": "a"}, [("customer", 1), ("shop", "a")], "customer", 7,
    ],
    ids=repr,
)  # fmt: skip
def test_keys_that_do_not_fit_are_refused(given_keys):
    """Missing, too many, null, of another type, of another number than the rows."""
    plan = plan_of("g.n", "customer.age", "shop.rank")
    head, body = encoded(plan, event())

    with pytest.raises(BadKeys, match="HOF-216"):
        plan.keys_of(plan.rows(head, body), given_keys)


def test_a_view_without_stored_groups_takes_no_keys():
    """What is asked for is never silently left out; nothing asked for is nothing."""
    plan = plan_of("g.n", "h.n")
    head, body = encoded(plan, event(), event())
    rows = plan.rows(head, body)

    assert plan.keys_of(rows, None) == plan.keys_of(rows, {}) == [[], []]
    for refuse in (lambda keys: plan.keys_of(rows, keys), require_no_keys):
        with pytest.raises(BadKeys, match="HOF-216"):
            refuse({"customer": 1})
    require_no_keys({})
    require_no_keys(None)


def test_the_store_is_asked_for_its_loads_and_for_each_row_once():
    """A null key asks for nothing."""
    assert JoinPlan.lookup([[b"a", None, b"b"]]) == [COMMITS_KEY, b"a", b"b"]
    assert JoinPlan.lookup([[None]]) == [COMMITS_KEY]
    keys = [[b"a", b"b"], [b"a", None], [b"c", b"b"]]
    assert JoinPlan.lookup(keys) == [COMMITS_KEY, b"a", b"b", b"c"]


# --- 3. records ---


def look_up(plan, store, keys, numbers=()):
    asked = plan.lookup(keys)
    return plan.records(keys, asked, [store.get(key) for key in asked], START, list(numbers))


CUSTOMERS = [key_of(CUSTOMER, number) for number in range(4)]
SHOPS = [key_of(SHOP, 7, name) for name in "abcd"]


@given(st.data())
def test_one_row_and_many_rows_find_the_same(data):
    """Whatever is under each key: nothing, a row of a load that counts or not, or garbage."""
    plan = plan_of("customer.name", "customer.age", "shop.rank")
    values = st.sampled_from([
        None, b"", b"garbage", value_of(customer_row(1)), value_of(customer_row(4)),
        replaced(value_of(customer_row(2)), customer_row(4, START + 1), Commits(3)),
    ])  # fmt: skip
    store = {key: data.draw(values) for key in (*CUSTOMERS, *SHOPS)}
    store[COMMITS_KEY] = write_commits(COMMITTED)
    key = st.none() | st.sampled_from(CUSTOMERS), st.none() | st.sampled_from(SHOPS)
    keys = [list(pair) for pair in data.draw(st.lists(st.tuples(*key), min_size=1, max_size=5))]

    together = look_up(plan, store, keys, [3, 9])
    alone = [look_up(plan, store, [one], [3, 9])[0] for one in keys]
    assert together == alone
    assert [record.keys for record in together] == keys
    assert {(record.asked_us, *record.numbers) for record in together} == {(START, 3, 9)}
    assert decode_joins(*encode_joins(together)) == together


def test_the_newest_row_of_a_committed_load_is_found():
    """A load that is being written is not seen; what it replaced is."""
    plan = plan_of("customer.age")
    before, after = customer_row(2), customer_row(4, START + 1)
    value = replaced(value_of(before), after, Commits(3))
    keys = [[CUSTOMERS[1]]]
    found = {}
    for commits in (Commits(1), Commits(3), Commits(4), Commits(5, frozenset({4}))):
        store = {COMMITS_KEY: write_commits({"customer.1": commits}), CUSTOMERS[1]: value}
        [record] = look_up(plan, store, keys)
        found[commits.last] = record.as_of, record.rows

    assert found == {
        1: ([1], [None]), 3: ([3], [before]), 4: ([4], [after]), 5: ([5], [before])
    }  # fmt: skip


@pytest.mark.parametrize("count", [1, 2])
def test_a_null_key_is_found_in_no_load(count):
    """The other group's row is still its own."""
    plan = plan_of("customer.age", "shop.rank")
    row = packed(SHOP, 1, card=7, shop="a", rank=2.0)
    store = {COMMITS_KEY: write_commits(COMMITTED), SHOPS[0]: value_of(row)}
    records = look_up(plan, store, [[None, SHOPS[0]]] * count)

    assert [(r.as_of, r.rows) for r in records] == [([3, 2], [None, row])] * count


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    "page", [None, b"", b"garbage", write_commits(COMMITTED)[:-1], write_commits({}) + b"\0"]
)
def test_without_a_list_of_loads_no_row_counts(page, count):
    """The store was emptied, or holds what is not ours: that is not "not found"."""
    plan = plan_of("customer.age", "shop.rank")
    store = {COMMITS_KEY: page, CUSTOMERS[1]: value_of(customer_row())}
    records = look_up(plan, store, [[CUSTOMERS[1], None]] * count)

    assert [(r.as_of, r.rows) for r in records] == [([UNAVAILABLE] * 2, [None, None])] * count


@pytest.mark.parametrize("count", [1, 2])
def test_a_group_that_the_list_of_loads_does_not_have_is_unavailable_alone(count):
    """It was never loaded here, or its loads were lost."""
    plan = plan_of("customer.age", "shop.rank")
    page = write_commits({"shop.1": Commits(2), "customer.2": Commits(9)})
    row = packed(SHOP, 2, card=7, shop="a", rank=2.0)
    store = {
        COMMITS_KEY: page, CUSTOMERS[1]: value_of(customer_row()), SHOPS[0]: value_of(row)
    }  # fmt: skip
    records = look_up(plan, store, [[CUSTOMERS[1], SHOPS[0]]] * count)

    assert [(r.as_of, r.rows) for r in records] == [([UNAVAILABLE, 2], [None, row])] * count


@pytest.mark.parametrize("count", [1, 2])
def test_a_value_that_cannot_be_read_is_unavailable_and_not_missing(count):
    """Only for that key; a shorter or foreign one alike."""
    plan = plan_of("customer.age", "shop.rank")
    row = packed(SHOP, 2, card=7, shop="a", rank=2.0)
    for damaged in (b"", b"\1", value_of(customer_row())[:-1], b"\2" + bytes(60)):
        store = {
            COMMITS_KEY: write_commits(COMMITTED), CUSTOMERS[1]: damaged, SHOPS[0]: value_of(row)
        }  # fmt: skip
        records = look_up(plan, store, [[CUSTOMERS[1], SHOPS[0]]] * count)
        assert [(r.as_of, r.rows) for r in records] == [([UNAVAILABLE, 2], [None, row])] * count


@pytest.mark.parametrize("count", [1, 2])
def test_a_store_that_did_not_answer_leaves_every_group_unavailable(count):
    """The keys are recorded all the same: an id belongs to them."""
    plan = plan_of("customer.age", "shop.rank")
    keys = [[CUSTOMERS[1], None]] * count
    records = plan.records(keys, plan.lookup(keys), AWAY, START, [4])

    assert records == [JoinRecord(START, [4], [UNAVAILABLE] * 2, keys[0], [None, None])] * count


@pytest.mark.parametrize("at", lines_of(JoinPlan._committed))
def test_two_threads_that_see_two_lists_of_loads_do_not_mix_them(at):
    """One looked up just before a load was committed, one just after."""
    plan = plan_of("customer.age")
    row = customer_row(3)
    older, newer = (
        {COMMITS_KEY: write_commits({"customer.1": Commits(last)}), CUSTOMERS[1]: value_of(row)}
        for last in (2, 3)
    )
    keys = [[CUSTOMERS[1]]]

    def found(store):
        [record] = look_up(plan, store, keys)
        return record.as_of, record.rows

    behind = []
    with interrupted(JoinPlan._committed, at, lambda: behind.append(found(older))):
        ahead = found(newer)

    assert ahead == ([3], [row])
    assert behind == [([2], [None])] * len(behind)
    assert found(newer) == ([3], [row]), "and whoever comes later"
    assert found(older) == ([2], [None])


# --- 4. joined ---


def joined(plan, parts, records):
    found = plan.joined(parts, records)
    return decoded(plan.served.output_schema, found.head, found.body), found.stored


def test_the_vector_has_the_views_order_on_every_way():
    """Groups mixed, stored or not; one row of values, one row of columns, many rows."""
    plan = plan_of(*BOTH)
    assert [part.group for part in plan.served.parts] == ["h", "g"]
    terminal, card = [5, "t"], [1, 9]
    rank = packed(SHOP, 1, card=7, shop="a", rank=2.5)
    records = [JoinRecord(START + S, [1, 1], [1, 1], [b"k"] * 2, [rank, customer_row()])]
    expected = [2.5, 5, "ann", 1, 30, 9, "t"]
    schemas = [part.output_schema for part in plan.served.parts]
    batches = [batch_of_rows([v], s) for v, s in zip((terminal, card), schemas, strict=True)]
    many = [batch_of_rows([v] * 2, s) for v, s in zip((terminal, card), schemas, strict=True)]
    ways = [
        ([terminal, card], records), (batches, records), ([terminal, batches[1]], records),
        (many, records * 2),
    ]  # fmt: skip

    for parts, found in ways:
        batch, stored = joined(plan, parts, found)
        assert batch.schema.names == BOTH
        assert list(zip(*map(to_python, batch.columns), strict=True)) == [tuple(expected)] * len(
            found
        )
        assert stored.status == dict.fromkeys(
            ["shop.rank", "customer.name", "customer.age"], "PRESENT"
        )
        assert set(stored.age_ms.values()) == {1_000}


def test_a_vector_with_lists_is_joined_too():
    """A row that `struct` cannot write goes through Arrow."""
    top = hof.feature_group(
        "top", version=1, key="card", event_time="ts",
        input={field.name: field.type for field in CARD.input},
        windows={"most": hof.top_k("x", 2).over("1h")},
    )  # fmt: skip
    plan = JoinPlan(served_of(["customer.age", "top.most", "top.card"], top, CUSTOMER))
    record = JoinRecord(START, [1], [1], [b"k"], [customer_row()])
    batch, _ = joined(plan, [[[3, 1], 7]], [record])

    assert batch.to_pylist() == [{"customer.age": 30, "top.most": [3, 1], "top.card": 7}]


@pytest.mark.parametrize("count", [1, 2])
def test_groups_are_joined_without_any_stored_one(count):
    """Two streaming groups: nothing was looked up, and nothing is said of it."""
    plan = plan_of("h.n", "g.x", "g.n")
    schemas = [part.output_schema for part in plan.served.parts]
    values = [[5], [1, 9]]
    parts = values
    if count > 1:
        parts = [batch_of_rows([v] * count, s) for v, s in zip(values, schemas, strict=True)]
    records = plan.records([[]] * count, [], [], START, [3, 4])
    batch, stored = joined(plan, parts, records)

    assert batch.to_pylist() == [{"h.n": 5, "g.x": 1, "g.n": 9}] * count
    assert (stored.status, stored.age_ms, stored.missing) == ({}, {}, "")


def test_what_is_recorded_gives_the_same_vector_later():
    """Nothing but the record decides: another load, another time, another plan."""
    row = customer_row(age=41)
    record = JoinRecord(START + 5 * S, [1], [1], [CUSTOMERS[1]], [row])
    [again] = decode_joins(*encode_joins([record]))
    first = joined(plan_of("g.n", "customer.*"), [[4]], [record])
    second = joined(plan_of("g.n", "customer.*"), [[4]], [again])

    assert first == second
    assert first[1].age_ms["customer.age"] == 5_000
