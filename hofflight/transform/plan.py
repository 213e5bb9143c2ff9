"""A feature group compiled once: one row through `math`, many through Arrow, same state, same bits.

`run_row` and `run_batch` are the whole computation: transform, windows, derive. They are pure but
for the window state they are given; whoever calls them commits or undoes it.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from hofflight.errors import TransformFailed
from hofflight.features.expression import Expression
from hofflight.features.group import Context
from hofflight.transform.aggregate import OVERFLOW
from hofflight.transform.evaluate import evaluate
from hofflight.transform.row_program import compile_before, compile_derive
from hofflight.transform.udf_step import run_derived, run_function, with_context
from hofflight.transform.window_plan import compile_windows
from hofflight.transform.window_state import WindowState
from hofflight.transform.window_step import (
    KeyReader,
    Windowed,
    column_series,
    mark_overflows,
    push_rows,
    sums_integers,
)
from hofflight.wire.columns import batch_of_rows, first_value, from_python, to_python

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from hofflight.features.group import FeatureGroup

Row = list[Any]


class RowAnswer(NamedTuple):
    """One row through the group: the full row, in schema order, and what to say about it."""

    row: Row
    late: bool
    overflow: tuple[str, ...]


class BatchAnswer(NamedTuple):
    """Many rows through the group; `overflow` maps window names to a flag per row."""

    batch: pa.RecordBatch
    late: list[bool]
    overflow: dict[str, list[bool]]


class GroupPlan:
    """The compiled group. One instance serves any number of window states.

    `calling` is entered around each call of the group's own functions: whoever must know that
    user code runs passes one.
    """

    def __init__(
        self, group: FeatureGroup, calling: AbstractContextManager[object] | None = None
    ) -> None:
        group.require_complete()
        self.group = group
        self._calling = calling or nullcontext()
        self.schema = group.schema
        self.windows = compile_windows(group)
        self.keys = KeyReader(group)
        self._opaque = group.opaque_output
        self._function = with_context(group.function) if group.function is not None else None
        self._before = compile_before(group, self.windows.series, self.keys)
        self._after = compile_derive(group) if group.derive else None
        self._derive_at = len(group.transformed) + len(group.windows)
        self._late = [None] * len(group.windows)
        self._sums_integers = sums_integers(group)
        slots = {name: slot for slot, name in enumerate(self.schema.names)}
        self._derive_functions = {
            name: (slots[name], with_context(d[1]))
            for name, d in group.derive.items()
            if isinstance(d, tuple)
        }

    def new_state(self) -> WindowState:
        """An empty window state for this group."""
        return WindowState(self.windows)

    def context(self, arrival_us: int) -> Context:
        """What the group's functions may know of a request."""
        return Context(arrival_us, self.group.name, self.group.version)

    def opaque_columns(self, batch: pa.RecordBatch, arrival_us: int) -> dict[str, pa.Array]:
        """What the group's function gives for these raw rows; empty when it has none.

        Raises: TransformFailed (HOF-209).
        """
        if self._function is None:
            return {}
        with self._calling:
            return run_function(self.group, self._function, batch, self.context(arrival_us))

    def run_row(
        self,
        state: WindowState,
        raw: Row,
        arrival_us: int,
        opaque: Mapping[str, pa.Array] | None = None,
    ) -> RowAnswer:
        """One row of raw values through transform, windows and derive; it stays pushed.

        `opaque`: the function's columns for this row, where the group has a function.

        Raises: BadRequest (HOF-205, 206, 209, 210).
        """
        row, is_late, overflow = self._push_row(state, raw, arrival_us, opaque)
        if self._after is not None:
            try:
                row += self._after(row)
            except OverflowError as error:
                raise self._failed("derive", error) from error
            if self._derive_functions:
                self._derive_row(row, arrival_us)
        return RowAnswer(row, is_late, overflow)

    def key_of(self, raw: Row) -> Any:
        """The key of a row of raw values that was accepted before."""
        key = [raw[self.group.input.names.index(name)] for name in self.group.key]
        return key[0] if len(key) == 1 else tuple(key)

    def fold_row(self, state: WindowState, raw: Row, arrival_us: int) -> None:
        """Take one row into the state without an answer, for groups without a function.

        Raises: BadRequest (HOF-205, 206, 209, 210).
        """
        self._push_row(state, raw, arrival_us, None)

    def _push_row(
        self, state: WindowState, raw: Row, arrival_us: int, opaque: Mapping[str, pa.Array] | None
    ) -> RowAnswer:
        """Transform a row and push it; derived columns are not there yet."""
        values = [first_value(opaque[name]) for name in self._opaque] if opaque else ()
        try:
            row, key, ts, series = self._before(raw, values, self.keys.newest_us(arrival_us))
        except OverflowError as error:
            raise self._failed("output or where", error) from error
        answer = state.push(key, ts, series)
        if answer is None:
            row += self._late
            return RowAnswer(row, True, ())
        overflow: tuple[str, ...] = ()
        if self._sums_integers and OVERFLOW in answer:
            pairs = zip(self.windows.names, answer, strict=True)
            overflow = tuple(name for name, value in pairs if value is OVERFLOW)
            answer = [None if value is OVERFLOW else value for value in answer]
        row += answer
        return RowAnswer(row, False, overflow)

    def _derive_row(self, row: Row, arrival_us: int) -> None:
        known = pa.schema(list(self.schema)[: self._derive_at])
        batch = batch_of_rows([row[: self._derive_at]], known)
        for name, (slot, _) in self._derive_functions.items():
            row[slot] = first_value(self._call_derived(name, batch, arrival_us))

    def run_batch(
        self,
        state: WindowState,
        batch: pa.RecordBatch,
        arrival_us: int,
        *,
        opaque: Mapping[str, pa.Array] | None = None,
        peek: bool = False,
    ) -> BatchAnswer:
        """Many rows at once, in order; they stay pushed unless `peek`.

        Rows: one out per row in, same order. Columns: the group's full row.
        Raises: BadRequest (HOF-205, 206, 209, 210).
        """
        rows = batch.num_rows
        columns, windowed = self._push_batch(state, batch, arrival_us, opaque, peek=peek)
        answers = zip(*windowed.rows, strict=True)
        for (name, column_type), values in zip(
            self.group.window_types.items(), answers, strict=True
        ):
            columns[name] = from_python(values, column_type)
        self._derive_columns(columns, rows, arrival_us)
        full = [columns[name] for name in self.schema.names]
        answer = pa.RecordBatch.from_arrays(full, schema=self.schema)
        return BatchAnswer(answer, windowed.late, windowed.overflow)

    def fold_batch(self, state: WindowState, batch: pa.RecordBatch, arrival_us: int) -> None:
        """Take rows into the state without an answer: what a replayed log entry needs.

        Raises: BadRequest (HOF-205, 206, 209, 210).
        """
        self._push_batch(state, batch, arrival_us, None, peek=False)

    def _push_batch(
        self,
        state: WindowState,
        batch: pa.RecordBatch,
        arrival_us: int,
        opaque: Mapping[str, pa.Array] | None,
        *,
        peek: bool,
    ) -> tuple[dict[str, pa.Array], Windowed]:
        """Transform rows and push them; the columns known so far and the windows."""
        rows = batch.num_rows
        columns: dict[str, pa.Array] = dict(zip(batch.schema.names, batch.columns, strict=True))
        needed = {*self.group.key, self.group.event_time}
        lists = {name: to_python(columns[name]) for name in needed}
        keys, times = self.keys.of_columns(lists, self.keys.newest_us(arrival_us))
        columns |= opaque if opaque is not None else self.opaque_columns(batch, arrival_us)
        try:
            for name, output in self.group.output.items():
                if isinstance(output, Expression):
                    columns[name] = evaluate(output, dict(columns), rows)
            series = column_series(self.windows.series, columns, rows)
        except pa.ArrowInvalid as error:
            raise self._failed("output or where", error) from error
        windowed = push_rows(state, keys, times, series, peek=peek)
        if self._sums_integers:
            return columns, mark_overflows(windowed, self.windows.names)
        return columns, windowed

    def _derive_columns(self, columns: dict[str, pa.Array], rows: int, arrival_us: int) -> None:
        known = list(self.schema)[: self._derive_at]
        before = pa.RecordBatch.from_arrays(
            [columns[f.name] for f in known], schema=pa.schema(known)
        )
        source = dict(zip(before.schema.names, before.columns, strict=True))
        for name, derived in self.group.derive.items():
            try:
                columns[name] = (
                    evaluate(derived, source, rows)
                    if isinstance(derived, Expression)
                    else self._call_derived(name, before, arrival_us)
                )
            except pa.ArrowInvalid as error:
                raise self._failed(f"derive {name!r}", error) from error

    def _call_derived(self, name: str, batch: pa.RecordBatch, arrival_us: int) -> pa.Array:
        _, function = self._derive_functions[name]
        with self._calling:
            return run_derived(self.group, name, function, batch, self.context(arrival_us))

    def _failed(self, where: str, error: Exception) -> TransformFailed:
        msg = f"{where} of {self.group.name}@{self.group.version}: {error}"
        return TransformFailed(msg, hint="integer arithmetic left int64: use .to_float()")
