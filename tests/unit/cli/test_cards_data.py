"""The generated card transactions: same seed same rows, sane rates, all three frauds."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from hofflight.cli.cards_data import (
    AMOUNT_FRAUD_MIN,
    CARD_SCHEMA,
    CATEGORIES,
    CUSTOMER_FRAUD_DAYS,
    START,
    TERMINAL_FRAUD_DAYS,
    card_transactions,
)

DAY_US = 86_400_000_000


@pytest.fixture(scope="module")
def cards() -> pa.Table:
    """The table that the demo streams."""
    return card_transactions()


def column(table: pa.Table, name: str) -> npt.NDArray[Any]:
    """One column for numpy; times as int64 microseconds."""
    values = table.column(name)
    return np.asarray(values.cast(pa.int64()) if name == "ts" else values)


def day_of(table: pa.Table) -> npt.NDArray[np.int64]:
    """Days since the start, per row."""
    ts_us = column(table, "ts")
    return np.asarray((ts_us - int(START.timestamp()) * 1_000_000) // DAY_US)


def test_schema_and_no_nulls(cards: pa.Table) -> None:
    assert cards.schema == CARD_SCHEMA
    assert cards.schema.names == ["customer", "ts", "terminal", "amount", "category", "fraud"]
    assert all(values.null_count == 0 for values in cards.columns)
    cards.validate(full=True)


def test_one_seed_one_table() -> None:
    small = {"customers": 40, "terminals": 80, "days": 20}
    assert card_transactions(**small, seed=3).equals(card_transactions(**small, seed=3))
    assert not card_transactions(**small, seed=3).equals(card_transactions(**small, seed=4))


def test_sorted_by_time_and_inside_the_days(cards: pa.Table) -> None:
    ts_us = column(cards, "ts")
    assert (np.diff(ts_us) >= 0).all()
    assert cards["ts"][0].as_py() >= START
    assert cards["ts"][-1].as_py() < START + timedelta(days=60)
    assert set(day_of(cards)) == set(range(60))


def test_as_many_rows_as_the_rates_promise_and_fast() -> None:
    card_transactions(customers=1, terminals=1, days=1)  # pyarrow's first use looks for pandas
    started = time.perf_counter()
    rows = card_transactions().num_rows
    assert time.perf_counter() - started < 1.0
    assert 45_000 <= rows <= 57_000


def test_rates_are_sane(cards: pa.Table) -> None:
    per_customer = np.bincount(column(cards, "customer"), minlength=500)
    assert per_customer.size == 500
    # 60 days x 3.2 a day = 192, and five standard deviations of that Poisson.
    assert per_customer.min() >= 1
    assert per_customer.max() <= 192 + 5 * 14
    hour = pc.hour(cards["ts"]).to_numpy()
    assert 0.70 <= ((hour >= 6) & (hour < 18)).mean() <= 0.76  # noon +- 1.08 sigma: 72 %
    assert 0.003 <= column(cards, "fraud").mean() <= 0.03


def test_amounts_are_positive_cents_around_the_customers_mean(cards: pa.Table) -> None:
    amount = column(cards, "amount")
    assert amount.min() >= 0.01
    assert (amount == np.round(amount, 2)).all()
    honest = cards.filter(pc.invert(cards["fraud"])).group_by("customer")
    stats = honest.aggregate([("amount", "mean"), ("amount", "stddev"), ("amount", "count")])
    often = stats.filter(pc.greater(stats["amount_count"], 100))
    mean = column(often, "amount_mean")
    assert mean.min() > 3
    assert mean.max() < 120
    assert 0.45 < float(np.median(column(often, "amount_stddev") / mean)) < 0.55


def test_a_terminal_has_one_category_and_all_occur(cards: pa.Table) -> None:
    assert set(cards["category"].unique().to_pylist()) == set(CATEGORIES)
    kinds = cards.group_by("terminal").aggregate([("category", "count_distinct")])
    assert pc.max(kinds["category_count_distinct"]).as_py() == 1


def test_a_customer_uses_few_terminals(cards: pa.Table) -> None:
    used = cards.group_by("customer").aggregate([("terminal", "count_distinct")])
    # 1000 terminals x pi x 5^2 / 100^2 = 7.9 within the radius.
    assert 5 < pc.mean(used["terminal_count_distinct"]).as_py() < 9
    assert pc.max(used["terminal_count_distinct"]).as_py() < 30


def test_scenario_1_high_amounts_are_fraud(cards: pa.Table) -> None:
    high = cards.filter(pc.greater(cards["amount"], AMOUNT_FRAUD_MIN))
    assert high.num_rows > 20
    assert pc.all(high["fraud"]).as_py()


def test_scenario_2_a_compromised_terminal_for_28_days(cards: pa.Table) -> None:
    terminal, day = column(cards, "terminal"), day_of(cards)
    fraud = column(cards, "fraud")
    amount = column(cards, "amount")
    taken = 0
    for one in np.unique(terminal[fraud]):
        at = terminal == one
        low = day[at & fraud & (amount <= AMOUNT_FRAUD_MIN)]
        if low.size < 20:
            continue
        span = at & (day > low.min()) & (day < low.max())
        if fraud[span].all() and low.max() - low.min() < TERMINAL_FRAUD_DAYS:
            taken += 1
            assert np.unique(column(cards, "customer")[span]).size > 1
            assert not fraud[at].all()
    assert taken >= 3


def test_scenario_3_a_compromised_customer_for_14_days(cards: pa.Table) -> None:
    customer, day = column(cards, "customer"), day_of(cards)
    fraud = column(cards, "fraud")
    amount = column(cards, "amount")
    shares, factors, below_high = [], [], 0
    for one in np.unique(customer[fraud]):
        own = customer == one
        usual = float(np.median(amount[own & ~fraud]))
        # Honest means are at most 100, so a fivefold median stands out from scenarios 1 and 2.
        stolen = own & fraud & (amount > 3.5 * usual)
        days = day[stolen]
        if days.size < 5 or days.max() - days.min() >= CUSTOMER_FRAUD_DAYS:
            continue
        span = own & (day >= days.min()) & (day <= days.max())
        shares.append(float((stolen & span).sum() / span.sum()))
        factors.append(float(np.median(amount[stolen])) / usual)
        below_high += int((amount[stolen] <= AMOUNT_FRAUD_MIN).sum())
    assert len(shares) >= 3
    assert 0.15 < float(np.mean(shares)) < 0.65
    # Above 5, because the filter above keeps only what is at least 3.5 times the usual.
    assert 4.5 < float(np.median(factors)) < 7
    # These are fraud because they are stolen; scenario 1 would miss them.
    assert below_high >= 10


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_smallest_world_works(seed: int) -> None:
    table = card_transactions(customers=1, terminals=1, days=30, seed=seed)
    assert table.schema == CARD_SCHEMA
    assert set(table["terminal"].to_pylist()) <= {0}


def test_no_transaction_at_all_is_an_empty_table() -> None:
    # One customer on one day pays nothing with probability 0.04 to 0.82; 30 seeds find it.
    tables = [card_transactions(customers=1, terminals=1, days=1, seed=seed) for seed in range(30)]
    empty = [table for table in tables if table.num_rows == 0]
    assert empty
    assert empty[0].schema == CARD_SCHEMA


@pytest.mark.parametrize("name", ["customers", "terminals", "days"])
def test_a_count_below_one_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        card_transactions(**{name: 0})
