"""What the benchmarks serve: three windows of five aggregates and eight scalar features.

Written twice: as expressions, and as one opaque Arrow function. `hof serve --modules
benchmarks.workloads` serves both.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hofflight.features import window
from hofflight.features.expression import col
from hofflight.features.group import feature_group
from hofflight.wire.schema import TIMESTAMP

KEYS = 1_000
# 15 s of event time a row: 40,320 rows in seven days, about 40 of each key.
STEP_US = 15_000_000
START_US = 1_767_225_600_000_000  # 2026-01-01

INPUT = {
    "card": pa.int64(),
    "ts": TIMESTAMP,
    "amount": pa.float64(),
    "category": pa.string(),
    "items": pa.int64(),
    "online": pa.bool_(),
}
WINDOWS = {
    f"{name}_{size}": function("amount").over(size)
    for size in ("1h", "1d", "7d")
    for name, function in (
        ("count", window.count),
        ("sum", window.sum),
        ("mean", window.mean),
        ("min", window.min),
        ("max", window.max),
    )
}
SCALARS = {
    "log_amount": col("amount").log1p(),
    "root_amount": col("amount").sqrt(),
    "is_food": col("category") == "food",
    "is_large": col("amount") > 75.0,
    "per_item": col("amount") / col("items"),
    "hour": col("ts").hour(),
    "is_night": (col("ts").hour() < 6) & col("online"),
}
RATIO = {"versus_mean": col("amount") / col("mean_7d")}

expressions = feature_group(
    "expressions", version=1, key="card", event_time="ts", input=INPUT,
    output=SCALARS, windows=WINDOWS, derive=RATIO,
)  # fmt: skip


@feature_group(
    "opaque", version=1, key="card", event_time="ts", input=INPUT,
    output={
        "log_amount": pa.float64(), "root_amount": pa.float64(), "is_food": pa.bool_(),
        "is_large": pa.bool_(), "per_item": pa.float64(), "hour": pa.int64(),
        "is_night": pa.bool_(),
    },
    windows=WINDOWS, derive=RATIO,
)  # fmt: skip
def opaque(batch: pa.RecordBatch) -> dict[str, pa.Array]:
    """The scalar features as users write them with pyarrow.compute."""
    amount, hour = batch["amount"], pc.hour(batch["ts"])
    return {
        "log_amount": pc.log1p(amount),
        "root_amount": pc.sqrt(amount),
        "is_food": pc.equal(batch["category"], "food"),
        "is_large": pc.greater(amount, 75.0),
        "per_item": pc.divide(amount, pc.cast(batch["items"], pa.float64())),
        "hour": hour,
        "is_night": pc.and_kleene(pc.less(hour, 6), batch["online"]),
    }


def events(rows: int, *, first: int = 0, seed: int = 7) -> pa.RecordBatch:
    """Rows `first` to `first + rows` of an endless, seeded stream of transactions, in order."""
    rng = np.random.default_rng((seed, first))
    return pa.RecordBatch.from_pydict(
        {
            "card": rng.integers(0, KEYS, rows),
            "ts": pa.array(START_US + np.arange(first, first + rows) * STEP_US).cast(TIMESTAMP),
            "amount": np.round(rng.gamma(2.0, 25.0, rows), 2),
            "category": rng.choice(np.array(["food", "fuel", "home", "play"]), rows),
            "items": rng.integers(1, 9, rows),
            "online": rng.random(rows) < 0.5,
        },
        schema=pa.schema(list(INPUT.items())),
    )
