"""The one aggregate algebra: summarise, merge, finish. Engine and Spark share it.

A `Partial` stands for any number of values: a block of rows, a tile, a lifetime. Float sums are
kept as exact expansions (a few floats whose exact sum is the exact sum of the values), so merging
in any order loses nothing, and the one rounding happens in `finish`: a sum is what `math.fsum`
gives over all values, after any history. Nothing is ever subtracted.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

INT64_MIN: Final = -(2**63)
INT64_MAX: Final = 2**63 - 1


class Overflow:
    """The mark of an integer sum outside int64: the answer is null with status OVERFLOW."""

    def __repr__(self) -> str:
        return "OVERFLOW"


OVERFLOW: Final = Overflow()


@dataclass(frozen=True, slots=True)
class Needs:
    """Which parts of a partial the windows over one series ask for."""

    sums: bool = False
    squares: bool = False
    extremes: bool = False
    ends: bool = False


@dataclass(slots=True)
class Partial:
    """What is kept of some values, in (ts, seq) order; the empty partial is `Partial()`.

    `sums` and `squares` are exact: a few numbers whose exact sum is the exact sum of the values
    and of their squares; parts that no window asks for stay empty.
    """

    count: int = 0
    sums: Sequence[Any] = ()
    squares: Sequence[Any] = ()
    low: Any = None
    high: Any = None
    first: Any = None
    last: Any = None


def expansion(values: Sequence[float]) -> Sequence[float]:
    """A few floats with exactly the same exact sum as `values`.

    fsum rounds the exact sum once; what it left over is again the exact sum of (values, -rounded).
    Two or three rounds end at zero for ordinary values; each takes 53 bits off, so 40 always do.
    """
    parts: list[float] = []
    rest = list(values)
    try:
        while (total := math.fsum(rest)) != 0.0:
            parts.append(total)
            if math.isinf(total):
                return parts
            rest.append(-total)
    except (OverflowError, ValueError):  # beyond 1.8e308, or inf - inf: keep them as they are
        return values
    return parts


def compact(parts: Sequence[Any]) -> Sequence[Any]:
    """Fewer numbers with the same exact sum: one integer, a few floats, or what there was."""
    kinds = set(map(type, parts))
    if kinds == {float}:
        return expansion(parts)
    return (sum(parts),) if kinds == {int} else parts


def square_parts(value: Any) -> tuple[Any, ...]:
    """One or two numbers whose exact sum is the square of `value`; none of None.

    A float's square is its rounded square and the rounding error (T. J. Dekker, 1971), exact while
    neither overflows nor underflows; beyond that a fraction.
    """
    if value is None:
        return ()
    if isinstance(value, int):
        return (value * value,)
    square = value * value
    if 1e-200 < square < 1e280 or square == 0.0 == value:  # noqa: PLR2004 far inside float64
        big = 134_217_729.0 * value  # 2^27 + 1 cuts the 53 bits into halves
        high = big - (big - value)
        low = value - high
        return square, ((high * high - square) + 2.0 * high * low) + low * low
    return (square,) if math.isinf(value) else (Fraction(value) ** 2,)


def float_total(parts: Sequence[float]) -> float | None:
    """The exact sum, rounded once; infinities as IEEE has them, None for NaN."""
    try:
        return math.fsum(parts)
    except ValueError:  # inf - inf
        return None
    except OverflowError:  # fsum's intermediate sum left float64; the exact one may not
        if any(math.isinf(part) for part in parts):
            signs = {part for part in parts if math.isinf(part)}
            return signs.pop() if len(signs) == 1 else None
        exact = sum(map(Fraction, parts))
        return _divide(exact.numerator, exact.denominator)


def summarise(values: Sequence[Any], needs: Needs) -> Partial:
    """The partial of values in (ts, seq) order, None left out."""
    values = [v for v in values if v is not None]
    if not values:
        return Partial()
    partial = Partial(len(values))
    if needs.sums:
        partial.sums = (sum(values),) if isinstance(values[0], int) else expansion(values)
    if needs.squares:
        partial.squares = compact([part for value in values for part in square_parts(value)])
    if needs.extremes:
        partial.low, partial.high = min(values), max(values)
    if needs.ends:
        partial.first, partial.last = values[0], values[-1]
    return partial


def merge(parts: Sequence[Partial]) -> Partial:
    """The partial of all the values of `parts`, which follow each other in (ts, seq) order."""
    parts = [part for part in parts if part.count]
    if len(parts) <= 1:
        return parts[0] if parts else Partial()
    lows = [part.low for part in parts]
    return Partial(
        sum(part.count for part in parts),
        compact([value for part in parts for value in part.sums]),
        compact([value for part in parts for value in part.squares]),
        None if None in lows else min(lows),
        None if None in lows else max(part.high for part in parts),
        parts[0].first,
        parts[-1].last,
    )


class Sample:
    """The values of one series in one frame: rows at the edges, partials of whole blocks between.

    In time order: `before` (partials of settled rows), `head`, `middle` (whole blocks), `tail`.
    `squares` are the `square_parts` of head and tail, where a window asks for them. Work that
    several windows over the same series and frame share is done once.
    """

    __slots__ = (
        "_total", "before", "blocks", "edge", "has_total", "head", "middle", "squares", "tail",
    )  # fmt: skip

    def __init__(
        self,
        head: list[Any],
        middle: Sequence[Partial] = (),
        tail: Sequence[Any] = (),
        squares: Sequence[Any] = (),
        before: Sequence[Partial] = (),
    ) -> None:
        self.before = before
        self.head = head
        self.middle = middle
        self.tail = tail
        self.blocks = [*before, *middle] if before else middle
        self.edge = [*head, *tail] if tail else head
        self.squares = squares
        self.has_total = False
        self._total: Any = None

    def count(self) -> int:
        """Values in the frame."""
        if not self.blocks:
            return len(self.edge)
        return len(self.edge) + sum([block.count for block in self.blocks])

    def sums(self) -> list[Any]:
        """Numbers whose exact sum is the exact sum of the values."""
        if not self.blocks:
            return self.edge
        return [*self.edge, *chain.from_iterable([block.sums for block in self.blocks])]

    def float_sum(self) -> float | None:
        """The float sum, rounded once; None for NaN."""
        if not self.has_total:
            self._total = float_total(self.sums())
            self.has_total = True
        return self._total

    def int_sum(self) -> int:
        """The exact integer sum."""
        if not self.has_total:
            self._total = sum(self.sums())
            self.has_total = True
        return self._total


def _count(sample: Sample) -> int:
    return sample.count()


def _float_sum(sample: Sample) -> float | None:
    return sample.float_sum() if sample.count() else None


def _int_sum(sample: Sample) -> int | Overflow | None:
    if not sample.count():
        return None
    total = sample.int_sum()
    return total if INT64_MIN <= total <= INT64_MAX else OVERFLOW


def _float_mean(sample: Sample) -> float | None:
    count = sample.count()
    total = sample.float_sum() if count else None
    return None if total is None else total / count


def _int_mean(sample: Sample) -> float | None:
    count = sample.count()
    return sample.int_sum() / count if count else None


def _min(sample: Sample) -> Any:
    lows = [block.low for block in sample.blocks if block.count] if sample.blocks else []
    values = sample.edge + lows if lows else sample.edge
    return min(values) if values else None


def _max(sample: Sample) -> Any:
    highs = [block.high for block in sample.blocks if block.count] if sample.blocks else []
    values = sample.edge + highs if highs else sample.edge
    return max(values) if values else None


def _first(sample: Sample) -> Any:
    found = next((p.first for p in sample.before if p.count), None)
    if found is None and sample.head:
        found = sample.head[0]
    if found is None:
        found = next((p.first for p in sample.middle if p.count), None)
    return sample.tail[0] if found is None and sample.tail else found


def _last(sample: Sample) -> Any:
    if sample.tail:
        return sample.tail[-1]
    found = next((p.last for p in reversed(sample.middle) if p.count), None)
    if found is None and sample.head:
        found = sample.head[-1]
    return (
        next((p.last for p in reversed(sample.before) if p.count), None) if found is None else found
    )


def _var(sample: Sample) -> float | None:
    """(n S2 - S1^2) / (n (n - 1)) in exact arithmetic, rounded once."""
    n = sample.count()
    if n < 2:  # noqa: PLR2004 a sample variance needs two values
        return None
    squares = [*sample.squares, *chain.from_iterable([b.squares for b in sample.blocks])]
    try:
        s1, d1 = _exact_ratio(sample.sums())
        s2, d2 = _exact_ratio(squares)
    except OverflowError:  # an infinity: the variance is NaN, so null
        return None
    return _divide(n * s2 * d1 * d1 - s1 * s1 * d2, d1 * d1 * d2 * n * (n - 1))


def _exact_ratio(values: Sequence[Any]) -> tuple[int, int]:
    """Numerator and denominator (a power of two for floats) of an exact sum.

    Raises: OverflowError, a value is infinite.
    """
    ratios = [value.as_integer_ratio() for value in compact(values)]
    scale = max((denominator for _, denominator in ratios), default=1)
    return sum(n * (scale // d) for n, d in ratios), scale


def _divide(numerator: int, denominator: int) -> float:
    """The nearest float64 of a fraction; an infinity beyond the largest."""
    try:
        return numerator / denominator
    except OverflowError:
        return math.inf if numerator > 0 else -math.inf


def _std(sample: Sample) -> float | None:
    variance = _var(sample)
    return None if variance is None else math.sqrt(variance)


def _count_distinct(sample: Sample) -> int:
    return len(set(sample.edge))


def _quantile(q: float) -> Callable[[Sample], Any]:
    exact = Fraction(repr(q))  # 0.07 is meant as 7/100: of 100 values, rank 7 and not 8

    def quantile(sample: Sample) -> Any:
        values = sorted(sample.edge)
        return values[math.ceil(exact * len(values)) - 1] if values else None

    return quantile


def _top_k(k: int) -> Callable[[Sample], Any]:
    def top_k(sample: Sample) -> list[Any] | None:
        ranked = sorted(Counter(sample.edge).items(), key=lambda item: (-item[1], item[0]))
        return [value for value, _ in ranked[:k]] or None

    return top_k


_SIMPLE: Final[dict[str, Callable[[Sample], Any]]] = {
    "count": _count, "min": _min, "max": _max, "first": _first, "last": _last,
    "var": _var, "std": _std, "count_distinct": _count_distinct,
}  # fmt: skip
NEEDS: Final[dict[str, Needs]] = {
    "count": Needs(),
    **dict.fromkeys(("sum", "mean"), Needs(sums=True)),
    **dict.fromkeys(("var", "std"), Needs(sums=True, squares=True)),
    **dict.fromkeys(("min", "max"), Needs(extremes=True)),
    **dict.fromkeys(("first", "last"), Needs(ends=True)),
    **dict.fromkeys(("count_distinct", "quantile", "top_k"), Needs()),
}


def finisher(function: str, parameter: float, *, integers: bool) -> Callable[[Sample], Any]:
    """The function from a sample to the window's value (None for null, or OVERFLOW)."""
    if function == "sum":
        return _int_sum if integers else _float_sum
    if function == "mean":
        return _int_mean if integers else _float_mean
    if function == "quantile":
        return _quantile(parameter)
    return _top_k(int(parameter)) if function == "top_k" else _SIMPLE[function]
