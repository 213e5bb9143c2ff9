"""Stored groups, the views that take of several groups, and what the registry keeps of them."""

import hashlib
import json
import sqlite3
from contextlib import closing
from dataclasses import replace

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hofflight as hof
from hofflight import limits
from hofflight.errors import (
    InvalidDuration,
    InvalidName,
    InvalidView,
    ReadOnly,
    UnknownColumn,
    UnknownView,
    VersionChanged,
    WrongType,
)
from hofflight.features.dataset import Dataset, Model, checked_tags, require_document
from hofflight.features.records import package_versions, stored_record, view_record
from hofflight.features.registry import Registry
from hofflight.features.sqlite import SqliteDatabase
from hofflight.features.stored import STORED_KEY_TYPES
from hofflight.features.view import (
    Feature,
    View,
    code_hash_of,
    declare_view,
    find_view,
    implicit_view,
    key_sources,
    union_input,
)
from hofflight.wire.schema import COLUMN_TYPES, TIMESTAMP

CUSTOMER = {
    "customer": pa.int64(), "shop": pa.string(), "updated": TIMESTAMP, "age": pa.int32(),
    "vip": pa.bool_(),
}  # fmt: skip


def make_stored(name="customer", **changes):
    fields = {"version": 1, "key": ("shop", "customer"), "event_time": "updated",
              "schema": CUSTOMER, "ttl": "90d"}  # fmt: skip
    return hof.stored_group(name, **(fields | changes))


def make_streaming(name="card_tx", version=1, *, hours=1, **more):
    columns = {"card": pa.int64(), "ts": TIMESTAMP, "amount": pa.float64(), **more}
    return hof.feature_group(
        name, version=version, key="card", event_time="ts", input=columns,
        windows={"n": hof.count().over(f"{hours}h")},
    )  # fmt: skip


# --- declarations ---


def test_a_stored_group_knows_its_key_its_packed_columns_and_its_label():
    """The key in the order of `key=`; all columns but the event time are packed, in theirs."""
    group = make_stored(version=12)

    assert group.key_schema == pa.schema([("shop", pa.string()), ("customer", pa.int64())])
    assert group.packed_schema.names == ["customer", "shop", "age", "vip"]
    assert group.label == "customer.12"
    assert group.ttl_us == 90 * limits.DAY_US
    assert str(group) == "customer@12, key shop, customer, ttl 90d"
    assert (make_stored(ttl=None).ttl_us, str(make_stored(ttl=None))[-8:]) == (None, "customer")


@pytest.mark.parametrize("column_type", sorted(COLUMN_TYPES, key=str), ids=str)
def test_every_type_is_a_value_and_every_type_but_floats_a_key(column_type):
    """What looks equal must be found."""
    schema = {"k": column_type, "ts": TIMESTAMP, "x": column_type}
    if column_type in STORED_KEY_TYPES:
        group = hof.stored_group("g", version=1, key="k", event_time="ts", schema=schema)
        assert group.key_schema.types == [column_type]
    else:
        with pytest.raises(WrongType, match=r"HOF-103.*'k'"):
            hof.stored_group("g", version=1, key="k", event_time="ts", schema=schema)
    group = hof.stored_group("g", version=1, key="x2", event_time="ts",
                             schema=schema | {"x2": pa.int8()})  # fmt: skip
    assert group.packed_schema.field("x").type == column_type


COLUMNS = {f"c{i}": pa.int8() for i in range(limits.columns_max)}
WRONG = [
    ("no name", {"name": "Customer"}, InvalidName, ["group name", "'Customer'"]),
    ("a dot in the name", {"name": "a.b"}, InvalidName, ["'a.b'"]),
    ("version 0", {"version": 0}, WrongType, ["version", "0"]),
    ("version as text", {"version": "1"}, WrongType, ["version", "'1'"]),
    ("version True", {"version": True}, WrongType, ["version", "True"]),
    ("a float64 key", {"schema": CUSTOMER | {"shop": pa.float64()}}, WrongType,
     ["'customer'", "float", "'shop'", "integer or text"]),
    ("a float32 key", {"schema": CUSTOMER | {"shop": pa.float32()}}, WrongType, ["'shop'"]),
    ("no key", {"key": ()}, WrongType, ["key=", "one or more"]),
    ("a key twice", {"key": ("shop", "shop")}, WrongType, ["key=", "different"]),
    ("a key that is no column", {"key": "custmer"}, UnknownColumn,
     ["key=", "'custmer'", "did you mean 'customer'"]),
    ("a key of None", {"key": None}, WrongType, ["key=", "None"]),
    ("no event time", {"event_time": None}, WrongType, ["event_time=", "None"]),
    ("an unknown event time", {"event_time": "upd"}, UnknownColumn, ["event_time=", "'upd'"]),
    ("an event time that is a number", {"event_time": "age"}, WrongType,
     ["'age'", "int32", "hof.TIMESTAMP"]),
    ("the event time as the key", {"key": "updated"}, WrongType, ["'updated'", "part of the key"]),
    ("the event time in the key", {"key": ("shop", "updated")}, WrongType, ["'updated'"]),
    ("a ttl without a unit", {"ttl": "90"}, InvalidDuration, ["ttl=", "'90'"]),
    ("a ttl of nothing", {"ttl": "0s"}, InvalidDuration, ["ttl="]),
    ("a negative ttl", {"ttl": "-1d"}, InvalidDuration, ["ttl="]),
    ("a ttl as a number", {"ttl": 90}, InvalidDuration, ["ttl=", "90"]),
    ("a ttl beyond a century", {"ttl": "36526d"}, InvalidDuration, ["ttl="]),
    ("no columns", {"schema": {}}, WrongType, ["schema="]),
    ("columns as a list", {"schema": ["customer"]}, WrongType, ["schema="]),
    ("a type as text", {"schema": CUSTOMER | {"x": "int64"}}, WrongType, ["schema", "'x'"]),
    ("a type without zone", {"schema": CUSTOMER | {"x": pa.timestamp("us")}}, WrongType,
     ["'x'", "hof.TIMESTAMP"]),
    ("a list type", {"schema": CUSTOMER | {"x": pa.list_(pa.int8())}}, WrongType,
     ["'x'", "list", "date32"]),
    ("uint64", {"schema": CUSTOMER | {"x": pa.uint64()}}, WrongType, ["'x'", "uint64"]),
    ("a column's name", {"schema": CUSTOMER | {"X": pa.int8()}}, InvalidName, ["column", "'X'"]),
    ("too many columns", {"schema": CUSTOMER | COLUMNS}, WrongType, ["'customer'", "512"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "error", "words"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG]
)
def test_a_declaration_that_is_wrong_is_refused(changes, error, words):
    """The text names the field and what to write instead."""
    with pytest.raises(error) as caught:
        make_stored(**changes)

    assert [word for word in words if word not in str(caught.value)] == []


def test_as_many_columns_as_there_may_be_are_allowed():
    """Key and event time among them."""
    columns = dict(list(COLUMNS.items())[:-2]) | {"k": pa.int8(), "ts": TIMESTAMP}

    group = hof.stored_group("g", version=1, key="k", event_time="ts", schema=columns)

    assert len(group.schema) == limits.columns_max


# --- definition and hash ---

GOLDEN = (
    '{"name": "customer", "version": 1, "key": ["shop", "customer"], "event_time": "updated", '
    '"schema": {"customer": "int64", "shop": "string", "updated": "timestamp[us, tz=UTC]", '
    '"age": "int32", "vip": "bool"}, "ttl_us": 7776000000000}'
)


def test_the_definition_and_the_hash_of_a_group_never_change():
    """Registries and answers of other releases hold them."""
    group = make_stored()

    assert json.dumps(group.definition()) == GOLDEN
    assert group.code_hash() == "42f80a442778c941"
    assert group.code_hash() == hashlib.sha256(GOLDEN.encode()).hexdigest()[:16]


MOVED = dict(reversed(CUSTOMER.items()))
CHANGES = [
    ("name", {"name": "client"}),
    ("version", {"version": 2}),
    ("fewer key columns", {"key": "customer"}),
    ("the key's order", {"key": ("customer", "shop")}),
    ("another event time", {"schema": CUSTOMER | {"at": TIMESTAMP}, "event_time": "at"}),
    ("a type", {"schema": CUSTOMER | {"age": pa.int64()}}),
    ("a column more", {"schema": CUSTOMER | {"x": pa.int64()}}),
    ("the columns' order", {"schema": MOVED}),
    ("ttl", {"ttl": "91d"}),
    ("no ttl", {"ttl": None}),
]


@pytest.mark.parametrize("changes", [c[1] for c in CHANGES], ids=[c[0] for c in CHANGES])
def test_whatever_changes_in_a_group_changes_its_hash(changes):
    """Its order too: it is the contract of `group.*`."""
    assert make_stored(**changes).code_hash() != make_stored().code_hash()


def test_what_says_the_same_has_the_same_hash():
    """Units of a duration and kinds of sequences are not part of it."""
    same = make_stored(ttl="2160h", key=["shop", "customer"])

    assert same.code_hash() == make_stored().code_hash()


@given(st.permutations(sorted(CUSTOMER)), st.sampled_from(["customer", "shop", "age", "vip"]))
def test_a_group_comes_back_out_of_its_definition(order, key):
    """As the registry keeps it, whatever its columns and their order."""
    group = make_stored(schema={name: CUSTOMER[name] for name in order}, key=key)
    found = stored_record(json.dumps(group.definition()), group.schema.serialize().to_pybytes())

    assert found.definition() == group.definition()
    assert found.schema.equals(group.schema)
    assert (found.code_hash(), found.label) == (group.code_hash(), group.label)


# --- views of several groups ---

GROUPS = {
    (g.name, g.version): g
    for g in (
        make_streaming(), make_streaming(version=2, shop=pa.string()),
        make_streaming("web", user=pa.string()), make_streaming("odd", amount=pa.float32()),
        make_stored(), make_stored(version=2, schema=CUSTOMER | {"score": pa.float32()}),
        make_stored("profile", key="customer"),
        make_stored("person", key="customer", schema=CUSTOMER | {"customer": pa.string()}),
        make_stored("by_card", key="card", schema=CUSTOMER | {"card": pa.int64()}),
        make_stored("by_card_text", key="card", schema=CUSTOMER | {"card": pa.string()}),
    )
}  # fmt: skip


def group_of(name, version):
    """The newest version for None, as a registry answers."""
    wanted = version or max((v for n, v in GROUPS if n == name), default=0)
    if (name, wanted) not in GROUPS:
        raise UnknownView(f"no group {name}@{wanted}")
    return GROUPS[name, wanted]


def view_of(features, labels=(), **more):
    return declare_view("fraud", 1, features, labels, group_of, **more)


def test_a_view_takes_features_of_several_groups_in_the_order_given():
    """A model reads columns by place, whichever group they are of."""
    view = view_of(["customer.age", "card_tx@1.n", "web.n", "customer.score", "card_tx@1.amount"])
    schema = view.schema(*(GROUPS[g] for g in (*view.streaming, *view.stored)))

    assert schema == pa.schema([
        ("customer.age", pa.int32()), ("card_tx.n", pa.int64()), ("web.n", pa.int64()),
        ("customer.score", pa.float32()), ("card_tx.amount", pa.float64()),
    ])  # fmt: skip
    assert view.streaming == (("card_tx", 1), ("web", 1))
    assert view.stored == (("customer", 2),)
    assert view.group == ("card_tx", 1)
    assert view.columns_of(("customer", 2)) == ("age", "score")
    assert view.columns_of(("card_tx", 1)) == ("n", "amount")
    assert view.columns_of(("card_tx", 2)) == ()
    assert view.is_joined


EVERY = [f"{name}@{version}.{c}" for (name, version), g in GROUPS.items() for c in g.schema.names]
OF_ONE_VERSION = [f for f in EVERY if f.split(".")[0] in (
    "card_tx@2", "web@1", "customer@1", "profile@1", "by_card@1")]  # fmt: skip


@given(st.lists(st.sampled_from(OF_ONE_VERSION), min_size=1, unique=True))
def test_the_order_of_a_vector_is_the_order_of_its_features(features):
    """Also where groups take turns; each feature is of exactly one group, and none is lost."""
    view = view_of(features)
    groups = [*view.streaming, *view.stored]

    assert [str(f) for f in view.features] == features
    names = view.schema(*(GROUPS[g] for g in groups)).names
    assert names == [f.replace("@1", "").replace("@2", "") for f in features]
    assert sum(len(view.columns_of(g)) for g in groups) == len(features)
    assert len(set(groups)) == len(groups)
    first = [f.rsplit(".", 1)[0] for f in features]
    assert [f"{n}@{v}" for n, v in view.streaming] == [
        g for g in dict.fromkeys(first) if g.startswith(("card_tx", "web"))
    ]
    assert view.is_joined == (bool(view.stored) or len(view.streaming) > 1)


def test_versions_of_every_group_are_pinned_when_the_view_is_made():
    """A version registered later must not change what a model gets."""
    view = view_of(["card_tx.n", "customer.age"])

    assert view.definition()["features"] == ["card_tx@2.n", "customer@2.age"]
    assert view.definition()["stored"] == ["customer@2"]


def test_a_star_of_a_stored_group_is_every_column_in_its_order():
    """Key and event time too; and so is the view that every stored group is by itself."""
    view = view_of("customer@1.*")
    implicit = implicit_view(GROUPS["customer", 1])

    assert [f.column for f in view.features] == list(CUSTOMER)
    assert (implicit.features, implicit.stored) == (view.features, (("customer", 1),))
    assert (implicit.name, implicit.version) == ("customer", 1)
    assert (implicit.streaming, implicit.is_joined) == ((), True)
    assert find_view("customer", None, [], group_of).version == 2
    assert find_view("customer", 1, [], group_of) == implicit


def test_a_view_of_one_streaming_group_is_what_it_was():
    """Its definition has no new words, or every registered view would have changed."""
    view = view_of(["card_tx@1.n", "card_tx@1.card"], ["is_fraud"])

    assert view.definition() == {
        "name": "fraud", "version": 1, "features": ["card_tx@1.n", "card_tx@1.card"],
        "labels": ["is_fraud"],
    }  # fmt: skip
    assert (view.stored, view.streaming, view.group) == ((), (("card_tx", 1),), ("card_tx", 1))
    assert not view.is_joined
    assert view == View(
        "fraud", 1, (Feature("card_tx", 1, "n"), Feature("card_tx", 1, "card")), ("is_fraud",)
    )


def test_a_view_says_what_it_does_where_a_stored_row_is_missing():
    """`mark` is what it is without a word."""
    mark, fail = view_of("customer.*"), view_of("customer.*", on_missing="fail")

    assert (mark.on_missing, "on_missing" in mark.definition()) == ("mark", False)
    assert (fail.on_missing, fail.definition()["on_missing"]) == ("fail", "fail")


@pytest.mark.parametrize("features", [
    ["card_tx.n"], ["customer.age"], ["web.n", "customer@1.age", "card_tx.n", "profile.vip"],
])  # fmt: skip
@pytest.mark.parametrize("on_missing", ["mark", "fail"])
def test_a_view_comes_back_out_of_its_definition(features, on_missing):
    """As the registry keeps it."""
    view = view_of(features, on_missing=on_missing)

    assert view_record(json.dumps(view.definition())) == view


def test_what_a_module_declares_keeps_what_to_do_about_missing_rows():
    """It is checked when it is registered."""
    declared = hof.view("fraud", version=1, features="customer.*", on_missing="fail")

    assert (declared.features, declared.on_missing) == (("customer.*",), "fail")
    assert hof.view("fraud", version=1, features=["customer.*"]).on_missing == "mark"


REFUSED = [
    ("two versions", ["customer@1.age", "card_tx.n", "customer@2.vip"], {}, InvalidView,
     ["customer@1", "customer@2", "one version"]),
    ("two versions of a streaming group", ["card_tx@1.n", "customer.age", "card_tx@2.card"], {},
     InvalidView, ["card_tx@1", "card_tx@2", "one version"]),
    ("a column of two types", ["card_tx@1.n", "odd.n"], {}, InvalidView,
     ["'amount'", "double to card_tx", "float to odd"]),
    ("a key of two types", ["profile.age", "person.vip"], {}, InvalidView,
     ["'customer' of person", "string", "int64"]),
    ("a key that the row has otherwise", ["card_tx@1.n", "by_card_text.age"], {}, InvalidView,
     ["'card' of by_card_text", "string", "int64"]),
    ("labels without an event", ["customer.age"], {"labels": ["y"]}, InvalidView,
     ["'fraud'", "stored features only", "label"]),
    ("a label that is a key", ["customer.age", "card_tx.n"], {"labels": ["card"]}, InvalidView,
     ["'card'"]),
    ("on_missing", ["customer.age"], {"on_missing": "null"}, WrongType,
     ["on_missing", "'mark'", "'fail'", "'null'"]),
    ("no on_missing", ["card_tx.n"], {"on_missing": None}, WrongType, ["on_missing", "None"]),
    ("an unknown column", ["customer.agee"], {}, UnknownColumn, ["'agee'", "'age'"]),
    ("an unknown group", ["custome.age"], {}, UnknownView, ["custome"]),
    ("twice", ["customer.age", "card_tx.n", "customer@2.age"], {}, InvalidView,
     ["customer@2.age", "more than once"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("features", "more", "error", "words"), [w[1:] for w in REFUSED], ids=[w[0] for w in REFUSED]
)
def test_a_view_of_several_groups_that_do_not_fit_is_refused(features, more, error, words):
    """The text names both sides."""
    with pytest.raises(error) as caught:
        view_of(features, **more)

    assert [word for word in words if word not in str(caught.value)] == []


def test_a_view_of_stored_groups_alone_has_no_streaming_group():
    """Where one is needed, the text says why there is none."""
    with pytest.raises(InvalidView, match=r"HOF-108.*stored features only.*streaming group"):
        _ = view_of("customer.*").group


def test_labels_are_those_of_the_first_streaming_group():
    """Its key and event time find the row, so they are taken; another group's are not."""
    view = view_of(["customer.age", "web.n", "card_tx.n"], ["is_fraud"])

    assert (view.group, view.labels) == (("web", 1), ("is_fraud",))


def test_one_request_holds_the_columns_of_all_its_groups_once():
    """In the order of the groups, equal names together."""
    rows = union_input("fraud", [GROUPS["card_tx", 2], GROUPS["web", 1]])

    assert rows.names == ["card", "ts", "amount", "shop", "user"]
    assert union_input("fraud", [GROUPS["web", 1]]) == GROUPS["web", 1].input
    assert union_input("fraud", []) == pa.schema([])


def test_keys_that_the_rows_have_are_not_asked_for_beside_them():
    """In the order of groups and their keys, each once."""
    rows = GROUPS["card_tx", 2].input
    stored = [GROUPS[g, 1] for g in ("customer", "profile", "by_card")]

    assert key_sources("fraud", rows, stored) == pa.schema([("customer", pa.int64())])
    assert key_sources("fraud", pa.schema([]), stored) == pa.schema([
        ("shop", pa.string()), ("customer", pa.int64()), ("card", pa.int64()),
    ])  # fmt: skip
    assert key_sources("fraud", rows, []) == pa.schema([])


def test_the_hash_of_a_view_is_that_of_what_computes_it():
    """Of one streaming group its own, as it was; of more, one that changes with each."""
    card, web = GROUPS["card_tx", 1], GROUPS["web", 1]
    one, two = GROUPS["customer", 1], GROUPS["customer", 2]

    assert code_hash_of([card]) == code_hash_of([card, one]) == card.code_hash()
    hashes = {code_hash_of(g) for g in ([card, web], [card, web, one], [one], [two], [one, two])}
    assert len(hashes) == 5
    assert {len(h) for h in hashes} == {16}


# --- the registry ---


@pytest.fixture
def path(tmp_path):
    return tmp_path / "registry.sqlite"


@pytest.fixture
def registry(path):
    with closing(Registry(SqliteDatabase(path))) as opened:
        yield opened


def save(registry, group):
    if isinstance(group, hof.FeatureGroup):
        registry.save_group(group, module="shop.features", created_us=7)
    else:
        registry.save_stored(group, created_us=7)


def make_dataset(name="train", version=1, **changes):
    fields = {
        "view": "fraud", "view_version": 1, "start_us": None, "end_us": 9, "as_of": "arrival",
        "file": f"datasets/{name}.{version}.parquet", "rows": 3, "columns": {"card_tx.n": "int64"},
        "code_hashes": {"card_tx@1": "ab"}, "loads": {"customer@1": 4},
        "statistics": {"card_tx.n": {"nulls": 1, "mean": 0.5}},
    }  # fmt: skip
    return Dataset(name, version, **(fields | changes))


def test_saving_a_stored_group_again_is_no_change(registry):
    """A plan never writes; what is unchanged may be registered any number of times."""
    assert registry.plan_stored(make_stored()).state == "created"
    assert registry.stored_groups() == []
    for _ in range(2):
        save(registry, make_stored())

    assert registry.plan_stored(make_stored()).state == "unchanged"
    assert registry.plan_stored(make_stored(version=2)).state == "created"
    assert [g.definition() for g in registry.stored_groups()] == [make_stored().definition()]


def test_stored_groups_are_there_after_reopening(path):
    """By name and version, with their columns in order; the newest is the highest number."""
    groups = [make_stored("web"), make_stored(version=10), make_stored(version=9, schema=MOVED)]
    with closing(Registry(SqliteDatabase(path))) as registry:
        for group in groups:
            save(registry, group)
    for read_only in (True, False):
        with closing(Registry(SqliteDatabase(path, read_only=read_only))) as registry:
            found = registry.stored_groups()
            assert [g.label for g in found] == ["customer.9", "customer.10", "web.1"]
            assert found[0].schema.equals(groups[2].schema)
            assert found[0].code_hash() == groups[2].code_hash()
            assert registry.any_group("customer").version == 10
            assert registry.any_group("customer", 9).version == 9


@pytest.mark.parametrize("changes", [
    *(c[1] for c in CHANGES if "name" not in c[1] and "version" not in c[1]),
], ids=[c[0] for c in CHANGES if "name" not in c[1] and "version" not in c[1]])  # fmt: skip
def test_a_changed_stored_group_is_refused_with_a_diff(registry, changes):
    """Whatever changed, the order of its columns too; and what was there stays."""
    save(registry, make_stored())

    assert registry.plan_stored(make_stored(**changes)).state == "changed"
    with pytest.raises(VersionChanged, match=r"HOF-107: stored group customer@1") as caught:
        save(registry, make_stored(**changes))
    lines = str(caught.value).splitlines()
    assert any(line.startswith(("-", "+")) and '"' in line for line in lines)
    assert "raise its version to 2" in str(caught.value)
    assert [g.code_hash() for g in registry.stored_groups()] == [make_stored().code_hash()]


def test_the_diff_of_a_stored_group_shows_the_line_before_and_after(registry):
    """The line that changed, and no others than its neighbours."""
    save(registry, make_stored())
    diff = registry.plan_stored(make_stored(ttl="1d")).diff.splitlines()

    assert [line for line in diff if line[0] in "+-" and line[1] == " "] == [
        '- "ttl_us": 7776000000000', '+ "ttl_us": 86400000000'
    ]  # fmt: skip


def test_unknown_groups_of_either_kind_say_what_there_is(registry):
    """A typing error is mended by reading the message."""
    save(registry, make_stored())
    save(registry, make_streaming())

    assert registry.any_group("card_tx").name == "card_tx"
    with pytest.raises(UnknownView, match=r"HOF-201.*'customer'.*\[1\], not 2"):
        registry.any_group("customer", 2)
    with pytest.raises(UnknownView, match=r"HOF-201.*'card_tx' version 3"):
        registry.any_group("card_tx", 3)
    for name in ("nobody", "x'; DROP TABLE stored_groups; --", "%"):
        with pytest.raises(UnknownView, match="HOF-201"):
            registry.any_group(name, 1 << 70)


ITEMS = {
    "a streaming group": lambda r, n: save(r, make_streaming(n)),
    "a stored group": lambda r, n: save(r, make_stored(n)),
    "a view": lambda r, n: r.save_view(View(n, 1, (Feature("g", 1, "x"),)), created_us=1),
    "a dataset": lambda r, n: r.save_document(make_dataset(n), created_us=1),
    "a model": lambda r, n: r.save_document(Model(n, 1, "train", 1), created_us=1),
}
GROUP_AND_VIEW = [{"a streaming group", "a view"}, {"a stored group", "a view"}]
PAIRS = [
    (a, b) for a in ITEMS for b in ITEMS if a != b and {a, b} not in GROUP_AND_VIEW
]  # fmt: skip


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_a_name_means_one_thing(registry, first, second):
    """A request that names it must find what it found before; a view may stand for a group."""
    ITEMS[first](registry, "one")

    with pytest.raises(InvalidName, match=r"HOF-101: 'one' is the name of a .*another"):
        ITEMS[second](registry, "one")
    ITEMS[second](registry, "other")


@pytest.mark.parametrize("kind", ITEMS)
def test_a_second_version_of_the_same_thing_may_have_its_name(registry, kind):
    """It is the same thing."""
    ITEMS[kind](registry, "one")
    save_second = {
        "a streaming group": lambda: save(registry, make_streaming("one", 2)),
        "a stored group": lambda: save(registry, make_stored("one", version=2)),
        "a view": lambda: registry.save_view(View("one", 2, (Feature("g", 1, "y"),)), created_us=1),
        "a dataset": lambda: registry.save_document(make_dataset("one", 2), created_us=1),
        "a model": lambda: registry.save_document(Model("one", 2, "train", 1), created_us=1),
    }
    save_second[kind]()

    every = [registry.groups(), registry.stored_groups(), registry.views(), registry.datasets(),
             registry.models()]  # fmt: skip
    assert [one.version for kept in every for one in kept] == [1, 2]


def test_a_read_only_registry_keeps_nothing_new(path):
    """Readers stand beside the one writer, and see what it saves."""
    with (
        closing(Registry(SqliteDatabase(path))) as writer,
        closing(Registry(SqliteDatabase(path, read_only=True))) as reader,
    ):
        ITEMS["a stored group"](writer, "one")
        ITEMS["a dataset"](writer, "train")

        assert [g.name for g in reader.stored_groups()] == ["one"]
        assert reader.datasets() == [make_dataset()]
        for save_one in ITEMS.values():
            with pytest.raises(ReadOnly, match="HOF-505"):
                save_one(reader, "two")


# --- datasets and models ---


def test_datasets_and_models_are_there_after_reopening(path):
    """Every field, by name and version."""
    datasets = [make_dataset(version=10), make_dataset(start_us=-5, rows=0), make_dataset("a", 2)]
    models = [Model("m", 2, "train", 1, {"run": "é"}), Model("m", 1, "train", 10)]
    with closing(Registry(SqliteDatabase(path))) as registry:
        for document in (*datasets, *models):
            registry.save_document(document, created_us=3)
    with closing(Registry(SqliteDatabase(path))) as registry:
        assert registry.datasets() == [datasets[2], datasets[1], datasets[0]]
        assert registry.models() == [models[1], models[0]]


def test_a_name_of_a_model_or_a_dataset_leads_to_its_view(registry):
    """A request names what was trained, and is answered in that order."""
    for version, view_version in ((1, 3), (2, 4), (10, 5)):
        registry.save_document(make_dataset(version=version, view_version=view_version),
                               created_us=1)  # fmt: skip
    registry.save_document(Model("m", 1, "train", 2), created_us=1)
    registry.save_document(Model("m", 7, "train", 1), created_us=1)

    assert registry.view_named("train", None) == ("fraud", 5)
    assert registry.view_named("train", 2) == ("fraud", 4)
    assert registry.view_named("m", None) == ("fraud", 3)
    assert registry.view_named("m", 1) == ("fraud", 4)
    for name in ("fraud", "nobody"):
        assert registry.view_named(name, 9) == (name, 9)
        assert registry.view_named(name, None) == (name, None)


@pytest.mark.parametrize(("name", "words"), [
    ("m", r"model 'm'.*\[1\], not 3"), ("train", r"dataset 'train'.*\[1, 2\], not 3"),
])  # fmt: skip
def test_a_version_that_was_never_trained_is_refused(registry, name, words):
    """With those that were."""
    for document in (make_dataset(), make_dataset(version=2), Model("m", 1, "train", 1)):
        registry.save_document(document, created_us=1)

    with pytest.raises(UnknownView, match=rf"HOF-201.*{words}"):
        registry.view_named(name, 3)


def test_a_dataset_is_the_same_where_the_same_was_asked_for():
    """What came out of it (rows, file, statistics) was not asked for."""
    one = make_dataset()
    same = {"file": "x", "rows": 9, "code_hashes": {}, "loads": {}, "statistics": {}}
    other = {"view": "v", "view_version": 2, "start_us": 1, "end_us": 8, "as_of": "event",
             "columns": {}}  # fmt: skip

    for name, value in same.items():
        assert msgspec.structs.replace(one, **{name: value}).asked == one.asked
    for name, value in other.items():
        assert msgspec.structs.replace(one, **{name: value}).asked != one.asked


@pytest.mark.parametrize("wrong", ["", "Train", "a.b", "a\n", None, 0, -1, True, 1 << 31])
def test_a_dataset_or_model_has_a_name_and_a_number(wrong):
    """They become part of addresses and files."""
    with pytest.raises(InvalidName, match="HOF-101: model name"):
        require_document("model", wrong, 1)
    with pytest.raises(WrongType, match="version"):
        require_document("dataset", "train", wrong)
    require_document("dataset", "train", 1)


@pytest.mark.parametrize("tags", [None, ["a"], {"a": 1}, {1: "a"}, {"a": None}, "a=b"])
def test_tags_are_text_by_text(tags):
    """They are shown and kept, and nothing else."""
    with pytest.raises(WrongType, match="HOF-103: tags="):
        checked_tags(tags)
    assert checked_tags({"run": "é"}) == {"run": "é"}


# --- a registry of format 2 ---

# As release 2 made them; written out, since the tables of today are not what is tested.
FORMAT_2 = """
CREATE TABLE groups (
    name TEXT, version INTEGER, schema_number INTEGER NOT NULL, definition TEXT NOT NULL,
    source TEXT NOT NULL, code_hash TEXT NOT NULL, input_schema BLOB NOT NULL,
    packages TEXT NOT NULL, module TEXT NOT NULL, created_us INTEGER NOT NULL,
    full_schema BLOB NOT NULL DEFAULT x'', PRIMARY KEY (name, version));
CREATE TABLE views (
    name TEXT, version INTEGER, definition TEXT NOT NULL, created_us INTEGER NOT NULL,
    PRIMARY KEY (name, version));
PRAGMA user_version = 2;
"""
OLD_VIEW = '{"name": "fraud", "version": 1, "features": ["card_tx@1.n"], "labels": ["y"]}'


@pytest.fixture
def format_2(path):
    group = make_streaming()
    row = (
        group.name, 1, 1, json.dumps(group.definition()), "", group.code_hash(),
        group.input.serialize().to_pybytes(), json.dumps(package_versions()), "shop", 7,
        group.schema.serialize().to_pybytes(),
    )  # fmt: skip
    with closing(sqlite3.connect(path)) as db:
        db.executescript(FORMAT_2)
        db.execute(f"INSERT INTO groups VALUES ({', '.join('?' * len(row))})", row)
        db.execute("INSERT INTO views VALUES ('fraud', 1, ?, 8)", (OLD_VIEW,))
        db.commit()
    return path


def format_of(path):
    with closing(sqlite3.connect(path)) as db:
        return db.execute("PRAGMA user_version").fetchone()[0]


def test_a_registry_of_format_2_is_read_as_it_is(format_2):
    """A reader beside an older server: what is not there yet is empty, and nothing is written."""
    before = format_2.read_bytes()
    with closing(Registry(SqliteDatabase(format_2, read_only=True))) as registry:
        assert [g.version for g in registry.groups()] == [1]
        assert registry.groups()[0].full == make_streaming().schema
        assert registry.views() == [View("fraud", 1, (Feature("card_tx", 1, "n"),), ("y",))]
        assert (registry.stored_groups(), registry.datasets(), registry.models()) == ([], [], [])
        assert registry.any_group("card_tx").code_hash == make_streaming().code_hash()
        assert registry.view_named("fraud", None) == ("fraud", None)
        assert registry.plan_stored(make_stored()).state == "created"
        with pytest.raises(UnknownView):
            registry.any_group("customer")
        with pytest.raises(ReadOnly):
            save(registry, make_stored())

    assert format_2.read_bytes() == before


def test_a_registry_of_format_2_is_brought_up_to_date(format_2):
    """Everything stays as it was, and the new things can be kept."""
    old_view = View("fraud", 1, (Feature("card_tx", 1, "n"),), ("y",))
    with closing(Registry(SqliteDatabase(format_2))) as registry:
        assert registry.plan_group(make_streaming()).state == "unchanged"
        assert registry.plan_view(old_view).state == "unchanged"
        assert registry.plan_view(replace(old_view, on_missing="fail")).state == "changed"
        save(registry, make_stored())
        registry.save_document(make_dataset(), created_us=1)
    assert format_of(format_2) == 3
    with closing(Registry(SqliteDatabase(format_2))) as registry:
        assert [g.created_us for g in registry.groups()] == [7]
        assert registry.views() == [old_view]
        assert [g.label for g in registry.stored_groups()] == ["customer.1"]
        assert registry.datasets() == [make_dataset()]
