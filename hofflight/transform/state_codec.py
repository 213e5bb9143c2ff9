"""One key's window state as plain values and back: what snapshots are made of."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

from hofflight.transform.aggregate import Partial, square_parts
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
        [
            [tiles.starts, [[_dump(p) for p in ps] for ps in tiles.partials]]
            for tiles in state.tiles
        ],
    ]


def load_key(plan: WindowPlan, data: Sequence[Any]) -> KeyState:
    """The state that `dump_key` gave; answers from it are bit for bit the same.

    Raises: ValueError, the data is of another plan.
    """
    state = KeyState(plan)
    state.max_ts, state.settled, state.ts = data[0], data[1], list(data[2])
    for series, values in zip(state.series, data[3], strict=True):
        series.values = list(values)
        series.has_null = None in values
        if series.needs.squares:
            series.squares = [square_parts(value) for value in values]
    state.session_starts = [list(starts) for starts in data[4]]
    for tiles, (starts, partials) in zip(state.tiles, data[5], strict=True):
        tiles.starts = list(starts)
        tiles.partials = [[_load(p) for p in ps] for ps in partials]
    return state


def _dump(partial: Partial) -> list[Any]:
    return [
        partial.count,
        _dump_numbers(partial.sums),
        _dump_numbers(partial.squares),
        partial.low,
        partial.high,
        partial.first,
        partial.last,
    ]


def _load(data: Sequence[Any]) -> Partial:
    count, sums, squares, *ends = data
    return Partial(count, _load_numbers(sums), _load_numbers(squares), *ends)


def _dump_numbers(numbers: Sequence[Any]) -> list[Any]:
    """Exact integers and fractions outgrow int64: they travel as text."""
    return [n if isinstance(n, float) else str(n) for n in numbers]


def _load_numbers(data: Sequence[Any]) -> list[Any]:
    return [n if isinstance(n, float) else _number(n) for n in data]


def _number(text: str) -> int | Fraction:
    return Fraction(text) if "/" in text else int(text)
