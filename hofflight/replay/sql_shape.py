"""What the SQL of plain and of odd rows share: which values and frames a question is about."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Final

import pyarrow as pa

if TYPE_CHECKING:
    from hofflight.features.window import Frame
    from hofflight.replay.prepared import Asked, AsOf, Question

INT64_MIN: Final = -(2**63)
INT64_MAX: Final = 2**63 - 1
FLOATS: Final = {pa.float64(): "DOUBLE", pa.float32(): "FLOAT"}
SPREADS: Final = frozenset(("var", "std"))
_ADDED: Final = frozenset(("sum", "mean", "var", "std"))


@dataclass(frozen=True)
class Shape:
    """A question as SQL asks it: each series of values and each frame once, by number."""

    question: Question
    as_of: AsOf
    tolerances: bool

    @cached_property
    def keys(self) -> str:
        """The key columns, listed."""
        return ", ".join(self.question.keys)

    @cached_property
    def series(self) -> list[tuple[str | None, str | None]]:
        """(column, where) of each series."""
        return list(dict.fromkeys((w.column, w.where) for w in self.question.windows))

    @cached_property
    def frames(self) -> list[Frame]:
        """Each frame."""
        return list(dict.fromkeys(w.frame for w in self.question.windows))

    @cached_property
    def sessions(self) -> list[int]:
        """The gaps of sessions."""
        return sorted({f.size_us for f in self.frames if f.kind == "session"})

    def series_of(self, window: Asked) -> int:
        """Number of a window's series."""
        return self.series.index((window.column, window.where))

    def frame_of(self, window: Asked) -> int:
        """Number of a window's frame."""
        return self.frames.index(window.frame)

    def is_float(self, series: int) -> bool:
        """Whether a series is of floats."""
        column = self.series[series][0]
        return column is not None and self.question.schema.field(column).type in FLOATS

    def with_scale(self) -> list[Asked]:
        """Windows whose floats DuckDB adds its own way, where tolerances are asked for."""
        return [
            w for w in self.question.windows
            if self.tolerances and w.function in _ADDED and w.type == pa.float64()
        ]  # fmt: skip


def quoted(name: str) -> str:
    """An identifier, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'


def int64_or_null(total: str) -> str:
    """A HUGEINT sum as BIGINT; null, and never an error, outside."""
    return f"CASE WHEN {total} BETWEEN {INT64_MIN} AND {INT64_MAX} THEN {total}::BIGINT END"


def leaves_int64(total: str) -> str:
    """Whether a HUGEINT sum is outside BIGINT."""
    return f"coalesce({total} NOT BETWEEN {INT64_MIN} AND {INT64_MAX}, false)"


def quantile_of(values: str, q: float) -> str:
    """The smallest value whose rank is at least ceil(q n), q being the decimal that was written."""
    exact = Fraction(repr(q))
    a, b = exact.numerator, exact.denominator
    return f"list_sort({values})[(({a}::HUGEINT * len({values}) + {b - 1}) // {b})::BIGINT]"


def top_k_of(histogram: str, k: float) -> str:
    """The k most frequent values, by count descending, then value; null of none."""
    return f"CASE WHEN len(map_keys({histogram})) > 0 THEN ranked({histogram}, {int(k)}) END"
