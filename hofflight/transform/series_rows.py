"""The values of one series of one key, and partials of whole blocks of them, made on demand.

Blocks of 32, 1,024 and 32,768 rows, with exact partials: a window of a million rows is summed
afresh for each answer from some two hundred numbers instead of a million.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from hofflight import limits
from hofflight.transform.aggregate import Partial, Sample, merge, summarise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hofflight.transform.aggregate import Needs

BLOCK: Final = limits.block_rows
PLAIN_ROWS: Final = 4 * BLOCK  # below this a slice is cheaper than looking for blocks
LEVELS: Final = 3
INTERIORS_MAX: Final = 32  # two for each of sixteen windows


class SeriesRows:
    """One series of one key: a value per row (None: skipped) and block partials, made on demand."""

    __slots__ = ("blocks", "has_null", "interiors", "needs", "squares", "values")

    def __init__(self, needs: Needs) -> None:
        self.values: list[Any] = []
        self.has_null = False  # whether any value was ever None
        # The exact square of each value, made once at the push: a variance asks for them all.
        self.squares: list[tuple[Any, ...]] = []
        self.blocks: list[list[Partial]] = [[] for _ in range(LEVELS)]
        # Merged partials of runs of whole blocks, by (first, last) block. A window that slides by
        # a row keeps its interior for most of 32 rows, so merging it is paid once in 16.
        self.interiors: dict[tuple[int, int], Partial] = {}
        self.needs = needs

    def insert(self, position: int, value: object) -> None:
        """Put a value between others: blocks from there on are made again when asked for."""
        self.values.insert(position, value)
        self.forget(position)

    def remove(self, position: int) -> None:
        """Take a value out again."""
        del self.values[position]
        if self.needs.squares:
            del self.squares[position]
        self.forget(position)

    def forget(self, position: int) -> None:
        """Drop every block that holds `position` or something after it."""
        changed = position // BLOCK
        for run in [run for run in self.interiors if run[1] > changed]:
            del self.interiors[run]
        span = BLOCK
        for blocks in self.blocks:
            if not blocks:
                return
            del blocks[position // span :]
            span *= BLOCK

    def evict(self, rows: int) -> None:
        """Drop the first `rows` rows, a multiple of the largest block in use."""
        del self.values[:rows]
        del self.squares[:rows]
        self.interiors.clear()
        span = BLOCK
        for blocks in self.blocks:
            del blocks[: rows // span]
            span *= BLOCK

    def sample(self, low: int, high: int, before: Sequence[Partial] = ()) -> Sample:
        """The values of rows [low, high) as edges and blocks, after settled ones."""
        if high - low < PLAIN_ROWS:
            return self.whole_sample(low, high, before)
        first, last = -(-low // BLOCK), high // BLOCK
        return Sample(
            self.present(low, first * BLOCK),
            (self._interior(first, last),),
            self.present(last * BLOCK, high),
            [*self._squares(low, first * BLOCK), *self._squares(last * BLOCK, high)],
            before,
        )

    def _interior(self, first: int, last: int) -> Partial:
        found = self.interiors.get((first, last))
        if found is None:
            if len(self.interiors) >= INTERIORS_MAX:
                self.interiors.clear()
            found = self.interiors[first, last] = merge(self._cover(0, first, last))
        return found

    def whole_sample(self, low: int, high: int, before: Sequence[Partial] = ()) -> Sample:
        """The values of rows [low, high), every one of them, after settled ones."""
        values = self.present(low, high)
        return Sample(values, squares=self._squares(low, high), before=before)

    def present(self, low: int, high: int) -> list[Any]:
        """The values of rows [low, high), None left out."""
        values = self.values[low:high]
        return [v for v in values if v is not None] if self.has_null else values

    def _squares(self, low: int, high: int) -> Sequence[Any]:
        return [*chain.from_iterable(self.squares[low:high])] if self.needs.squares else ()

    def _cover(self, level: int, first: int, last: int) -> list[Partial]:
        """Blocks [first, last) of a level, with larger ones in the middle where that is shorter."""
        if last - first <= 2 * BLOCK or level + 1 == LEVELS:
            return self._made(level, last)[first:last]
        inner_first, inner_last = -(-first // BLOCK), last // BLOCK
        blocks = self._made(level, last)
        return [
            *blocks[first : inner_first * BLOCK],
            *self._cover(level + 1, inner_first, inner_last),
            *blocks[inner_last * BLOCK : last],
        ]

    def _made(self, level: int, count: int) -> list[Partial]:
        blocks = self.blocks[level]
        while len(blocks) < count:
            start = len(blocks) * BLOCK
            if level == 0:
                blocks.append(summarise(self.values[start : start + BLOCK], self.needs))
            else:
                below = self._made(level - 1, start + BLOCK)
                blocks.append(merge(below[start : start + BLOCK]))
        return blocks
