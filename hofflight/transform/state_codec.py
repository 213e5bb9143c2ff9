"""One key's window state as plain values and back: what snapshots are made of."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

from hofflight.transform.aggregate import Partial
from hofflight.transform.window_state import KeyState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hofflight.transform.window_plan import WindowPlan


def dump_key(state: KeyState) -> list[Any]:
    """Plain values (None, bool, int64, float, str, bytes, lists) that `load_key` reads back."""
    return [
        state.max_ts,
        state.settled,
        state.ts,
        [series.values for series in state.series],
        state.session_starts,
        [[tiles.starts, [[_dump(p) for p in ps] for ps in tiles.partials]] for tiles in state.tiles],
    ]


def load_key(plan: WindowPlan, data: Sequence[Any]) -> KeyState:
    """The state that `dump_key` gave; answers from it are bit for bit the same.

    Raises: ValueError, the data is of another plan.
    """
    state = KeyState(plan)
    state.max_ts, state.settled, state.ts = data[0], data[1], list(data[2])
    for series, values in zip(state.series, data[3], strict=True):
        series.values = list(values)
    state.session_starts = [list(starts) for starts in data[4]]
    for tiles, (starts, partials) in zip(state.tiles, data[5], strict=True):
        tiles.starts = list(starts)
        tiles.partials = [[_load(p) for p in ps] for ps in partials]
    return state


def _dump(partial: Partial) -> list[Any]:
    """Sums of integers and of squares outgrow int64 and float64: they travel as text."""
    return [
        partial.count,
        [v if isinstance(v, float) else str(v) for v in partial.sums],
        None if partial.squares is None else str(partial.squares),
        partial.low,
        partial.high,
        partial.first,
        partial.last,
    ]


def _load(data: Sequence[Any]) -> Partial:
    count, sums, squares, low, high, first, last = data
    return Partial(
        count,
        [v if isinstance(v, float) else int(v) for v in sums],
        None if squares is None else Fraction(squares),
        low,
        high,
        first,
        last,
    )
