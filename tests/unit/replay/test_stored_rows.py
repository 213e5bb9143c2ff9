"""Rows of a stored group come as people have them; one that is wrong, and nothing is loaded."""

import json
import math
import struct
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

import hofflight as hof
from hofflight.errors import BadStoredRows
from hofflight.features.stored import STORED_KEY_TYPES
from hofflight.wire.columns import to_python
from hofflight.wire.schema import COLUMN_TYPES

START = datetime(2026, 5, 1, tzinfo=UTC)
EVERY = {
    "k": pa.string(), "ts": hof.TIMESTAMP, "i64": pa.int64(), "i32": pa.int32(),
    "i16": pa.int16(), "i8": pa.int8(), "u32": pa.uint32(), "u16": pa.uint16(), "u8": pa.uint8(),
    "f64": pa.float64(), "f32": pa.float32(), "flag": pa.bool_(), "text": pa.string(),
    "raw": pa.binary(), "at": hof.TIMESTAMP, "day": pa.date32(),
}  # fmt: skip
PLAIN = {
    "k": pa.string(), "ts": hof.TIMESTAMP, "n": pa.int32(), "x": pa.float64(), "flag": pa.bool_(),
    "text": pa.string(),
}  # fmt: skip


def make_group(name, schema, key="k"):
    return hof.stored_group(name, version=1, key=key, event_time="ts", schema=schema)


ROWS = [
    {"k": "a", "ts": START, "i64": 2**63 - 1, "i32": -(2**31), "i16": 2**15 - 1, "i8": -128,
     "u32": 2**31 - 1, "u16": 2**15 - 1, "u8": 127, "f64": 0.1, "f32": 0.5, "flag": True,
     "text": 'é, "x"\n', "raw": b"\0\xff", "at": START - timedelta(days=40_000, microseconds=1),
     "day": date(1970, 1, 1)},
    {"k": "", "ts": START, "i64": 0, "i32": 0, "i16": 0, "i8": 0, "u32": 0, "u16": 0, "u8": 0,
     "f64": -1e300, "f32": 0.0, "flag": False, "text": "", "raw": b"", "at": START,
     "day": date(2040, 12, 31)},
    {"k": "nulls", "ts": START + timedelta(microseconds=7), **dict.fromkeys(list(EVERY)[2:])},
]  # fmt: skip
PLAIN_ROWS = [
    {"k": "a", "ts": START, "n": -7, "x": 0.1, "flag": True, "text": 'é, "x"'},
    {"k": "007", "ts": START, "n": 2**31 - 1, "x": 3.0, "flag": False, "text": "1"},
    {"k": "nulls", "ts": START + timedelta(seconds=7), "n": None, "x": None, "flag": None,
     "text": "true"},
]  # fmt: skip


def table_of(rows, schema=EVERY):
    return pa.Table.from_pylist(rows, schema=pa.schema(list(schema.items())))


@pytest.fixture
def app(open_store):
    groups = [make_group("every", EVERY), make_group("plain", PLAIN)]
    settings = {"replay": {"threads": 1}, "online": {"map_bytes": 1 << 26}}
    return open_store(*groups, **settings).app


def history_of(app, name):
    return app.offline().stored_history(app.offline().stored_group(name))


def loaded(app, name):
    """Every row of the history, by key, as plain values."""
    history = history_of(app, name)
    rows = []
    for load in history.manifest().loads:
        for batch in history.batches(load):
            rows += zip(*map(to_python, batch.columns), strict=True)
    return sorted(rows)


def served(app, name, keys):
    """What a request gets, as plain values, by key."""
    vector = app.vector(name, keys={"k": keys})
    return sorted(zip(*map(to_python, vector.batch.columns), strict=True))


def plain_rows(rows, schema):
    """The same out of the rows that were given."""
    columns = table_of(rows, schema).combine_chunks().columns
    return sorted(zip(*(to_python(c.combine_chunks()) for c in columns), strict=True))


# --- where rows come from ---


def in_parquet(table, folder):
    pq.write_table(table, folder / "rows.parquet")
    return folder / "rows.parquet"


def in_a_folder(table, folder):
    """Two files, one of them deeper, and something else that is no Parquet."""
    (folder / "rows" / "deep").mkdir(parents=True)
    pq.write_table(table.slice(0, 1), folder / "rows" / "b.parquet")
    pq.write_table(table.slice(1), folder / "rows" / "deep" / "a.parquet")
    (folder / "rows" / "_SUCCESS").write_bytes(b"")
    return folder / "rows"


def in_arrow(table, folder):
    path = folder / "rows.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return path


def in_delta(table, folder):
    """In two commits."""
    write_deltalake(str(folder / "rows"), table.slice(0, 1))
    write_deltalake(str(folder / "rows"), table.slice(1), mode="append")
    return folder / "rows"


def in_csv(table, folder):
    pyarrow.csv.write_csv(table, folder / "rows.csv")
    return folder / "rows.csv"


def in_json(table, folder, zone="Z"):
    def in_words(moment):
        return moment.isoformat().replace("+00:00", zone)

    lines = [json.dumps(row, default=in_words) for row in table.to_pylist()]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    return folder / "rows.jsonl"


KINDS = {
    "dicts": lambda table, _: table.to_pylist(),
    "a tuple of dicts": lambda table, _: tuple(table.to_pylist()),
    "a generator of dicts": lambda table, _: (row for row in table.to_pylist()),
    "a table": lambda table, _: table,
    "a table of many chunks": lambda table, _: pa.concat_tables(
        [table.slice(i, 1) for i in range(len(table))]
    ),
    "a slice of a batch": lambda table, _: pa.concat_tables(
        [table.slice(1, 1), table]
    ).combine_chunks().to_batches()[0].slice(1),
    "large strings": lambda table, _: table.set_column(
        0, "k", table["k"].cast(pa.large_string())
    ),
    "a dictionary": lambda table, _: table.set_column(0, "k", table["k"].dictionary_encode()),
    "pandas": lambda table, _: table.to_pandas(types_mapper=pd.ArrowDtype),
    "polars": lambda table, _: pl.from_arrow(table),
    "Parquet": in_parquet,
    "Parquet named by text": lambda table, folder: str(in_parquet(table, folder)),
    "a folder of Parquet": in_a_folder,
    "Arrow": in_arrow,
    "Delta": in_delta,
}  # fmt: skip


def test_the_group_of_these_tests_has_every_type():
    """And each of its columns but key and time is null somewhere."""
    assert set(EVERY.values()) == COLUMN_TYPES


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_loaded_wherever_they_come_from(app, tmp_path, kind):
    """Every type and its nulls, served and in the history, as they were."""
    report = app.materialize("every", KINDS[kind](table_of(ROWS), tmp_path))

    assert (report.load, report.read, report.rows, report.keys) == (1, 3, 3, 3)
    assert loaded(app, "every") == plain_rows(ROWS, EVERY)
    assert served(app, "every", [row["k"] for row in ROWS]) == plain_rows(ROWS, EVERY)


@pytest.mark.parametrize("in_a_file", [in_csv, in_json])
def test_rows_of_a_text_file_are_loaded_as_the_groups_types(app, tmp_path, in_a_file):
    """Text of digits stays text; a missing number is null."""
    report = app.materialize("plain", in_a_file(table_of(PLAIN_ROWS, PLAIN), tmp_path))

    assert (report.load, report.rows) == (1, 3)
    assert served(app, "plain", [r["k"] for r in PLAIN_ROWS]) == plain_rows(PLAIN_ROWS, PLAIN)


@pytest.mark.parametrize("zone", ["Z", "+00:00", "+02:00"])
def test_a_time_in_json_may_have_any_offset(app, tmp_path, zone):
    """`isoformat` of Python writes +00:00."""
    row = PLAIN_ROWS[0] | {"ts": START + timedelta(microseconds=7)}
    app.materialize("plain", in_json(table_of([row], PLAIN), tmp_path, zone))

    moment = row["ts"] - timedelta(hours=int(zone[1:3] or 0))
    assert app.vector("plain", keys={"k": "a"}).batch["plain.ts"].to_pylist() == [moment]


def test_text_that_looks_like_a_time_stays_text_in_json(app, tmp_path):
    """The group says that the column is text."""
    rows = [row | {"text": "2026-05-01"} for row in PLAIN_ROWS]
    app.materialize("plain", in_json(table_of(rows, PLAIN), tmp_path))

    assert served(app, "plain", [row["k"] for row in rows]) == plain_rows(rows, PLAIN)


def test_a_pandas_frame_of_numpy_columns_is_loaded(app):
    """Its times are nanoseconds, which is the same moment."""
    frame = pd.DataFrame({
        "k": ["a", "b"], "ts": pd.to_datetime(["2026-05-01"] * 2, utc=True).as_unit("ns"),
        "n": [1, 2], "x": [0.5, math.inf], "flag": [True, False], "text": ["x", None],
    })  # fmt: skip
    app.materialize("plain", frame)

    moment = int(START.timestamp() * 1e6)
    assert served(app, "plain", ["a", "b"]) == [
        ("a", moment, 1, 0.5, True, "x"), ("b", moment, 2, math.inf, False, None)
    ]  # fmt: skip


TEXT_FILES = {"CSV": in_csv, "JSON": in_json}
# The others need the key to be the first column, or a row.
ANY_COLUMNS = sorted({*KINDS, *TEXT_FILES} - {"large strings", "a dictionary"})
ANY_ROWS = sorted({*KINDS} - {
    "a slice of a batch", "a table of many chunks", "a generator of dicts",
})  # fmt: skip


@pytest.mark.parametrize("kind", ANY_COLUMNS)
def test_columns_that_the_group_does_not_have_are_left_out(app, tmp_path, kind):
    """A table of a warehouse has more columns than a model wants; and in another order."""
    table = table_of(PLAIN_ROWS, PLAIN)
    wider = table.select(table.schema.names[::-1]).append_column("more", pa.array([1, 2, 3]))
    app.materialize("plain", (KINDS | TEXT_FILES)[kind](wider, tmp_path))

    assert served(app, "plain", [r["k"] for r in PLAIN_ROWS]) == plain_rows(PLAIN_ROWS, PLAIN)


@pytest.mark.parametrize("kind", ANY_ROWS)
def test_no_rows_are_no_load(app, tmp_path, kind):
    """Nothing is written for it."""
    report = app.materialize("plain", KINDS[kind](table_of([], PLAIN), tmp_path))

    assert (report.load, report.read, report.rows) == (None, 0, 0)
    assert not history_of(app, "plain").path.exists()


def test_floats_are_served_to_the_bit(app):
    """NaN, both zeros, infinities, the smallest and the largest there are."""
    values = [math.nan, 0.0, -0.0, math.inf, -math.inf, 5e-324, 1.7976931348623157e308, 0.1]
    keys = [str(i) for i in range(len(values))]
    rows = [PLAIN_ROWS[0] | {"k": k, "x": v} for k, v in zip(keys, values, strict=True)]
    app.materialize("plain", rows)

    found = app.vector("plain", keys={"k": keys}).batch["plain.x"].to_pylist()
    assert [struct.pack("<d", v) for v in found] == [struct.pack("<d", v) for v in values]


def test_times_may_be_any_microsecond_in_a_value(app):
    """Only the event time has bounds."""
    ends = [2**63 - 1, -(2**63), 0]
    rows = [ROWS[0] | {"k": str(i), "at": at} for i, at in enumerate(ends)]
    app.materialize("every", rows)

    found = app.vector("every", keys={"k": ["0", "1", "2"]}).batch["every.at"]
    assert to_python(found) == ends


ODD_KEYS = ["a", "a\0", "\0a", "", " ", "a ", "A", "é", "e\u0301", "ß", "ss", "x" * 300,
            "x" * 299 + "y", "'; DROP TABLE known; --", "%", "NULL", "𝄞"]  # fmt: skip


def test_keys_that_look_alike_are_kept_apart(app):
    """Through DuckDB and the online store; each has its own row."""
    rows = [PLAIN_ROWS[0] | {"k": key, "n": number} for number, key in enumerate(ODD_KEYS)]
    report = app.materialize("plain", rows * 2)

    assert (report.rows, report.duplicates, report.keys) == (len(rows), len(rows), len(rows))
    found = app.vector("plain", keys={"k": ODD_KEYS}).batch
    assert found["plain.n"].to_pylist() == list(range(len(ODD_KEYS)))
    assert app.materialize("plain", rows).known == len(rows)


@pytest.mark.parametrize("column_type", sorted(STORED_KEY_TYPES, key=str), ids=str)
def test_rows_are_found_by_keys_of_every_type(app, column_type):
    """Beside a second part; only the row with both is found."""
    group = make_group("keyed", {"k": column_type, "part": pa.int8(), **PLAIN} | {"k": column_type},
                       key=("part", "k"))  # fmt: skip
    app.register(group)
    values = {
        pa.string(): ["a", "b"], pa.binary(): [b"", b"\0"], pa.bool_(): [True, False],
        hof.TIMESTAMP: [START, START + timedelta(microseconds=1)],
        pa.date32(): [date(1960, 1, 1), date(2026, 1, 1)],
    }.get(column_type, [0, 127])  # fmt: skip
    rows = [PLAIN_ROWS[0] | {"k": v, "part": p, "n": p * 10 + i}
            for p in (1, 2) for i, v in enumerate(values)]  # fmt: skip
    app.materialize("keyed", rows)

    keys = {"k": [row["k"] for row in rows], "part": [row["part"] for row in rows]}
    assert app.vector("keyed", keys=keys).batch["keyed.n"].to_pylist() == [10, 11, 20, 21]
    missing = app.vector("keyed", keys={"k": values[0], "part": 3})
    assert missing.status["keyed.n"] == "NOT_FOUND"


def test_columns_may_be_named_like_words_of_sql(app):
    """Names are only names."""
    names = ["select", "order", "group", "known", "source", "s", "k", "fresh", "table", "load"]
    schema = {"from": pa.int64(), "where": hof.TIMESTAMP, **dict.fromkeys(names, pa.int32())}
    app.register(hof.stored_group("join", version=1, key="from", event_time="where", schema=schema))
    row = {"from": 1, "where": START, **{name: i for i, name in enumerate(names)}}
    assert app.materialize("join", [row]).rows == 1
    assert app.materialize("join", [row, row | {"from": 2}]).known == 1

    assert app.vector("join", keys={"from": 2}).to_dict() == {
        f"join.{name}": value for name, value in (row | {"from": 2}).items()
    }


# --- what is wrong with them ---

GOOD = table_of(PLAIN_ROWS, PLAIN)


def replaced(name, values, column_type=None):
    array = pa.array(values, column_type or PLAIN[name])
    return GOOD.set_column(GOOD.schema.get_field_index(name), name, array)


def broken_parquet(folder):
    path = in_parquet(GOOD, folder)
    path.write_bytes(path.read_bytes()[:-9])
    return path


def broken_inside(folder):
    """Its footer is whole, its pages are not."""
    pq.write_table(GOOD, folder / "rows.parquet", compression="zstd", use_dictionary=False)
    data = bytearray((folder / "rows.parquet").read_bytes())
    data[4:60] = b"\xff" * 56
    (folder / "rows.parquet").write_bytes(data)
    return folder / "rows.parquet"


def second_file(table):
    def make(folder):
        pq.write_table(GOOD, folder / "a.parquet")
        pq.write_table(table, folder / "b.parquet")
        return folder

    return make


def text_file(name, text):
    def make(folder):
        (folder / name).write_text(text)
        return folder / name

    return make


def broken_delta(text):
    def make(folder):
        (folder / "rows" / "_delta_log").mkdir(parents=True)
        if text:
            (folder / "rows" / "_delta_log" / f"{0:020d}.json").write_text(text)
        return folder / "rows"

    return make


def given(rows):
    return lambda folder: rows


HEAD = "k,ts,n,x,flag,text\n"
LATE = 2_240_611_200_000_000
WRONG = {
    "a null key in a dict": (given([PLAIN_ROWS[0], PLAIN_ROWS[1] | {"k": None}]),
                             ["row 1", "'k' is null"]),
    "a null key": (given(replaced("k", ["a", "b", None])), ["row 2", "'k' is null"]),
    "a null time": (given(replaced("ts", [START, None, START])), ["row 1", "'ts' is null"]),
    "a null key in the second file": (second_file(replaced("k", ["a", None, "b"])),
                                      ["row 4", "'k' is null"]),
    "a time after 2040": (given(replaced("ts", [0, LATE - 1, LATE])), ["row 2", "'ts'", "2040"]),
    "a time before 1900": (given(replaced("ts", [-2_208_988_800_000_001, 0, 0])),
                           ["row 0", "'ts'", "1900"]),
    "a time without zone": (given(replaced("ts", [0, 1, 2], pa.timestamp("us"))),
                            ["'ts' must be timestamp[us, tz=UTC]", "time zone"]),
    "a finer time": (given(replaced("ts", [0, 1, 2], pa.timestamp("ns", "UTC"))), ["'ts'"]),
    "a datetime without zone": (given([PLAIN_ROWS[0] | {"ts": START.replace(tzinfo=None)}]),
                                ["row 0", "'ts'", "without a time zone"]),
    "text for a number": (given(replaced("x", ["1", "2", "3"], pa.string())),
                          ["'x' must be double, got string"]),
    "text for a number in a dict": (given([PLAIN_ROWS[0], PLAIN_ROWS[1] | {"x": "1"}]),
                                    ["row 1", "'x' must be double, got str"]),
    "a number for text": (given(replaced("text", [1, 2, 3], pa.int64())),
                          ["'text' must be string, got int64"]),
    "a float for an integer": (given(replaced("n", [1.0, 2.0, 3.0], pa.float64())),
                               ["'n' must be int32, got double"]),
    "a bool for an integer": (given([PLAIN_ROWS[0] | {"n": True}]), ["row 0", "'n'", "bool"]),
    "an integer out of range": (given(replaced("n", [1, 2**31, 3], pa.int64())),
                                ["'n' must be int32", "2147483648"]),
    "an integer out of range in a dict": (given([PLAIN_ROWS[0] | {"n": 2**31}]), ["row 0", "'n'"]),
    "a missing column": (given(GOOD.drop(["x"])), ["['x'] are missing"]),
    "a missing key column in a dict": (given([{"ts": START}]), ["'k' is missing"]),
    "a column twice": (given(GOOD.append_column("x", GOOD["x"])), ["['x']", "twice"]),
    "a second file without a column": (second_file(GOOD.drop(["n"])), ["['n'] are missing"]),
    "a second file of another type": (second_file(replaced("n", ["1"] * 3, pa.string())),
                                      ["'n' must be int32"]),
    "no file": (lambda folder: folder / "none.parquet", ["'none.parquet'", "No such file"]),
    "no CSV": (lambda folder: folder / "none.csv", ["'none.csv'", "No such file"]),
    "a folder of nothing": (lambda folder: folder, ["no .parquet file"]),
    "a cut Parquet file": (broken_parquet, ["'rows.parquet'"]),
    "a Parquet file with damaged pages": (broken_inside, ["plain"]),
    "a file that is no Parquet": (text_file("rows.parquet", "hello"), ["'rows.parquet'"]),
    "a file of no known kind": (text_file("rows.txt", "hello"), ["'rows.txt'"]),
    "a file that is no Arrow": (text_file("rows.arrow", "hello"), ["'rows.arrow'"]),
    "an empty CSV": (text_file("rows.csv", ""), ["'rows.csv'", "Empty CSV"]),
    "a CSV with a bad number": (text_file("rows.csv", HEAD + "a,2026-05-01T00:00:00Z,x,1,true,t"),
                                ["'rows.csv'", "#2"]),
    "a CSV with a time without zone": (text_file("rows.csv", HEAD + "a,2026-05-01,1,1,true,t"),
                                       ["'rows.csv'", "zone"]),
    "a CSV with a row too short": (text_file("rows.csv", HEAD + "a,b\n"), ["'rows.csv'", "6"]),
    "JSON that is cut": (text_file("rows.jsonl", '{"k": "a"'), ["'rows.jsonl'"]),
    "a Delta table without a log": (broken_delta(""), ["'rows'"]),
    "a Delta table with a damaged log": (broken_delta("{bad"), ["'rows'"]),
    "a number": (given(7), ["'int'"]),
    "nothing": (given(None), ["'NoneType'"]),
    "bytes": (given(b"rows"), ["'bytes'"]),
    "one dict": (given(PLAIN_ROWS[0]), ["'dict'"]),
    "a list of numbers": (given([1, 2]), ["row 0", "int"]),
    "a set of texts": (given({"a"}), ["'set'"]),
}  # fmt: skip


@pytest.mark.parametrize(("make", "words"), WRONG.values(), ids=WRONG)
def test_rows_that_are_wrong_are_refused_and_nothing_is_loaded(app, tmp_path, make, words):
    """The text says where; manifest, files and answers are as they were before."""
    app.materialize("plain", PLAIN_ROWS)
    keys = [row["k"] for row in PLAIN_ROWS]
    before, answers = state_of(app), served(app, "plain", keys)
    folder = tmp_path / "given"
    folder.mkdir()

    with pytest.raises(BadStoredRows, match="HOF-218") as caught:
        app.materialize("plain", make(folder))

    assert [word for word in words if word not in str(caught.value)] == []
    assert state_of(app) == before
    assert served(app, "plain", keys) == answers
    assert app.materialize("plain", [PLAIN_ROWS[0] | {"n": 99}]).load == 2


def state_of(app):
    """Every file of the history and its bytes."""
    folder = history_of(app, "plain").directory
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_a_row_that_is_too_long_is_refused_and_nothing_is_loaded(app):
    """It is seen before a load begins, whether or not it is the newest of its key."""
    app.materialize("plain", PLAIN_ROWS)
    before = state_of(app)
    long = PLAIN_ROWS[0] | {"text": "x" * 70_000}
    for rows in ([PLAIN_ROWS[1], long], [long | {"ts": START - timedelta(days=1)}]):
        with pytest.raises(BadStoredRows, match=r"HOF-218.*at most 65536"):
            app.materialize("plain", rows)
        assert state_of(app) == before


def test_the_row_that_is_wrong_is_named_by_its_place_among_all(app):
    """Also where rows are read some thousand at a time."""
    rows = [PLAIN_ROWS[0] | {"k": str(i)} for i in range(9_000)]

    for place in (8_191, 8_192, 8_999):
        with pytest.raises(BadStoredRows, match=rf"row {place}: 'k' is null"):
            app.materialize("plain", [*rows[:place], rows[place] | {"k": None}, *rows[place + 1 :]])


def test_a_wrong_value_is_named_by_its_place_among_all(app):
    """A person looks for it in a file."""
    rows = [PLAIN_ROWS[0] | {"k": str(i)} for i in range(8_200)]
    rows[8_195] = rows[8_195] | {"x": "1"}

    with pytest.raises(BadStoredRows, match=r"row 8195.*'x' must be double"):
        app.materialize("plain", rows)
