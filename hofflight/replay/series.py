"""The columns that windows read, cleaned once a chunk, and every aggregate of their ranges."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hofflight.replay.exact_sums import FloatSums, IntegerSums
from hofflight.replay.plain_columns import as_type
from hofflight.replay.range_queries import (
    Extremes,
    WaveletMatrix,
    first_valid,
    last_valid,
    most_frequent,
    prefix_counts,
    previous_equal,
)
from hofflight.wire.schema import FLOATS, INTEGERS

if TYPE_CHECKING:
    from hofflight.features.window import Frame
    from hofflight.replay.frames import Blocks
    from hofflight.replay.prepared import Asked, Question
    from hofflight.replay.range_queries import Ints, Mask

Array = np.ndarray[Any, Any]
_PAIRS_MAX: Final = 1 << 20


class Column(NamedTuple):
    """A column of a chunk: its values with NaN as null and -0.0 as 0.0, as Arrow and as numpy.

    `numbers`: the values, or, of what numpy cannot order, ranks of them.
    """

    values: pa.Array
    valid: Mask
    numbers: Array
    is_ranked: bool


class ChunkColumns:
    """What a chunk's windows read, made when it is first asked for."""

    def __init__(self, chunk: pa.RecordBatch, question: Question) -> None:
        self.question = question
        self._chunk = chunk
        self._columns: dict[str, Column] = {}
        self._filters: dict[str, Mask] = {}

    def column(self, name: str) -> Column:
        """A column, cleaned."""
        if name not in self._columns:
            self._columns[name] = _cleaned(self._chunk.column(name))
        return self._columns[name]

    def chosen(self, where: str) -> Mask:
        """Per row of the chunk, whether a `where=` is true."""
        if where not in self._filters:
            filled = pc.fill_null(self._chunk.column(where), False)
            self._filters[where] = filled.to_numpy(zero_copy_only=False)
        return self._filters[where]


def _cleaned(array: pa.Array) -> Column:
    if array.type in FLOATS:
        values = array.to_numpy(zero_copy_only=False) + array.type.to_pandas_dtype()(0)
        valid = ~np.isnan(values)
        return Column(pa.array(values, mask=~valid), valid, np.where(valid, values, 0), False)
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    if array.type in INTEGERS:
        numbers = pc.fill_null(array, 0).to_numpy(zero_copy_only=False)
        return Column(array, valid, numbers, is_ranked=False)
    plain = array.cast(pa.uint8()) if array.type == pa.bool_() else array
    ranks = pc.rank(plain, tiebreaker="dense").to_numpy().astype(np.int64)
    return Column(array, valid, ranks, is_ranked=True)


class Series:
    """A column under one `where`, over the rows of some blocks."""

    def __init__(self, columns: ChunkColumns, rows: Blocks, window: Asked, *, own: bool) -> None:
        self.column = None if window.column is None else columns.column(window.column)
        self.places = rows.places
        valid = np.ones(len(rows), bool) if self.column is None else self.column.valid[rows.places]
        if window.where is not None:
            valid = valid & columns.chosen(window.where)[rows.places]
        if not own and rows.own is not None:
            valid = valid & ~rows.own
        self.valid: Mask = valid
        self.is_full = bool(valid.all())

    @cached_property
    def counts(self) -> Ints:
        """How many values come before each position."""
        return prefix_counts(self.valid)

    @cached_property
    def numbers(self) -> Array:
        """Values as numpy has them, or ranks."""
        assert self.column is not None
        return self.column.numbers[self.places]

    @cached_property
    def float_sums(self) -> FloatSums:
        """Sums of floats."""
        return FloatSums(self.numbers.astype(np.float64, copy=False), self.valid)

    @cached_property
    def integer_sums(self) -> IntegerSums:
        """Sums of integers."""
        return IntegerSums(self.numbers.astype(np.int64, copy=False), self.valid)

    @cached_property
    def present(self) -> Ints:
        """Positions of the valid rows; ranges of them are found by `counts`."""
        return np.flatnonzero(self.valid)

    @cached_property
    def codes(self) -> tuple[Ints, Ints]:
        """(code of each valid row in the order of the values, a place of each code's value)."""
        _, places, codes = np.unique(
            self.numbers[self.present], return_index=True, return_inverse=True
        )
        return codes.astype(np.int64), self.places[self.present][places]

    @cached_property
    def order(self) -> WaveletMatrix:
        """Order statistics of the codes."""
        return WaveletMatrix(self.codes[0])

    @cached_property
    def repeats(self) -> WaveletMatrix:
        """Where each code stood before: a value counts in a range that it did not yet stand in."""
        return WaveletMatrix(previous_equal(self.codes[0]) + 1)


class Ranges:
    """The windows of one set of blocks; what several of them need is made once."""

    def __init__(self, columns: ChunkColumns, rows: Blocks) -> None:
        self._columns = columns
        self._rows = rows
        self._series: dict[tuple[str | None, str | None, bool], Series] = {}
        self._frames: dict[Frame, tuple[Ints, Ints]] = {}
        self._sums: dict[tuple[int, Frame], Any] = {}

    def answers(self, asking: Ints) -> dict[str, pa.Array]:
        """Each window, and each overflow, of the rows at these positions."""
        found: dict[str, pa.Array] = {}
        for window in self._columns.question.windows:
            series = self._series_of(window)
            low, high = self._range(window.frame, asking)
            counts = high - low if series.is_full else series.counts[high] - series.counts[low]
            if window.function == "sum" and window.type == pa.int64():
                total, overflow = series.integer_sums.sums(low, high)
                found[window.name] = pa.array(total, mask=overflow | (counts == 0))
                found[f"_overflow_{window.name}"] = pa.array(overflow)
                continue
            answer = _answer(window, series, low, high, counts)
            found[window.name] = as_type(answer, window.type)
        return found

    def _series_of(self, window: Asked) -> Series:
        key = (window.column, window.where, window.frame.own_row)
        if self._rows.own is None or window.frame.own_row:
            key = (*key[:2], True)
        if key not in self._series:
            self._series[key] = Series(self._columns, self._rows, window, own=key[2])
        return self._series[key]

    def _range(self, frame: Frame, asking: Ints) -> tuple[Ints, Ints]:
        """[low, high) of each asking row; in a copy the own row is taken out by its values."""
        if frame not in self._frames:
            low = self._rows.lower(frame, asking)
            alone = not frame.own_row and self._rows.own is None
            self._frames[frame] = (low, asking if alone else asking + 1)
        return self._frames[frame]


def _answer(window: Asked, series: Series, low: Ints, high: Ints, counts: Ints) -> pa.Array:
    function = window.function
    empty = counts == 0
    if function == "count":
        return pa.array(counts)
    if function in ("sum", "mean", "var", "std"):
        numbers = _added(function, series, low, high, counts)
        return pa.array(numbers, mask=empty | np.isnan(numbers))
    assert series.column is not None
    if function in ("min", "max"):
        return _extremes(series, low, high, empty, greatest=function == "max")
    if function == "first":
        return _taken(series, first_valid(series.valid, low), empty)
    if function == "last":
        return _taken(series, last_valid(series.valid, high), empty)
    low, high = series.counts[low], series.counts[high]
    if function == "count_distinct":
        return pa.array(series.repeats.below(low, high, low + 1))
    codes, places = series.codes
    if function == "quantile":
        rank = _ranks(window.parameter, counts)
        if not len(codes):
            return pa.nulls(len(low), series.column.values.type)
        kth = series.order.kth(low, high, np.where(empty, 0, rank))
        chosen = places[np.where(empty, 0, np.minimum(kth, len(places) - 1))]
        return series.column.values.take(pa.array(chosen, mask=empty))
    sizes, best = most_frequent(codes, low, high, int(window.parameter), _PAIRS_MAX)
    values = series.column.values.take(pa.array(places[best]))
    offsets = np.concatenate((np.zeros(1, np.int32), np.cumsum(sizes, dtype=np.int32)))
    return pa.ListArray.from_arrays(pa.array(offsets), values, mask=pa.array(empty))


def _added(function: str, series: Series, low: Ints, high: Ints, counts: Ints) -> Array:
    assert series.column is not None
    is_float = series.column.values.type in FLOATS
    sums = series.float_sums if is_float else series.integer_sums
    if function in ("var", "std"):
        spread = sums.variances(low, high, counts)
        return np.sqrt(spread) if function == "std" else spread
    if isinstance(sums, IntegerSums):
        return sums.means(low, high, counts)
    total = sums.sums(low, high)
    return total / np.maximum(counts, 1) if function == "mean" else total


def _extremes(series: Series, low: Ints, high: Ints, empty: Mask, *, greatest: bool) -> pa.Array:
    assert series.column is not None
    numbers = series.numbers
    if numbers.dtype.kind == "f":
        least, most = -np.inf, np.inf
    else:
        least, most = np.iinfo(numbers.dtype).min, np.iinfo(numbers.dtype).max
    numbers = np.where(series.valid, numbers, numbers.dtype.type(least if greatest else most))
    longest = int((high - low).max(initial=1))
    found = (
        Extremes(numbers, longest, greatest=greatest).between(low, high) if len(numbers) else low
    )
    if not series.column.is_ranked:
        return pa.array(found, series.column.values.type, mask=empty)
    # The place of a rank is that of any row that has it.
    ranks, first = np.unique(series.numbers, return_index=True)
    place = series.places[first][np.searchsorted(ranks, np.where(empty, ranks[:1], found))]
    return series.column.values.take(pa.array(place, mask=empty))


def _taken(series: Series, position: Ints, empty: Mask) -> pa.Array:
    assert series.column is not None
    inside = np.where(empty, 0, position)
    return series.column.values.take(pa.array(series.places[inside], mask=empty))


def _ranks(q: float, counts: Ints) -> Ints:
    """ceil(q n) - 1 of each count, q being the decimal that was written; exact, so by Python."""
    known, inverse = np.unique(counts, return_inverse=True)
    exact = _decimal(q)
    ranks = np.array([max(0, math.ceil(exact * int(n)) - 1) for n in known], np.int64)
    return ranks[inverse]


@lru_cache(maxsize=1_024)
def _decimal(q: float) -> Fraction:
    return Fraction(repr(q))
