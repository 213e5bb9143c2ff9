"""Arrow columns to plain Python values and back, changing none."""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from hofflight.wire.schema import AS_INTEGERS, TIMESTAMP

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_FORMATS: Final[dict[pa.DataType, tuple[str, int]]] = {
    pa.int64(): ("q", 8), pa.int32(): ("i", 4), pa.int16(): ("h", 2), pa.int8(): ("b", 1),
    pa.uint32(): ("I", 4), pa.uint16(): ("H", 2), pa.uint8(): ("B", 1),
    pa.float64(): ("d", 8), pa.float32(): ("f", 4), TIMESTAMP: ("q", 8), pa.date32(): ("i", 4),
}  # fmt: skip


def to_python(array: pa.Array) -> list[Any]:
    """Values as bool, int, float, str, bytes, list or None; timestamps in us, dates in days."""
    if array.null_count == 0 and array.type in _FORMATS:
        code, width = _FORMATS[array.type]
        data = memoryview(array.buffers()[1])[array.offset * width :][: len(array) * width]
        values: list[Any] = data.cast("B").cast(code).tolist()  # type: ignore[call-overload]
        return values
    if array.type in AS_INTEGERS:
        array = array.view(AS_INTEGERS[array.type])
    elif pa.types.is_list(array.type) and array.type.value_type in AS_INTEGERS:
        array = array.cast(pa.list_(AS_INTEGERS[array.type.value_type]))
    return array.to_pylist()


def first_value(array: pa.Array) -> Any:
    """The first value as `to_python` gives it; a tenth of its cost for one row."""
    scalar = array[0]
    return scalar.value if array.type in AS_INTEGERS else scalar.as_py()


def from_python(values: Iterable[Any], column_type: pa.DataType) -> pa.Array:
    """A column of exactly this type from values as `to_python` gives them."""
    return pa.array(list(values), type=column_type)


def values_at(places: Sequence[int]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """A function that takes the values at these places out of a row, as a sequence."""
    if len(places) == 1:  # of one place itemgetter would give the value itself
        return itemgetter(slice(places[0], places[0] + 1))
    return itemgetter(*places)


def batch_of_rows(rows: Sequence[Sequence[Any]], schema: pa.Schema) -> pa.RecordBatch:
    """A batch from rows of plain values."""
    columns = zip(*rows, strict=True) if rows else [()] * len(schema)
    arrays = [from_python(values, t) for values, t in zip(columns, schema.types, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
