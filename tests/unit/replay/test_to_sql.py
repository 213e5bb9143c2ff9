"""The text of the SQL: it is read by people, so a change of it is seen."""

from pathlib import Path

import pyarrow as pa
import pytest

from hofflight.features import window as hof
from hofflight.features.group import feature_group
from hofflight.replay.prepared import Preparation
from hofflight.replay.sql_shape import exact_decimal, quoted
from hofflight.replay.to_sql import Facts, Sql
from hofflight.wire.schema import TIMESTAMP

GOLDEN = Path(__file__).parent / "to_sql_golden.sql"


def statements():
    group = feature_group(
        "g", version=1, key="card", event_time="ts",
        input={"card": pa.int64(), "ts": TIMESTAMP, "amount": pa.float64(), "food": pa.bool_()},
        windows={
            "n": hof.count().over("1h"),
            "total": hof.sum("amount", where="food").over("30d", tile="1h"),
            "spread": hof.std("amount").last(10, own_row=False),
            "visit": hof.first("amount").session("5m"),
        },
    )  # fmt: skip
    sql = Sql(Preparation(group).question, "arrival", "rows", Facts(0, 10**9, in_order=False))
    texts = {
        "timed": sql.timed(),
        "visible": sql.visible(),
        "plain": sql.plain([True, False]),
        "odd": sql.odd(),
        "answers": sql.answers(some_odd=True, some_late=True),
    }
    return "".join(f"-- {name}\n{text.strip()};\n\n" for name, text in texts.items())


def test_the_text_is_what_it_was():
    """Write the file anew, and read it, when it should change."""
    assert statements() == GOLDEN.read_text()


@pytest.mark.parametrize(
    ("q", "text"),
    [(0.55, "0.55"), (1.0, "1.0"), (1e-9, "0.000000001"), (1e-300, "0.000000000001")],
)
def test_a_quantile_is_a_decimal_with_the_digits_that_were_written(q, text):
    assert exact_decimal(q) == text


def test_identifiers_are_quoted_whatever_is_in_them():
    assert quoted('a"; DROP TABLE b') == '"a""; DROP TABLE b"'
