"""The history of one input schema as events of another: how a log with new columns begins.

A user's function turns old raw batches into new ones, row by row. Each old request becomes one
entry of the new log, with its id and the time it arrived, and without an answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hofflight.errors import BadRequest, TransformFailed
from hofflight.eventlog.protocol import Entry, EntryMeta
from hofflight.replay.logged import number_of
from hofflight.wire.envelope import OK
from hofflight.wire.ipc import encode_batch
from hofflight.wire.rows import to_batch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hofflight.features.group import FeatureGroup
    from hofflight.replay.read_log import History

_ABOUT = ("_seq", "_arrival", "_request_id")


def mapped_entries(
    history: History, group: FeatureGroup, function: Callable[[pa.RecordBatch], Any]
) -> Iterator[list[Entry]]:
    """Entries of the new log, from number 1 on, in the order of the old one.

    `function`: a batch of old raw columns to rows of the group's input: one row for each.
    Raises: TransformFailed (HOF-209), it fails or gives other columns or rows.
    """
    number = 0
    for after, last in history.ranges():
        rows = [part.rows for part in history.parts(after, last, about=_ABOUT)]
        if not rows:
            continue
        table = pa.Table.from_batches(rows).sort_by("_seq")
        batch = table.combine_chunks().to_batches()[0]
        raw = _mapped(batch.select(history.raw.names), group, function)
        numbers = number_of(batch.column("_seq").to_numpy())
        starts = np.flatnonzero(np.diff(numbers, prepend=-1)).tolist()
        entries = []
        for start, end in zip(starts, [*starts[1:], len(numbers)], strict=True):
            number += 1
            about = batch.slice(start, 1).to_pylist()[0]
            arrival_us = batch.column("_arrival")[start].value
            meta = EntryMeta(
                number, arrival_us, about["_request_id"], end - start, group.name, group.version,
                group.version, group.code_hash(), OK, answered=False,
            )  # fmt: skip
            head, body = encode_batch(raw.slice(start, end - start))
            entries.append(Entry(meta, head, body, b"", b""))
        yield entries


def _mapped(
    old: pa.RecordBatch, group: FeatureGroup, function: Callable[[pa.RecordBatch], Any]
) -> pa.RecordBatch:
    try:
        given = function(old)
        columns = pa.RecordBatch.from_pydict(given) if isinstance(given, dict) else given
        new = to_batch(columns, group.input)
    except BadRequest as error:
        msg = f"--map does not give the input of {group.name}@{group.version}: {error.message}"
        raise TransformFailed(msg) from error
    except Exception as error:  # user code may do anything
        msg = f"--map raised {type(error).__name__}: {error}"
        raise TransformFailed(msg) from error
    if new.num_rows != old.num_rows:
        msg = f"--map gave {new.num_rows} rows for {old.num_rows}"
        raise TransformFailed(msg, hint="one row for each, in the same order")
    return new
