"""The features of `hof demo flights`, declared as a user would; `hof serve --modules` loads it."""

from __future__ import annotations

import pyarrow as pa

import hofflight as hof

HORIZONS = ("1h", "3h", "1d")
DELAYED_MIN = 15.0

is_delayed = hof.col("dep_delay") > DELAYED_MIN

delays = hof.feature_group(
    "delays",
    version=1,
    key=("carrier", "origin"),
    event_time="ts",
    input={
        "carrier": pa.string(),
        "origin": pa.string(),
        "ts": hof.TIMESTAMP,
        "flight": pa.int64(),
        "dep_delay": pa.float64(),
    },
    windows={
        **{f"flights_{horizon}": hof.count().over(horizon) for horizon in HORIZONS},
        **{f"delay_mean_{horizon}": hof.mean("dep_delay").over(horizon) for horizon in HORIZONS},
        **{f"delay_max_{horizon}": hof.max("dep_delay").over(horizon) for horizon in HORIZONS},
        **{
            f"delayed_{horizon}": hof.count(where=is_delayed).over(horizon)
            for horizon in HORIZONS
        },
    },
    derive={
        f"delayed_share_{horizon}": hof.col(f"delayed_{horizon}") / hof.col(f"flights_{horizon}")
        for horizon in HORIZONS
    },
)  # fmt: skip
