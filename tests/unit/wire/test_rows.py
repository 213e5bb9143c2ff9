"""Rows in every shape people have them, and no value changed on the way."""

import math
import struct
from datetime import UTC, date, datetime, timedelta, timezone
from enum import IntEnum, StrEnum
from types import MappingProxyType

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hofflight.errors import BadRows, SchemaMismatch
from hofflight.wire.rows import to_batch
from hofflight.wire.schema import COLUMN_TYPES, TIMESTAMP

SCHEMA = pa.schema(
    [("card", pa.int64()), ("ts", TIMESTAMP), ("amount", pa.float64()), ("food", pa.string())]
)
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
NOON_US = 1_767_355_200_000_000
ROW = {"card": 7, "ts": NOON, "amount": 9.5, "food": "pie"}
EXPECTED = pa.RecordBatch.from_pylist([ROW], schema=SCHEMA)


def one(kind, value):
    """A value's way through a one-column dict; timestamps and dates come back as integers."""
    column = to_batch({"x": value}, pa.schema([("x", kind)])).column(0)
    plain = {TIMESTAMP: pa.int64(), pa.date32(): pa.int32()}.get(kind, kind)
    return column.view(plain)[0].as_py() if plain is not kind else column[0].as_py()


def refuses(kind, value, match=""):
    with pytest.raises(BadRows, match="row 0, column 'x' must be") as caught:
        one(kind, value)
    assert match in str(caught.value)


# --- shapes ---


@pytest.mark.parametrize(
    "rows",
    [
        ROW,
        [ROW],
        (ROW,),
        MappingProxyType(ROW),
        dict(reversed(ROW.items())),
        EXPECTED,
        EXPECTED.select(["food", "amount", "ts", "card"]),
        pa.Table.from_batches([EXPECTED]),
        pa.Table.from_batches([EXPECTED.slice(0, 0), EXPECTED]),
        pd.DataFrame([ROW]),
        pd.DataFrame([ROW]).convert_dtypes(),
        pd.DataFrame([ROW])[["food", "ts", "card", "amount"]],
        pd.DataFrame([ROW]).astype(object),
        pd.DataFrame([ROW]).astype({"food": "category"}),
        EXPECTED.to_pandas(types_mapper=pd.ArrowDtype),
        pl.DataFrame([ROW]),
        pl.DataFrame([ROW]).with_columns(pl.col("food").cast(pl.Categorical)),
    ],
    ids=lambda rows: type(rows).__name__,
)
def test_every_shape_gives_the_same_batch(rows):
    batch = to_batch(rows, SCHEMA)

    assert batch.equals(EXPECTED)
    assert batch.schema.equals(SCHEMA)
    batch.validate(full=True)


@pytest.mark.parametrize("rows", [[], pd.DataFrame([ROW])[:0], pl.DataFrame([ROW])[:0]])
def test_no_rows_are_a_batch_of_no_rows(rows):
    assert to_batch(rows, SCHEMA).equals(EXPECTED.slice(0, 0))


@pytest.mark.parametrize(
    "rows",
    [None, 7, "", "text", b"", [ROW, 7], [[1, 2]], iter([ROW]), {ROW["card"]}, pd.Series(ROW)],
)
def test_other_shapes_name_what_is_taken(rows):
    with pytest.raises(BadRows) as caught:
        to_batch(rows, SCHEMA)

    assert "a list of dicts" in caught.value.hint


def test_a_batch_that_fits_is_not_copied():
    assert to_batch(EXPECTED, SCHEMA) is EXPECTED


def test_metadata_and_nullability_are_the_schemas():
    strict = pa.schema([f.with_nullable(False) for f in SCHEMA], metadata={"pandas": "{}"})

    assert to_batch(EXPECTED.cast(strict), SCHEMA).schema.equals(SCHEMA, check_metadata=True)


def test_the_callers_rows_are_not_changed():
    row, frame = dict(ROW), pd.DataFrame([ROW])
    kept = frame.copy(deep=True)
    to_batch(row, SCHEMA)
    to_batch(frame, SCHEMA)

    assert row == ROW
    pd.testing.assert_frame_equal(frame, kept)


# --- names ---


def test_a_name_that_only_some_dicts_have_is_null_in_the_others():
    batch = to_batch([ROW, {k: v for k, v in ROW.items() if k != "food"}], SCHEMA)

    assert batch["food"].to_pylist() == ["pie", None]


@pytest.mark.parametrize("rows", [{"card": 7, "ts": NOON, "food": "pie"}, [{"card": 7}] * 3])
def test_a_name_that_no_dict_has_is_refused_with_the_fix(rows):
    with pytest.raises(SchemaMismatch, match="column 'amount' is missing") as caught:
        to_batch(rows, SCHEMA)

    assert "None where there is no value" in caught.value.hint


@pytest.mark.parametrize(
    "rows",
    [
        {"card": 7, "ts": NOON, "amuont": 9.5, "food": "pie"},
        pd.DataFrame([{"card": 7, "ts": NOON, "amuont": 9.5, "food": "pie"}]),
        pl.DataFrame([{"card": 7, "ts": NOON, "amuont": 9.5, "food": "pie"}]),
    ],
    ids=lambda rows: type(rows).__name__,
)
def test_a_typing_error_is_shown_beside_the_name_it_resembles(rows):
    with pytest.raises(SchemaMismatch, match=r"'amount' is missing \('amuont' came\)"):
        to_batch(rows, SCHEMA)


@pytest.mark.parametrize("rows", [{**ROW, "extra": 1}, [ROW, {**ROW, "extra": None}]])
def test_a_name_too_many_is_refused(rows):
    with pytest.raises(SchemaMismatch, match="'extra' is not registered"):
        to_batch(rows, SCHEMA)


@pytest.mark.parametrize("rows", [{**ROW, 5: 1}, pd.DataFrame([[1, 2, 3, 4]])])
def test_a_name_that_is_no_text_is_refused(rows):
    with pytest.raises(SchemaMismatch):
        to_batch(rows, SCHEMA)


def test_a_name_that_came_twice_is_refused():
    frame = pd.DataFrame([[*ROW.values(), 1]], columns=[*ROW, "card"])
    for rows in (frame, EXPECTED.append_column("card", EXPECTED["card"])):
        with pytest.raises(SchemaMismatch, match="'card' came 2 times"):
            to_batch(rows, SCHEMA)


# --- values of dicts ---


class Colour(StrEnum):
    RED = "red"


class Size(IntEnum):
    BIG = 3


@pytest.mark.parametrize(
    ("kind", "given", "kept"),
    [
        (pa.int64(), 2**63 - 1, 2**63 - 1),
        (pa.int64(), Size.BIG, 3),
        (pa.int8(), np.int64(-128), -128),
        (pa.uint32(), np.uint8(200), 200),
        (pa.float64(), 3, 3.0),
        (pa.float64(), 2**53, 2.0**53),
        (pa.float64(), np.float32(0.1), float(np.float32(0.1))),
        (pa.float64(), np.float64(0.1), 0.1),
        (pa.float64(), math.inf, math.inf),
        (pa.float32(), 0.1, float(np.float32(0.1))),
        (pa.float32(), -math.inf, -math.inf),
        (pa.float32(), 3.4028235e38, float(np.float32(3.4028235e38))),
        (pa.bool_(), np.True_, True),
        (pa.string(), Colour.RED, "red"),
        (pa.string(), np.str_("x"), "x"),
        (pa.string(), "", ""),
        (pa.binary(), bytearray(b"x"), b"x"),
        (pa.binary(), memoryview(b"x"), b"x"),
        (TIMESTAMP, 5, 5),
        (TIMESTAMP, np.int64(5), 5),
        (TIMESTAMP, NOON, NOON_US),
        (TIMESTAMP, NOON.astimezone(timezone(timedelta(hours=-5))), NOON_US),
        (TIMESTAMP, datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC), -1),
        (TIMESTAMP, pd.Timestamp(NOON) + pd.Timedelta(1, "us"), NOON_US + 1),
        (TIMESTAMP, pd.NaT, None),
        (pa.date32(), date(1970, 1, 3), 2),
        (pa.int64(), pd.NA, None),
        *[(kind, None, None) for kind in sorted(COLUMN_TYPES, key=str)],
    ],
)
def test_a_value_of_the_columns_kind_is_kept(kind, given, kept):
    assert one(kind, given) == kept


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (pa.int64(), 1.0),
        (pa.int64(), np.float64(1)),
        (pa.int64(), True),
        (pa.int64(), np.True_),
        (pa.int64(), "1"),
        (pa.int64(), 2**63),
        (pa.int8(), 128),
        (pa.uint8(), -1),
        (pa.float64(), "1.5"),
        (pa.float64(), True),
        (pa.float64(), 2**53 + 1),
        (pa.float32(), 1e39),
        (pa.float32(), 2**24 + 1),
        (pa.bool_(), 1),
        (pa.bool_(), "true"),
        (pa.string(), 1),
        (pa.string(), b"x"),
        (pa.string(), "\ud800"),
        (pa.binary(), "x"),
        (pa.binary(), 3),
        (TIMESTAMP, 1.0),
        (TIMESTAMP, True),
        (TIMESTAMP, "2026-01-02T12:00:00Z"),
        (TIMESTAMP, date(2026, 1, 2)),
        (TIMESTAMP, 2**63),
        (TIMESTAMP, np.datetime64("2026-01-02", "us")),
        (pa.date32(), NOON),
        (pa.date32(), 5),
        (pa.int64(), [1]),
        (pa.string(), {"a": 1}),
    ],
)
def test_a_value_of_another_kind_is_refused(kind, given):
    refuses(kind, given)


def test_a_datetime_without_a_time_zone_is_refused_with_the_fix():
    refuses(TIMESTAMP, datetime(2026, 1, 2), "tzinfo=UTC")  # noqa: DTZ001


def test_a_time_finer_than_a_microsecond_is_not_rounded():
    refuses(TIMESTAMP, pd.Timestamp(1, unit="ns", tz="UTC"), "finer than a microsecond")


def test_nan_where_no_float_belongs_says_how_to_leave_a_value_out():
    refuses(pa.string(), math.nan, "None where there is no value")


def test_the_row_and_the_column_are_named():
    rows = [dict(ROW), {**ROW, "amount": None}, {**ROW, "amount": "9.5"}]

    with pytest.raises(BadRows, match="row 2, column 'amount' must be double, got str"):
        to_batch(rows, SCHEMA)
    with pytest.raises(BadRows, match="row 1, column 'card' must be int64"):
        to_batch([ROW, {**ROW, "card": 2**70}], SCHEMA)


# --- values of frames ---


def frame_of(values, kind):
    return to_batch(pd.DataFrame({"x": values}), pa.schema([("x", kind)])).column(0)


def test_nan_of_a_numpy_backed_float_column_stays_nan():
    kept = frame_of([1.5, math.nan], pa.float64())

    assert kept.null_count == 0
    assert math.isnan(kept[1].as_py())


def test_nulls_of_nullable_columns_stay_null_and_apart_from_nan():
    kept = frame_of(pd.array([1, None], "Int64"), pa.int64())
    assert kept.to_pylist() == [1, None]

    arrow = pd.arrays.ArrowExtensionArray(pa.array([math.nan, None, 1.0]))
    kept = frame_of(arrow, pa.float64())
    assert kept.null_count == 1
    assert math.isnan(kept[0].as_py())


@pytest.mark.parametrize("kind", [pa.string(), TIMESTAMP, pa.bool_()])
def test_nan_of_an_object_column_is_null_where_no_float_belongs(kind):
    value = {pa.string(): "x", TIMESTAMP: NOON, pa.bool_(): True}[kind]
    kept = frame_of(pd.Series([value, math.nan, None], dtype=object), kind)

    assert kept.to_pylist() == [value, None, None]


def test_nan_and_none_of_an_object_column_of_floats_stay_apart():
    kept = frame_of(pd.Series([1.5, math.nan, None], dtype=object), pa.float64())

    assert kept.null_count == 1
    assert math.isnan(kept[1].as_py())


def test_missing_strings_and_times_are_null():
    assert frame_of(["a", None], pa.string()).to_pylist() == ["a", None]
    times = pd.Series([NOON, pd.NaT])
    assert frame_of(times, TIMESTAMP).to_pylist() == [NOON, None]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo"])
def test_times_of_any_unit_and_zone_keep_their_instant(unit, zone):
    times = pd.Series([NOON]).dt.tz_convert(zone).dt.as_unit(unit)

    assert frame_of(times, TIMESTAMP).to_pylist() == [NOON]


def test_a_frames_time_finer_than_a_microsecond_is_not_rounded():
    fine = pd.Series(pd.to_datetime([1_000_000_001], unit="ns", utc=True))

    with pytest.raises(BadRows, match="column 'x'"):
        frame_of(fine, TIMESTAMP)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1.0, 2.0], pa.int64()),
        ([1.0, math.nan], pa.int64()),
        ([True], pa.int64()),
        ([1], pa.bool_()),
        ([1], pa.string()),
        (["1"], pa.float64()),
        (pd.to_datetime(["2026-01-02"]), TIMESTAMP),
        (pd.to_timedelta([1], "s"), TIMESTAMP),
        ([1 + 2j], pa.float64()),
    ],
)
def test_a_frames_column_of_another_kind_is_refused(values, kind):
    with pytest.raises((SchemaMismatch, BadRows), match="column 'x' must be"):
        frame_of(values, kind)


def test_the_hint_for_integers_with_missing_values_names_the_dtype():
    with pytest.raises(SchemaMismatch) as caught:
        frame_of([1.0, math.nan], pa.int64())

    assert "Int64" in caught.value.hint


@pytest.mark.parametrize(
    ("came", "kind"),
    [
        (pa.array([2**53 + 1]), pa.float64()),
        (pa.array([300]), pa.int8()),
        (pa.array([2**63], pa.uint64()), pa.int64()),
        (pa.array([2**63], pa.uint64()), TIMESTAMP),
        (pa.array([1e39]), pa.float32()),
        (pa.array([1], pa.timestamp("ns", "UTC")), TIMESTAMP),
    ],
)
def test_an_arrow_value_that_does_not_fit_is_refused(came, kind):
    with pytest.raises(BadRows, match="column 'x' must be"):
        to_batch(pa.table({"x": came}), pa.schema([("x", kind)]))


@pytest.mark.parametrize(
    ("came", "kind"),
    [
        (pa.array([1], pa.int8()), pa.int64()),
        (pa.array([1], pa.uint64()), pa.int8()),
        (pa.array([1], pa.int32()), pa.float64()),
        (pa.array([1.5], pa.float32()), pa.float64()),
        (pa.array([0.1]), pa.float32()),
        (pa.array([math.inf]), pa.float32()),
        (pa.array(["x"], pa.large_string()), pa.string()),
        (pa.array(["x"], pa.string_view()), pa.string()),
        (pa.array(["x", None]).dictionary_encode(), pa.string()),
        (pa.array([b"x"], pa.large_binary()), pa.binary()),
        (pa.array([b"x"], pa.binary(1)), pa.binary()),
        (pa.array([5]), TIMESTAMP),
        (pa.nulls(2), pa.string()),
    ],
)
def test_an_arrow_column_of_a_wider_or_narrower_kind_keeps_its_values(came, kind):
    kept = to_batch(pa.table({"x": came}), pa.schema([("x", kind)])).column(0)

    back = kept.cast(pa.int64()) if kind == TIMESTAMP else kept
    expected = np.float32(came.to_pylist()).tolist() if kind == pa.float32() else came.to_pylist()
    assert back.to_pylist() == expected


# --- any rows ---


VALUES = {
    **{
        kind: st.integers(np.iinfo(str(kind)).min, np.iinfo(str(kind)).max)
        for kind in COLUMN_TYPES
        if pa.types.is_integer(kind)
    },
    pa.float64(): st.floats() | st.integers(-(2**53), 2**53),
    pa.float32(): st.floats(width=32),
    pa.bool_(): st.booleans(),
    pa.string(): st.text(),
    pa.binary(): st.binary(),
    TIMESTAMP: st.datetimes(timezones=st.just(UTC)) | st.integers(-(2**63), 2**63 - 1),
    pa.date32(): st.dates(),
}
ANY_COLUMN = st.sampled_from(sorted(COLUMN_TYPES, key=str))


@st.composite
def schemas_and_rows(draw):
    kinds = draw(st.lists(ANY_COLUMN, min_size=1, max_size=6))
    schema = pa.schema([(f"c{at}", kind) for at, kind in enumerate(kinds)])
    row = st.fixed_dictionaries({f.name: st.none() | VALUES[f.type] for f in schema})
    return schema, draw(st.lists(row, max_size=5))


def plain(value, kind):
    """What a batch holds of a value, comparable also for NaN and signed zeros."""
    if value is None or kind not in {pa.float64(), pa.float32(), TIMESTAMP}:
        return value
    if kind == TIMESTAMP:
        if isinstance(value, int):
            return value
        return (value - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    return "nan" if value != value else struct.pack("d", value)


def held(batch):
    """Every value of a batch, comparable."""
    columns = [c.cast(pa.int64()) if c.type == TIMESTAMP else c for c in batch.columns]
    return [
        [plain(value, kind) for value in column.to_pylist()]
        for kind, column in zip(batch.schema.types, columns, strict=True)
    ]


@given(schemas_and_rows())
def test_dicts_round_trip_every_value(case):
    schema, rows = case
    batch = to_batch(rows, schema)
    batch.validate(full=True)

    assert batch.schema.equals(schema)
    assert batch.num_rows == len(rows)
    assert held(batch) == [[plain(row[f.name], f.type) for row in rows] for f in schema]


@given(schemas_and_rows(), st.integers(0, 5))
def test_frames_give_the_batch_they_were_made_of(case, cut):
    schema, rows = case
    batch = to_batch(rows, schema)
    table = pa.Table.from_batches([batch.slice(0, cut), batch.slice(cut)])

    for frame in (table, pl.from_arrow(table), table.to_pandas(types_mapper=pd.ArrowDtype)):
        again = to_batch(frame, schema)
        again.validate(full=True)
        assert again.schema.equals(schema)
        assert held(again) == held(batch)
