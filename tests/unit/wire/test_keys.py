"""A key is the same bytes everywhere, no two keys share them, and a wrong one is refused."""

import enum
import unicodedata
from datetime import UTC, date, datetime, timedelta, timezone
from hashlib import blake2b
from types import MappingProxyType

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hofflight.errors import BadKeys
from hofflight.features.stored import STORED_KEY_TYPES
from hofflight.wire.columns import to_python
from hofflight.wire.keys import KeyCodec, given_keys
from hofflight.wire.schema import TIMESTAMP

TYPES = sorted(STORED_KEY_TYPES, key=str)
# Few different letters, so that parts that could be confused come often; and long ones.
TEXT = st.text("abée\u0301\0 1", max_size=3) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=80
)
LONG = st.integers(180, 260).map(lambda size: "x" * size)


def values_of(column_type):
    """Any value of a key's type, times and dates as integers; the ends of its range often."""
    if column_type == pa.bool_():
        return st.booleans()
    if column_type == pa.string():
        return TEXT | LONG
    if column_type == pa.binary():
        return st.binary(max_size=3) | st.binary(min_size=150, max_size=250)
    bits = column_type.bit_width
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    if pa.types.is_unsigned_integer(column_type):
        low, high = 0, 2**bits - 1
    return st.integers(low, high) | st.sampled_from([low, high, 0, 1])


def schema_of(*types):
    return pa.schema([(f"c{i}", t) for i, t in enumerate(types)])


schemas = st.lists(st.sampled_from(TYPES), min_size=1, max_size=4).map(lambda ts: schema_of(*ts))


@st.composite
def tables(draw, *, nulls=True):
    """A schema and rows of it."""
    schema = draw(schemas)
    columns = [values_of(t) | st.none() if nulls else values_of(t) for t in schema.types]
    return schema, draw(st.lists(st.tuples(*columns), max_size=6))


def columns_of(schema, rows):
    return [pa.array([row[i] for row in rows], t) for i, t in enumerate(schema.types)]


# --- the bytes ---


@given(tables())
def test_a_column_of_keys_is_the_key_of_each_row(table):
    """Serving makes one key, loading makes many: they must meet."""
    schema, rows = table
    codec = KeyCodec(schema)
    columns = columns_of(schema, rows)
    plain = zip(*map(to_python, columns), strict=True)

    found = codec.encode_columns(columns)

    assert found.type == pa.binary()
    assert found.to_pylist() == [codec.encode(values) for values in plain]


@given(tables())
def test_a_key_is_null_where_a_part_is_null_and_nowhere_else(table):
    """Null finds nothing; an empty text is a text."""
    schema, rows = table
    keys = KeyCodec(schema).encode_columns(columns_of(schema, rows)).to_pylist()

    assert [key is None for key in keys] == [None in row for row in rows]


@given(tables(), st.integers(0, 6), st.integers(0, 6))
def test_a_slice_of_columns_gives_the_keys_of_its_rows(table, start, length):
    """An Arrow column may begin anywhere in its buffers."""
    schema, rows = table
    columns = columns_of(schema, rows)
    whole = KeyCodec(schema).encode_columns(columns).to_pylist()

    part = KeyCodec(schema).encode_columns([c.slice(start, length) for c in columns])

    assert part.to_pylist() == whole[start : start + length]


@given(schemas, st.data())
def test_different_keys_are_different_bytes_and_equal_keys_equal_ones(schema, data):
    """No key finds the row of another one."""
    key = st.tuples(*map(values_of, schema.types))
    one, other = data.draw(key), data.draw(key)
    codec = KeyCodec(schema)

    assert (codec.encode(one) == codec.encode(other)) == (one == other)


@given(st.lists(TEXT, min_size=1, max_size=3), st.data())
@example(["a", "bc"], None)
@example(["", "x"], None)
def test_the_same_letters_parted_elsewhere_are_another_key(parts, data):
    """Texts are not simply put behind each other."""
    whole = "".join(parts)
    codec = KeyCodec(schema_of(*[pa.string()] * len(parts)))
    cuts = st.lists(st.integers(0, len(whole)), min_size=len(parts) - 1, max_size=len(parts) - 1)
    ends = [1] * (len(parts) - 1) if data is None else sorted(data.draw(cuts))
    starts = [0, *ends]
    other = [whole[a:b] for a, b in zip(starts, [*ends, len(whole)], strict=True)]

    assert (codec.encode(parts) == codec.encode(other)) == (parts == other)


LOOKALIKES = [
    ("the cut", (pa.string(), pa.string()), ("a", "bc"), ("ab", "c")),
    ("an empty part", (pa.string(), pa.string()), ("", "x"), ("x", "")),
    ("the order", (pa.string(), pa.string()), ("a", "b"), ("b", "a")),
    ("a length as text", (pa.string(), pa.string()), ("a\x01\0\0\0b", ""), ("a", "b")),
    ("a NUL at the end", (pa.string(),), ("a",), ("a\0",)),
    ("a NUL alone", (pa.string(),), ("",), ("\0",)),
    ("a blank", (pa.string(),), ("a",), ("a ",)),
    ("capitals", (pa.string(),), ("straße",), ("STRASSE",)),
    ("Unicode twins", (pa.string(),), ("é",), (unicodedata.normalize("NFD", "é"),)),
    ("a number and its negative", (pa.int8(),), (1,), (-1,)),
    ("the ends of int64", (pa.int64(),), (2**63 - 1,), (-(2**63),)),
    ("beyond 2^53", (pa.int64(),), (2**53,), (2**53 + 1,)),
    ("long texts that end otherwise", (pa.string(),), ("x" * 300 + "a",), ("x" * 300 + "b",)),
    ("long texts cut elsewhere", (pa.string(), pa.string()), ("x" * 150, "x" * 151),
     ("x" * 151, "x" * 150)),
    ("a long text and its digest", (pa.binary(),), (b"x" * 201,),
     (blake2b(b"\xc9\0\0\0" + b"x" * 201, digest_size=32).digest(),)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("types", "one", "other"), [w[1:] for w in LOOKALIKES], ids=[w[0] for w in LOOKALIKES]
)
def test_keys_that_look_alike_are_two_keys(types, one, other):
    """Row by row and by column."""
    schema = schema_of(*types)
    codec = KeyCodec(schema)
    by_column = codec.encode_columns(columns_of(schema, [one, other])).to_pylist()

    assert codec.encode(one) != codec.encode(other)
    assert by_column[0] != by_column[1]


# Written by hand from the module's docstring: other languages make the same bytes.
GOLDEN = [
    ((pa.int64(),), (42,), "08000000 2a00000000000000"),
    ((pa.int8(),), (-1,), "08000000 ffffffffffffffff"),
    ((pa.bool_(), pa.bool_()), (True, False), "01000000 01 01000000 00"),
    ((pa.string(),), ("é\0",), "03000000 c3a900"),
    ((pa.string(), pa.int32()), ("ab", 7), "02000000 6162 08000000 0700000000000000"),
    ((TIMESTAMP, pa.date32()), (1_780_000_000_000_000, -2),
     "08000000 0040b38be6520600 08000000 feffffffffffffff"),
    ((pa.binary(),), (b"",), "00000000"),
    ((pa.string(),), ("x" * 197,),
     "ffffffff b329b9db8d646e9f1a36afe57b5cb0476e1beea10712bd20b9b22d0af6eb82a3"),
]  # fmt: skip


@pytest.mark.parametrize(("types", "values", "hexed"), GOLDEN)
def test_the_bytes_of_a_key_never_change(types, values, hexed):
    """A store filled by an older release is read by a newer one."""
    schema = schema_of(*types)

    assert KeyCodec(schema).encode(values) == bytes.fromhex(hexed)
    [by_column] = KeyCodec(schema).encode_columns(columns_of(schema, [values])).to_pylist()
    assert by_column == bytes.fromhex(hexed)


@pytest.mark.parametrize("size", [195, 196, 197, 70_000])
def test_a_key_has_at_most_200_bytes(size):
    """With its length; what is longer is a digest, among short ones and nulls too."""
    schema = schema_of(pa.string())
    key = KeyCodec(schema).encode(["x" * size])
    column = pa.array([None, "x" * size, "", "y"])

    is_digest = size + 4 > 200
    assert (len(key) == 36, key.startswith(b"\xff\xff\xff\xff")) == (is_digest, is_digest)
    assert len(key) <= 200
    found = KeyCodec(schema).encode_columns([column]).to_pylist()
    assert found == [None, key, b"\0\0\0\0", b"\x01\0\0\0y"]


def test_a_part_has_the_same_bytes_in_every_integer_width():
    """So a key column may be widened without another key."""
    widths = [t for t in TYPES if pa.types.is_integer(t)]

    assert {KeyCodec(schema_of(t)).encode([100]) for t in widths} == {b"\x08\0\0\0d" + bytes(7)}


# --- keys= ---

KEYS = pa.schema([("card", pa.int64()), ("shop", pa.string())])


def test_one_value_is_for_all_rows_and_a_list_has_one_for_each():
    """Mixed as the caller likes; the columns come in the schema's order."""
    found = given_keys({"shop": ["a", "b", "ä"], "card": 7}, KEYS, 3)

    assert found == {"card": [7, 7, 7], "shop": ["a", "b", "ä"]}
    assert list(found) == ["card", "shop"]
    assert given_keys({"card": (1, 2), "shop": ["a", "b"]}, KEYS, 2)["card"] == [1, 2]


@pytest.mark.parametrize("rows", [1, None])
def test_values_without_a_list_are_one_row(rows):
    """Where nothing says how many there are, and where one was sent."""
    assert given_keys({"card": 7, "shop": "a"}, KEYS, rows) == {"card": [7], "shop": ["a"]}
    assert given_keys({"card": [7], "shop": "a"}, KEYS, rows) == {"card": [7], "shop": ["a"]}


def test_without_rows_the_lists_say_how_many_there_are():
    """A view of stored groups alone."""
    keys = {"card": [1, 2, 3], "shop": "a"}

    assert given_keys(keys, KEYS, None) == {"card": [1, 2, 3], "shop": ["a"] * 3}


WRONG_SHAPES = [
    ("two lengths", {"card": [1, 2], "shop": ["a"]}, None, ["'card': 2", "'shop': 1"]),
    ("a list too short", {"card": [1, 2], "shop": "a"}, 3, ["'card': 2", "3 rows"]),
    ("a list too long", {"card": [1, 2], "shop": "a"}, 1, ["'card': 2", "1 rows"]),
    ("an empty list", {"card": [], "shop": "a"}, None, ["'card': 0"]),
    ("an empty list for a row", {"card": [], "shop": "a"}, 1, ["'card': 0", "1 rows"]),
    ("two empty lists", {"card": [], "shop": []}, None, ["'card': 0", "'shop': 0"]),
    ("nothing", None, 1, ["card int64, shop string", "got []"]),
    ("an empty dict", {}, None, ["card int64, shop string", "got []"]),
    ("one missing", {"card": 1}, 1, ["card int64, shop string", "got ['card']"]),
    ("one unknown", {"card": 1, "shop": "a", "x": 1}, 2, ["card int64, shop string", "'x'"]),
    ("another name", {"card": 1, "Shop": "a"}, 1, ["shop string", "'Shop'"]),
    ("names that are no text", {1: 1, "shop": "a"}, 1, ["card int64", "'1'"]),
    ("a list of keys", [{"card": 1, "shop": "a"}], None, ["card int64", "list"]),
    ("a list of keys for one row", [{"card": 1, "shop": "a"}], 1, ["card int64", "list"]),
    ("a text", "card", 1, ["card int64", "str"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("keys", "rows", "words"), [w[1:] for w in WRONG_SHAPES], ids=[w[0] for w in WRONG_SHAPES]
)
def test_keys_that_are_not_those_of_the_view_are_refused(keys, rows, words):
    """The text says what was asked for and what came."""
    with pytest.raises(BadKeys, match=r"HOF-216: keys= ") as caught:
        given_keys(keys, KEYS, rows)

    assert [word for word in words if word not in str(caught.value)] == []


def test_keys_of_a_view_that_takes_none_are_refused():
    """What nobody looks at is more often a typing error."""
    with pytest.raises(BadKeys, match=r"must name none; got .'card'"):
        given_keys({"card": 1}, pa.schema([]), 1)


class Colour(enum.IntEnum):
    """A number with a name."""

    RED = 3


FITTING = [
    (pa.int64(), 1, 1), (pa.int8(), -128, -128), (pa.uint32(), 2**32 - 1, 2**32 - 1),
    (pa.int64(), np.int32(5), 5), (pa.int16(), Colour.RED, 3),
    (pa.int64(), 2**63 - 1, 2**63 - 1), (pa.int64(), -(2**63), -(2**63)),
    (pa.bool_(), True, True), (pa.bool_(), np.bool_(False), False),
    (pa.string(), "", ""), (pa.string(), "né\0", "né\0"), (pa.string(), np.str_("x"), "x"),
    (pa.binary(), b"\0", b"\0"), (pa.binary(), bytearray(b"ab"), b"ab"),
    (TIMESTAMP, 5, 5), (TIMESTAMP, datetime(1970, 1, 2, tzinfo=UTC), 86_400_000_000),
    (TIMESTAMP, datetime(1970, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))), 0),
    (TIMESTAMP, pd.Timestamp(0, tz="UTC"), 0),
    (pa.date32(), date(1970, 1, 2), 1), (pa.date32(), date(1969, 12, 31), -1),
]  # fmt: skip


@pytest.mark.parametrize(("column_type", "value", "plain"), FITTING)
def test_a_value_that_fits_becomes_the_plain_value_of_its_column(column_type, value, plain):
    """Alone, in a list, for one row or for two; `KeyCodec` then takes it."""
    schema = schema_of(column_type)

    assert given_keys({"c0": value}, schema, 1) == {"c0": [plain]}
    assert given_keys({"c0": value}, schema, 2) == {"c0": [plain, plain]}
    found = given_keys({"c0": [value, value]}, schema, None)["c0"]
    assert [(type(v), v) for v in found] == [(type(plain), plain)] * 2
    [by_column] = KeyCodec(schema).encode_columns([pa.array([plain], column_type)]).to_pylist()
    assert KeyCodec(schema).encode(found[:1]) == by_column


MISFITS = [
    (pa.int64(), "1"), (pa.int64(), True), (pa.int64(), 1.0), (pa.int64(), 2**63),
    (pa.int64(), -(2**63) - 1), (pa.int8(), 128), (pa.uint8(), -1), (pa.uint32(), 2**32),
    (pa.int64(), float("nan")), (pa.int64(), b"1"), (pa.int64(), datetime(2026, 1, 1, tzinfo=UTC)),
    (pa.int64(), {"card": 1}), (pa.int64(), {1, 2}),
    (pa.bool_(), 1), (pa.bool_(), 0), (pa.bool_(), "true"),
    (pa.string(), 1), (pa.string(), b"a"), (pa.string(), "a\ud800"), (pa.string(), True),
    (pa.binary(), "a"), (pa.binary(), 1),
    (TIMESTAMP, datetime(2026, 1, 1)),  # noqa: DTZ001 that is what is refused
    (TIMESTAMP, date(2026, 1, 1)), (TIMESTAMP, "2026-01-01T00:00:00Z"), (TIMESTAMP, 1.5),
    (pa.date32(), datetime(2026, 1, 1, tzinfo=UTC)), (pa.date32(), 1), (pa.date32(), "2026-01-01"),
]  # fmt: skip


@pytest.mark.parametrize(("column_type", "value"), MISFITS)
def test_a_value_of_another_type_is_refused_and_never_converted(column_type, value):
    """1 and "1" are two keys; the text names the column, its type and the row."""
    schema = pa.schema([("other", pa.int64()), ("c", column_type)])
    good = {pa.string(): "a", pa.binary(): b"a", pa.bool_(): True, pa.date32(): date(2026, 1, 1)}

    for rows in (1, 2, None):
        with pytest.raises(BadKeys, match=rf"HOF-216.*'c' must be {str(column_type)[:4]}"):
            given_keys({"other": 1, "c": value}, schema, rows)
    with pytest.raises(BadKeys, match=r"row 1, column 'c'.*two keys"):
        given_keys({"other": 1, "c": [good.get(column_type, 1), value]}, schema, 2)


def test_a_list_of_lists_is_no_list_of_keys():
    """A key column holds plain values."""
    with pytest.raises(BadKeys, match="row 1, column 'card' must be int64, got list"):
        given_keys({"card": [1, [2]], "shop": "a"}, KEYS, 2)


@pytest.mark.parametrize("null", [None, pd.NA, pd.NaT], ids=["None", "NA", "NaT"])
@pytest.mark.parametrize("column_type", [pa.int64(), pa.string(), TIMESTAMP], ids=str)
def test_a_null_is_no_key(column_type, null):
    """Of whatever kind; in a list its row is named. Nobody looks for nothing."""
    schema = pa.schema([("card", column_type)])
    value = "a" if column_type == pa.string() else 1
    for rows in (1, 2, None):
        with pytest.raises(BadKeys, match=r"HOF-216.*'card'.* is null"):
            given_keys({"card": null}, schema, rows)
    with pytest.raises(BadKeys, match="'card', row 1 is null"):
        given_keys({"card": [value, null]}, schema, None)


@pytest.mark.parametrize("several", [np.array([1, 2]), pd.Series([1, 2])], ids=["numpy", "pandas"])
@pytest.mark.parametrize("rows", [1, 2, None])
def test_an_array_instead_of_a_list_is_refused_in_our_words(several, rows):
    """Or taken as a list; it must not end in an error of numpy's."""
    try:
        found = given_keys({"card": several}, pa.schema([("card", pa.int64())]), rows)
    except BadKeys:
        return
    assert rows != 1
    assert found == {"card": [1, 2]}


@pytest.mark.parametrize("rows", [1, 2, None])
def test_any_mapping_may_name_keys(rows):
    """As its type says, for one row as for several."""
    found = given_keys(MappingProxyType({"card": 1, "shop": "a"}), KEYS, rows)

    assert found == {"card": [1] * (rows or 1), "shop": ["a"] * (rows or 1)}


def test_what_the_caller_gave_is_not_changed():
    """The lists are the caller's, who may use them again."""
    keys = {"card": [1, 2], "shop": ["a", "b"]}
    found = given_keys(keys, KEYS, 2)
    found["card"].append(9)

    assert keys == {"card": [1, 2], "shop": ["a", "b"]}


PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=3),
    st.binary(max_size=3), st.datetimes(), st.dates(), st.datetimes(timezones=st.just(UTC)),
)  # fmt: skip


@given(schemas, st.data(), st.none() | st.integers(1, 3))
def test_whatever_comes_is_a_key_of_the_schema_or_an_error_of_ours(schema, data, rows):
    """Never a value of another type, which a codec could not encode or would confuse."""
    one = st.one_of(*map(values_of, schema.types)) | PLAIN
    keys = {name: data.draw(one | st.lists(one, max_size=3)) for name in schema.names}
    try:
        found = given_keys(keys, schema, rows)
    except BadKeys:
        return
    columns = [pa.array(found[field.name], field.type) for field in schema]
    codec = KeyCodec(schema)
    encoded = [codec.encode(row) for row in zip(*found.values(), strict=True)]

    assert None not in encoded
    assert codec.encode_columns(columns).to_pylist() == encoded
    assert len(encoded) == (rows or len(columns[0]))
