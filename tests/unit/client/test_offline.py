"""What a client sends for training data, labels and parity, and what it makes of the answers."""

from datetime import UTC, date, datetime

import msgspec
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from hofflight import limits
from hofflight.client.offline import label_body, parity_of, plain_moment, ticket_of, verify_body
from hofflight.errors import BadRows, NotSupported, TooLarge
from hofflight.wire.parity import Difference, Explanation, Parity

ROWS = [{"card": 1, "is_fraud": True}, {"card": 2, "is_fraud": False}]
PARITY = Parity(
    "v", 1, "c0de", rows=3, mismatches=1, by_feature={"g.n": 1},
    worst=[Difference("g.n", "07" * 16, 0, 9, 3, 0.5)],
)  # fmt: skip
EXPLANATION = {
    "request_id": "07" * 16, "row": 0, "seq": 1, "late": False, "features": {}, "windows": {},
}  # fmt: skip


@pytest.mark.parametrize(
    ("moment", "plain"),
    [
        (datetime(2026, 1, 31, 12, tzinfo=UTC), "2026-01-31T12:00:00+00:00"),
        (date(2026, 1, 31), "2026-01-31"),
        ("2026-01-31", "2026-01-31"),
        (7, 7),
        (None, None),
    ],
)
def test_moments_travel_as_text_or_microseconds(moment, plain):
    """A datetime without a zone goes too: the server refuses it, as `App` does."""
    assert plain_moment(moment) == plain


def test_a_ticket_leaves_out_what_was_not_given():
    """So an older server knows every field of a plain request."""
    ticket = ticket_of("v", None, None, "arrival", None, None, "auto", ids=False)

    assert ticket == {"view": "v", "as_of": "arrival", "engine": "auto", "ids": False}


def test_the_moments_of_a_split_are_made_plain_and_its_shares_kept():
    """Its order is that of the parts."""
    split = {"validation": date(2026, 5, 1), "test": 7, "gap": "1d", "share": 0.5}
    ticket = ticket_of("v", 1, 2, "event", split, 3, "kernel", ids=True)

    assert list(ticket["split"].items()) == [
        ("validation", "2026-05-01"), ("test", 7), ("gap", "1d"), ("share", 0.5),
    ]  # fmt: skip
    assert (ticket["start"], ticket["end"], ticket["version"]) == (1, 2, 3)


def test_a_verify_body_leaves_out_what_was_not_given():
    """0 was given."""
    assert verify_body("v", None, None, None) == {"view": "v"}
    assert verify_body("v", None, 0, 0.0) == {"view": "v", "since": 0, "sample": 0.0}


@pytest.mark.parametrize(
    "labels",
    [
        ROWS,
        iter(ROWS),
        pa.Table.from_pylist(ROWS),
        pa.RecordBatch.from_pylist(ROWS),
        pd.DataFrame(ROWS, index=[5, 6]),
        pl.DataFrame(ROWS),
    ],
    ids=["rows", "iterator", "table", "batch", "pandas", "polars"],
)
def test_labels_travel_as_an_arrow_file(labels):
    """A frame's index is no column."""
    body = msgspec.msgpack.decode(label_body("v", 2, labels))
    table = pa.ipc.open_file(body["table"]).read_all()

    assert (body["view"], body["version"]) == ("v", 2)
    assert table.to_pylist() == ROWS


def test_rows_of_labels_may_leave_out_columns():
    """In process they may; the first row alone does not say which there are."""
    rows = [{"card": 1, "is_fraud": True}, {"card": 2, "is_fraud": None, "amount": 3.0}]
    body = msgspec.msgpack.decode(label_body("v", None, rows))

    assert pa.ipc.open_file(body["table"]).read_all()["amount"].to_pylist() == [None, 3.0]


@pytest.mark.parametrize(
    "labels",
    [7, "labels.csv", [1, 2], [{"a": 1}, {"a": "x"}], pd.DataFrame({"a": [1, "x"]})],
)
def test_what_cannot_be_labels_is_refused_here(labels):
    """A path too: the file is on this side, the reader of files on the other."""
    with pytest.raises(BadRows, match="HOF-211"):
        label_body("v", None, labels)


def test_labels_beyond_a_message_are_refused_with_the_way_out():
    """Before they are sent."""
    big = pa.table({"text": ["x" * limits.message_bytes_max]})
    with pytest.raises(TooLarge, match=r"HOF-207.*load them in parts"):
        label_body("v", None, big)


def test_a_parity_comes_back_as_it_was():
    """But for the explainer, which asks the server."""
    assert parity_of(PARITY.to_dict(), None) == PARITY


@pytest.mark.parametrize("request_id", [b"\7" * 16, "07" * 16])
def test_an_explanation_is_asked_for_by_hex_digits(request_id):
    """Of bytes too."""
    asked = []

    def explain(text):
        asked.append(text)
        return {"explained": [EXPLANATION]}

    (found,) = parity_of(PARITY.to_dict(), explain).explain(request_id)

    assert asked == ["07" * 16]
    assert found == Explanation(**EXPLANATION)


def test_a_parity_that_cannot_ask_says_what_to_use():
    """`explain` is no coroutine, so an asyncio client has none."""
    with pytest.raises(NotSupported, match=r"HOF-213.*hof\.connect"):
        parity_of(PARITY.to_dict(), None).explain(b"\7" * 16)
