"""Joined views through a server: rows and keys go in, the whole vector comes out."""

import asyncio
import json
import subprocess
import time
import uuid
from contextlib import contextmanager

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hofflight as hof
from hofflight.errors import BadKeys, BadRows, IdReused, NullKey, StoredMissing
from tests.integration.test_cli import COMMAND, ended, environment, serving
from tests.unit.server.running_server import Exchange

FEATURES = """
import pyarrow as pa
import hofflight as hof

WINDOWS = {"n": hof.count().over("1h")}
card_tx = hof.feature_group(
    "card_tx", version=1, key="card", event_time="ts", windows=WINDOWS,
    input={"card": pa.int64(), "ts": hof.TIMESTAMP, "amount": pa.float64()},
)
terminal_tx = hof.feature_group(
    "terminal_tx", version=1, key="terminal", event_time="ts", windows=WINDOWS,
    input={"terminal": pa.string(), "ts": hof.TIMESTAMP},
)
customer = hof.stored_group(
    "customer", version=2, key="customer", event_time="updated", ttl="1h",
    schema={"customer": pa.int64(), "updated": hof.TIMESTAMP, "age": pa.int32(),
            "name": pa.string()},
)
limit = hof.stored_group(
    "limit", version=1, key=("card", "shop"), event_time="since",
    schema={"card": pa.int64(), "shop": pa.string(), "since": hof.TIMESTAMP, "most": pa.float64()},
)
fraud = hof.view("fraud", version=1, features=[
    "customer.age", "terminal_tx.n", "card_tx.amount", "limit.most", "card_tx.n"])
one = hof.view("one", version=1, features=["card_tx.n", "customer.name", "customer.age"])
both = hof.view("both", version=1, features=["terminal_tx.n", "card_tx.n"])
stored = hof.view("stored", version=1, features=["limit.most", "customer.age", "customer.updated"])
strict = hof.view("strict", version=1, features=["card_tx.n", "customer.age"], on_missing="fail")
"""
FRAUD = ["customer.age", "terminal_tx.n", "card_tx.amount", "limit.most", "card_tx.n"]
S = 1_000_000
# Rows of customers are judged by the server's clock; events need not be.
NOW_US = time.time_ns() // 1_000
_cards = iter(range(1_000, 1_000_000))


def customers():
    """1 is there, 2 is stale, 3 has no age, the others 100 to 1,099; 4 is nowhere."""
    rows = [(1, 30, "ann", 60), (2, 40, "bob", 7_200), (3, None, "é", 60)]
    rows += [(key, key % 90, f"c{key}", 1) for key in range(100, 1_100)]
    return [
        {"customer": key, "updated": NOW_US - age_s * S, "age": age, "name": name}
        for key, age, name, age_s in rows
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a store that is served, and the server's address."""
    folder = tmp_path_factory.mktemp("joined")
    (folder / "features.py").write_text(FEATURES)
    hof_run(folder, "register", "features", "--store", "store")
    names = {}
    exec(FEATURES, names)
    with hof.open(folder / "store") as app:
        app.materialize("customer", customers())
        app.materialize("limit", [{"card": 7, "shop": "a", "since": NOW_US - S, "most": 99.5}])
        for group in ("card_tx", "terminal_tx"):
            app.register(names[group], module="features")
        event = {"card": 7, "ts": NOW_US, "amount": 1.0, "terminal": "t"}
        app.vector("both", [event, event], store=False)
        app.vector("fraud", [event], keys={"customer": 1, "shop": "a"})
        app.training_dataset("fraud_set", "fraud")
        app.model("fraud_model", training_dataset="fraud_set")
    with serving(folder, "--modules", "features") as (process, address):
        yield folder, address
        assert ended(process) == 0


def called(folder, *arguments):
    return subprocess.run(
        [*COMMAND, *arguments], cwd=folder, env=environment(), capture_output=True, text=True,
        timeout=100, check=False,
    )  # fmt: skip


def hof_run(folder, *arguments):
    done = called(folder, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def client(place):
    with hof.connect(place[1], deadline_ms=20_000) as client:
        yield client


@contextmanager
def refused(error, client, card, view="fraud", **keys):
    """What is asked inside is refused; the stream goes on, and nothing of it counted."""
    with pytest.raises(error, match=error.code):
        yield
    found = client.vector(view, event(card), keys={"customer": 1, "shop": "a"}).to_dict()
    assert found["card_tx.n"] == 1


@pytest.fixture
def card():
    """One that no other test has."""
    return next(_cards)


def event(card, second=0, terminal=None, amount=9.5):
    terminal = terminal or f"terminal of {card}"
    return {"card": card, "ts": NOW_US + second * S, "amount": amount, "terminal": terminal}


# --- answers --------------------------------------------------------------------------------------


def test_a_row_is_answered_with_the_whole_vector_in_order(client):
    """Two streaming groups and two stored ones, one key of them half in the row."""
    found = client.vector("fraud", event(7, 1, "t"), keys={"customer": 1, "shop": "a"})
    values = found.to_dict()

    assert list(values) == FRAUD
    assert (values["customer.age"], values["limit.most"]) == (30, 99.5)
    assert (values["card_tx.amount"], values["card_tx.n"], values["terminal_tx.n"]) == (9.5, 2, 2)
    assert found.status == {"customer.age": "PRESENT", "limit.most": "PRESENT"}
    assert found.age_ms["customer.age"] >= 60_000
    assert 1_000 <= found.age_ms["limit.most"] < found.age_ms["customer.age"]
    assert (found.view, found.version, found.late) == ("fraud", 1, [False])
    assert found.group_late == {"terminal_tx": [False], "card_tx": [False]}
    assert {"engine", "lookup"} <= set(found.timings_us)


def test_statuses_and_ages_of_many_rows_arrive_row_by_row(client, card):
    """PRESENT, STALE, NULL and NOT_FOUND beside their values; where all agree, once."""
    rows = [event(card, second) for second in range(4)]
    keys = {"customer": [1, 2, 3, 4], "shop": "a"}
    found = client.vector("fraud", rows, keys=keys)
    alone = [
        client.vector("fraud", one, keys={"customer": key, "shop": "a"}, store=False)
        for one, key in zip(rows, keys["customer"], strict=True)
    ]

    assert found.batch["customer.age"].to_pylist() == [30, None, None, None]
    states = ["PRESENT", "STALE", "NULL", "NOT_FOUND"]
    assert found.status["customer.age"] == states
    assert [one.status["customer.age"] for one in alone] == states
    assert found.status["limit.most"] == "NOT_FOUND"
    ages = found.age_ms["customer.age"]
    assert [age is None for age in ages] == [False, False, False, True]
    assert ages[1] >= 7_200_000 > ages[0]
    assert found.batch["card_tx.n"].to_pylist() == [1, 2, 3, 4]


@pytest.mark.parametrize("view", ["both", "fraud"])
def test_one_row_of_two_groups_counts_in_both(client, card, view):
    """With stored features beside them, or without any."""
    keys = {"customer": 1, "shop": "a"} if view == "fraud" else None
    first = client.vector(view, event(card, 0, f"a{card}"), keys=keys)
    second = client.vector(view, event(card, 1, f"b{card}"), keys=keys)

    assert first.to_dict()["card_tx.n"] == first.to_dict()["terminal_tx.n"] == 1
    assert (second.to_dict()["card_tx.n"], second.to_dict()["terminal_tx.n"]) == (2, 1)


def test_stored_features_alone_are_answered_by_their_keys(client):
    """No rows; scalars or one list per key column."""
    one = client.vector("stored", keys={"card": 7, "shop": "a", "customer": 1})
    many = client.vector("stored", keys={"card": 7, "shop": ["a", "b"], "customer": [2, 1]})
    group = client.vector("customer", keys={"customer": [3, 1]})

    assert one.to_dict()["limit.most"] == 99.5
    assert one.to_dict()["customer.updated"].timestamp() * S == NOW_US - 60 * S
    assert many.batch["limit.most"].to_pylist() == [99.5, None]
    assert many.batch["customer.age"].to_pylist() == [None, 30]
    assert many.status["customer.age"] == ["STALE", "PRESENT"]
    assert group.batch["customer.name"].to_pylist() == ["é", "ann"]


def test_the_same_id_gets_the_same_answer_and_counts_once(client, card):
    """Also under another view of the group; other keys are another question."""
    id_ = uuid.uuid4()
    keys = {"customer": 1, "shop": "a"}
    first = client.vector("fraud", event(card), keys=keys, request_id=id_)
    again = client.vector("fraud", event(card), keys=keys, request_id=id_)
    with pytest.raises(IdReused, match="HOF-208"):
        client.vector("fraud", event(card), keys={"customer": 3, "shop": "a"}, request_id=id_)
    row = {name: event(card)[name] for name in ("card", "ts", "amount")}
    other = client.vector("one", row, keys={"customer": 1}, request_id=id_)

    assert again.to_dict() == first.to_dict()
    assert (again.status, again.age_ms) == (first.status, first.age_ms)
    assert other.to_dict()["card_tx.n"] == 1
    assert client.vector("fraud", event(card, 1), keys=keys).to_dict()["card_tx.n"] == 2


def test_a_peek_counts_nothing(client, card):
    """Its lookup is a real one."""
    keys = {"customer": 1, "shop": "a"}
    peeked = client.vector("fraud", event(card), keys=keys, store=False)

    assert (peeked.to_dict()["card_tx.n"], peeked.to_dict()["customer.age"]) == (1, 30)
    assert client.vector("fraud", event(card), keys=keys).to_dict()["card_tx.n"] == 1


def test_a_view_that_must_have_its_rows_says_which_are_not_there(client, card):
    """HOF-217, an answer like any other: the stream goes on."""
    row = {name: event(card)[name] for name in ("card", "ts", "amount")}
    for customer in (4, 2):
        with pytest.raises(StoredMissing, match=r"HOF-217.*strict"):
            client.vector("strict", row, keys={"customer": customer}, store=False)

    assert client.vector("strict", row, keys={"customer": 1}).to_dict()["card_tx.n"] == 1


def test_a_datasets_and_a_models_name_answer_the_same_vector(client, card):
    """In the order trained on."""
    id_ = uuid.uuid4()
    ask = {"keys": {"customer": 1, "shop": "a"}, "request_id": id_}
    answers = [client.vector(n, event(card), **ask) for n in ("fraud", "fraud_set", "fraud_model")]

    assert [list(found.to_dict()) for found in answers] == [FRAUD] * 3
    assert all(found.to_dict() == answers[0].to_dict() for found in answers)
    assert {(found.view, found.version) for found in answers} == {("fraud", 1)}


# --- shapes of rows -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pandas", "polars", "table", "dicts"])
def test_rows_may_come_as_frames(client, card, kind):
    """Columns in any order."""
    rows = [event(card, second) for second in range(3)]
    stamped = pa.Table.from_pylist(rows).select(["terminal", "amount", "card"])
    times = pa.array([one["ts"] for one in rows]).cast(pa.int64()).view(hof.TIMESTAMP)
    table = stamped.append_column("ts", times)
    made = {
        "pandas": lambda: table.to_pandas(types_mapper=pd.ArrowDtype),
        "polars": lambda: pl.from_arrow(table),
        "table": lambda: table,
        "dicts": lambda: rows,
    }[kind]()
    found = client.vector("fraud", made, keys={"customer": [1, 2, 3], "shop": "a"})

    assert found.batch["card_tx.n"].to_pylist() == [1, 2, 3]
    assert found.batch["customer.age"].to_pylist() == [30, None, None]


def test_keys_may_be_a_column_of_a_frame(client, card):
    """As in the embedded store, which takes what numpy, pandas and Arrow call a column."""
    column = pa.array([1, 3]).to_numpy()
    found = client.vector("stored", keys={"card": 7, "shop": "a", "customer": column})

    assert found.status["customer.age"] == ["PRESENT", "NULL"]


def test_a_thousand_rows_in_one_request_have_each_its_own_key(client, card):
    """In their order, twice the same."""
    rows = [event(card, second) for second in range(1_000)]
    keys = {"customer": list(range(100, 1_100)), "shop": "a"}
    id_ = uuid.uuid4()
    found, again = (client.vector("fraud", rows, keys=keys, request_id=id_) for _ in range(2))

    assert found.batch["customer.age"].to_pylist() == [key % 90 for key in range(100, 1_100)]
    assert found.batch["card_tx.n"].to_pylist() == list(range(1, 1_001))
    assert found.status["customer.age"] == "PRESENT"
    assert again.batch == found.batch


@pytest.mark.parametrize("first", [1, 2**62], ids=["small numbers", "large numbers"])
def test_a_thousand_keys_of_stored_features_alone_are_one_request(client, first):
    """However large the numbers are; those who are nowhere say so."""
    wanted = [first + number for number in range(1_000)]
    found = client.vector("customer", keys={"customer": wanted})

    names = [f"c{key}" if 100 <= key < 1_100 else None for key in wanted]
    assert found.batch["customer.name"].to_pylist()[3:] == names[3:]
    assert found.batch.num_rows == 1_000


def test_an_asyncio_client_asks_for_all_of_them_at_once(place):
    """Many requests under way on one connection; each gets its own customer's row."""
    cards = [next(_cards) for _ in range(60)]

    async def ask_all():
        client = hof.connect_async(place[1], deadline_ms=20_000)
        async with client:
            one = [
                client.vector("fraud", event(c), keys={"customer": 100 + i, "shop": "a"})
                for i, c in enumerate(cards)
            ]
            alone = [client.vector("customer", keys={"customer": 100 + i}) for i in range(60)]
            return await asyncio.gather(*one), await asyncio.gather(*alone)

    joined, alone = asyncio.run(ask_all())
    ages = [(100 + number) % 90 for number in range(60)]
    assert [found.to_dict()["customer.age"] for found in joined] == ages
    assert [found.to_dict()["card_tx.n"] for found in joined] == [1] * 60
    assert [found.to_dict()["customer.age"] for found in alone] == ages


def test_events_are_taken_in_without_an_answer(client, card):
    """Into a view of two groups: both count them."""
    assert client.ingest("both", [event(card, second) for second in range(3)]) == 3

    found = client.vector("fraud", event(card, 3), keys={"customer": 1, "shop": "a"}).to_dict()
    assert (found["card_tx.n"], found["terminal_tx.n"]) == (4, 4)


def test_events_for_a_view_whose_keys_are_given_need_none(client, card):
    """Nothing is looked up for them, so nobody has to say for whom."""
    assert client.ingest("fraud", [event(card, second) for second in range(3)]) == 3

    found = client.vector("fraud", event(card, 3), keys={"customer": 1, "shop": "a"}).to_dict()
    assert (found["card_tx.n"], found["terminal_tx.n"]) == (4, 4)


# --- refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "keys",
    [
        None, {"customer": 1}, {"customer": "1", "shop": "a"}, {"customer": None, "shop": "a"},
        {"customer": 1.0, "shop": "a"}, {"customer": 1, "shop": "a", "more": 1},
        {"customer": [1, 2], "shop": "a"}, {"customer": True, "shop": "a"},
        {"customer": {"a": 1}, "shop": "a"}, {"customer": 2**63, "shop": "a"},
    ],
    ids=repr,
)  # fmt: skip
def test_wrong_keys_are_refused_and_the_stream_goes_on(client, card, keys):
    """HOF-216; nothing of the row counted."""
    with refused(BadKeys, client, card):
        client.vector("fraud", event(card), keys=keys)


def test_a_null_key_of_a_group_is_refused_by_all(client, card):
    """Before any of them counts the other rows."""
    with refused(NullKey, client, card):
        rows = [event(card), {**event(card), "terminal": None}]
        client.vector("fraud", rows, keys={"customer": 1, "shop": "a"})


def test_keys_go_to_stored_groups_and_rows_to_streaming_ones(client, card):
    """A view that has none of either is not asked with any."""
    with pytest.raises(BadKeys, match="HOF-216"):
        client.vector("both", [event(card)] * 2, keys={"customer": 1})
    with pytest.raises(BadRows, match="HOF-211"):
        client.vector("customer", event(card), keys={"customer": 1})
    with pytest.raises(BadRows, match="HOF-211"):
        client.vector("fraud", keys={"customer": 1, "shop": "a"})


def test_the_servers_refusal_is_an_answer_in_the_stream(place, card):
    """Whoever writes the wire themselves gets zero rows and a code, then the next answer."""
    from pyarrow import flight

    schema = pa.schema({"terminal": pa.string(), "ts": hof.TIMESTAMP, "card": pa.int64(),
                        "amount": pa.float64()})  # fmt: skip
    rows = pa.RecordBatch.from_pylist([event(card)], schema)
    with flight.connect(place[1]) as plain, Exchange(plain, "fraud", schema=schema) as exchange:
        codes = []
        for keys in (None, {"customer": 1, "shop": "a"}, {"customer": []}, {"customer": 1}):
            batch, meta = exchange.ask(rows, keys=keys)
            codes.append((meta.code, batch.num_rows, batch.schema.names))

    assert codes == [
        ("HOF-216", 0, FRAUD), ("OK", 1, FRAUD), ("HOF-216", 0, FRAUD), ("HOF-216", 0, FRAUD)
    ]  # fmt: skip


# --- described ------------------------------------------------------------------------------------


def test_a_view_says_which_groups_it_has_and_which_keys_it_needs(client):
    """Enough to ask without the code."""
    fraud, stored, both = (client.view(name) for name in ("fraud", "stored", "both"))

    assert fraud.groups == ("terminal_tx@1", "card_tx@1", "customer@2", "limit@1")
    assert fraud.keys == {"customer": "int64", "shop": "string"}
    assert sorted(fraud.input_schema.names) == ["amount", "card", "terminal", "ts"]
    assert fraud.output_schema.names == FRAUD
    assert (stored.group, stored.groups) == ("", ("limit@1", "customer@2"))
    assert stored.keys == {"card": "int64", "shop": "string", "customer": "int64"}
    assert stored.input_schema.names == []
    assert (both.keys, both.groups) == ({}, ("terminal_tx@1", "card_tx@1"))
    assert {"fraud", "stored", "customer", "limit"} <= {view.name for view in client.views()}


def test_describe_lists_groups_and_keys(client):
    """As JSON, for whoever has no client of ours."""
    (told,) = client.describe("fraud")["views"]

    assert told["keys"] == [
        {"name": "customer", "type": "int64"}, {"name": "shop", "type": "string"}
    ]  # fmt: skip
    assert list(told["groups"]) == ["terminal_tx@1", "card_tx@1", "customer@2", "limit@1"]
    assert [column["name"] for column in told["output"]] == FRAUD


@pytest.mark.parametrize("name", ["fraud", "fraud_model"])
def test_the_contract_is_the_same_of_a_store_and_of_a_server(place, name):
    """What goes in and what comes out, as JSON Schema in the vector's order."""
    folder, address = place
    told = [json.loads(hof_run(folder, "describe", name, "--store", "store", "--json"))]
    if name == "fraud":
        told.append(json.loads(hof_run(folder, "describe", "fraud@1", "--url", address, "--json")))
    for found in told:
        request, vector = (found["json_schema"][side] for side in ("request", "vector"))
        assert (found["view"], found["version"]) == ("fraud", 1)
        assert list(vector["properties"]) == vector["required"] == FRAUD
        assert vector["properties"]["customer.age"] == {"type": ["integer", "null"]}
        assert vector["properties"]["limit.most"] == {"type": ["number", "null"]}
        assert set(request["required"]) == {
            "terminal", "ts", "card", "amount", "customer", "shop"
        }  # fmt: skip
        assert request["properties"]["ts"]["format"] == "date-time"
        assert vector["additionalProperties"] is False
    sides = ("input", "keys", "output", "groups", "json_schema")
    assert all(found[side] == told[0][side] for found in told for side in sides)


def test_the_contract_is_a_table_for_people(place):
    """Of a store that is being served, beside its server."""
    shown = hof_run(place[0], "describe", "stored", "--store", "store")

    assert "stored@1 of limit@1, customer@2" in shown
    order = [shown.index(name) for name in ("limit.most", "customer.age", "customer.updated")]
    assert order == sorted(order)
    assert "int64" in shown


def test_a_load_beside_the_server_is_served_from_then_on(place, client, card):
    """Without a restart; what was answered before stays the answer to its id."""
    folder, _ = place
    id_ = uuid.uuid4()
    keys = {"card": card, "shop": "new", "customer": 1}
    before = client.vector("stored", keys=keys, request_id=id_)
    rows = pa.table({
        "card": [card], "shop": ["new"], "most": [5.0],
        "since": pa.array([NOW_US]).view(hof.TIMESTAMP),
    })  # fmt: skip
    pq.write_table(rows, folder / "limits.parquet")
    hof_run(folder, "materialize", "limit", "limits.parquet", "--store", "store")

    assert before.status["limit.most"] == "NOT_FOUND"
    assert client.vector("stored", keys=keys).to_dict()["limit.most"] == 5.0
    again = client.vector("stored", keys=keys, request_id=id_)
    assert (again.to_dict(), again.status) == (before.to_dict(), before.status)


def test_an_unknown_view_has_no_contract(place):
    """And says so."""
    done = called(place[0], "describe", "nobody", "--store", "store")

    assert done.returncode == 1
    assert "HOF-201" in done.stderr
