"""What `bench_join.py` serves: one streaming group, and up to 25 stored groups joined to it.

Every stored group has the streaming group's own key, so a request is the same with and without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa

from benchmarks.workloads import INPUT, KEYS, RATIO, SCALARS, START_US, WINDOWS
from hofflight.features.group import feature_group
from hofflight.features.stored import stored_group
from hofflight.features.view import view
from hofflight.wire.schema import TIMESTAMP

if TYPE_CHECKING:
    from pathlib import Path

    from hofflight.settings import Settings

GROUPS: Final = 25
SCHEMA: Final = {
    "card": pa.int64(),
    "updated": TIMESTAMP,
    "score": pa.float64(),
    "segment": pa.string(),
    "count": pa.int32(),
}

card_tx = feature_group(
    "card_tx", version=1, key="card", event_time="ts", input=INPUT,
    output=SCALARS, windows=WINDOWS, derive=RATIO,
)  # fmt: skip
stored = [
    stored_group(f"s{n:02}", version=1, key="card", event_time="updated", schema=SCHEMA)
    for n in range(GROUPS)
]
# Found by `--modules`, which looks at names.
globals().update({group.name: group for group in stored})


def joined(count: int) -> list[str]:
    """The features of a view with so many stored groups; without who and when, as for a model."""
    computed = [name for name in card_tx.schema.names if name not in ("card", "ts")]
    return [f"card_tx.{name}" for name in computed] + [f"{g.name}.score" for g in stored[:count]]


plain = view("plain", version=1, features=joined(0))
join1 = view("join1", version=1, features=joined(1))
join25 = view("join25", version=1, features=joined(GROUPS))


def load_stored(path: Path, settings: Settings) -> None:
    """Fill every stored group of a new store: a row for each card."""
    from hofflight.assemble import open_store

    rows = pa.table(
        {
            "card": np.arange(KEYS),
            "updated": pa.array(np.full(KEYS, START_US)).cast(TIMESTAMP),
            "score": np.arange(KEYS) / KEYS,
            "segment": pa.array(["gold", "plain"] * (KEYS // 2)),
            "count": np.arange(KEYS, dtype=np.int32),
        }
    )
    with open_store(path, settings=settings) as app:
        for group in stored:
            app.register(group)
            app.materialize(group.name, rows)
