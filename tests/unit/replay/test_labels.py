"""Labels come in any form; what does not say exactly whose they are is refused, by name and row."""

import uuid
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

import hofflight as hof
from hofflight.errors import BadLabels, SealDamaged
from hofflight.features.view import Feature, View
from hofflight.replay.labels import LabelStore, checked_labels, is_by_request, read_labels

GROUP = hof.feature_group(
    "g", version=1, key=("card", "shop"), event_time="ts",
    input={"card": pa.string(), "shop": pa.int32(), "ts": hof.TIMESTAMP, "x": pa.float64()},
    windows={"n": hof.count().over("1h")},
)  # fmt: skip
VIEW = View("fraud", 1, (Feature("g", 1, "n"),), ("is_fraud", "note"))
NOON = datetime(2026, 5, 1, 12, 0, 0, 123_456, tzinfo=UTC)
IDS = [bytes(range(16)), bytes(range(16, 32))]
BY_KEY = [
    {"card": "0041", "shop": 3, "ts": NOON, "is_fraud": True},
    {"card": "0042", "shop": 3, "ts": NOON, "is_fraud": False},
]
BY_REQUEST = [
    {"request_id": IDS[0], "is_fraud": True},
    {"request_id": IDS[1], "is_fraud": False},
]


def check(source):
    return checked_labels(read_labels(source, GROUP.input), VIEW, GROUP)


def by_key_table():
    types = {"card": pa.string(), "shop": pa.int32(), "ts": hof.TIMESTAMP, "is_fraud": pa.bool_()}
    return pa.Table.from_pylist(BY_KEY, schema=pa.schema(list(types.items())))


EXPECTED = by_key_table()


def parquet(path):
    pq.write_table(by_key_table(), path / "labels.parquet")
    return path / "labels.parquet"


def csv(path):
    lines = ["card,shop,ts,is_fraud"]
    lines += [f"{r['card']},{r['shop']},{r['ts'].isoformat()},{r['is_fraud']}" for r in BY_KEY]
    (path / "labels.csv").write_text("\n".join(lines))
    return str(path / "labels.csv")


def json_lines(path):
    lines = [
        f'{{"card": "{r["card"]}", "shop": 3, "ts": "{r["ts"].isoformat()}", '
        f'"is_fraud": {str(r["is_fraud"]).lower()}}}'
        for r in BY_KEY
    ]
    (path / "labels.jsonl").write_text("\n".join(lines))
    return path / "labels.jsonl"


def arrow_file(path):
    table = by_key_table()
    name = str(path / "labels.arrow")
    with pa.OSFile(name, "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return path / "labels.arrow"


FORMS = {
    "Parquet": parquet,
    "CSV": csv,
    "JSON lines": json_lines,
    "an Arrow file": arrow_file,
    "a table": lambda path: by_key_table(),
    "a table of several chunks": lambda path: pa.concat_tables(
        [by_key_table().slice(0, 1), by_key_table().slice(1)]
    ),
    "a batch": lambda path: by_key_table().to_batches()[0],
    "dicts": lambda path: BY_KEY,
    "pandas": lambda path: pd.DataFrame(BY_KEY),
    "pandas with categories": lambda path: pd.DataFrame(BY_KEY).astype({"card": "category"}),
    "polars": lambda path: pl.DataFrame(BY_KEY),
    "polars with categories": lambda path: pl.DataFrame(BY_KEY).with_columns(
        pl.col("card").cast(pl.Categorical)
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_labels_by_key_and_time_come_in_any_form(tmp_path, form):
    """To the microsecond, and text keeps its leading zeros."""
    labels = check(FORMS[form](tmp_path))

    assert labels == EXPECTED
    assert labels.schema.types == EXPECTED.schema.types
    assert not is_by_request(labels)


@pytest.mark.parametrize(
    "ids",
    [
        IDS,
        [id_.hex() for id_ in IDS],
        [id_.hex().upper() for id_ in IDS],
        [str(uuid.UUID(bytes=id_)) for id_ in IDS],
        pa.array(IDS, pa.large_binary()),
        pa.array([id_.hex() for id_ in IDS], pa.large_string()),
        pa.array([id_.hex() for id_ in IDS]).dictionary_encode(),
        pa.array(IDS, pa.binary(16)),
        [uuid.UUID(bytes=id_) for id_ in IDS],
    ],
    ids=["bytes", "hex", "HEX", "UUID text", "large bytes", "large hex", "categories", "fixed",
         "UUID"],
)  # fmt: skip
def test_request_ids_come_as_bytes_or_text(ids):
    """As a client has them, or as a person reads them; without `row` it is the first."""
    columns = {"request_id": ids, "is_fraud": [True, False]}
    rows = [
        {"request_id": id_, "is_fraud": label}
        for id_, label in zip(ids, (True, False), strict=True)
    ]
    for source in (columns_table(columns), rows):
        labels = check(source)
        assert labels["request_id"].to_pylist() == IDS
        assert labels["row"].to_pylist() == [0, 0]
        assert is_by_request(labels)


def columns_table(columns):
    return pa.table({name: pa.array(values) if isinstance(values, list) else values
                     for name, values in columns.items()})  # fmt: skip


def test_request_ids_of_digits_alone_stay_text_in_a_file(tmp_path):
    """A CSV reader would make numbers of them."""
    id_ = uuid.UUID(int=int("12" * 16, 16))
    (tmp_path / "labels.csv").write_text(f"request_id,row,is_fraud\n{id_.hex},2,true\n")
    labels = check(tmp_path / "labels.csv")

    assert labels["request_id"].to_pylist() == [id_.bytes]
    assert labels["row"].to_pylist() == [2]


def test_request_ids_come_from_frames():
    """pandas and polars bring their own kinds of text and bytes."""
    for rows in ([{**r, "request_id": r["request_id"].hex()} for r in BY_REQUEST], BY_REQUEST):
        for frame in (pd.DataFrame(rows), pl.DataFrame(rows)):
            assert check(frame)["request_id"].to_pylist() == IDS


@pytest.mark.parametrize("zone", [timezone(timedelta(hours=2)), timezone(-timedelta(hours=7))])
def test_times_of_other_zones_are_the_same_moments(zone):
    """Converted, never refused."""
    assert check([{**row, "ts": row["ts"].astimezone(zone)} for row in BY_KEY]) == EXPECTED
    named = by_key_table().set_column(
        2, "ts", by_key_table()["ts"].cast(pa.timestamp("us", "Asia/Tokyo"))
    )
    assert check(named) == EXPECTED
    coarse = [{**row, "ts": row["ts"].replace(microsecond=0)} for row in BY_KEY]
    table = pa.Table.from_pylist(coarse)
    place = table.schema.get_field_index("ts")
    for unit in ("s", "ms", "ns"):
        ts = table["ts"].cast(pa.timestamp(unit, "UTC"))
        assert check(table.set_column(place, "ts", ts))["ts"].to_pylist()[0] == coarse[0]["ts"]


def changed(place, **changes):
    rows = [dict(row) for row in BY_KEY]
    rows[place] |= changes
    return rows


BAD = {
    "null key": (changed(1, card=None), "row 1.*'card' is null"),
    "null time": (changed(1, ts=None), "row 1.*'ts' is null"),
    "null request id": ([BY_REQUEST[0], {"request_id": None}], "row 1.*'request_id' is null"),
    "double key": ([BY_KEY[0], BY_KEY[1], BY_KEY[0]], "more than once.*0041"),
    "double id": ([BY_REQUEST[0], BY_REQUEST[0]], "more than once"),
    "naive time": ([{**BY_KEY[0], "ts": NOON.replace(tzinfo=None)}], "'ts' have no time zone"),
    "key of another type": ([{**row, "shop": "x"} for row in BY_KEY], "shop"),
    "id of another length": ([{"request_id": b"short", "is_fraud": True}], "request_id"),
    "id that is no hex": ([{"request_id": "xy" * 16, "is_fraud": True}], "row 0.*no request id"),
    "id that is a number": ([{"request_id": 5, "is_fraud": True}], "request_id"),
    "row not everywhere": ([BY_REQUEST[0], {**BY_REQUEST[1], "row": 2}], "row 0.*'row'"),
    "row too large": ([{**BY_REQUEST[0], "row": 2**40}], "row"),
    "row that is text": ([{**BY_REQUEST[0], "row": "first"}], "row"),
    "unknown column": (changed(0, is_frauds=True), "is_frauds"),
    "no label column": ([{"card": "a", "shop": 1, "ts": NOON}], "none of the columns"),
    "part of the key missing": ([{"card": "a", "ts": NOON, "is_fraud": True}], "'shop'"),
    "a label of lists": ([{**BY_KEY[0], "is_fraud": [1]}], "is_fraud"),
    "no rows that are rows": ([1, 2], "cannot be read"),
    "no rows at all": (7, "cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_labels_that_say_not_whose_they_are_are_refused(what):
    """Naming the row or the column."""
    source, message = BAD[what]

    with pytest.raises(BadLabels, match=rf"(?s)HOF-214.*{message}"):
        check(source)


@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.arrow", "a.parquet", "gone.parquet"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, name):
    """Whatever it claims to be."""
    if name != "gone.parquet":
        (tmp_path / name).write_bytes(b"\x00\xff{not it")

    with pytest.raises(BadLabels, match=f"HOF-214.*{name}"):
        check(tmp_path / name)


def test_an_empty_file_is_named(tmp_path):
    """As one that is damaged."""
    for name in ("a.csv", "a.json", "a.arrow", "a.parquet"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(BadLabels, match=name):
            check(tmp_path / name)


def test_a_view_without_labels_takes_none():
    """It says how to declare them."""
    with pytest.raises(BadLabels, match="declares no labels"):
        checked_labels(by_key_table(), View("v", 1, VIEW.features), GROUP)


def test_a_column_that_came_twice_is_refused():
    """A table may have it; a label has one value."""
    table = by_key_table()
    twice = pa.Table.from_arrays([*table.columns, table["is_fraud"]],
                                 names=[*table.column_names, "is_fraud"])  # fmt: skip

    with pytest.raises(BadLabels, match="twice"):
        check(twice)


def test_no_labels_at_all_are_a_load_of_none(tmp_path):
    """An empty day is no error."""
    store = LabelStore(tmp_path / "labels")
    store.add(check(by_key_table().slice(0, 0)))

    assert [load.num_rows for load in store.loads()] == [0]


def test_loads_are_kept_in_order(tmp_path):
    """Each as it came, numbered."""
    store = LabelStore(tmp_path / "fraud")
    assert store.loads() == []
    loads = [check(by_key_table()), check(BY_REQUEST), check(changed(0, is_fraud=None))]

    assert [store.add(load) for load in loads] == [1, 2, 3]
    assert LabelStore(tmp_path / "fraud").loads() == loads


def test_a_label_of_another_type_than_before_is_refused(tmp_path):
    """A column has one type; all null says nothing of it."""
    store = LabelStore(tmp_path / "fraud")
    store.add(check([{**row, "is_fraud": None} for row in BY_KEY]))
    store.add(check(BY_KEY))
    store.add(check([{**row, "is_fraud": None} for row in BY_KEY]))

    with pytest.raises(BadLabels, match=r"'is_fraud' is int64.*bool"):
        store.add(check(changed(0, is_fraud=1)[:1]))
    assert len(store.loads()) == 3


def test_damaged_labels_are_named(tmp_path):
    """Never read as fewer."""
    store = LabelStore(tmp_path / "fraud")
    store.add(check(BY_KEY))
    path = tmp_path / "fraud/00000001.parquet"
    data = path.read_bytes()
    for damage in (b"", data[:-1], bytes([*data[:60], data[60] ^ 1, *data[61:]])):
        path.write_bytes(damage)
        with pytest.raises(SealDamaged, match=r"00000001\.parquet of fraud"):
            store.loads()


def test_a_load_that_was_cut_short_is_none(tmp_path):
    """A name under which something was being written is not a load."""
    store = LabelStore(tmp_path / "fraud")
    store.add(check(BY_KEY))
    (tmp_path / "fraud/00000002.parquet.tmp").write_bytes(b"half")

    assert len(store.loads()) == 1
    assert store.add(check(BY_KEY)) == 2


def test_any_plain_column_may_be_a_label():
    """Numbers, text, times, dates."""
    values = {
        "float": 0.5, "text": "chargeback", "time": NOON, "date": NOON.date(), "small": np.int8(3),
    }  # fmt: skip
    for value in values.values():
        labels = check([{**BY_KEY[0], "note": value}])
        assert labels["note"].to_pylist() == [value]
