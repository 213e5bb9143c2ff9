"""The rows of one request, one of each stored group, read in one go.

One by one each row costs a call and an `unpack`; all at once one `unpack` of all their bytes, since
rows of the same sizes lie in the same places. 25 rows take 7 us instead of 30.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, NamedTuple

from hofflight import limits
from hofflight.wire.columns import values_at

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hofflight.online.packed import Packing


class _Layout(NamedTuple):
    """Where everything is in rows of certain sizes. `fixed`: what must be equal to `expected`."""

    unpack: Callable[[bytes], tuple[Any, ...]]
    fixed: Callable[[Sequence[Any]], Sequence[Any]]
    expected: tuple[Any, ...]
    times: Callable[[Sequence[Any]], Sequence[Any]]
    values: Callable[[Sequence[Any]], Sequence[Any]]


class RowLayouts:
    """Reads chosen values out of a row of each packing. `parts`: packings, and places in them.

    A place behind the last column is the row's event time.
    """

    def __init__(self, parts: Sequence[tuple[Packing, Sequence[int]]]) -> None:
        self._parts = parts
        # Two texts in a row share out its size as they like: such rows are read one by one.
        self._is_known = bool(parts) and all(len(packing.texts) <= 1 for packing, _ in parts)
        chosen = [(packing, place) for packing, places in parts for place in places]
        at = list(enumerate(chosen))
        self._strings = [i for i, (packing, place) in at if place in packing.strings]
        self._bools = [i for i, (packing, place) in at if place in packing.bools]
        self._layouts: dict[tuple[int, ...], _Layout] = {}

    def read(self, rows: Sequence[bytes]) -> tuple[Sequence[int], list[Any]] | None:
        """Event times of the rows, and the chosen values of all of them.

        None where a row has a null, or is not as it should be: one by one they say which.
        """
        if not self._is_known:
            return None
        sizes = tuple(map(len, rows))
        layout = self._layouts.get(sizes)
        if layout is None:
            layout = self._learned(sizes)
            if layout is None:
                return None
            if len(self._layouts) >= limits.layouts_max:
                self._layouts.clear()
            self._layouts[sizes] = layout
        fields = layout.unpack(b"".join(rows))
        if layout.fixed(fields) != layout.expected:
            return None
        values = list(layout.values(fields))
        try:
            for place in self._strings:
                values[place] = values[place].decode()
        except UnicodeDecodeError:
            return None
        for place in self._bools:
            values[place] = values[place] != 0
        return layout.times(fields), values

    def _learned(self, sizes: tuple[int, ...]) -> _Layout | None:
        """The layout of rows of these sizes; None where a row cannot have its size."""
        codes: list[str] = []
        times: list[int] = []
        values: list[int] = []
        fixed: list[int] = []
        expected: list[Any] = []
        first = 0
        for (packing, places), size in zip(self._parts, sizes, strict=True):
            tail = size - packing.size
            if tail < 0 or (tail and not packing.texts):
                return None
            # time, load, checksum, nulls, the columns, the text
            codes.append(f"{packing.codes}{tail}s")
            columns = first + 4
            text = columns + len(packing.schema)
            times.append(first)
            fixed += (first + 2, first + 3)
            expected += (packing.checksum, packing.no_nulls)
            for place in packing.texts:
                fixed.append(columns + place)
                expected.append(tail)
            for place in places:
                is_text = place in packing.texts
                is_time = place == len(packing.schema)
                values.append(first if is_time else text if is_text else columns + place)
            first = text + 1
        whole = struct.Struct("<" + "".join(codes))
        return _Layout(
            whole.unpack, values_at(fixed), tuple(expected), values_at(times), values_at(values)
        )
