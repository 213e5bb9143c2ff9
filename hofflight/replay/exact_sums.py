"""Sums of many ranges of numbers, exact, so that they are rounded once: what `math.fsum` gives.

A float is an integer times a power of two. All of a chunk are written as multiples of one power of
two, the lowest bit that any of them has, and cut into limbs of some 40 bits. The prefix sums of a
limb are integers, so a range's is a difference, and nothing was ever rounded: two limbs for money,
fifty for 1e308 beside 5e-324, and no case in which it is only nearly right.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hofflight.replay.range_queries import Ints, prefix_counts

if TYPE_CHECKING:
    from collections.abc import Sequence

Bits = np.ndarray[Any, np.dtype[np.uint64]]
Floats = np.ndarray[Any, np.dtype[np.float64]]
# (magnitude, shift): the number is magnitude << shift.
Term = tuple[Bits, Ints]

LIMB_BITS: Final = 40
MANTISSA_BITS: Final = 53
# 2^900 times 2^93, the largest of two limbs, is a double; 2^-900 times 1 is not subnormal.
EXPONENT_MAX: Final = 900
WORD_BITS: Final = 64
_HALF: Final = np.uint64(32)
_HALF_MASK: Final = np.uint64(0xFFFFFFFF)


class Limbs:
    """Prefix sums of signed integers of any size, each the sum of its terms."""

    def __init__(self, sign: Ints, terms: Sequence[Term]) -> None:
        rows = len(sign)
        # Each term adds less than 2^bits to a limb of a row, so that of all rows stays below 2^62.
        self.bits = min(LIMB_BITS, 62 - max(1, rows * len(terms)).bit_length())
        top = max((_top_bit(*term) for term in terms), default=0)
        self.count = max(1, -(-top // self.bits))
        self._prefix = np.zeros((self.count, rows + 1), np.int64)
        for limb in range(self.count):
            part = sum((self._cut(term, limb) for term in terms), np.zeros(rows, np.int64))
            np.cumsum(part * sign, out=self._prefix[limb, 1:])

    def _cut(self, term: Term, limb: int) -> Ints:
        """The bits of a term that lie in a limb."""
        magnitude, shift = term
        left = shift - limb * self.bits
        mask = np.uint64((1 << self.bits) - 1)
        up = np.clip(left, 0, WORD_BITS - 1).astype(np.uint64)
        down = np.clip(-left, 0, WORD_BITS - 1).astype(np.uint64)
        cut = ((magnitude << up) >> down) & mask
        # Beyond these a shift by a word and more means: no bit of it is here.
        cut[(left >= self.bits) | (left <= -WORD_BITS)] = 0
        return cut.astype(np.int64)

    def between(self, low: Ints, high: Ints) -> list[Ints]:
        """Limbs of the sums of rows [low, high): below 2^bits each, but the last is signed."""
        limbs = [prefix[high] - prefix[low] for prefix in self._prefix]
        return _carried(limbs, self.bits)

    def integers(self, low: Ints, high: Ints) -> list[int]:
        """The sums as Python integers."""
        limbs = self.between(low, high)
        total = limbs[-1].astype(object)
        for limb in reversed(limbs[:-1]):
            total = (total << self.bits) + limb
        return list(total)


class _Sums:
    """Prefix sums of numbers and, once somebody asks for a spread, of their squares."""

    def __init__(self, sign: Ints, magnitude: Bits, shift: Ints) -> None:
        self._term = magnitude, shift
        self._limbs = Limbs(sign, [self._term])

    @cached_property
    def _squares(self) -> Limbs:
        ones = np.ones(len(self._term[0]), np.int64)
        return Limbs(ones, _squared(*self._term))

    def _variances(self, low: Ints, high: Ints, counts: Ints, bad: Any, scale: int) -> Floats:
        """(n S2 - S1^2) / (n (n - 1)) of integers times 2^(scale/2), by Python's exact division."""
        sums, squares = self._limbs.integers(low, high), self._squares.integers(low, high)
        up, down = max(scale, 0), max(-scale, 0)
        found = [
            math.nan if is_bad else _divided((n * s2 - s1 * s1) << up, (n * (n - 1)) << down)
            for s1, s2, n, is_bad in zip(sums, squares, counts.tolist(), bad.tolist(), strict=True)
        ]
        return np.array(found, np.float64)


class FloatSums(_Sums):
    """Sums, means and variances of ranges of doubles; what is not valid counts as nothing."""

    def __init__(self, values: Floats, valid: np.ndarray[Any, np.dtype[np.bool_]]) -> None:
        finite = valid & np.isfinite(values)
        self._infinite = [prefix_counts(valid & (values == sign)) for sign in (np.inf, -np.inf)]
        self._has_infinite = bool(self._infinite[0][-1] or self._infinite[1][-1])
        fractions, exponents = np.frexp(np.where(finite, values, 0.0))
        numbers = np.ldexp(fractions, MANTISSA_BITS).astype(np.int64)
        magnitude = np.abs(numbers).astype(np.uint64)
        shift = exponents.astype(np.int64) - MANTISSA_BITS
        present = magnitude != 0
        # Trailing zeros go: of whole numbers only their own few bits are left.
        lowest = magnitude & (~magnitude + np.uint64(1))
        zeros = np.where(present, np.frexp(lowest.astype(np.float64))[1] - 1, 0)
        magnitude = magnitude >> zeros.astype(np.uint64)
        shift = shift + zeros
        self.base = int(shift[present].min()) if present.any() else 0
        super().__init__(np.sign(numbers), magnitude, np.where(present, shift - self.base, 0))

    def sums(self, low: Ints, high: Ints) -> Floats:
        """Each sum, rounded once; infinities as IEEE has them, NaN where they cancel."""
        limbs = self._limbs.between(low, high)
        found = _rounded(limbs, self._limbs.bits, self.base)
        if self._has_infinite:
            up, down = (prefix[high] > prefix[low] for prefix in self._infinite)
            found = np.where(up, np.inf, np.where(down, -np.inf, found))
            found[up & down] = np.nan
        return found

    def variances(self, low: Ints, high: Ints, counts: Ints) -> Floats:
        """Each sample variance, rounded once; NaN of fewer than two values or any infinity."""
        bad = counts < 2  # noqa: PLR2004 a spread needs two values
        if self._has_infinite:
            bad = bad | (self._infinite[0][high] > self._infinite[0][low])
            bad = bad | (self._infinite[1][high] > self._infinite[1][low])
        return self._variances(low, high, counts, bad, 2 * self.base)


class IntegerSums(_Sums):
    """Sums, means and variances of ranges of integers; what is not valid counts as nothing."""

    def __init__(self, values: Ints, valid: np.ndarray[Any, np.dtype[np.bool_]]) -> None:
        numbers = np.where(valid, values, 0).astype(np.int64)
        # The magnitude of the smallest int64 is no int64, but it is a uint64.
        bits = numbers.view(np.uint64)
        magnitude = np.where(numbers < 0, ~bits + np.uint64(1), bits)
        super().__init__(np.sign(numbers), magnitude, np.zeros(len(numbers), np.int64))

    def sums(self, low: Ints, high: Ints) -> tuple[Ints, np.ndarray[Any, np.dtype[np.bool_]]]:
        """(sum, whether it leaves int64) of each range."""
        total, carry = self._low_and_high(low, high)
        return total, carry != (total >> (WORD_BITS - 1))

    def means(self, low: Ints, high: Ints, counts: Ints) -> Floats:
        """Each exact quotient, rounded once; NaN of nothing."""
        total, carry = self._low_and_high(low, high)
        few = np.maximum(counts, 1)
        found = total / few
        # Up to 2^53 both sides of the division are exact doubles, so it rounds once.
        large = (carry != (total >> (WORD_BITS - 1))) | (np.abs(total) > 1 << MANTISSA_BITS)
        places = np.flatnonzero(large)
        if len(places):
            exact = self._limbs.integers(low[places], high[places])
            quotients = [t / n for t, n in zip(exact, few[places].tolist(), strict=True)]
            found[places] = quotients
        return np.where(counts > 0, found, np.nan)

    def variances(self, low: Ints, high: Ints, counts: Ints) -> Floats:
        """Each sample variance, rounded once; NaN of fewer than two values."""
        return self._variances(low, high, counts, counts < 2, 0)  # noqa: PLR2004 two values

    def _low_and_high(self, low: Ints, high: Ints) -> tuple[Ints, Ints]:
        """The low 64 bits of each sum, as int64, and what lies above them."""
        limbs, bits = self._limbs.between(low, high), self._limbs.bits
        total = np.zeros(len(low), np.uint64)
        carry = np.zeros(len(low), np.int64)
        for place, limb in enumerate(limbs):
            at = place * bits
            if at < WORD_BITS:
                total += limb.view(np.uint64) << np.uint64(at)
            # What of this limb lies above bit 64; lower limbs carry into it no more.
            carry = carry + (
                limb >> (WORD_BITS - at) if at < WORD_BITS else limb << (at - WORD_BITS)
            )
        return total.view(np.int64), carry


def _top_bit(magnitude: Bits, shift: Ints) -> int:
    """How many bits the largest number of a term has."""
    present = magnitude != 0
    if not present.any():
        return 0
    lengths = np.frexp(magnitude[present].astype(np.float64))[1]
    return int((lengths + shift[present]).max())


def _squared(magnitude: Bits, shift: Ints) -> list[Term]:
    """The squares, from halves of 32 bits: h^2 2^64 + h l 2^33 + l^2."""
    high, low = magnitude >> _HALF, magnitude & _HALF_MASK
    twice = 2 * shift
    return [(high * high, twice + 64), (high * low, twice + 33), (low * low, twice)]


def _carried(limbs: list[Ints], bits: int) -> list[Ints]:
    mask = (1 << bits) - 1
    for place in range(len(limbs) - 1):
        limbs[place + 1] = limbs[place + 1] + (limbs[place] >> bits)
        limbs[place] = limbs[place] & mask
    return limbs


def _rounded(limbs: list[Ints], bits: int, base: int) -> Floats:
    """The nearest double of each number, ties to even; an infinity past the largest."""
    if len(limbs) == 1:
        limbs = [np.zeros_like(limbs[0]), limbs[0]]
        base -= bits
    if len(limbs) == 2:  # noqa: PLR2004 the usual data
        low, high = (limb.astype(np.float64) for limb in limbs)
        if np.abs(high).max(initial=0.0) < 2.0**MANTISSA_BITS:  # both exact: one rounding
            whole = high * 2.0**bits + low
            if -EXPONENT_MAX < base < EXPONENT_MAX:  # normal, so multiplying is exact, and faster
                return whole * math.ldexp(1.0, base)
            with np.errstate(over="ignore"):
                return np.ldexp(whole, base)
    sign = np.where(limbs[-1] < 0, -1, 1)
    limbs = _carried([limb * sign for limb in limbs], bits)
    limbs = _carried([*limbs, np.zeros_like(sign)], bits)
    parts, scales, shift = _leading(np.stack(limbs), bits, base)
    parts = [part * sign for part in parts]
    doubles = [np.ldexp(p.astype(np.float64), s) for p, s in zip(parts, scales, strict=True)]
    with np.errstate(over="ignore"):
        return np.ldexp(_sum_of_three(*doubles), shift)


def _leading(limbs: Any, bits: int, base: int) -> tuple[list[Ints], list[int], Ints]:
    """The three limbs from the highest that is not zero, the last one odd if more follows."""
    count, rows = limbs.shape
    top = count - 1 - np.argmax(limbs[::-1] != 0, axis=0)
    top = np.maximum(top, 2)
    every = np.arange(rows)
    parts = [limbs[top - down, every] for down in range(3)]
    below = np.cumsum(limbs != 0, axis=0)
    sticky = (top > 2) & (below[np.maximum(top - 3, 0), every] > 0)  # noqa: PLR2004
    parts[2] = parts[2] | sticky
    return parts, [2 * bits, bits, 0], base + (top - 2) * bits


def _sum_of_three(one: Floats, two: Floats, three: Floats) -> Floats:
    """The exact sum, rounded once to even, as `math.fsum` ends; each is far above the next."""
    high, rest = _two_sum(one, two)
    middle, last = _two_sum(rest, three)
    total, left = _two_sum(high, middle)
    # `left` is half a step of `total` and `last` goes its way: to even was the wrong way.
    double = 2.0 * left
    moved = total + double
    is_half = (left != 0) & (np.sign(left) == np.sign(last)) & (moved - total == double)
    return np.where(is_half, moved, total)


def _two_sum(one: Floats, two: Floats) -> tuple[Floats, Floats]:
    """Sum and rounding error, exact (D. E. Knuth, The Art of Computer Programming 2, 4.2.2)."""
    total = one + two
    shadow = total - one
    return total, (one - (total - shadow)) + (two - shadow)


def _divided(numerator: int, denominator: int) -> float:
    try:
        return numerator / denominator
    except OverflowError:
        return math.inf
