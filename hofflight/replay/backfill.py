"""A version's window state out of all history, in bulk: what folding each row would have led to.

Rows are sorted by key and time, so each key's state is made once, of columns, where folding would
cut every window of every row on the way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from hofflight.replay.frames import late_rows
from hofflight.replay.kernel import key_starts
from hofflight.replay.plain_columns import retyped
from hofflight.replay.prepared import SEQ, TS
from hofflight.replay.transformed import Transformation
from hofflight.replay.windowed import CHUNK_ROWS, database, whole_keys
from hofflight.transform.window_plan import compile_windows
from hofflight.transform.window_state import WindowState
from hofflight.transform.window_step import column_series
from hofflight.wire.columns import to_python

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hofflight.features.group import FeatureGroup
    from hofflight.replay.read_log import History
    from hofflight.settings import ReplaySettings


def rebuild(
    history: History,
    group: FeatureGroup,
    settings: ReplaySettings,
    *,
    progress: Callable[[int], None] = lambda _: None,
) -> tuple[int, WindowState]:
    """(number, state): the windows of a version after record `number`, the last there was.

    `progress` is told how many more rows are in.
    Raises: SealDamaged (HOF-506), LogCorrupt (HOF-502).
    """
    number = history.extent().last
    transformation = Transformation(group)
    state = WindowState(compile_windows(group))
    read = {name for window in group.windows.values() for name in window.columns_read()}
    columns = [n for n in group.transformed if n in read or n in group.key]
    question = transformation.preparation.question
    fields = {**dict(zip(question.schema.names, question.schema.types, strict=True))}
    fields = {name: fields[name] for name in (*question.keys, TS, SEQ)}
    fields |= {name: group.transformed[name] for name in columns}
    schema = pa.schema(list(fields.items()))

    def rows() -> Iterator[pa.RecordBatch]:
        for part in history.parts(last=number, about=transformation.about):
            yield transformation.apply(part.rows).select(schema.names)
            progress(part.rows.num_rows)

    with database(settings) as db:
        db.feed(db.con, "source", schema, rows())
        order = ", ".join([*question.keys, SEQ])
        ordered = db.con.sql(f"SELECT * FROM source ORDER BY {order}")
        for chunk in whole_keys(ordered.to_arrow_reader(CHUNK_ROWS), question.keys):
            _load(state, group, question.keys, retyped(chunk, schema))
    return number, state


def _load(
    state: WindowState, group: FeatureGroup, keys: tuple[str, ...], chunk: pa.RecordBatch
) -> None:
    """Give the state the whole keys of a chunk that is sorted by (key, seq)."""
    starts = key_starts(chunk, keys)
    blocks = np.repeat(np.arange(len(starts)), np.diff([*starts, chunk.num_rows]))
    ts = chunk.column(TS).to_numpy()
    kept = ~late_rows(blocks, ts, group.late_us)
    order = np.flatnonzero(kept)
    order = order[np.lexsort((ts[order], blocks[order]))]  # stable: ties stay in order of arrival
    rows = chunk.take(pa.array(order))
    blocks, times = blocks[order], ts[order].tolist()
    columns = dict(zip(rows.schema.names, rows.columns, strict=True))
    series = column_series(state.plan.series, columns, rows.num_rows)
    first = np.flatnonzero(np.diff(blocks, prepend=-1))
    parts = [to_python(columns[name].take(pa.array(first))) for name in group.key]
    names = parts[0] if len(parts) == 1 else list(zip(*parts, strict=True))
    for key, low, high in zip(names, first, [*first[1:], rows.num_rows], strict=True):
        state.load_rows(key, times[low:high], [values[low:high] for values in series])
