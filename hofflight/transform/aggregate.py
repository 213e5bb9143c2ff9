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
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

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

    `sums` and `squares` are exact: floats whose exact total is the exact sum (of squares: as
    integers and fractions); parts that no window asks for stay empty.
    """

    count: int = 0
    sums: Sequence[Any] = ()
    squares: Fraction | int | None = 0
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
        return round_fraction(sum(map(Fraction, parts)))


def round_fraction(value: Fraction | int) -> float:
    """The nearest float64; an infinity beyond the largest."""
    try:
        return value.numerator / value.denominator
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def summarise(values: Sequence[Any], needs: Needs) -> Partial:
    """The partial of values in (ts, seq) order, None left out."""
    values = [v for v in values if v is not None]
    if not values:
        return Partial()
    partial = Partial(len(values))
    if needs.sums:
        partial.sums = (sum(values),) if isinstance(values[0], int) else expansion(values)
    if needs.squares:
        partial.squares = square_sum(values)
    if needs.extremes:
        partial.low, partial.high = min(values), max(values)
    if needs.ends:
        partial.first, partial.last = values[0], values[-1]
    return partial


def square_sum(values: Iterable[Any]) -> Fraction | int | None:
    """The exact sum of squares; None when a value is infinite (the variance is NaN, so null)."""
    try:
        # Squares of doubles share a power-of-two denominator: integers, scaled once, are exact.
        ratios = [value.as_integer_ratio() for value in values]
    except OverflowError:
        return None
    scale = max((denominator for _, denominator in ratios), default=1)
    total = sum((numerator * (scale // denominator)) ** 2 for numerator, denominator in ratios)
    return total if scale == 1 else Fraction(total, scale * scale)


def merge(parts: Sequence[Partial]) -> Partial:
    """The partial of all the values of `parts`, which follow each other in (ts, seq) order."""
    parts = [part for part in parts if part.count]
    if len(parts) <= 1:
        return parts[0] if parts else Partial()
    sums = [value for part in parts for value in part.sums]
    integers = bool(sums) and isinstance(sums[0], int)
    squares = [part.squares for part in parts]
    lows = [part.low for part in parts]
    return Partial(
        sum(part.count for part in parts),
        (sum(sums),) if integers else expansion(sums),
        None if None in squares else sum(s for s in squares if s is not None),
        None if None in lows else min(lows),
        None if None in lows else max(part.high for part in parts),
        parts[0].first,
        parts[-1].last,
    )


class Sample:
    """The values of one series in one frame: rows at the edges, partials of whole blocks between.

    Work that several windows over the same series and frame share (count, total) is done once.
    """

    __slots__ = ("_total", "blocks", "edge", "has_total", "head", "tail")

    def __init__(self, head: list[Any], blocks: Sequence[Partial], tail: list[Any]) -> None:
        self.head = head
        self.blocks = blocks
        self.tail = tail
        self.edge = head + tail if tail else head
        self.has_total = False
        self._total: Any = None

    def count(self) -> int:
        """Values in the frame."""
        if not self.blocks:
            return len(self.edge)
        return len(self.edge) + sum([block.count for block in self.blocks])

    def float_sum(self) -> float | None:
        """The float sum, rounded once; None for NaN."""
        if not self.has_total:
            parts = self.edge
            if self.blocks:
                parts = parts + [value for block in self.blocks for value in block.sums]
            self._total = float_total(parts)
            self.has_total = True
        return self._total  # type: ignore[no-any-return]

    def int_sum(self) -> int:
        """The exact integer sum."""
        if not self.has_total:
            self._total = sum(self.edge) + sum([block.sums[0] for block in self.blocks if block.sums])
            self.has_total = True
        return self._total  # type: ignore[no-any-return]


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
    if sample.head:
        return sample.head[0]
    return next((b.first for b in sample.blocks if b.count), sample.tail[0] if sample.tail else None)


def _last(sample: Sample) -> Any:
    if sample.tail:
        return sample.tail[-1]
    ends = (b.last for b in reversed(sample.blocks) if b.count)
    return next(ends, sample.head[-1] if sample.head else None)


def _var(sample: Sample) -> float | None:
    """(n S2 - S1^2) / (n (n - 1)) in exact arithmetic, rounded once."""
    n = sample.count()
    if n < 2:  # noqa: PLR2004 a sample variance needs two values
        return None
    squares = [square_sum(sample.edge), *(block.squares for block in sample.blocks)]
    if None in squares:
        return None
    s2 = sum(Fraction(s) for s in squares if s is not None)
    parts = [*sample.edge, *(value for block in sample.blocks for value in block.sums)]
    s1 = exact_sum(parts)
    return round_fraction((n * s2 - s1 * s1) / (n * (n - 1)))


def exact_sum(values: Iterable[Any]) -> Fraction:
    """The exact sum of finite numbers."""
    ratios = [value.as_integer_ratio() for value in values]
    scale = max((denominator for _, denominator in ratios), default=1)
    return Fraction(sum(n * (scale // d) for n, d in ratios), scale)


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
