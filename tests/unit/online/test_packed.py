"""A stored row is the same bytes everywhere, is read back to the bit, and never misread."""

import math
import struct

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hofflight.errors import StoredUnreadable
from hofflight.online.packed import Packing, stamp
from hofflight.wire.columns import to_python
from hofflight.wire.schema import COLUMN_TYPES, TIMESTAMP

TYPES = sorted(COLUMN_TYPES, key=str)
INT64 = st.integers(-(2**63), 2**63 - 1)
FLOATS = [0.0, -0.0, math.nan, math.inf, -math.inf, 1.5, 2.0**-149]


def values_of(column_type):
    """Any value of a type, times and dates as integers."""
    if column_type == pa.bool_():
        return st.booleans()
    if pa.types.is_floating(column_type):
        return st.sampled_from(FLOATS) | st.floats(width=column_type.bit_width)
    if column_type == pa.string():
        short = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
        return short | st.sampled_from(["", "\0", "é", "e\u0301", "𝄞" * 500])
    if column_type == pa.binary():
        return st.binary(max_size=12) | st.sampled_from([b"", b"\xff" * 1_000])
    bits = column_type.bit_width
    if pa.types.is_unsigned_integer(column_type):
        return st.integers(0, 2**bits - 1)
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def schema_of(*types):
    return pa.schema([(f"c{i}", t) for i, t in enumerate(types)])


schemas = st.lists(st.sampled_from(TYPES), min_size=1, max_size=10).map(lambda t: schema_of(*t))


@st.composite
def tables(draw, *, rows_min=0, rows_max=5):
    """A schema, stamps, and as many rows of it, with nulls."""
    schema = draw(schemas)
    row = st.tuples(*[st.none() | values_of(t) for t in schema.types])
    stamps = draw(st.lists(st.tuples(INT64, INT64), min_size=rows_min, max_size=rows_max))
    rows = draw(st.lists(row, min_size=len(stamps), max_size=len(stamps)))
    return schema, stamps, rows


def arrays_of(schema, stamps, rows):
    """What `pack` takes: event times, loads, columns."""
    columns = [pa.array([row[i] for row in rows], t) for i, t in enumerate(schema.types)]
    times = pa.array([time for time, _ in stamps], pa.int64()).view(TIMESTAMP)
    return times, pa.array([load for _, load in stamps], pa.int64()), columns


def packed(schema, stamps, rows):
    return Packing(schema).pack(*arrays_of(schema, stamps, rows))


def bits(values):
    """Floats by their bits: NaN equals itself, -0.0 is not 0.0; and no bool is a number."""
    return [struct.pack("<d", v) if isinstance(v, float) else (type(v), v) for v in values]


def rows_of(found):
    """Rows out of columns: stamp and values of each."""
    values = zip(*map(to_python, found.columns), strict=True)
    stamps = zip(found.times_us.to_pylist(), found.loads.to_pylist(), strict=True)
    return [(*each, bits(row)) for each, row in zip(stamps, values, strict=True)]


# --- there and back ---


@given(tables())
def test_a_row_is_read_back_as_arrow_has_it_alone_and_with_others(table):
    """Every type and value, bit for bit; nulls, infinities, NaN and texts of any length."""
    schema, stamps, rows = table
    packing = Packing(schema)
    times, loads, columns = arrays_of(schema, stamps, rows)
    plain = zip(*map(to_python, columns), strict=True)
    expected = [(*each, bits(row)) for each, row in zip(stamps, plain, strict=True)]

    whole = packing.pack(times, loads, columns)
    one_by_one = [packing.unpack(row.as_py()) for row in whole]
    found = packing.unpack_many(whole)

    assert [(one.time_us, one.load, bits(one.values)) for one in one_by_one] == expected
    assert rows_of(found) == expected
    assert [column.type for column in found.columns] == schema.types
    for column in (*found.columns, found.times_us, found.loads):
        column.validate(full=True)


@given(tables(rows_max=8), st.integers(0, 8), st.integers(0, 8))
def test_slices_are_packed_and_read_as_the_rows_they_show(table, start, length):
    """Columns may begin anywhere in their buffers; so may the packed rows."""
    schema, stamps, rows = table
    packing = Packing(schema)
    times, loads, columns = arrays_of(schema, stamps, rows)
    whole = packing.pack(times, loads, columns)

    part = packing.pack(
        times.slice(start, length), loads.slice(start, length),
        [column.slice(start, length) for column in columns],
    )  # fmt: skip

    assert part.to_pylist() == whole.to_pylist()[start : start + length]
    expected = rows_of(packing.unpack_many(whole))[start : start + length]
    assert rows_of(packing.unpack_many(whole.slice(start, length))) == expected


@pytest.mark.parametrize("column_type", TYPES, ids=str)
def test_no_rows_and_a_row_of_nulls_keep_their_columns(column_type):
    """A lookup that finds nothing has columns all the same."""
    schema = schema_of(column_type)
    nothing = packed(schema, [], [])
    found = Packing(schema).unpack_many(nothing)

    assert (len(nothing), nothing.type) == (0, pa.binary())
    assert [(len(c), c.type) for c in found.columns] == [(0, column_type)]
    assert rows_of(Packing(schema).unpack_many(pa.array([], pa.binary()))) == []
    [row] = packed(schema, [(1, 2)], [[None]]).to_pylist()
    assert Packing(schema).unpack(row) == (1, 2, [None])
    assert Packing(schema).unpack_many(pa.array([row])).columns[0].null_count == 1


@given(st.data())
def test_seventy_columns_have_their_nulls_in_nine_bytes(data):
    """Each bit is one column's, also where its byte is not the first."""
    types = [TYPES[i % len(TYPES)] for i in range(70)]
    schema = schema_of(*types)
    row = [data.draw(st.none() | values_of(t)) for t in types]
    [one] = packed(schema, [(5, 6)], [row]).to_pylist()

    assert [v is None for v in Packing(schema).unpack(one).values] == [v is None for v in row]
    found = Packing(schema).unpack_many(pa.array([one]))
    assert [c.null_count == 1 for c in found.columns] == [v is None for v in row]
    nulls = sum((value is None) << place for place, value in enumerate(row))
    assert one[20:29] == nulls.to_bytes(9, "little")


def test_nan_is_no_null():
    """Null and NaN stay two things."""
    schema = schema_of(pa.float64(), pa.float32())
    rows = packed(schema, [(0, 0)] * 2, [[math.nan, math.nan], [None, None]])
    found = Packing(schema).unpack_many(rows)

    assert [c.null_count for c in found.columns] == [1, 1]
    assert all(math.isnan(value) for value in Packing(schema).unpack(rows[0].as_py()).values)


def test_the_packing_does_not_change_its_columns():
    """They are the caller's."""
    schema = schema_of(pa.int64(), pa.string(), pa.bool_())
    rows = [[1, "a", True], [None, None, None]]
    arrays = arrays_of(schema, [(1, 1), (2, 1)], rows)
    Packing(schema).pack(*arrays)

    assert [c.to_pylist() for c in arrays[2]] == [[1, None], ["a", None], [True, None]]


# --- the bytes ---

GOLDEN_SCHEMA = pa.schema([
    ("k", pa.int64()), ("f", pa.float64()), ("b", pa.bool_()), ("s", pa.string()),
    ("n", pa.int16()), ("raw", pa.binary()), ("d", pa.date32()),
])  # fmt: skip
# Written by hand from the module's docstring; the checksum is CRC-32 of
# "k:int64,f:double,b:bool,s:string,n:int16,raw:binary,d:date32[day]".
GOLDEN = (
    "0040b38be6520600 0300000000000000 ac01cf2b 10 "  # time, load, schema, nulls: `n`
    "0700000000000000 0000000000000080 01 02000000 0000 01000000 204e0000 "
    "c3a4 00"  # text and bytes
)


def test_the_bytes_of_a_row_never_change():
    """A store filled by an older release is read by a newer one."""
    row = [7, -0.0, True, "ä", None, b"\0", 20_000]
    [found] = packed(GOLDEN_SCHEMA, [(1_780_000_000_000_000, 3)], [row]).to_pylist()

    assert found == bytes.fromhex(GOLDEN)
    read = Packing(GOLDEN_SCHEMA).unpack(bytes.fromhex(GOLDEN))
    assert (read.time_us, read.load, bits(read.values)) == (1_780_000_000_000_000, 3, bits(row))


@given(INT64, INT64)
@example(-1, 2**63 - 1)
def test_a_stamp_is_read_without_the_rest(time_us, load):
    """What is newer is decided before anything is unpacked."""
    [row] = packed(schema_of(pa.string()), [(time_us, load)], [["x"]]).to_pylist()

    assert stamp(row) == (time_us, load)
    assert stamp(row[:16]) == (time_us, load)


# --- what cannot be read ---

ROW = [7, "aé", b"\0\1", None, True, 1.5]
SCHEMA = schema_of(pa.int64(), pa.string(), pa.binary(), pa.string(), pa.bool_(), pa.float32())


@pytest.fixture(scope="module")
def row():
    return packed(SCHEMA, [(5, 6)], [ROW])[0].as_py()


def refused(packing, *rows):
    """Both ways to read say that it cannot be read."""
    for one in rows:
        with pytest.raises(StoredUnreadable, match="HOF-511"):
            packing.unpack(one)
        with pytest.raises(StoredUnreadable, match="HOF-511"):
            packing.unpack_many(pa.array([one], pa.binary()))


def test_a_cut_row_is_refused_wherever_it_is_cut(row):
    """Also to nothing."""
    refused(Packing(SCHEMA), *(row[:end] for end in range(len(row))))


@pytest.mark.parametrize("more", [b"\0", b"x", b"\xff" * 100])
def test_bytes_behind_a_row_are_refused(row, more):
    """Whoever wrote them did not write this row."""
    refused(Packing(SCHEMA), row + more)


def test_one_bad_row_among_good_ones_is_refused(row):
    """Its neighbours' bytes must not stand in for what it lacks."""
    packing = Packing(SCHEMA)
    longer = bytearray(row)
    longer[20 + 1 + 8] += 4  # the text says four bytes more than it has
    for bad in (row[:-1], row + b"x", bytes(longer)):
        for order in ([bad, row], [row, bad], [row, bad, row]):
            with pytest.raises(StoredUnreadable, match="HOF-511"):
                packing.unpack_many(pa.array(order))


OTHERS = [
    ("a name", lambda s: s.set(0, pa.field("other", pa.int64()))),
    ("a type of the same width", lambda s: s.set(0, pa.field("c0", pa.float64()))),
    ("text and bytes", lambda s: s.set(1, pa.field("c1", pa.binary()))),
    ("the order", lambda s: pa.schema([s.field(i) for i in (2, 1, 0, 3, 4, 5)])),
    ("a column more", lambda s: s.append(pa.field("more", pa.int8()))),
    ("a column less", lambda s: s.remove(5)),
    ("time and number", lambda s: s.set(0, pa.field("c0", TIMESTAMP))),
]


@pytest.mark.parametrize("change", [w[1] for w in OTHERS], ids=[w[0] for w in OTHERS])
def test_a_row_of_another_schema_is_refused_not_misread(row, change):
    """Another version of the group, or another group under the same name."""
    refused(Packing(change(SCHEMA)), row)


@pytest.mark.parametrize("broken", [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80"])
def test_a_text_that_is_not_utf8_is_refused(broken):
    """As bytes it is fine, as text it would break whoever reads it."""
    as_bytes = schema_of(pa.binary())
    as_text = schema_of(pa.string())
    [row] = packed(as_bytes, [(1, 1)], [[broken]]).to_pylist()
    checksum = struct.pack("<I", Packing(as_text).checksum)

    assert Packing(as_bytes).unpack(row).values == [broken]
    refused(Packing(as_text), row[:16] + checksum + row[20:])


def outcome(read):
    try:
        return read()
    except StoredUnreadable:
        return None


def both_ways(packing, data):
    """What each way to read says of bytes, which is the same: a row, or that it is none."""
    one = outcome(lambda: packing.unpack(data))
    many = outcome(lambda: packing.unpack_many(pa.array([data], pa.binary())))
    assert (one is None) == (many is None)
    if one is not None:
        assert rows_of(many) == [(one.time_us, one.load, bits(one.values))]


@given(schemas, st.binary(max_size=200), st.booleans())
def test_random_bytes_are_refused_and_nothing_else_is_raised(schema, data, has_checksum):
    """Also where they begin like a row of this schema."""
    packing = Packing(schema)
    if has_checksum:
        data = data[:16].ljust(16, b"\0") + struct.pack("<I", packing.checksum) + data[16:]

    both_ways(packing, data)


@given(tables(rows_min=1, rows_max=1), st.data())
def test_a_row_with_a_changed_byte_is_read_alike_or_refused(table, data):
    """A bit that flipped cannot end the process or reach into a neighbour."""
    schema, stamps, rows = table
    row = bytearray(packed(schema, stamps, rows)[0].as_py())
    place = data.draw(st.integers(0, len(row) - 1))
    row[place] ^= data.draw(st.integers(1, 255))

    both_ways(Packing(schema), bytes(row))


@given(st.lists(st.binary(max_size=60), max_size=4), st.data())
def test_many_random_rows_are_refused_and_nothing_else_is_raised(rows, data):
    """Sizes may point anywhere, forwards and far beyond the end."""
    schema = schema_of(pa.string(), pa.binary(), pa.int8())
    start = bytes(16) + struct.pack("<I", Packing(schema).checksum)
    given_ = [start + row if data.draw(st.booleans()) else row for row in rows]
    found = outcome(lambda: Packing(schema).unpack_many(pa.array(given_, pa.binary())))

    one_by_one = [outcome(lambda row=row: Packing(schema).unpack(row)) for row in given_]
    assert (found is None) == (None in one_by_one)


# --- sizes ---


@given(tables())
def test_the_size_of_a_row_is_known_before_it_is_packed(table):
    """By which rows that are too long are refused before anything is loaded."""
    schema, stamps, rows = table
    *_, columns = arrays_of(schema, stamps, rows)
    sizes = [len(row) for row in packed(schema, stamps, rows).to_pylist()]

    assert Packing(schema).sizes(columns).to_pylist() == sizes
