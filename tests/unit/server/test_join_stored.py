"""Rows that were looked up: their values, statuses and ages, one by one and many at once alike."""

import struct

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hofflight as hof
from hofflight.eventlog.joins import UNAVAILABLE, JoinRecord
from hofflight.online.packed import Packing
from hofflight.online.slots import key_prefix
from hofflight.server.join_plan import JoinPlan, Rows, _worse
from hofflight.server.join_stored import KeySource, StoredColumns
from hofflight.wire.columns import batch_of_rows, from_python, to_python
from hofflight.wire.keys import KeyCodec
from hofflight.wire.schema import TIMESTAMP
from tests.unit.online.test_packed import bits, values_of
from tests.unit.server.joined_views import HOUR, START, served_of

ASKED = START + 20 * HOUR
# One whose rows are read in one go with others, one with a ttl, one that is read alone always.
PLAIN = hof.stored_group(
    "plain", version=3, key="k", event_time="at",
    schema={"k": pa.int64(), "f": pa.float64(), "at": hof.TIMESTAMP, "f32": pa.float32(),
            "flag": pa.bool_(), "u8": pa.uint8(), "when": hof.TIMESTAMP, "day": pa.date32()},
)  # fmt: skip
DATED = hof.stored_group(
    "dated", version=1, key="k", event_time="at", ttl="2h",
    schema={"k": pa.int64(), "text": pa.string(), "at": hof.TIMESTAMP, "i8": pa.int8()},
)  # fmt: skip
TEXTS = hof.stored_group(
    "texts", version=1, key="k", event_time="at", ttl="36500d",
    schema={"a": pa.string(), "b": pa.binary(), "k": pa.int64(), "at": hof.TIMESTAMP},
)  # fmt: skip
TTL = {"dated": 2 * HOUR}
FEATURES = ["texts.b", "dated.i8", "plain.*", "dated.at", "texts.a", "dated.text", "texts.at"]
PLANS = {
    "all": (FEATURES, (PLAIN, DATED, TEXTS)),
    "without texts": (FEATURES[1:4], (PLAIN, DATED)),
    "without ttl": (["plain.flag", "plain.at"], (PLAIN,)),
    "with ttl": (["dated.text", "dated.i8"], (DATED,)),
}
SITUATIONS = ["PRESENT", "NULL", "NOT_FOUND", "STALE", "UNAVAILABLE", "cut", "foreign"]


def packed_row(group, time_us, values):
    """A row's bytes, of values by column."""
    schema = group.packed_schema
    columns = [from_python([values[f.name]], f.type) for f in schema]
    stamps = pa.array([time_us], pa.int64()).view(TIMESTAMP), pa.array([1], pa.int64())
    return Packing(schema).pack(*stamps, columns)[0].as_py()


@st.composite
def situations(draw, group, what):
    """(as_of, row) of a group, and what is to be said of it: status, age, values by column."""
    ttl_us = TTL.get(group.name)
    edge = ttl_us or 7 * HOUR
    young = st.sampled_from([0, 1, 999, 1_000, edge - 1, -1, -HOUR]) | st.integers(0, edge - 1)
    old = st.sampled_from([edge, edge + 1, 19 * HOUR]) | st.integers(edge, 20 * HOUR)
    age_us = draw(old if what == "STALE" else young)
    schema = group.packed_schema
    values = {f.name: draw(values_of(f.type)) for f in schema}
    if what == "NULL":
        for name in draw(st.sets(st.sampled_from(schema.names), min_size=1)):
            values[name] = None
    row = packed_row(group, ASKED - age_us, values)
    if what == "cut":
        row = row[: draw(st.integers(16, len(row) - 1))]
    if what == "foreign":
        (checksum,) = struct.unpack("<I", row[16:20])
        row = row[:16] + struct.pack("<I", checksum ^ 1) + row[20:]
    if what == "NOT_FOUND":
        return 4, None, what, None, {}
    if what == "UNAVAILABLE":
        return UNAVAILABLE, None, what, None, {}
    if what in ("cut", "foreign"):
        return 4, row, "UNAVAILABLE", None, {}
    is_stale = ttl_us is not None and age_us >= ttl_us
    shown = {} if is_stale else values | {group.event_time: ASKED - age_us}
    return 4, row, "STALE" if is_stale else "PRESENT", age_us // 1_000, shown


@st.composite
def requests(draw):
    """A plan, records of some rows, and what is to be said of each feature of each row."""
    features, groups = PLANS[draw(st.sampled_from(sorted(PLANS)))]
    plan = JoinPlan(served_of(features, *groups))
    usual = draw(st.booleans())  # or all rows are there, as most of the time
    wanted = st.sampled_from(SITUATIONS if usual else ["PRESENT"])
    records, expected = [], []
    for _ in range(draw(st.integers(1, 5))):
        found = [draw(situations(s.group, draw(wanted))) for s in plan.stored]
        as_of, rows = [each[0] for each in found], [each[1] for each in found]
        records.append(JoinRecord(ASKED, [], as_of, [b"k"] * len(found), rows))
        expected.append({
            name: said(stored.group, name, *each[2:])
            for stored, each in zip(plan.stored, found, strict=True) for name in stored.names
        })  # fmt: skip
    if len(records) > 1 and draw(st.booleans()):  # two rows of one key
        records[-1], expected[-1] = records[0], expected[0]
    return plan, records, expected


def said(group, name, state, age_ms, values):
    value = values.get(name.partition(".")[2])
    if state == "PRESENT" and value is None:
        state = "NULL"
    return state, age_ms, bits([value])[0]


def names_of(plan):
    return [name for stored in plan.stored for name in stored.names]


def of_one(plan, record):
    """What is said of each feature of one row."""
    part = plan.stored_part([record])
    names = names_of(plan)
    assert list(part.status) == list(part.age_ms) == names
    values = dict(zip(names, bits(part.values), strict=True))
    return {n: (part.status[n], part.age_ms[n], values[n]) for n in names}, part.missing


def of_many(plan, records):
    """The same of many rows."""
    part = plan.stored_rows(records)
    names = names_of(plan)
    assert list(part.status) == list(part.age_ms) == names
    columns = {n: bits(to_python(c)) for n, c in zip(names, part.values, strict=True)}

    def each(value):
        return value if isinstance(value, list) else [value] * len(records)

    return [
        {n: (each(part.status[n])[i], each(part.age_ms[n])[i], columns[n][i]) for n in names}
        for i in range(len(records))
    ], part.missing


def worst(states):
    return next((s for s in ("UNAVAILABLE", "NOT_FOUND", "STALE") if s in states), "")


@given(requests())
def test_one_row_and_many_rows_say_the_same_and_what_is_true(request):
    """Values to the bit, statuses and ages, whatever each row's situation."""
    plan, records, expected = request
    alone = [of_one(plan, record) for record in records]
    together, missing = of_many(plan, records)

    assert [found for found, _ in alone] == expected
    assert together == expected
    states = [{state for state, _, _ in found.values()} for found in expected]
    assert [missing for _, missing in alone] == [worst(s) for s in states]
    assert missing == worst(set().union(*states))


@given(requests())
def test_columns_have_the_types_of_the_group(request):
    """Also where every row is null."""
    plan, records, _ = request
    columns = plan.stored_rows(records).values
    types = [
        stored.group.schema.field(name.partition(".")[2]).type
        for stored in plan.stored for name in stored.names
    ]  # fmt: skip

    assert [column.type for column in columns] == types
    for column in columns:
        column.validate(full=True)
        assert len(column) == len(records)


@pytest.mark.parametrize(
    ("age_us", "state"),
    [(2 * HOUR - 1, "PRESENT"), (2 * HOUR, "STALE"), (2 * HOUR + 1, "STALE"), (-1, "PRESENT")],
)
@pytest.mark.parametrize("others", [[], ["plain.f"], ["texts.a"]], ids=["alone", "plain", "texts"])
def test_a_row_is_stale_exactly_from_its_ttl_on(age_us, state, others):
    """A microsecond before it is there; on each way that a row can be read."""
    plan = JoinPlan(served_of(["dated.i8", *others], DATED, PLAIN, TEXTS))
    rows = []
    for stored in plan.stored:
        values = {f.name: None if f.name == "b" else zero(f.type) for f in stored.group.schema}
        rows.append(packed_row(stored.group, ASKED - age_us, values))
    record = JoinRecord(ASKED, [], [1] * len(rows), [b"k"] * len(rows), rows)
    one, missing = of_one(plan, record)
    many, _ = of_many(plan, [record, record])

    assert one["dated.i8"] == (state, age_us // 1_000, bits([0 if state == "PRESENT" else None])[0])
    assert many == [one, one]
    assert missing == ("" if state == "PRESENT" else "STALE")


def zero(column_type):
    """A value of a type."""
    return {pa.string(): "", pa.binary(): b"", pa.bool_(): False}.get(column_type, 0)


def test_what_is_missing_is_told_by_its_most_telling_word():
    """UNAVAILABLE before NOT_FOUND before STALE; what is there says nothing."""
    order = ["UNAVAILABLE", "NOT_FOUND", "STALE", ""]
    for place, word in enumerate(order):
        for other in order[place:]:
            assert _worse(word, other) == _worse(other, word) == word
    for state in ("PRESENT", "NULL"):
        assert _worse("", state) == ""
        assert _worse("STALE", state) == "STALE"


# --- where a row's key comes from -----------------------------------------------------------------

ROWS = pa.schema([("x", pa.float64()), ("a", pa.int32()), ("at", TIMESTAMP), ("b", pa.string())])
SOURCES = {
    "from the rows": (["a"], []),
    "composite, from the rows": (["b", "a"], []),
    "given": (["p"], ["p"]),
    "composite, given": (["p", "q"], ["p", "q"]),
    "mixed, the row's part first": (["b", "q"], ["q"]),
    "mixed, the given part first": (["p", "a", "q", "at"], ["p", "q"]),
}
TYPES = {"a": pa.int32(), "b": pa.string(), "at": TIMESTAMP, "p": pa.int64(), "q": pa.string()}


@pytest.mark.parametrize("where", SOURCES)
@given(data=st.data())
def test_a_key_is_taken_from_the_rows_and_from_what_is_given(where, data):
    """Part by part in the key's own order; null where a part of it is."""
    names, beside = SOURCES[where]
    schema = pa.schema([(name, TYPES[name]) for name in names])
    source, codec = KeySource(schema, ROWS), KeyCodec(schema)
    size = data.draw(st.integers(1, 4))
    batch = [
        [data.draw(st.none() | values_of(f.type)) for f in ROWS] for _ in range(size)
    ]  # fmt: skip
    given_values = {n: [data.draw(values_of(TYPES[n])) for _ in range(size)] for n in beside}
    expected = []
    for i, raw in enumerate(batch):
        row = dict(zip(ROWS.names, raw, strict=True)) | {n: v[i] for n, v in given_values.items()}
        expected.append(codec.encode([row[name] for name in names]))

    many = source.encode(Rows(size, None, batch_of_rows(batch, ROWS)), given_values)
    alone = [
        source.encode(Rows(1, raw, None), {n: [v[i]] for n, v in given_values.items()})
        for i, raw in enumerate(batch)
    ]
    assert many == expected
    assert alone == [[key] for key in expected]
    assert source.is_in_rows == (set(names) != set(beside))


def test_without_rows_the_given_keys_are_the_rows():
    """A view of stored features alone."""
    source = KeySource(pa.schema([("p", pa.int64())]), pa.schema([]))
    codec = KeyCodec(pa.schema([("p", pa.int64())]))

    assert source.encode(None, {"p": [3, 1]}) == [codec.encode([3]), codec.encode([1])]
    assert not source.is_in_rows


def test_a_group_version_has_keys_of_its_own():
    """Its rows are of another schema, and may be loaded beside those that serve."""
    found = StoredColumns(PLAIN, served_of(["plain.f"], PLAIN))

    assert found.prefix == key_prefix("plain.3")
    assert found.names == ["plain.f"]
