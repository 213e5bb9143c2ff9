"""Where each row's window begins, for every kind of frame, over rows sorted by (key, ts, seq).

Rows lie in *blocks*: the rows of a key, or a private copy of what one row saw. A frame is cut
within its block, relative to the row that asks, which has the latest time of what it sees.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from hofflight.features.window import Frame
    from hofflight.replay.range_queries import Ints, Mask

_ROOM: Final = 1 << 62


class Timeline:
    """(block, ts) as one number each: block * span + ts, or with the rank of ts in its place.

    Blocks and, in each, times need not be sorted, but for `at_or_after`.
    """

    def __init__(self, blocks: Ints, ts: Ints) -> None:
        self._low = int(ts.min()) if len(ts) else 0
        self._span = int(ts.max()) - self._low + 2 if len(ts) else 2
        self._ranks: Ints | None = None
        places = ts - self._low
        count = int(blocks.max()) + 1 if len(blocks) else 1
        if count * self._span >= _ROOM:  # many keys over a century: ranks are fewer than times
            self._ranks, places = np.unique(ts, return_inverse=True)
            self._span = len(self._ranks) + 1
        self._starts = blocks * self._span
        self.numbers: Ints = self._starts + places + 1

    def newest(self) -> Ints:
        """Per row, the latest time of its block up to and with it."""
        places = np.maximum.accumulate(self.numbers) - self._starts - 1
        return places + self._low if self._ranks is None else self._ranks[places]

    def at_or_after(self, rows: Ints, bounds: Ints) -> Ints:
        """Position of the first row of each row's block with a time of at least its bound."""
        if self._ranks is None:
            places = bounds - self._low + 1
        else:
            places = np.searchsorted(self._ranks, bounds) + 1
        inside = np.clip(places, 0, self._span)
        return np.searchsorted(self.numbers, self._starts[rows] + inside)


def late_rows(blocks: Ints, ts: Ints, late_us: int) -> Mask:
    """Per row, in order of arrival within its block: ts < max(ts of earlier rows) - late.

    Late rows are older than that maximum, so they never raise it.
    """
    late = np.zeros(len(ts), bool)
    if len(ts):
        newest = Timeline(blocks, ts).newest()
        late[1:] = (blocks[1:] == blocks[:-1]) & (ts[1:] < newest[:-1] - late_us)
    return late


class Blocks:
    """Rows of some blocks, sorted by (block, ts, seq).

    `places`: where in the chunk each row stands. `own`, of private copies: which row of each block
    asks; its answer is that of the block's last row, since all of the block is what it sees.
    """

    def __init__(self, blocks: Ints, ts: Ints, places: Ints, own: Mask | None = None) -> None:
        self.blocks = blocks
        self.ts = ts
        self.places = places
        self.own = own

    def __len__(self) -> int:
        return len(self.ts)

    @cached_property
    def timeline(self) -> Timeline:
        """For bounds in time."""
        return Timeline(self.blocks, self.ts)

    @cached_property
    def is_first(self) -> Mask:
        """Whether a row is the first of its block."""
        first = np.ones(len(self), bool)
        first[1:] = self.blocks[1:] != self.blocks[:-1]
        return first

    @cached_property
    def starts(self) -> Ints:
        """Per row, the first position of its block."""
        return _running_start(self.is_first)

    def lower(self, frame: Frame, rows: Ints) -> Ints:
        """Position of the first row in the frame of each of these rows, the row itself counted."""
        ts, size, tile = self.ts[rows], frame.size_us, frame.tile_us
        if frame.kind == "sliding" and tile:
            return self.timeline.at_or_after(rows, (ts - size) // tile * tile)
        if frame.kind == "sliding":
            return self.timeline.at_or_after(rows, ts - size + 1)
        if frame.kind == "tumbling":
            return self.timeline.at_or_after(rows, ts // size * size)
        if frame.kind == "last":
            return np.maximum(self.starts[rows], rows - frame.rows + 1)
        if frame.kind == "session":
            pause = self.is_first.copy()
            pause[1:] |= np.diff(self.ts) >= size
            return _running_start(pause)[rows]
        return self.starts[rows]


def _running_start(begins: Mask) -> Ints:
    """Per row, the newest position where something begins."""
    return np.maximum.accumulate(np.where(begins, np.arange(len(begins)), 0))
