"""The vector in each of its shapes: no null lost, no integer blurred but where it says so."""

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from hofflight.wire.envelope import AnswerMeta
from hofflight.wire.schema import TIMESTAMP
from hofflight.wire.vector import Vector, vector_of

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def vector(**columns):
    return vector_of(pa.record_batch(columns), AnswerMeta("OK", id=b"i" * 16, view="v", version=2))


def test_it_carries_what_the_answer_said():
    meta = AnswerMeta(
        "OK", id=b"i" * 16, view="v", version=2, code_hash="c", late=True,
        status={"g.s": "OVERFLOW"}, age_ms={"o.a": 5}, timings_us={"engine": 9},
    )  # fmt: skip
    made = vector_of(pa.record_batch({"g.s": [None, 1]}), meta)

    assert made == Vector(
        made.batch, b"i" * 16, "v", 2, "c", [True, True], {"g.s": "OVERFLOW"}, {"o.a": 5},
        {"engine": 9},
    )  # fmt: skip


def test_late_is_one_flag_a_row():
    batch = pa.record_batch({"x": [1, 2]})

    assert vector_of(batch, AnswerMeta("OK")).late == [False, False]
    assert vector_of(batch, AnswerMeta("OK", late=[True, False])).late == [True, False]


def test_one_row_is_a_dict_and_several_are_a_list():
    assert vector(a=[1], b=[None]).to_dict() == {"a": 1, "b": None}
    assert vector(a=[1, 2]).to_dict() == [{"a": 1}, {"a": 2}]


def test_pandas_keeps_nulls_integers_and_times():
    frame = vector(a=[2**53 + 1, None], t=pa.array([NOON, None], TIMESTAMP)).to_pandas()

    assert frame["a"][0] == 2**53 + 1
    assert frame["a"][1] is pd.NA
    assert frame["t"][0] == NOON
    assert all(isinstance(dtype, pd.ArrowDtype) for dtype in frame.dtypes)


def test_polars_keeps_nulls_and_integers():
    assert vector(a=[2**53 + 1, None]).to_polars().to_dicts() == [{"a": 2**53 + 1}, {"a": None}]


def test_numbers_and_bools_become_float64_with_nan_for_null():
    made = vector(
        i=pa.array([3, None], pa.int64()),
        u=pa.array([255, None], pa.uint8()),
        f=pa.array([0.5, float("nan")], pa.float32()),
        b=pa.array([True, None]),
        n=pa.nulls(2),
    ).to_numpy()

    assert made.dtype == np.float64
    np.testing.assert_array_equal(made[0], [3, 255, 0.5, 1, np.nan])
    assert np.isnan(made[1]).all()


def test_an_integer_beyond_2_to_53_is_rounded_in_float64():
    assert vector(a=[2**53 + 1]).to_numpy()[0, 0] == 2.0**53


@pytest.mark.parametrize(
    ("column", "held"),
    [
        (["x", None], ["x", None]),
        (pa.array([NOON, None], TIMESTAMP), [NOON, None]),
        ([["a", "b"], ["c", "d"]], [["a", "b"], ["c", "d"]]),
        ([[], None], [[], None]),
    ],
)
def test_any_other_type_makes_python_objects(column, held):
    made = vector(a=[1, None], x=column).to_numpy()

    assert made.dtype == np.object_
    assert made.shape == (2, 2)
    assert made[:, 0].tolist() == [1, None]
    assert list(made[:, 1]) == held


def test_lists_alone_stay_one_cell_each():
    made = vector(x=[[1, 2], [3, 4]]).to_numpy()

    assert made.shape == (2, 1)
    assert made[1, 0] == [3, 4]


def test_no_rows_keep_their_columns():
    made = vector_of(pa.RecordBatch.from_pylist([], schema=pa.schema([("a", pa.int64())])),
                     AnswerMeta("OK"))  # fmt: skip

    assert made.to_numpy().shape == (0, 1)
    assert made.to_dict() == []
