"""Seeded card transactions with three kinds of fraud, the input of `hof demo cards`.

The model is the one that the public fraud-detection literature describes: customers and
terminals lie in a square, a customer pays only at terminals near home, by a spending profile
of their own, and three scenarios turn payments into fraud. Everything is drawn in whole
arrays, so the default 50,000 rows take well under a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa

CATEGORIES = ("food", "fuel", "travel", "online", "other")
"""What a terminal sells; each terminal has one."""

CARD_SCHEMA = pa.schema(
    [
        ("customer", pa.int64()),
        ("ts", pa.timestamp("us", tz="UTC")),
        ("terminal", pa.int64()),
        ("amount", pa.float64()),
        ("category", pa.string()),
        ("fraud", pa.bool_()),
    ]
)
"""The columns of `card_transactions`, in order."""

START = datetime(2026, 1, 1, tzinfo=UTC)
"""Midnight before the first transaction."""

AMOUNT_FRAUD_MIN = 220.0
"""Scenario 1: above this amount, a payment is fraud."""

TERMINAL_FRAUD_DAYS = 28
"""Scenario 2: for so many days, everything paid at a compromised terminal is fraud."""

CUSTOMER_FRAUD_DAYS = 14
"""Scenario 3: for so many days, a third of a compromised customer's payments are fraud."""

CUSTOMER_FRAUD_FACTOR = 5.0
"""Scenario 3: the thief spends this many times what the customer would have."""

_CUSTOMER_FRAUD_SHARE = 1 / 3
_SQUARE_SIDE = 100.0
_RADIUS = 5.0
_AMOUNT_MEAN_RANGE = (5.0, 100.0)
# 1.7 a day on average: 500 customers x 60 days x 1.7 = 51,000 rows. Never near zero, so that
# (almost) every customer shows up.
_PER_DAY_RANGE = (0.2, 3.2)
# As shares and not as counts, so that the fraud rate stays near 1 % at every size:
# 0.0002 x 28 days = 0.6 % of the terminals, 0.0006 x 14 days / 3 = 0.3 % of the payments.
_TERMINALS_TAKEN_PER_DAY = 0.0002
_CUSTOMERS_TAKEN_PER_DAY = 0.0006

_AGE_UNKNOWN_SHARE = 0.05
_DAY_US = 86_400_000_000
_NOON_US = _DAY_US // 2
_NOON_SPREAD_US = 20_000_000_000
_START_US = int(START.timestamp()) * 1_000_000

_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]
_Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class _Reach:
    """The terminals that each customer uses, all customers' lists in one array."""

    terminals: _Ints
    first: _Ints
    count: _Ints


def customers_table(*, customers: int, seed: int, days: int) -> pa.Table:
    """What a bank knows of each customer so many days after the first transaction.

    Columns: customer, updated, age (null for some), segment. The same seed gives the same ages.
    """
    rng = np.random.default_rng((seed, customers))
    age = rng.integers(18, 90, size=customers)
    is_unknown = rng.random(customers) < _AGE_UNKNOWN_SHARE
    # Customers move up with time: one in 120 each day.
    is_gold = rng.random(customers) < (days + 1) / 120
    updated = pa.array(np.full(customers, _START_US + days * _DAY_US)).cast(
        CARD_SCHEMA.field("ts").type
    )
    return pa.table(
        {
            "customer": pa.array(np.arange(customers)),
            "updated": updated,
            "age": pa.array(age.astype(np.int32), mask=is_unknown),
            "segment": pa.array(np.where(is_gold, "gold", "plain")),
        }
    )


def card_transactions(
    *, customers: int = 500, terminals: int = 1000, days: int = 60, seed: int = 7
) -> pa.Table:
    """Draw the card transactions of some customers over some days, frauds marked.

    The same arguments give the same table, byte for byte, as long as numpy's random streams
    stay the same (numpy may change them in a feature release). Another number of days is
    another draw, not a longer or shorter one. Memory grows with customers x terminals.

    Rows: about 1.7 x customers x days, sorted by `ts`.
    Columns: those of `CARD_SCHEMA`, never null; `amount` has 2 decimals and is at least 0.01;
        `customer` and `terminal` count from 0; `category` depends on `terminal` alone.

    Raises:
        ValueError: A count below 1, or a negative seed.
    """
    for name, count in (("customers", customers), ("terminals", terminals), ("days", days)):
        if count < 1:
            msg = f"{name} must be at least 1, got {count}"
            raise ValueError(msg)
    rng = np.random.default_rng(seed)
    reach = _draw_reach(rng, customers=customers, terminals=terminals)
    amount_mean = rng.uniform(*_AMOUNT_MEAN_RANGE, size=customers)
    per_day = rng.uniform(*_PER_DAY_RANGE, size=customers)
    category_of = rng.integers(len(CATEGORIES), size=terminals)

    customer, day = _draw_customer_days(rng, per_day=per_day, days=days)
    ts_us = _draw_event_times(rng, day=day)
    # floor(uniform [0, 1) x count) < count: an even choice from lists of unequal lengths.
    choice = (rng.random(customer.size) * reach.count[customer]).astype(np.int64)
    terminal = reach.terminals[reach.first[customer] + choice]
    amount = _draw_amounts(rng, mean=amount_mean[customer])

    by_terminal = _compromised(
        rng, count=terminals, days=days, per_day=_TERMINALS_TAKEN_PER_DAY, last=TERMINAL_FRAUD_DAYS
    )
    by_customer = _compromised(
        rng, count=customers, days=days, per_day=_CUSTOMERS_TAKEN_PER_DAY, last=CUSTOMER_FRAUD_DAYS
    )
    stolen = by_customer[customer, day] & (rng.random(customer.size) < _CUSTOMER_FRAUD_SHARE)
    amount = np.where(stolen, np.round(amount * CUSTOMER_FRAUD_FACTOR, 2), amount)
    fraud = (amount > AMOUNT_FRAUD_MIN) | by_terminal[terminal, day] | stolen

    # Stable, so that ties in time have one order too.
    order = np.argsort(ts_us, kind="stable")
    names = pa.array(CATEGORIES, pa.string())
    columns = [
        pa.array(customer[order]),
        pa.array(ts_us[order]).cast(CARD_SCHEMA.field("ts").type),
        pa.array(terminal[order]),
        pa.array(amount[order]),
        names.take(pa.array(category_of[terminal[order]])),
        pa.array(fraud[order]),
    ]
    return pa.Table.from_arrays(columns, schema=CARD_SCHEMA)


def _draw_reach(rng: np.random.Generator, *, customers: int, terminals: int) -> _Reach:
    """Place customers and terminals, and find the terminals within the radius of each home."""
    home = rng.uniform(0.0, _SQUARE_SIDE, size=(customers, 2))
    place = rng.uniform(0.0, _SQUARE_SIDE, size=(terminals, 2))
    distance = np.hypot(home[:, 0, np.newaxis] - place[:, 0], home[:, 1, np.newaxis] - place[:, 1])
    near = distance <= _RADIUS
    # The nearest one always counts: where terminals are sparse, a customer has to walk further.
    near[np.arange(customers), distance.argmin(axis=1)] = True
    count = near.sum(axis=1, dtype=np.int64)
    # nonzero() walks row by row, so each customer's terminals lie side by side.
    return _Reach(
        terminals=near.nonzero()[1].astype(np.int64), first=count.cumsum() - count, count=count
    )


def _draw_customer_days(
    rng: np.random.Generator, *, per_day: _Floats, days: int
) -> tuple[_Ints, _Ints]:
    """Draw how often each customer pays each day.

    Rows: one per transaction; its customer, and its day from 0.
    """
    counts = rng.poisson(per_day[:, np.newaxis], size=(per_day.size, days)).ravel()
    cell = np.repeat(np.arange(counts.size, dtype=np.int64), counts)
    return cell // days, cell % days


def _draw_event_times(rng: np.random.Generator, *, day: _Ints) -> _Ints:
    """Draw a time around noon on each given day, in microseconds since 1970, UTC."""
    within_us = rng.normal(_NOON_US, _NOON_SPREAD_US, size=day.size).astype(np.int64)
    # The 3 % that fall outside the day (noon is 43,200 s = 2.16 sigma from midnight) come back
    # in at its other end; dropping them would bend the customer's rate.
    return _START_US + day * _DAY_US + within_us % _DAY_US


def _draw_amounts(rng: np.random.Generator, *, mean: _Floats) -> _Floats:
    """Draw one amount around each mean, with half the mean as standard deviation."""
    amount = rng.normal(mean, mean / 2)
    # Below zero (2 sigma, 2.3 %) is drawn again, evenly around the same mean.
    amount = np.where(amount < 0, rng.uniform(0.0, 2 * mean), amount)
    return np.maximum(np.round(amount, 2), 0.01)


def _compromised(
    rng: np.random.Generator, *, count: int, days: int, per_day: float, last: int
) -> _Bools:
    """Draw who is compromised when: one flag per thing and day.

    At least one thing is, so that a small table has its fraud too. Where the same thing is
    drawn again before its time is over, the two times overlap.
    """
    taken = max(1, round(count * days * per_day))
    who = rng.integers(count, size=taken)
    first = rng.integers(days, size=taken)
    # +1 where a time starts, -1 on the day after its end; the running sum counts open times.
    change = np.zeros((count, days + 1), dtype=np.int64)
    np.add.at(change, (who, first), 1)
    np.add.at(change, (who, np.minimum(first + last, days)), -1)
    return change.cumsum(axis=1)[:, :days] > 0
