"""Raw rows of the log through a version's own transformation, as serving would have done it.

The functions and expressions are those that serve. A version takes what was sent to its siblings
too; a request that it would have refused itself (a null in its key, a function that fails on it)
is left out as a whole, as the engine leaves it out of its windows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hofflight import limits
from hofflight.errors import TransformFailed
from hofflight.features.expression import Expression, columns_of
from hofflight.features.group import Context
from hofflight.replay.logged import number_of
from hofflight.replay.prepared import SEQ, Preparation
from hofflight.transform.evaluate import evaluate
from hofflight.transform.udf_step import run_derived, run_function, takes_context, with_context
from hofflight.wire.schema import FLOATS

if TYPE_CHECKING:
    from hofflight.features.group import FeatureGroup, Function

Columns = dict[str, pa.Array]
Run = Callable[["Function", pa.RecordBatch, Context], Columns]


class Transformation:
    """A group's way from raw rows to the columns that windows read, and on from the windows.

    `wanted`: the columns of the full row that somebody will look at; all without. What they are
    computed from is kept too: `columns` (raw and output) and the windows of `preparation`.
    `about`: what it must know of each row beside the raw columns.
    """

    def __init__(self, group: FeatureGroup, wanted: Collection[str] | None = None) -> None:
        group.require_complete()
        self.group = group
        self.rows_left_out = 0
        chosen = group.schema.names if wanted is None else wanted
        self.derives = tuple(name for name in group.derive if name in chosen)
        needed = set(chosen)
        for name in self.derives:
            derived = group.derive[name]
            needed.update(
                columns_of(derived) if isinstance(derived, Expression) else group.schema.names
            )
        asks = group.is_opaque or group.early_us is not None
        self.about = (SEQ, "_arrival") if asks else (SEQ,)
        self.columns = tuple(name for name in group.transformed if name in needed)
        self.windows = tuple(name for name in group.windows if name in needed)
        self.preparation = Preparation(group, self.windows)
        prepared = self.preparation.question.schema
        self._added = pa.schema([
            *group.output_types.items(), *(field for field in prepared if field.name != SEQ)
        ])  # fmt: skip

    def apply(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Whole requests with all that windows read; refused ones are left out and counted.

        Columns in: `about`, any others, the raw ones. Out: the same, then the group's
        output columns, then the prepared ones.
        """
        kept = self._acceptable(rows)
        self.rows_left_out += rows.num_rows - kept.num_rows
        return self._computed(kept)

    def derive(self, rows: pa.RecordBatch) -> Columns:
        """The wanted derived columns of rows that have `columns` and `windows`.

        Functions need `about` too. Raises: TransformFailed (HOF-209).
        """
        group = self.group
        before = rows.select([*self.columns, *self.windows])
        source = dict(zip(before.schema.names, before.columns, strict=True))
        found: Columns = {}
        for name in self.derives:
            derived = group.derive[name]
            if isinstance(derived, Expression):
                found[name] = _evaluated(derived, source, rows.num_rows, name)
            else:
                types = {name: group.derive_types[name]}
                run = partial(self._derived, name)
                found |= self._call(derived[1], rows, before, run, types)
        return found

    def _acceptable(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Without the requests that hold a row whose key or time the group refuses."""
        group = self.group
        times = rows.column(group.event_time).cast(pa.int64())
        good = pc.and_(
            pc.greater_equal(times, limits.event_time_us_min),
            pc.less_equal(times, limits.event_time_us_max),
        )
        if group.early_us is not None:
            ahead = pc.subtract(times, rows.column("_arrival").cast(pa.int64()))
            good = pc.and_(good, pc.less_equal(ahead, group.early_us))
        for name in group.key:
            good = pc.and_(good, pc.is_valid(rows.column(name)))
            if rows.column(name).type in FLOATS:
                good = pc.and_(good, pc.invert(pc.is_nan(rows.column(name))))
        bad = ~pc.fill_null(good, False).to_numpy(zero_copy_only=False)
        if not bad.any():
            return rows
        numbers = number_of(rows.column(SEQ).to_numpy())
        return rows.filter(pa.array(~np.isin(numbers, numbers[bad])))

    def _computed(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """All rows at once; where that fails, in halves, down to the request that fails alone."""
        try:
            added = self._added_columns(rows)
        except TransformFailed:
            numbers = number_of(rows.column(SEQ).to_numpy())
            upper = numbers > np.median(numbers)
            if not upper.any():  # the upper half is all of one number, as is a request alone
                upper = numbers == numbers.max()
            if upper.all():
                self.rows_left_out += rows.num_rows
                return self._computed(rows.slice(0, 0))
            halves = [self._computed(rows.filter(pa.array(mask))) for mask in (~upper, upper)]
            return pa.concat_batches(halves)
        schema = pa.schema([*rows.schema, *self._added])
        arrays = [*rows.columns, *(added[name] for name in self._added.names)]
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    def _added_columns(self, rows: pa.RecordBatch) -> Columns:
        """Output and prepared columns, by name.

        Raises: TransformFailed (HOF-209).
        """
        group = self.group
        raw = rows.select(group.input.names)
        columns: Columns = dict(zip(raw.schema.names, raw.columns, strict=True))
        if group.function is not None:
            types = {name: group.output_types[name] for name in group.opaque_output}
            columns |= self._call(group.function, rows, raw, partial(run_function, group), types)
        for name, output in group.output.items():
            if isinstance(output, Expression):
                columns[name] = _evaluated(output, dict(columns), rows.num_rows, name)
        try:
            prepared = self.preparation.rows(columns, rows.column(SEQ))
        except pa.ArrowInvalid as error:
            raise TransformFailed(f"where= of {group.name}@{group.version}: {error}") from error
        return columns | dict(zip(prepared.schema.names, prepared.columns, strict=True))

    def _derived(
        self, name: str, function: Function, part: pa.RecordBatch, context: Context
    ) -> Columns:
        return {name: run_derived(self.group, name, function, part, context)}

    def _call(
        self,
        function: Function,
        rows: pa.RecordBatch,
        given: pa.RecordBatch,
        run: Run,
        types: Mapping[str, pa.DataType],
    ) -> Columns:
        """A user's function over `given`, in the order of arrival; row-aligned with `rows`.

        One that asks for the context is called once an arrival: that is what the context says.
        """
        if not rows.num_rows:
            return {name: pa.array([], column_type) for name, column_type in types.items()}
        arrivals = rows.column("_arrival").cast(pa.int64()).to_numpy()
        order = np.argsort(rows.column(SEQ).to_numpy(), kind="stable")
        arrivals, ordered = arrivals[order], given.take(pa.array(order))
        asks = takes_context(function)
        cuts = (np.flatnonzero(np.diff(arrivals)) + 1).tolist() if asks else []
        bounds = [0, *cuts, len(arrivals)]
        parts = []
        for start, end in pairwise(bounds):
            context = Context(int(arrivals[start]), self.group.name, self.group.version)
            parts.append(run(with_context(function), ordered.slice(start, end - start), context))
        back = pa.array(np.argsort(order, kind="stable"))
        return {name: pa.concat_arrays([p[name] for p in parts]).take(back) for name in parts[0]}


def _evaluated(expression: Expression, columns: Columns, rows: int, name: str) -> pa.Array:
    try:
        return evaluate(expression, columns, rows)
    except pa.ArrowInvalid as error:
        raise TransformFailed(f"expression {name!r}: {error}") from error
