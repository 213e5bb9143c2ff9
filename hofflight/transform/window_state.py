"""Window state: every key's rows in (ts, seq) order, and windows cut from them.

The one interface that a native kernel may replace bit for bit: `push` answers a row and takes it
in, `commit` makes what was pushed final, `undo` takes it back, `dump` and `load` move a key.

Rows are kept in lists (ts, one per series) and summed afresh for each answer, from blocks of 32,
1,024 and 32,768 rows with exact partials: nothing is ever subtracted, so a value that left leaves
no trace (see `series_rows`).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Any

from hofflight import limits
from hofflight.errors import TieLimit
from hofflight.transform.aggregate import Partial, Sample, merge, square_parts, summarise
from hofflight.transform.series_rows import BLOCK, PLAIN_ROWS, SeriesRows
from hofflight.transform.window_plan import (
    Cell,
    FrameCells,
    WindowPlan,
    lower_bound,
    retained_from,
    ties_reached,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


Key = Any


class Tiles:
    """Settled rows of one key as partials per tile and series, in time order."""

    __slots__ = ("partials", "starts")

    def __init__(self, series: int) -> None:
        self.starts: list[int] = []
        self.partials: list[list[Partial]] = [[] for _ in range(series)]

    def add(self, start: int, parts: Sequence[Partial]) -> None:
        """Merge the partials of some settled rows into the tile at `start`."""
        if not self.starts or self.starts[-1] < start:
            self.starts.append(start)
            for tiles, part in zip(self.partials, parts, strict=True):
                tiles.append(part)
        else:
            for tiles, part in zip(self.partials, parts, strict=True):
                tiles[-1] = merge((tiles[-1], part))

    def drop_before(self, start: int) -> None:
        """Forget tiles that no window reaches any more."""
        count = bisect_left(self.starts, start)
        del self.starts[:count]
        for tiles in self.partials:
            del tiles[:count]


class KeyState:
    """All that is known of one key. Rows before `settled` are in the tiles too."""

    __slots__ = ("evict_at", "max_ts", "series", "session_starts", "settled", "tiles", "ts")

    def __init__(self, plan: WindowPlan) -> None:
        self.max_ts: int | None = None
        self.ts: list[int] = []
        self.series = [SeriesRows(s.needs) for s in plan.series]
        self.session_starts: list[list[int]] = [[] for _ in plan.sessions]
        self.tiles = [Tiles(len(plan.series)) for _ in plan.tilings]
        self.settled = 0
        self.evict_at = 2 * BLOCK


class WindowState:
    """The state of every key of a group. Not thread-safe; pure: no clock, no I/O."""

    def __init__(self, plan: WindowPlan) -> None:
        self.plan = plan
        self.keys: dict[Key, KeyState] = {}
        self._journal: list[tuple[Key, KeyState, int, int | None]] = []
        self._squared = [i for i, series in enumerate(plan.series) if series.needs.squares]
        self._plain = [plain for cells in plan.frames if (plain := _plain(cells)) is not None]
        self._frames = [
            (cells, lower_bound(cells.frame)) for cells in plan.frames if _plain(cells) is None
        ]

    def push(self, key: Key, ts: int, values: Sequence[Any]) -> list[Any] | None:
        """Take in a row and give its windows (declaration order); None when it is late.

        `values`: one per series of the plan; None where null, NaN or not in `where`. A window may
        be `OVERFLOW`. The row counts from now on, unless `undo` follows.

        Raises:
            TieLimit: HOF-210; the row was not taken in.
        """
        state = self.keys.get(key)
        if state is None:
            state = self.keys[key] = KeyState(self.plan)
        newest = state.max_ts
        if newest is not None and ts < newest - self.plan.late_us:
            return None
        position = self._insert(state, ts, values)
        self._journal.append((key, state, position, newest))
        if newest is None or ts > newest:
            state.max_ts = ts
        if ties_reached(state.ts, position):
            self.undo(len(self._journal) - 1)
            msg = f"more than {limits.ties_max} rows of one key in the microsecond {ts}"
            raise TieLimit(msg, hint="send event times of a finer clock, or aggregate first")
        answer = list(self.plan.empty)
        rows, high = state.ts, position + 1
        for size_us, cell, quick in self._plain:
            low = bisect_right(rows, ts - size_us, 0, position)
            series = state.series[cell.series]
            if high - low >= PLAIN_ROWS:
                _finish(cell, series.sample(low, high), answer)
                continue
            found = series.present(low, high) if series.has_null else series.values[low:high]
            if found:
                for window, value in zip(cell.windows, quick(found)):  # noqa: B905 hot, equal by plan
                    answer[window] = value
        for cells, lower in self._frames:
            self._answer(state, cells, lower, ts, position, answer)
        return answer

    def commit(self) -> None:
        """Make everything pushed since the last commit final; settle and evict old rows."""
        for _, state, _, _ in self._journal:
            if self.plan.tilings:
                self._settle(state)
            if len(state.ts) >= state.evict_at:
                self._evict(state)
        self._journal.clear()

    def undo(self, to: int = 0) -> None:
        """Take back what was pushed after `mark` gave `to`, newest first."""
        while len(self._journal) > to:
            key, state, position, newest = self._journal.pop()
            del state.ts[position]
            for series in state.series:
                series.remove(position)
            for gap, starts in zip(self.plan.sessions, state.session_starts, strict=True):
                del starts[position]
                _mend_sessions(state.ts, starts, gap, position)
            state.max_ts = newest
            if newest is None:
                del self.keys[key]

    def load_rows(self, key: Key, ts: list[int], values: Sequence[list[Any]]) -> None:
        """Take in a key's whole history at once, as if each row had been pushed and committed.

        `ts`, and a list of values per series of the plan as `push` takes them: the rows that are
        not late, at least one, by (ts, arrival). The lists are kept.
        """
        state = self.keys[key] = KeyState(self.plan)
        state.ts, state.max_ts = ts, ts[-1]
        for series, mine in zip(state.series, values, strict=True):
            series.values = mine
            series.has_null = None in mine
            if series.needs.squares:
                series.squares = [square_parts(value) for value in mine]
        for gap, starts in zip(self.plan.sessions, state.session_starts, strict=True):
            starts.extend(_session_starts(ts, gap))
        if self.plan.tilings:
            self._settle(state)
        if len(ts) >= state.evict_at:
            self._evict(state)

    def mark(self) -> int:
        """How much `undo` would have to leave."""
        return len(self._journal)

    def _insert(self, state: KeyState, ts: int, values: Sequence[Any]) -> int:
        rows = state.ts
        if not rows or ts >= rows[-1]:
            position = len(rows)
            rows.append(ts)
            for series, value in zip(state.series, values, strict=True):
                series.values.append(value)
        else:
            position = bisect_right(rows, ts)
            rows.insert(position, ts)
            for series, value in zip(state.series, values, strict=True):
                series.insert(position, value)
        if None in values:
            for series, value in zip(state.series, values, strict=True):
                series.has_null = series.has_null or value is None
        for index in self._squared:
            state.series[index].squares.insert(position, square_parts(values[index]))
        if self.plan.sessions:
            for gap, starts in zip(self.plan.sessions, state.session_starts, strict=True):
                starts.insert(position, ts)
                _mend_sessions(rows, starts, gap, position)
        return position

    def _answer(
        self, state: KeyState, cells: FrameCells, lower: Callable[[list[int], int, int], int],
        ts: int, position: int, answer: list[Any],
    ) -> None:  # fmt: skip
        high = position + 1 if cells.frame.own_row else position
        if cells.settles:
            self._answer_settled(state, cells, ts, high, answer)
            return
        if cells.session >= 0:
            low = bisect_left(state.ts, state.session_starts[cells.session][position])
        else:
            low = lower(state.ts, ts, position)
        for window in cells.counts:
            answer[window] = high - low
        for cell in cells.cells:
            series = state.series[cell.series]
            if cell.whole:
                _finish(cell, series.whole_sample(low, high), answer)
            else:
                _finish(cell, series.sample(low, high), answer)

    def _answer_settled(
        self, state: KeyState, cells: FrameCells, ts: int, high: int, answer: list[Any]
    ) -> None:
        """Whole tiles of settled rows, then the rows that are not settled yet."""
        frame, tiles = cells.frame, state.tiles[cells.tiling]
        first_tile, low = 0, state.settled
        if frame.kind == "sliding":
            start = (ts - frame.size_us) // frame.tile_us * frame.tile_us
            first_tile = bisect_left(tiles.starts, start)
            low = bisect_left(state.ts, start, state.settled)
        for cell in cells.cells:
            before = tiles.partials[cell.series][first_tile:]
            series = state.series[cell.series]
            _finish(cell, series.sample(low, max(low, high), before), answer)

    def _settle(self, state: KeyState) -> None:
        """Move rows that nothing can precede any more, ts < max_ts - late, into the tiles."""
        assert state.max_ts is not None
        end = bisect_left(state.ts, state.max_ts - self.plan.late_us, state.settled)
        if end == state.settled:
            return
        for tiling, tiles in zip(self.plan.tilings, state.tiles, strict=True):
            for start, low, high in _tile_runs(state.ts, state.settled, end, tiling.tile_us):
                parts = [summarise(s.values[low:high], s.needs) for s in state.series]
                tiles.add(start, parts)
            if tiling.span_us:
                oldest = state.max_ts - self.plan.late_us - tiling.span_us
                tiles.drop_before(oldest // tiling.tile_us * tiling.tile_us)
        state.settled = end

    def _evict(self, state: KeyState) -> None:
        """Drop rows that no window can reach any more, whole blocks at a time."""
        assert state.max_ts is not None
        cut = state.max_ts - self.plan.late_us
        settled = state.settled if self.plan.tilings else len(state.ts)
        keep = retained_from(self.plan, state.ts, cut, settled)
        first = bisect_left(state.ts, cut)
        for gap, starts in zip(self.plan.sessions, state.session_starts, strict=True):
            if first and cut - state.ts[first - 1] < gap:
                keep = min(keep, bisect_left(state.ts, starts[first - 1]))
        used = [n for s in state.series for n, blocks in enumerate(s.blocks) if blocks]
        keep -= keep % (BLOCK ** (max(used) + 1) if used else 1)
        del state.ts[:keep]
        for series in state.series:
            series.evict(keep)
        for starts in state.session_starts:
            del starts[:keep]
        state.settled = max(0, state.settled - keep)
        # A quarter more rows before the next look keeps the cost of moving a list at O(1) a row.
        state.evict_at = len(state.ts) + max(2 * BLOCK, len(state.ts) // 4)


def _plain(
    cells: FrameCells,
) -> tuple[int, Cell, Callable[[list[float]], tuple[Any, ...]]] | None:
    """Size, cell and function of the usual window: basic aggregates of floats over some time.

    `push` answers it without a call per frame.
    """
    frame = cells.frame
    if frame.kind != "sliding" or frame.tile_us or not frame.own_row or cells.counts:
        return None
    cell = cells.cells[0]
    if len(cells.cells) > 1 or cell.quick is None:
        return None
    return frame.size_us, cell, cell.quick


def _finish(cell: Cell, sample: Sample, answer: list[Any]) -> None:
    for window, finish in cell.finish:
        answer[window] = finish(sample)


def _tile_runs(ts: list[int], low: int, high: int, tile_us: int) -> Iterator[tuple[int, int, int]]:
    """(tile start, first row, end) of each run of rows in one tile; tile 0 is all of time."""
    while low < high:
        start = ts[low] // tile_us * tile_us if tile_us else limits.event_time_us_min
        end = bisect_left(ts, start + tile_us, low, high) if tile_us else high
        yield start, low, end
        low = end


def _session_starts(ts: list[int], gap: int) -> Iterator[int]:
    """Per row, where its session begins."""
    start = before = ts[0]
    for now in ts:
        if now - before >= gap:
            start = now
        before = now
        yield start


def _mend_sessions(ts: list[int], starts: list[int], gap: int, position: int) -> None:
    """Set each row's session start from `position` on, until nothing changes any more."""
    for row in range(position, len(ts)):
        joined = row > 0 and ts[row] - ts[row - 1] < gap
        start = starts[row - 1] if joined else ts[row]
        if row > position and starts[row] == start:
            return
        starts[row] = start
