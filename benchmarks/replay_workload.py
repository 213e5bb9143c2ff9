"""What the replay benchmark reads: half a year of card payments, sealed as `hof log seal` seals.

One group whose windows are named by what they compute (`count_7d`, `max_1d`), so that a job can ask
for some of them. Payments come in the order of time, one request each, none answered.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa

import hofflight as hof
from hofflight import limits
from hofflight.assemble import read_offline
from hofflight.features import window
from hofflight.replay.logged import ANSWER, logged_schema
from hofflight.replay.parquet import write_whole
from hofflight.replay.sealed import Manifest, SealedFile

if TYPE_CHECKING:
    from pathlib import Path

    from hofflight.replay.read_log import History

CARDS: Final = 5_000
DAYS: Final = 183
START_US: Final = 1_767_225_600_000_000  # 2026-01-01
WINDOW_DAYS: Final = (1, 7, 30)
# Of a thousand rows one is paid in the same microsecond, with the same card, as the row before it.
_TIES: Final = 0.001
_ID_BYTES: Final = 16

card_tx = hof.feature_group(
    "card_tx", version=1, key="card", event_time="ts",
    input={"card": pa.int64(), "ts": hof.TIMESTAMP, "amount": pa.float64()},
    windows={
        f"{name}_{days}d": function("amount").over(f"{days}d")
        for days in WINDOW_DAYS
        for name, function in (
            ("count", window.count), ("sum", window.sum),
            ("min", window.min), ("max", window.max),
        )
    },
)  # fmt: skip
TRAINING: Final = "training"


def windows_of(*functions: str) -> list[str]:
    """Names of the windows of these functions."""
    return [f"{function}_{days}d" for days in WINDOW_DAYS for function in functions]


def payments(rows: int, seed: int = 7) -> pa.Table:
    """The raw columns of `rows` payments, in the order of time."""
    rng = np.random.default_rng(seed)
    ts = START_US + np.sort(rng.integers(0, DAYS * limits.DAY_US, rows))
    card = rng.integers(0, CARDS, rows)
    tied = np.flatnonzero(rng.random(rows - 1) < _TIES) + 1
    ts[tied], card[tied] = ts[tied - 1], card[tied - 1]
    amount = np.round(rng.gamma(2.0, 25.0, rows), 2)
    columns = [pa.array(card), pa.array(ts).cast(hof.TIMESTAMP), pa.array(amount)]
    return pa.Table.from_arrays(columns, schema=card_tx.input)


def fill(path: Path, rows: int, part_rows: int = limits.sealed_rows_max) -> None:
    """Make a store whose whole history is sealed, in parts of `part_rows` records."""
    with hof.open(path) as app:
        stream = app.register(card_tx, module=__name__).partition
        columns = [*card_tx.input.names, *windows_of("count", "sum")]
        app.view(TRAINING, 1, [f"{card_tx.name}.{column}" for column in columns])
    with read_offline(path, [card_tx]) as (offline, _):
        sealed = offline.history_of(stream).sealed
    raw = payments(rows)
    files = []
    for start in range(0, rows, part_rows):
        table = _logged(raw.slice(start, part_rows), start + 1)
        first, last = start + 1, start + table.num_rows
        day = datetime.fromtimestamp(START_US / 1e6, UTC).date().isoformat()
        name = f"version=1/day={day}/{first:019d}-{last:019d}.parquet"
        size = write_whole(table, sealed.directory / name)
        files.append(SealedFile(name, 1, first, last, table.num_rows, size))
    sealed.publish(Manifest(sealed_to=rows, files=tuple(files)))


def _logged(raw: pa.Table, first: int) -> pa.Table:
    """Raw rows as the log keeps them, record `first` and those that follow, sorted by key."""
    rows = raw.num_rows
    numbers = np.arange(first, first + rows)
    ids = np.zeros((rows, _ID_BYTES), np.uint8)
    ids[:, :8] = numbers.astype(">i8").view(np.uint8).reshape(rows, 8)
    about = {
        "_seq": pa.array(numbers << limits.ROW_BITS),
        "_arrival": raw.column("ts"),
        "_request_id": pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(_ID_BYTES), rows, [None, pa.py_buffer(ids)]
        ),
        "_row": pa.array(np.zeros(rows, np.int32)),
        "_view": pa.repeat(card_tx.name, rows),
        "_view_version": pa.array(np.ones(rows, np.int32)),
        "_code_hash": pa.repeat(card_tx.code_hash(), rows),
        "_answered": pa.repeat(False, rows),
        "_late": pa.repeat(False, rows),
        "_overflow": pa.repeat(pa.scalar([], pa.list_(pa.string())), rows),
        ANSWER: pa.nulls(rows, pa.struct(list(card_tx.schema))),
    }
    schema = logged_schema(card_tx.input, card_tx.schema)
    columns = about | {name: raw.column(name) for name in raw.schema.names}
    table = pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)
    return table.sort_by([(name, "ascending") for name in ("card", "ts", "_seq")])


def history_of(path: Path) -> History:
    """The history of a store that `fill` made."""
    with read_offline(path, [card_tx]) as (offline, _):
        return offline.history(card_tx.name)
