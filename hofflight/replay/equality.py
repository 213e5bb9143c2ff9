"""Whether two columns hold the same values: to the bit, or within the declared tolerance.

Two engines agree in every bit but where DuckDB adds floats its own way. There the tolerance is
1e-12 of the sum of |x| over the window (of a mean: divided by the count), and 1e-9 relative for
var and std. Where that sum of |x| itself leaves float64, whether the sum does is within it too.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hofflight.wire.schema import FLOATS

SUM_TOLERANCE: Final = 1e-12
VARIANCE_TOLERANCE: Final = 1e-9
# The root of what squares lose: a variance of equal values may come out as some (1e-16 x)^2.
_VARIANCE_FLOOR: Final = 1e-15
_BITS: Final = {pa.float64(): pa.int64(), pa.float32(): pa.int32()}
Mask = np.ndarray[Any, np.dtype[np.bool_]]


def same(one: pa.Array, other: pa.Array) -> Mask:
    """Per row, whether both are null, or the same value to the bit; every NaN is one NaN."""
    nulls = _mask(one.is_null()), _mask(other.is_null())
    if pa.types.is_list(one.type):
        equal = _same_lists(one, other)
    elif one.type in FLOATS:
        bits = pc.equal(one.view(_BITS[one.type]), other.view(_BITS[one.type]))
        both_nan = pc.and_(pc.is_nan(one), pc.is_nan(other))
        equal = _mask(pc.fill_null(pc.or_(bits, both_nan), False))
    else:
        equal = _mask(pc.fill_null(pc.equal(one, other), False))
    return np.where(nulls[0] | nulls[1], nulls[0] == nulls[1], equal)


def close(one: pa.Array, other: pa.Array, scale: pa.Array, function: str) -> Mask:
    """Per row, whether floats of `function` are the same within the declared tolerance.

    `scale`: the sum of |x| over the window, for a mean divided by the count.
    """
    a, b, size = (_numbers(array) for array in (one, other, scale))
    with np.errstate(invalid="ignore", over="ignore"):
        if function in ("var", "std"):
            floor = (_VARIANCE_FLOOR * size) if function == "std" else (_VARIANCE_FLOOR * size) ** 2
            bound = VARIANCE_TOLERANCE * np.maximum(np.abs(a), np.abs(b)) + floor
        else:
            # A sum of |x| past the largest double is an infinity, which would allow anything.
            bound = SUM_TOLERANCE * np.minimum(size, np.finfo(np.float64).max)
        near = np.abs(a - b) <= bound
        near |= np.isinf(size) & (np.isinf(a) != np.isinf(b))
    return same(one, other) | (near & ~np.isnan(a) & ~np.isnan(b))


def _same_lists(one: pa.Array, other: pa.Array) -> Mask:
    """Lists of the same length whose items are the same."""
    lengths = [pc.fill_null(pc.list_value_length(a), 0).to_numpy() for a in (one, other)]
    equal: Mask = lengths[0] == lengths[1]
    rows = pa.array(np.flatnonzero(equal & (lengths[0] > 0)))
    if len(rows):
        items = same(one.take(rows).flatten(), other.take(rows).flatten())
        sizes = lengths[0][rows.to_numpy()]
        starts = np.concatenate(([0], np.cumsum(sizes)[:-1]))
        equal[rows.to_numpy()] = np.logical_and.reduceat(items, starts)
    return equal


def _numbers(array: pa.Array) -> np.ndarray[Any, np.dtype[np.float64]]:
    """As float64, null as NaN."""
    return pc.fill_null(array.cast(pa.float64()), np.nan).to_numpy(zero_copy_only=False)


def _mask(array: pa.Array) -> Mask:
    return array.to_numpy(zero_copy_only=False).astype(bool, copy=False)
