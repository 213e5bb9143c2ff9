"""What a joined view may be asked, and by which names; what may not be asked says why."""

import gc
import uuid

import pyarrow as pa
import pytest

import hofflight as hof
from hofflight.errors import BadKeys, BadRequest, BadRows, SchemaMismatch, TooLarge
from hofflight.eventlog.protocol import Request
from tests.unit.server.joined_views import (
    CARD,
    CUSTOMER,
    KEYS,
    ONE,
    SHOP,
    START,
    S,
    ask,
    customer,
    facts,
    load,
    put,
    records,
    row,
    rows_for,
)


@pytest.fixture
def app(joins):
    app = joins.open()
    load(app)
    return app


# --- keys -----------------------------------------------------------------------------------------

WRONG_KEYS = {
    "none": None,
    "an empty dict": {},
    "one is missing": {"customer": 1},
    "one too many": {**KEYS, "more": 1},
    "a column of the rows": {**KEYS, "card": 7},
    "null": {"customer": None, "shop": "a"},
    "null in a list": {"customer": [None], "shop": "a"},
    "text for a number": {"customer": "1", "shop": "a"},
    "a number for text": {"customer": 1, "shop": 1},
    "a float": {"customer": 1.0, "shop": "a"},
    "a bool": {"customer": True, "shop": "a"},
    "a large number": {"customer": 2**63, "shop": "a"},
    "no UTF-8": {"customer": 1, "shop": "\ud800"},
    "bytes for text": {"customer": 1, "shop": b"a"},
    "a list of lists": {"customer": [[1]], "shop": "a"},
    "another number than the rows": {"customer": [1, 2], "shop": "a"},
    "an empty list": {"customer": [], "shop": "a"},
    "another name": {"Customer": 1, "shop": "a"},
}


@pytest.mark.parametrize("what", WRONG_KEYS)
@pytest.mark.parametrize("view", ["one", "several"])
def test_keys_that_do_not_fit_are_refused_before_anything_counts(app, view, what):
    """No group has seen the row, and its id is free."""
    before = records(app)
    with pytest.raises(BadKeys, match="HOF-216"):
        app.vector(view, rows_for(app, view, row()), keys=WRONG_KEYS[what], request_id=ONE)

    assert records(app) == before
    assert ask(app, view, row(1), request_id=ONE).to_dict()["g.n"] == 1


@pytest.mark.parametrize("view", ["g", "plain"])
def test_keys_for_a_view_without_stored_groups_are_refused(app, view):
    """What is asked for is never silently left out; no keys are no keys."""
    with pytest.raises(BadKeys, match=r"HOF-216.*has none|HOF-216.*must name none"):
        app.vector(view, rows_for(app, view, row(), row()), keys={"customer": 1})

    assert app.vector(view, rows_for(app, view, row(), row()), keys={}).batch.num_rows == 2


def test_one_and_the_text_one_are_two_keys(joins):
    """A group whose key is text has its own row."""
    named = hof.stored_group(
        "named", version=1, key="name", event_time="at",
        schema={"name": pa.string(), "at": hof.TIMESTAMP, "v": pa.int64()},
    )  # fmt: skip
    app = joins.open(CARD, named, CUSTOMER, views={"both": ["named.v", "customer.age"]})
    put(app, named, {"name": "1", "at": START, "v": 5}, {"name": "e\u0301", "at": START, "v": 6})
    put(app, CUSTOMER, customer(1))

    assert app.vector("both", keys={"name": "1", "customer": 1}).to_dict() == {
        "named.v": 5, "customer.age": 30
    }  # fmt: skip
    for name, state in (("e\u0301", "PRESENT"), ("\u00e9", "NOT_FOUND"), ("1 ", "NOT_FOUND")):
        found = app.vector("both", keys={"name": name, "customer": 1})
        assert found.status["named.v"] == state
    with pytest.raises(BadKeys, match="HOF-216"):
        app.vector("both", keys={"name": 1, "customer": 1})


def test_a_null_key_in_a_row_finds_nothing(joins):
    """Only where no streaming group is keyed by it; the other rows find theirs."""
    lent = hof.feature_group(
        "lent", version=1, key="card", event_time="ts", windows={"n": hof.count().over("1h")},
        input={"card": pa.int64(), "ts": hof.TIMESTAMP, "customer": pa.int64()},
    )  # fmt: skip
    app = joins.open(lent, CUSTOMER, views={"lender": ["customer.age", "lent.n"]})
    put(app, CUSTOMER, customer(1), customer(2, age=40))
    rows = [{"card": 7, "ts": START, "customer": key} for key in (1, None, 2)]
    many = app.vector("lender", rows, request_id=ONE)
    one = app.vector("lender", rows[1])

    assert [found["customer.age"] for found in many.batch.to_pylist()] == [30, None, 40]
    assert many.status["customer.age"] == ["PRESENT", "NOT_FOUND", "PRESENT"]
    assert (one.to_dict()["customer.age"], one.status["customer.age"]) == (None, "NOT_FOUND")
    assert facts(app.vector("lender", rows, request_id=ONE)) == facts(many)


def test_each_row_may_have_its_own_key_or_one_is_for_all(app):
    """Lists, a numpy column, a value; a composite key mixes rows and what is given."""
    put(app, SHOP, shop_of(7, "b", 2.0), shop_of(8, "a", 3.0))
    rows = [row(0), row(1, card=8), row(2)]
    asked = {"customer": pa.array([1, 2, 1]).to_numpy(), "shop": ["a", "a", "b"]}
    found = ask(app, "one", *rows, keys=asked).batch.to_pylist()

    assert [one["customer.age"] for one in found] == [30, None, 30]
    assert [one["shop.rank"] for one in found] == [15.0, 3.0, 2.0]


def shop_of(card, name, rank):
    return {"card": card, "shop": name, "since": START, "rank": rank}


# --- rows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [{"card": 7}, [{"card": 7}], {}, [], pa.table({"card": [7]})])
def test_a_view_of_stored_features_alone_takes_no_rows(app, rows):
    """Its keys are its rows."""
    with pytest.raises(BadRows, match=r"HOF-211.*stored features only"):
        app.vector("alone", rows, keys={**KEYS, "card": 7})


@pytest.mark.parametrize("view", ["one", "several", "plain"])
def test_a_view_with_streaming_groups_needs_rows(app, view):
    """Keys alone are no event."""
    keys = KEYS if view != "plain" else None
    with pytest.raises(BadRows, match=r"HOF-211.*needs rows"):
        app.vector(view, keys=keys)
    for empty in ([], pa.RecordBatch.from_pylist([], app.worker.bind(view, None).input_schema)):
        with pytest.raises(BadRequest, match="HOF-2"):
            app.vector(view, empty, keys=keys)

    assert records(app) == {}


@pytest.mark.parametrize("view", ["one", "several"])
def test_rows_are_the_views_columns_and_no_others(app, view):
    """The union of what its groups take: a column of one of them cannot be left out."""
    whole = rows_for(app, view, row())
    for wrong in ({k: v for k, v in whole.items() if k != "x"}, {**whole, "customer": 1}):
        with pytest.raises(SchemaMismatch, match="HOF-202"):
            app.vector(view, wrong, keys=KEYS)

    assert records(app) == {}


def test_a_view_of_stored_features_answers_one_row_a_key(app):
    """In the order asked, one key twice, some of them not there."""
    put(app, CUSTOMER, customer(2, age=40), customer(3, age=None, second=-3_600 + 1))
    joinless = {"card": 7, "shop": "a"}
    found = app.vector("alone", keys={"customer": [2, 1, 9, 3, 2], **joinless})

    assert found.batch.schema.names == ["shop.rank", "customer.name", "customer.age"]
    assert [one["customer.age"] for one in found.batch.to_pylist()] == [40, 30, None, None, 40]
    assert found.status["customer.age"] == ["PRESENT", "PRESENT", "NOT_FOUND", "NULL", "PRESENT"]
    assert found.status["shop.rank"] == "PRESENT"
    assert found.age_ms["customer.age"] == [0, 0, None, 3_599_000, 0]
    assert (found.late, found.group_late) == ([False] * 5, {})


def test_a_stored_group_is_a_view_of_its_own(app):
    """`group.*`, by its key; key and event time among the values."""
    found = app.vector("customer", keys={"customer": 1})

    assert found.batch.schema.names == [f"customer.{name}" for name in CUSTOMER.schema.names]
    assert found.to_dict()["customer.customer"] == 1
    assert found.to_dict()["customer.updated"].timestamp() * S == START


def test_more_keys_than_a_request_may_have_rows_are_refused(app):
    """The limit is the rows'."""
    with pytest.raises(TooLarge, match=r"HOF-207.*100001"):
        app.vector("customer", keys={"customer": [1] * 100_001})


def test_a_list_of_values_makes_a_vector_of_lists(joins):
    """A feature that is a list travels beside stored ones, one row or many."""
    top = hof.feature_group(
        "top", version=1, key="card", event_time="ts",
        input={"card": pa.int64(), "ts": hof.TIMESTAMP, "x": pa.int64()},
        windows={"most": hof.top_k("x", 2).over("1h"), "n": hof.count().over("1h")},
    )  # fmt: skip
    views = {"lists": ["customer.age", "top.most"], "plain": ["customer.age", "top.n"],
             "both": ["g.n", "top.most", "top.n"], "both_plain": ["top.n", "g.n"]}  # fmt: skip
    app = joins.open(CARD, top, CUSTOMER, views=views)
    put(app, CUSTOMER, customer())
    event = {name: row()[name] for name in ("card", "ts", "x")}
    for number, view in enumerate(views):
        keys = {"customer": 1} if "customer.age" in views[view] else None
        for rows in (event, [event, event]):
            id_ = bytes(14) + bytes([number, len(rows)])
            first = app.vector(view, rows, keys=keys, request_id=id_)
            assert first.batch.schema.names == views[view]
            assert facts(app.vector(view, rows, keys=keys, request_id=id_)) == facts(first)
    assert app.vector("lists", event, keys={"customer": 1}).to_dict() == {
        "customer.age": 30, "top.most": [1]
    }  # fmt: skip


# --- names ----------------------------------------------------------------------------------------


def test_a_datasets_and_a_models_name_answer_the_vector_that_was_trained_on(joins):
    """Same columns, same order, same id, same counts as the view; also after a restart."""
    app = joins.open()
    app.materialize("customer", [customer()])
    app.materialize("shop", [shop_of(7, "a", 2.0)])
    for view in ("one", "several"):
        ask(app, view, row(), row(1))
        app.training_dataset(f"{view}_set", view)
        app.model(f"{view}_model", training_dataset=f"{view}_set")
    for view, number in (("one", 5), ("several", 6)):
        first = ask(app, view, row(number), request_id=bytes(15) + bytes([number]))
        names = (f"{view}_set", f"{view}_model")
        for name in names:
            again = app.vector(
                name,
                rows_for(app, view, row(number)),
                keys=KEYS,
                request_id=bytes(15) + bytes([number]),
            )
            assert facts(again) == facts(first)
            assert (again.view, again.version) == (view, 1)
            assert again.batch.schema == first.batch.schema
        assert first.to_dict()["g.n"] == number


def test_a_newer_version_of_a_view_has_its_own_order_and_its_own_log(joins):
    """Both are answered, each as it was declared."""
    app = joins.open()
    load(app)
    app.view("alone", 2, ["customer.age", "shop.rank"])
    keys = {**KEYS, "card": 7}
    old = app.vector("alone", keys=keys, version=1, request_id=ONE)
    new = app.vector("alone", keys=keys, request_id=ONE)

    assert old.batch.schema.names == ["shop.rank", "customer.name", "customer.age"]
    assert new.batch.schema.names == ["customer.age", "shop.rank"]
    assert {"alone@1", "alone@2"} <= set(records(app))


def test_an_answered_request_is_freed_without_the_garbage_collector(app):
    """What was looked up for it does not hold it: else each one would wait to be collected."""
    own = uuid.uuid4()  # requests of other tests may still be there
    gc.disable()
    try:
        ask(app, "one", row(), request_id=own)
        left = [each for each in gc.get_objects() if type(each) is Request]
    finally:
        gc.enable()

    assert not any(each.id == own.bytes for each in left)
