"""Run a feature group over rows in milliseconds: no server, no disk, the same code as serving."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from hofflight.transform.plan import GroupPlan
from hofflight.wire.columns import batch_of_rows, to_python
from hofflight.wire.rows import to_batch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hofflight.features.group import FeatureGroup
    from hofflight.wire.rows import Rows


@dataclass(frozen=True)
class Run:
    """What the rows became: `run["n_10m"]` is a column as a list of Python values.

    table: the full rows, in order, columns under their plain names.
    late: per row, whether it came too late to be counted.
    overflow: per row, the windows whose integer sum left int64.
    """

    table: pa.Table
    late: list[bool]
    overflow: list[frozenset[str]]

    def __getitem__(self, column: str) -> list[Any]:
        """A column as Python values; timestamps as microseconds since 1970."""
        return to_python(self.table[column].combine_chunks())


def run(
    group: FeatureGroup,
    rows: Rows,
    *,
    batch_rows: int | Sequence[int] | None = None,
    arrival_time_us: int = 0,
) -> Run:
    """Send rows through a group, in order, and return what a client would have got.

    ```python
    out = hof.testing.run(card_tx, [{"card": 7, "ts": 0, "amount": 9.5}])
    assert out["n_10m"] == [1]
    ```

    Args:
        group: a complete feature group.
        rows: a dict, a list of dicts, a RecordBatch, a Table, a pandas or a polars frame.
        batch_rows: how many rows go into each request: all (None), one size, or a list of sizes.
        arrival_time_us: what the functions see as `ctx.arrival_time_us`.

    Raises:
        BadRequest: HOF-2xx, as a server would answer.
    """
    plan = GroupPlan(group)
    state = plan.new_state()
    batch = to_batch(rows, group.input)
    late: list[bool] = []
    overflow: list[frozenset[str]] = []
    answers: list[pa.RecordBatch] = []
    for part in _split(batch, batch_rows):
        if part.num_rows == 1:
            raw = [to_python(column)[0] for column in part.columns]
            opaque = plan.opaque_columns(part, arrival_time_us)
            answer = plan.run_row(state, raw, arrival_time_us, opaque)
            late.append(answer.late)
            overflow.append(frozenset(answer.overflow))
            answers.append(batch_of_rows([answer.row], plan.schema))
        else:
            many = plan.run_batch(state, part, arrival_time_us)
            late.extend(many.late)
            overflow.extend(
                frozenset(name for name, flags in many.overflow.items() if flags[row])
                for row in range(part.num_rows)
            )
            answers.append(many.batch)
        state.commit()
    return Run(pa.Table.from_batches(answers, plan.schema), late, overflow)


def _split(batch: pa.RecordBatch, sizes: int | Sequence[int] | None) -> Iterator[pa.RecordBatch]:
    start, number = 0, 0
    while start < batch.num_rows:
        if sizes is None:
            size = batch.num_rows
        else:
            size = sizes if isinstance(sizes, int) else sizes[number % len(sizes)]
        yield batch.slice(start, size)
        start, number = start + size, number + 1
