"""Rows read in one go are what each of them says alone, or are left to be read alone."""

import struct

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hofflight import limits
from hofflight.errors import StoredUnreadable
from hofflight.online.layouts import RowLayouts
from hofflight.online.packed import Packing
from hofflight.wire.columns import from_python
from hofflight.wire.schema import COLUMN_TYPES, TIMESTAMP
from tests.unit.online.interrupted import interrupted, lines_of
from tests.unit.online.test_packed import INT64, bits, schema_of, values_of

TYPES = sorted(COLUMN_TYPES, key=str)
PLAIN = [t for t in TYPES if t not in (pa.string(), pa.binary())]
NULLS_AT = 20  # behind time, load and checksum


def row_of(packing, time_us, load, values):
    """One row's bytes."""
    columns = [from_python([v], t) for v, t in zip(values, packing.schema.types, strict=True)]
    stamps = pa.array([time_us], pa.int64()).view(TIMESTAMP), pa.array([load], pa.int64())
    return packing.pack(*stamps, columns)[0].as_py()


@st.composite
def packings(draw, *, texts_max=2):
    """A packing with few columns of text or bytes, and the places that a view takes of it."""
    types = draw(st.lists(st.sampled_from(PLAIN), max_size=6))
    texts = st.sampled_from([pa.string(), pa.binary()])
    types += draw(st.lists(texts, min_size=not types, max_size=texts_max))
    schema = schema_of(*draw(st.permutations(types)))
    places = st.lists(st.integers(0, len(schema)), min_size=1, max_size=8)
    return Packing(schema), draw(places)


@st.composite
def requests(draw, *, nulls=True, texts_max=2):
    """Packings with their places, and one row of each."""
    parts = draw(st.lists(packings(texts_max=texts_max), min_size=1, max_size=4))
    rows = []
    for packing, _ in parts:
        values = [values_of(t) for t in packing.schema.types]
        values = st.tuples(*((st.none() | v) if nulls else v for v in values))
        rows.append(row_of(packing, draw(INT64), draw(INT64), draw(values)))
    return parts, rows


def one_by_one(parts, rows):
    """The same by `unpack`; None where a row has a null or does not say what it should."""
    times, chosen = [], []
    for (packing, places), row in zip(parts, rows, strict=True):
        try:
            found = packing.unpack(row)
        except StoredUnreadable:
            return None
        if row[NULLS_AT : NULLS_AT + len(packing.no_nulls)] != packing.no_nulls:
            return None
        values = [*found.values, found.time_us]
        times.append(found.time_us)
        chosen += [values[place] for place in places]
    return times, bits(chosen)


def in_one_go(layouts, rows):
    found = layouts.read(rows)
    return found and (list(found[0]), bits(found[1]))


def has_two_texts(parts):
    return any(len(packing.texts) > 1 for packing, _ in parts)


@given(requests())
def test_rows_are_read_as_each_of_them_is_alone(request):
    """Every type, any places, nulls or not; with two texts in a row always alone."""
    parts, rows = request
    expected = None if has_two_texts(parts) else one_by_one(parts, rows)
    layouts = RowLayouts(parts)

    assert in_one_go(layouts, rows) == expected
    assert in_one_go(layouts, rows) == expected, "the second time, by a layout that is known"


@given(requests(nulls=False, texts_max=1))
def test_rows_without_nulls_are_always_read_in_one_go(request):
    """What is left to be read alone is the exception: here nothing is."""
    parts, rows = request

    assert in_one_go(RowLayouts(parts), rows) is not None


@given(requests(nulls=False, texts_max=1), st.data())
def test_a_damaged_row_is_never_misread(request, data):
    """Cut, longer, one bit turned: none of it, or exactly what it says alone."""
    parts, rows = request
    layouts = RowLayouts(parts)
    layouts.read(rows)
    place = data.draw(st.integers(0, len(rows) - 1))
    row = bytearray(rows[place])
    what = data.draw(st.sampled_from(["cut", "longer", "turned"]))
    if what == "cut":
        del row[data.draw(st.integers(0, len(row) - 1)) :]
    elif what == "longer":
        row += data.draw(st.binary(min_size=1, max_size=40))
    else:
        row[data.draw(st.integers(0, len(row) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    damaged = [*rows[:place], bytes(row), *rows[place + 1 :]]

    assert in_one_go(layouts, damaged) == one_by_one(parts, damaged)


@given(requests(nulls=False, texts_max=1), packings(texts_max=1), st.data())
def test_a_row_of_another_schema_is_left_to_be_read_alone(request, other, data):
    """Another version's row may have the very size."""
    parts, rows = request
    place = data.draw(st.integers(0, len(rows) - 1))
    packing = parts[place][0]
    checksum = struct.pack("<I", packing.checksum ^ 1)
    foreign = rows[place][:16] + checksum + rows[place][NULLS_AT:]
    layouts = RowLayouts(parts)

    assert layouts.read([*rows[:place], foreign, *rows[place + 1 :]]) is None
    assert in_one_go(layouts, rows) == one_by_one(parts, rows)


@pytest.mark.parametrize("place", [0, 1])
def test_a_null_that_nobody_asked_for_is_read_alone_too(place):
    """Null bits are one for the whole row; the answer is the same either way."""
    packing = Packing(schema_of(pa.int64(), pa.string()))
    values = [None if i == place else value for i, value in enumerate([7, "x"])]
    layouts = RowLayouts([(packing, [1 - place])])

    assert layouts.read([row_of(packing, 1, 1, values)]) is None
    assert layouts.read([row_of(packing, 1, 1, [7, "x"])]) == ((1,), [["x"], [7]][place])


def test_a_text_that_is_not_utf8_is_left_to_be_read_alone():
    """As bytes the same row can be read."""
    packing, raw = Packing(schema_of(pa.string())), Packing(schema_of(pa.binary()))
    row = row_of(raw, 1, 1, [b"\xff"])
    as_text = row[:16] + struct.pack("<I", packing.checksum) + row[NULLS_AT:]

    assert RowLayouts([(packing, [0])]).read([as_text]) is None
    assert RowLayouts([(raw, [0])]).read([row]) == ((1,), [b"\xff"])


@pytest.fixture
def texts():
    """Rows of every length, and a reader of them."""
    packing = Packing(schema_of(pa.string()))
    short = row_of(packing, 5, 1, ["x"])

    def text(length):
        head = short[: packing.size - 4]
        return head + struct.pack("<I", length) + b"x" * length

    return RowLayouts([(packing, [0, 1])]), text


def test_layouts_are_learned_up_to_a_bound(texts):
    """Texts of more lengths than there is room for are read all the same."""
    layouts, text = texts
    for length in range(limits.layouts_max + 50):
        assert layouts.read([text(length)]) == ((5,), ["x" * length, 5])
        assert len(layouts._layouts) <= limits.layouts_max


@pytest.mark.parametrize("at", lines_of(RowLayouts.read))
def test_threads_that_read_at_once_take_no_layout_from_each_other(texts, at):
    """One may find the cache full and empty it while another is about to look into it."""
    layouts, text = texts
    layouts.read([text(7)])

    def fill():
        for length in range(8, 8 + limits.layouts_max):
            layouts.read([text(length)])

    with interrupted(RowLayouts.read, at, fill):
        found = layouts.read([text(7)])

    assert found == ((5,), ["x" * 7, 5])
