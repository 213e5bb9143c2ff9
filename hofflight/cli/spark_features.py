"""The features of `hof demo spark`, as a user would write them: expressions, and pandas."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

import hofflight as hof
from hofflight.cli.cards_features import HORIZONS, MORNING, card_tx

# What `hof spark --modules` finds here: the cards demo's own group, and the one below.
__all__ = ["card_habits", "card_spending", "card_tx"]

CENTS = 100
SMALL = 10.0

# Of one streaming group: behind Kafka, a view has only one.
card_spending = hof.view(
    "card_spending",
    version=1,
    features=[
        "card_tx.amount",
        *(f"card_tx.n_{horizon}" for horizon in HORIZONS),
        *(f"card_tx.mean_{horizon}" for horizon in HORIZONS),
        *(f"card_tx.amount_vs_{horizon}" for horizon in HORIZONS),
    ],
)


def small_share(frame: Any) -> Any:
    """Of the payments of a week, how many were small."""
    return frame["small_7d"] / frame["n_7d"]


@hof.feature_group(
    "card_habits",
    version=1,
    key="customer",
    event_time="ts",
    mode="pandas",
    input={field.name: field.type for field in card_tx.input},
    output={
        "cents": pa.int64(),
        "is_small": pa.bool_(),
        "is_night": pa.bool_(),
        "spent_at_night": pa.float64(),
    },
    windows={
        "n_7d": hof.count().over("7d"),
        "small_7d": hof.count(where="is_small").over("7d"),
        "cents_last_10": hof.mean("cents").last(10),
        "night_30d": hof.sum("spent_at_night").over("30d"),
    },
    derive={"small_share_7d": (pa.float64(), small_share)},
)
def card_habits(frame: Any) -> dict[str, Any]:
    """How a customer pays. The frame's columns are Arrow's: nulls and integers stay as they are."""
    amount = frame["amount"]
    is_night = frame["ts"].dt.hour < MORNING
    in_cents = (amount * CENTS).round().astype("int64[pyarrow]")
    return {
        "cents": in_cents - in_cents // CENTS * CENTS,
        "is_small": amount < SMALL,
        "is_night": is_night,
        "spent_at_night": amount.where(is_night, 0.0),
    }
