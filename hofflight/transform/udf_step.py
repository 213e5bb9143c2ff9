"""Run a group's own functions over whole batches, in the form their mode asks for.

One form for one row and a million: Arrow as it is; pandas with Arrow-backed dtypes, so that nulls
stay nulls and integers stay integers; polars. Whatever comes back must have the declared columns,
types and number of rows; anything else is the function's error, not ours.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from hofflight.errors import TransformFailed
from hofflight.wire.schema import COLUMN_TYPES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hofflight.features.group import Context, FeatureGroup, Function, Mode

Columns = dict[str, pa.Array]


def run_function(
    group: FeatureGroup, function: Function, batch: pa.RecordBatch, context: Context
) -> Columns:
    """Call the transformation, as `with_context` gives it, over raw columns.

    Columns: the group's opaque output columns, of the declared types.
    Rows: one per row in, same order.
    Raises: TransformFailed (HOF-209).
    """
    what = f"the function of {group.name}@{group.version}"
    returned = _call(function, what, _give(batch, group.mode), context)
    types = {name: group.output_types[name] for name in group.opaque_output}
    found = _named_columns(returned, what)
    if set(found) != set(types):
        names = sorted(map(str, found))
        msg = f"{what} returned the columns {names}, declared are {sorted(types)}"
        raise TransformFailed(msg)
    return {n: _take(found[n], t, batch.num_rows, f"{what}: {n!r}") for n, t in types.items()}


def run_derived(
    group: FeatureGroup, name: str, function: Function, batch: pa.RecordBatch, context: Context
) -> pa.Array:
    """Call a derived column's function, as `with_context` gives it, over all columns before it.

    Raises: TransformFailed (HOF-209).
    """
    what = f"the function of derived column {name!r} of {group.name}@{group.version}"
    returned = _call(function, what, _give(batch, group.mode), context)
    return _take(returned, group.derive_types[name], batch.num_rows, what)


def _call(function: Function, what: str, rows: object, context: Context) -> Any:
    try:
        return function(rows, context)
    except (Exception, SystemExit) as error:  # user code may do anything; its sender reads this
        text = str(error).splitlines()[0][:200] if str(error) else "no message"
        msg = f"{what} raised {type(error).__name__}: {text}"
        raise TransformFailed(msg) from error


def with_context(function: Function) -> Function:
    """The function as one of (rows, context), whether it takes the context or not."""
    return function if takes_context(function) else lambda rows, _: function(rows)


def takes_context(function: Callable[..., Any]) -> bool:
    """Whether the function asks for the context, as `f(rows, ctx)` does."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # a C callable without a signature
        return False
    places = [p for p in parameters if p.kind not in (p.KEYWORD_ONLY, p.VAR_KEYWORD)]
    # A default binds a value of the user's own (`lambda batch, factor=2: ...`), save for `ctx`.
    return len(places) > 1 and (places[1].default is places[1].empty or places[1].name == "ctx")


def _give(batch: pa.RecordBatch, mode: Mode) -> object:
    if mode == "pandas":
        import pandas as pd

        return batch.to_pandas(types_mapper=pd.ArrowDtype)
    if mode == "polars":
        import polars as pl

        return pl.from_arrow(batch)
    return batch


def _named_columns(returned: Any, what: str) -> Mapping[str, Any]:
    if isinstance(returned, pa.RecordBatch | pa.Table):
        return dict(zip(returned.schema.names, returned.columns, strict=True))
    if (hasattr(returned, "iloc") or hasattr(returned, "to_arrow")) and hasattr(
        returned, "columns"
    ):
        return {str(name): returned[name] for name in returned.columns}
    if isinstance(returned, dict):
        return returned
    msg = f"{what} must return a dict of columns, got {type(returned).__name__}"
    raise TransformFailed(msg)


def _take(column: Any, column_type: pa.DataType, rows: int, what: str) -> pa.Array:
    """The column as one Arrow array of the declared type and length."""
    array = _as_array(column, what)
    if array.type != column_type and _same_values(array.type, column_type):
        array = array.cast(column_type)
    if array.type != column_type:
        msg = f"{what} is {array.type}, declared is {column_type}"
        raise TransformFailed(msg, hint="cast it in the function, or declare what it returns")
    if len(array) != rows:
        msg = f"{what} has {len(array)} rows for {rows}"
        raise TransformFailed(msg, hint="return exactly one value per row, in the same order")
    return array


def _as_array(column: Any, what: str) -> pa.Array:
    try:
        if hasattr(column, "to_arrow"):  # polars
            column = column.to_arrow()
        elif hasattr(column, "array") and hasattr(column.array, "__arrow_array__"):  # pandas
            column = pa.chunked_array(column.array.__arrow_array__())
        elif not isinstance(column, pa.Array | pa.ChunkedArray):
            column = pa.array(column, from_pandas=False)
    except Exception as error:  # a foreign object's own methods may raise anything
        msg = f"{what} is {type(column).__name__}, not a column"
        raise TransformFailed(msg) from error
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    return column


def _same_values(got: pa.DataType, declared: pa.DataType) -> bool:
    """Whether a cast only changes the offsets' width: polars has large strings alone."""
    pairs = ((pa.large_string(), pa.string()), (pa.string_view(), pa.string()),
             (pa.large_binary(), pa.binary()), (pa.binary_view(), pa.binary()))  # fmt: skip
    return declared in COLUMN_TYPES and (got, declared) in pairs
