"""The features of `hof demo cards`, declared as a user would; `hof serve --modules` loads them."""

from __future__ import annotations

import pyarrow as pa

import hofflight as hof
from hofflight.cli.cards_data import CATEGORIES

HORIZONS = ("1d", "7d", "30d")
SATURDAY, MORNING = 5, 6

category, ts, amount = hof.col("category"), hof.col("ts"), hof.col("amount")

card_tx = hof.feature_group(
    "card_tx",
    version=1,
    key="customer",
    event_time="ts",
    input={
        "customer": pa.int64(),
        "ts": hof.TIMESTAMP,
        "terminal": pa.int64(),
        "amount": pa.float64(),
        "category": pa.string(),
    },
    output={
        **{f"is_{name}": (category == name).to_int() for name in CATEGORIES},
        "hour": ts.hour(),
        "day_of_week": ts.day_of_week(),
        "is_weekend": ts.day_of_week() >= SATURDAY,
        "is_night": ts.hour() < MORNING,
        "log_amount": amount.log1p(),
    },
    windows={
        **{f"n_{horizon}": hof.count().over(horizon) for horizon in HORIZONS},
        **{f"mean_{horizon}": hof.mean("amount").over(horizon) for horizon in HORIZONS},
    },
    derive={f"amount_vs_{horizon}": amount / hof.col(f"mean_{horizon}") for horizon in HORIZONS},
)

# The same transactions, seen from the other side: what a terminal took in.
terminal_tx = hof.feature_group(
    "terminal_tx",
    version=1,
    key="terminal",
    event_time="ts",
    input={"terminal": pa.int64(), "ts": hof.TIMESTAMP, "amount": pa.float64()},
    windows={"n_7d": hof.count().over("7d"), "mean_7d": hof.mean("amount").over("7d")},
)

# What the bank knows of a customer, loaded by a job.
customer = hof.stored_group(
    "customer",
    version=1,
    key="customer",
    event_time="updated",
    schema={
        "customer": pa.int64(),
        "updated": hof.TIMESTAMP,
        "age": pa.int32(),
        "segment": pa.string(),
    },
)

# What a model would be trained on: everything computed, without who and where.
card_fraud = hof.view(
    "card_fraud",
    version=1,
    features=[
        *(
            f"card_tx.{name}"
            for name in ("amount", *card_tx.output, *card_tx.windows, *card_tx.derive)
        ),
        *(f"terminal_tx.{name}" for name in terminal_tx.windows),
        "customer.age",
        "customer.segment",
    ],
    labels=["is_fraud"],
)
