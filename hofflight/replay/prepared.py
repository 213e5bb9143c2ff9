"""What the two window engines of replay are given: plain columns, and windows over them.

Transformations and `where=` are computed before, by the functions that serve them. What is left is
keys, times and values, so an engine needs to know nothing of expressions or of a group's code.

Prepared columns, none of which has a name that a user could have given:

| name | type | nulls | what |
|---|---|---|---|
| `_k0`, `_k1`, ... | as declared; times int64, dates int32; -0.0 is 0.0 | none | parts of the key |
| `_ts` | int64 | none | event time, microseconds since 1970 |
| `_seq` | int64 | none | record number << 20 | row: the order of arrival, unique |
| `_c_NAME` | as declared; times int64, dates int32 | any | what windows read, NaN and -0.0 too |
| `_f0`, `_f1`, ... | bool | any | a `where=`; null is false |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import pyarrow as pa
import pyarrow.compute as pc

from hofflight.replay.plain_columns import plain_array, plain_type
from hofflight.transform.evaluate import evaluate
from hofflight.wire.schema import FLOATS

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from hofflight.features.expression import Expression
    from hofflight.features.group import FeatureGroup
    from hofflight.features.window import Frame

AsOf = Literal["arrival", "event"]
TS: Final = "_ts"
SEQ: Final = "_seq"
ADDED: Final = frozenset(("sum", "mean", "var", "std"))


@dataclass(frozen=True, slots=True)
class Asked:
    """One window over prepared columns: `function` of `column` over `frame` where `where` is true.

    `column` None counts rows. `type` is the declared type of the answer, `parameter` q or k.
    """

    name: str
    function: str
    frame: Frame
    column: str | None
    where: str | None
    parameter: float
    type: pa.DataType


@dataclass(frozen=True, slots=True)
class Question:
    """Everything an engine must know of a group."""

    keys: tuple[str, ...]
    late_us: int
    windows: tuple[Asked, ...]
    schema: pa.Schema

    @property
    def sums_integers(self) -> tuple[str, ...]:
        """Names of windows that can overflow."""
        return tuple(w.name for w in self.windows if w.function == "sum" and w.type == pa.int64())

    @property
    def adds_floats(self) -> tuple[Asked, ...]:
        """Windows whose floats an engine may add in its own order: they have a tolerance."""
        return tuple(w for w in self.windows if w.function in ADDED and w.type == pa.float64())


class Preparation:
    """Makes prepared rows of a group's raw and transformed columns."""

    def __init__(self, group: FeatureGroup, windows: Collection[str] | None = None) -> None:
        """`windows`: names of those that are asked for; all of the group's without."""
        self._group = group
        self._filters: dict[str, tuple[str, Expression]] = {}
        read: dict[str, str] = {}
        asked = []
        for name, window in group.windows.items():
            if windows is not None and name not in windows:
                continue
            where = None
            if window.where is not None:
                number = len(self._filters)
                where, _ = self._filters.setdefault(
                    str(window.where), (f"_f{number}", window.where)
                )
            if window.column is not None:
                read.setdefault(window.column, f"_c_{window.column}")
            column = read.get(window.column or "")
            column_type, parameter = group.window_types[name], window.parameter
            asked.append(
                Asked(name, window.function, window.frame, column, where, parameter, column_type)
            )
        self._read = read
        keys = tuple(f"_k{place}" for place in range(len(group.key)))
        types = group.transformed
        schema = pa.schema(
            [(key, plain_type(types[name])) for key, name in zip(keys, group.key, strict=True)]
            + [(TS, pa.int64()), (SEQ, pa.int64())]
            + [(prepared, plain_type(types[name])) for name, prepared in read.items()]
            + [(name, pa.bool_()) for name, _ in self._filters.values()]
        )
        self.question = Question(keys, group.late_us, tuple(asked), schema)

    def rows(self, columns: Mapping[str, pa.Array], seq: pa.Array) -> pa.RecordBatch:
        """Prepared rows of raw and transformed columns; one out per row in, same order.

        Raises: pa.ArrowInvalid, integer arithmetic of a `where=` left int64.
        """
        group = self._group
        arrays = [_normal(plain_array(columns[name])) for name in group.key]
        arrays += [plain_array(columns[group.event_time]), seq]
        arrays += [plain_array(columns[name]) for name in self._read]
        arrays += [evaluate(where, dict(columns), len(seq)) for _, where in self._filters.values()]
        return pa.RecordBatch.from_arrays(arrays, schema=self.question.schema)


def _normal(key: pa.Array) -> pa.Array:
    """0.0 and -0.0 are one key, as in Python and SQL; their bytes must be so too."""
    return pc.add(key, pa.scalar(0.0, key.type)) if key.type in FLOATS else key


def answer_schema(question: Question) -> pa.Schema:
    """The columns that an engine answers with.

    | name | type | nulls | what |
    |---|---|---|---|
    | `_seq` | int64 | none | whose answer it is |
    | `_late` | bool | none | the row came too late: all windows are null |
    | a window's name | as declared | empty frame, late, overflow | its value |
    | `_overflow_NAME` | bool | none | an integer sum left int64; only for `sums_integers` |
    """
    return pa.schema(
        [(SEQ, pa.int64()), ("_late", pa.bool_())]
        + [(w.name, w.type) for w in question.windows]
        + [(f"_overflow_{name}", pa.bool_()) for name in question.sums_integers]
    )
