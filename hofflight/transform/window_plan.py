"""Windows compiled once per group: which series to keep, which frames to cut, what to finish.

A *series* is a column under one `where`: what windows share. A *cell* is a series in a frame,
cut once however many aggregates look at it.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from hofflight import limits
from hofflight.features.window import HOLISTIC, Frame, Window
from hofflight.transform.aggregate import NEEDS, Needs, finisher, float_total
from hofflight.wire.schema import INTEGERS

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from hofflight.features.expression import Expression
    from hofflight.features.group import FeatureGroup
    from hofflight.transform.aggregate import Sample

BASIC: Final = frozenset(("count", "sum", "mean", "min", "max"))


@dataclass(frozen=True, slots=True)
class Series:
    """Values that windows share: `column` (None: the row itself) where `where` is true."""

    column: str | None
    where: Expression | None
    needs: Needs


@dataclass(frozen=True, slots=True)
class Cell:
    """A series in a frame, and the window columns that are finished from it.

    `finish` pairs a window's index with the function from a sample to its value. `quick` gives the
    same values from a plain, non-empty list of floats, for cells of basic aggregates only.
    `whole`: some aggregate needs every value, so no block may stand for some.
    """

    series: int
    windows: tuple[int, ...]
    finish: tuple[tuple[int, Callable[[Sample], Any]], ...]
    quick: Callable[[list[float]], tuple[Any, ...]] | None
    whole: bool


@dataclass(frozen=True, slots=True)
class FrameCells:
    """One frame with its cells; `settles`: old rows live on as tile partials, not as rows.

    `counts` are windows that count rows, `cells` all others. `session` is an index into the
    plan's sessions, `tiling` into its tilings; -1 where the frame is of another kind.
    """

    frame: Frame
    counts: tuple[int, ...]
    cells: tuple[Cell, ...]
    settles: bool
    session: int
    tiling: int


@dataclass(frozen=True, slots=True)
class Tiling:
    """Tiles of one size, kept for `span_us` (0: for ever, one tile: a lifetime)."""

    tile_us: int
    span_us: int


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """Everything that window state needs to know about a group."""

    names: tuple[str, ...]
    late_us: int
    series: tuple[Series, ...]
    frames: tuple[FrameCells, ...]
    sessions: tuple[int, ...]
    tilings: tuple[Tiling, ...]
    empty: tuple[Any, ...]


def compile_windows(group: FeatureGroup) -> WindowPlan:
    """The plan of a group's windows, in declaration order."""
    windows = tuple(group.windows.items())
    series = _series(windows)
    frames: dict[tuple[Frame, bool], list[int]] = {}
    for index, (_, window) in enumerate(windows):
        settles = _settles(window)
        frames.setdefault((window.frame, settles), []).append(index)
    sessions = tuple(dict.fromkeys(f.size_us for f, _ in frames if f.kind == "session"))
    tilings = _tilings(frames)
    return WindowPlan(
        tuple(name for name, _ in windows),
        group.late_us,
        tuple(series.values()),
        tuple(
            FrameCells(
                frame,
                tuple(i for i in members if _counts_rows(windows[i][1])),
                _cells(windows, members, list(series), group.transformed),
                settles,
                sessions.index(frame.size_us) if frame.kind == "session" else -1,
                [t.tile_us for t in tilings].index(frame.tile_us) if settles else -1,
            )
            for (frame, settles), members in frames.items()
        ),
        sessions,
        tilings,
        tuple(0 if w.function in ("count", "count_distinct") else None for _, w in windows),
    )


def _settles(window: Window) -> bool:
    tiled = window.frame.kind == "lifetime" or window.frame.tile_us > 0
    return tiled and window.function not in HOLISTIC


def _counts_rows(window: Window) -> bool:
    """Whether the window counts rows of the frame, without looking at any value."""
    return window.column is None and window.where is None and not _settles(window)


def _series_key(window: Window) -> tuple[str | None, str]:
    return window.column, str(window.where)


def _series(windows: tuple[tuple[str, Window], ...]) -> dict[tuple[str | None, str], Series]:
    found: dict[tuple[str | None, str], Series] = {}
    for _, window in windows:
        if _counts_rows(window):
            continue
        key, needs = _series_key(window), NEEDS[window.function]
        if key in found:
            old = found[key].needs
            needs = Needs(
                old.sums or needs.sums, old.squares or needs.squares,
                old.extremes or needs.extremes, old.ends or needs.ends,
            )  # fmt: skip
        found[key] = Series(window.column, window.where, needs)
    return found


def _tilings(frames: dict[tuple[Frame, bool], list[int]]) -> tuple[Tiling, ...]:
    spans: dict[int, int] = {}
    for frame, settles in frames:
        if settles:
            spans[frame.tile_us] = max(spans.get(frame.tile_us, 0), frame.size_us)
    return tuple(Tiling(tile, span) for tile, span in spans.items())


def _cells(
    windows: tuple[tuple[str, Window], ...],
    members: list[int],
    series: list[tuple[str | None, str]],
    types: dict[str, pa.DataType],
) -> tuple[Cell, ...]:
    by_series: dict[int, list[int]] = {}
    for index in members:
        if not _counts_rows(windows[index][1]):
            by_series.setdefault(series.index(_series_key(windows[index][1])), []).append(index)
    cells = []
    for number, indices in by_series.items():
        column = series[number][0]
        integers = column is None or types[column] in INTEGERS
        chosen = [(i, windows[i][1]) for i in indices]
        finish = tuple((i, finisher(w.function, w.parameter, integers=integers)) for i, w in chosen)
        functions = tuple(w.function for _, w in chosen)
        is_float = column is not None and str(types[column]) in ("double", "float")
        quick = _quick(functions) if is_float and BASIC.issuperset(functions) else None
        whole = not HOLISTIC.isdisjoint(functions)
        cells.append(Cell(number, tuple(indices), finish, quick, whole))
    return tuple(cells)


def _quick(functions: tuple[str, ...]) -> Callable[[list[float]], tuple[Any, ...]]:
    """Basic aggregates of a plain list at once: what `finisher` gives, without a `Sample`."""
    order = [("count", "sum", "mean", "min", "max").index(f) for f in functions]
    add, low, high = bool({"sum", "mean"} & set(functions)), "min" in functions, "max" in functions
    if order == [0, 1, 2, 3, 4]:
        return _all_basic

    def quick(values: list[float]) -> tuple[Any, ...]:
        n = len(values)
        total = mean = None
        if add:
            try:
                total = math.fsum(values)
            except (OverflowError, ValueError):
                total = float_total(values)
            mean = None if total is None else total / n
        found = (n, total, mean, min(values) if low else None, max(values) if high else None)
        return tuple([found[i] for i in order])

    return quick


def _all_basic(values: list[float]) -> tuple[Any, ...]:
    """count, sum, mean, min and max, in this order: the usual five, without a branch."""
    n = len(values)
    try:
        total: float | None = math.fsum(values)
    except (OverflowError, ValueError):
        total = float_total(values)
    mean = None if total is None else total / n
    return n, total, mean, min(values), max(values)


Lower = "Callable[[list[int], int, int], int]"


def lower_bound(frame: Frame) -> Callable[[list[int], int, int], int]:
    """Position of a frame's first row, from (ts of the rows, r.ts, r's position).

    Sessions need more than timestamps and are found by the state itself.
    """
    size, tile = frame.size_us, frame.tile_us
    if frame.kind == "sliding" and tile:
        return lambda ts, own, _: bisect_left(ts, (own - size) // tile * tile)
    if frame.kind == "sliding":
        return lambda ts, own, position: bisect_right(ts, own - size, 0, position)
    if frame.kind == "tumbling":
        return lambda ts, own, _: bisect_left(ts, own // size * size)
    if frame.kind == "last":
        rows = frame.rows
        return lambda _, __, position: max(0, position - rows + 1)
    return lambda _, __, ___: 0


def retained_from(plan: WindowPlan, ts: list[int], cut_us: int, settled: int) -> int:
    """Position of the first row that some row at or after `cut_us` may still see.

    Sessions are left to the state. Unsettled rows always stay: a row may yet come between them.
    """
    first = bisect_left(ts, cut_us)
    keep = min(first, settled)
    for cells in plan.frames:
        frame = cells.frame
        if cells.settles:
            continue
        if frame.kind == "last":
            keep = min(keep, max(0, first - frame.rows + 1))
        elif frame.kind != "session":
            keep = min(keep, lower_bound(frame)(ts, cut_us, first))
    return keep


def ties_reached(ts: list[int], position: int) -> bool:
    """Whether the row at `position` is one too many in its microsecond."""
    before = position - limits.ties_max
    return before >= 0 and ts[before] == ts[position]
