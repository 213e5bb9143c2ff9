"""Questions about many ranges of rows at once: how many, the least, the k-th, how many different.

Each is prepared once over all rows and then answers any range [low, high) by a few lookups.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Ints = np.ndarray[Any, np.dtype[np.int64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]


def prefix_counts(valid: Mask) -> Ints:
    """How many are valid before each position; one more entry than rows."""
    return np.concatenate((np.zeros(1, np.int64), np.cumsum(valid, dtype=np.int64)))


def first_valid(valid: Mask, low: Ints) -> Ints:
    """Position of the first valid row from each `low` on; the number of rows if there is none."""
    rows = len(valid)
    places = np.where(valid, np.arange(rows), rows)
    following = np.append(np.minimum.accumulate(places[::-1])[::-1], rows)
    return following[low]


def last_valid(valid: Mask, high: Ints) -> Ints:
    """Position of the last valid row before each `high`; -1 where there is none."""
    places = np.where(valid, np.arange(len(valid)), -1)
    before = np.concatenate(([-1], np.maximum.accumulate(places)))
    return before[high]


class Extremes:
    """Least (or greatest) of ranges: a sparse table, two overlapping powers of two a range."""

    def __init__(self, values: Array, longest: int, *, greatest: bool) -> None:
        self._pick = np.maximum if greatest else np.minimum
        levels = [values]
        size = 1
        while 2 * size <= longest:
            above = levels[-1].copy()
            above[: len(above) - size] = self._pick(levels[-1][:-size], levels[-1][size:])
            levels.append(above)
            size *= 2
        self._levels = np.stack(levels)

    def between(self, low: Ints, high: Ints) -> Array:
        """Of each range; of an empty one, some value."""
        length = np.maximum(high - low, 1)
        level = np.frexp(length.astype(np.float64))[1] - 1
        last = self._levels.shape[1] - 1
        one = self._levels[level, np.minimum(low, last)]
        other = self._levels[level, np.clip(high - (1 << level), 0, last)]
        return self._pick(one, other)


class WaveletMatrix:
    """Order statistics of ranges of small whole numbers (F. Claude, G. Navarro, 2012).

    Level by level, from the highest bit, numbers are parted stably by that bit; a range stays a
    range on the way, so a query is a lookup or two a bit.
    """

    def __init__(self, codes: Ints) -> None:
        self._bits = max(1, int(codes.max(initial=0)).bit_length())
        self._zeros: list[Ints] = []
        for bit in range(self._bits - 1, -1, -1):
            is_zero = (codes >> bit) & 1 == 0
            self._zeros.append(prefix_counts(is_zero))
            codes = np.concatenate((codes[is_zero], codes[~is_zero]))

    def kth(self, low: Ints, high: Ints, k: Ints) -> Ints:
        """The k-th smallest of each range, from 0; k must be less than its length."""
        found = np.zeros(len(low), np.int64)
        for place, zeros in enumerate(self._zeros):
            low_zero, high_zero = zeros[low], zeros[high]
            count = high_zero - low_zero
            above = k >= count
            k = np.where(above, k - count, k)
            found |= above.astype(np.int64) << (self._bits - 1 - place)
            low = np.where(above, zeros[-1] + low - low_zero, low_zero)
            high = np.where(above, zeros[-1] + high - high_zero, high_zero)
        return found

    def below(self, low: Ints, high: Ints, bound: Ints) -> Ints:
        """How many numbers of each range are less than its bound."""
        found = np.where(bound >= 1 << self._bits, high - low, 0)
        inside = bound < 1 << self._bits
        for place, zeros in enumerate(self._zeros):
            low_zero, high_zero = zeros[low], zeros[high]
            above = (bound >> (self._bits - 1 - place)) & 1 == 1
            found += np.where(above & inside, high_zero - low_zero, 0)
            low = np.where(above, zeros[-1] + low - low_zero, low_zero)
            high = np.where(above, zeros[-1] + high - high_zero, high_zero)
        return found


def previous_equal(codes: Ints) -> Ints:
    """Position of the row before with the same code; -1 where there is none."""
    order = np.argsort(codes, kind="stable")
    same = np.diff(codes[order]) == 0
    previous = np.full(len(codes), -1, np.int64)
    previous[order[1:][same]] = order[:-1][same]
    return previous


def most_frequent(codes: Ints, low: Ints, high: Ints, k: int, pairs_max: int) -> tuple[Ints, Ints]:
    """(how many, codes): of each range its k most frequent, by count descending, then code.

    Each range is written out, `pairs_max` rows at a time: its cost is the rows of all ranges.
    """
    kinds = int(codes.max(initial=0)) + 1
    lengths = high - low
    counts = np.zeros(len(low), np.int64)
    parts = [np.zeros(0, np.int64)]
    for start, end in slices(lengths, pairs_max):
        owners, places = expanded(low[start:end], lengths[start:end])
        pairs, times = np.unique(owners * kinds + codes[places], return_counts=True)
        owner, code = pairs // kinds, pairs % kinds
        order = np.lexsort((code, -times, owner))
        owner, code = owner[order], code[order]
        is_first = np.diff(owner, prepend=-1) != 0
        begins = np.maximum.accumulate(np.where(is_first, np.arange(len(owner)), 0))
        kept = np.arange(len(owner)) - begins < k
        counts[start:end] = np.bincount(owner[kept], minlength=end - start)
        parts.append(code[kept])
    return counts, np.concatenate(parts)


def expanded(low: Ints, lengths: Ints) -> tuple[Ints, Ints]:
    """(which range, position) of every row of ranges that begin at `low`."""
    owners = np.repeat(np.arange(len(low)), lengths)
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return owners, np.arange(total) - np.repeat(ends - lengths - low, lengths)


def slices(lengths: Ints, total_max: int) -> list[tuple[int, int]]:
    """(start, end) of runs of ranges with about `total_max` rows together, one range at least."""
    if not len(lengths):
        return []
    number = (np.cumsum(lengths) - lengths) // total_max
    cuts = (np.flatnonzero(np.diff(number)) + 1).tolist()
    return list(zip([0, *cuts], [*cuts, len(lengths)], strict=True))
