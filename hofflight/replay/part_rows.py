"""One streaming group's part of a view's rows: replayed, derived, only the view's columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from hofflight.errors import TransformFailed
from hofflight.replay.logged import ABOUT
from hofflight.replay.prepared import SEQ, TS
from hofflight.replay.transformed import Transformation
from hofflight.replay.windowed import windowed
from hofflight.wire.keys import encode_part

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from hofflight.features.group import FeatureGroup
    from hofflight.features.stored import StoredGroup
    from hofflight.features.view import View
    from hofflight.replay.read_log import History
    from hofflight.replay.span import Span
    from hofflight.replay.windowed import Database, How


class PartRows:
    """Rows into the windows and out of them.

    `schema`: what goes in. `out`: `_late`, `_seq`, the prepared key, `_ts`, `about`, for each
    stored group of the view the parts of its key, `_row_key0_0`, ... (null where these rows do not
    have it), then the view's columns of this group, named as in its vector.
    """

    def __init__(
        self,
        view: View,
        history: History,
        group: FeatureGroup,
        about: Sequence[str],
        progress: Callable[[int], None],
        stored: Sequence[StoredGroup] = (),
    ) -> None:
        self.view = view
        self.history = history
        self.group = group
        self.read = 0
        self._progress = progress
        self._keys = [_RowKey(each, place, group) for place, each in enumerate(stored)]
        features = view.columns_of((group.name, group.version))
        read = {name for key in self._keys for name in key.columns}
        self._transformation = Transformation(group, {*features, *read})
        self.question = self._transformation.preparation.question
        self.about = list(dict.fromkeys((*self._transformation.about, *about)))
        types = {name: ABOUT.field(name).type for name in self.about[1:]}
        types |= dict(zip(self.question.schema.names, self.question.schema.types, strict=True))
        types |= {name: group.transformed[name] for name in self._transformation.columns}
        self.schema = pa.schema(list(types.items()))
        types["_late"] = pa.bool_()
        self._features = {f"{group.name}.{name}": name for name in features}
        self._finding = ["_late", SEQ, *self.question.keys, TS, *about]
        self.out = pa.schema([
            *((name, types[name]) for name in self._finding),
            *((name, pa.binary()) for key in self._keys for name in key.names),
            *((full, group.schema.field(name).type) for full, name in self._features.items()),
        ])  # fmt: skip

    def vectors(self, db: Database, how: How, span: Span) -> Iterator[pa.RecordBatch]:
        """Rows of a span, of schema `out`, in no order."""
        for batch in windowed(db, self._raw(), self.schema, self.question, how):
            chosen = batch
            if not span.is_everything:
                chosen = batch.filter(span.contains(batch.column(TS)))
            if chosen.num_rows:
                yield from self._vectors(chosen)

    def _raw(self) -> Iterator[pa.RecordBatch]:
        """Transformed rows of the whole history: a window may reach back before the span."""
        for part in self.history.parts(about=self.about):
            self.read += part.rows.num_rows
            self._progress(part.rows.num_rows)
            yield self._transformation.apply(part.rows).select(self.schema.names)

    def _vectors(self, rows: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        try:
            derived = self._transformation.derive(rows)
        except TransformFailed:  # a row of another version, that this one would have refused
            if rows.num_rows > 1:
                middle = rows.num_rows // 2
                yield from self._vectors(rows.slice(0, middle))
                yield from self._vectors(rows.slice(middle))
            return
        arrays = [rows.column(name) for name in self._finding]
        for key in self._keys:
            arrays += key.parts_of(rows)
        for name in self._features.values():
            arrays.append(derived[name] if name in derived else rows.column(name))
        yield pa.RecordBatch.from_arrays(arrays, schema=self.out)


class _RowKey:
    """What a streaming group's raw columns have of a stored group's key."""

    def __init__(self, stored: StoredGroup, place: int, group: FeatureGroup) -> None:
        self._parts = list(stored.key_schema)
        self.names = [f"_row_key{place}_{part}" for part in range(len(self._parts))]
        self.columns = [name for name in stored.key if name in group.input.names]

    def parts_of(self, rows: pa.RecordBatch) -> list[pa.Array]:
        """The parts of each row's key; null where the rows do not have them."""
        return [
            encode_part(rows.column(part.name), part.type)
            if part.name in self.columns
            else pa.nulls(rows.num_rows, pa.binary())
            for part in self._parts
        ]
