"""An old log as events of a new input: request by request, by a function that may be wrong."""

import pyarrow as pa
import pyarrow.compute as pc
import pytest

import hofflight as hof
from hofflight.errors import TransformFailed
from hofflight.replay.mapped import mapped_entries
from hofflight.wire.ipc import join_message

NEW = hof.feature_group(
    "g", version=3, key="card", event_time="ts",
    input={"card": pa.string(), "ts": hof.TIMESTAMP, "double": pa.float64()},
    windows={"n": hof.count().over("1h")},
)  # fmt: skip


def renew(batch):
    return {
        "card": pc.cast(batch["card"], pa.string()), "ts": batch["ts"],
        "double": pc.multiply(batch["x"], 2.0),
    }  # fmt: skip


def mapped(store, function=renew):
    return [entry for part in mapped_entries(store.history, NEW, function) for entry in part]


@pytest.mark.parametrize("sealed", [False, True])
def test_each_request_that_counts_becomes_one_entry(store, sealed):
    """With its id and time of arrival, numbered from 1, and without an answer."""
    old = [entry.meta for _, entry in store.log.read() if entry.meta.code == "OK"]
    if sealed:
        store.seal(rows_max=5)
    new = mapped(store)

    assert [e.meta.number for e in new] == list(range(1, len(old) + 1))
    assert [(e.meta.id, e.meta.arrival_us, e.meta.rows) for e in new] == [
        (meta.id, meta.arrival_us, meta.rows) for meta in old
    ]
    assert {(e.meta.code, e.meta.answered, e.meta.group_version) for e in new} == {("OK", False, 3)}
    assert {(e.answer_head, e.answer_body) for e in new} == {(b"", b"")}


def test_rows_are_what_the_function_made_of_them(store, live):
    """In the order in which they came."""
    rows = []
    for entry in mapped(store):
        message = pa.py_buffer(join_message(entry.head, entry.body))
        rows += pa.ipc.read_record_batch(message, NEW.input).to_pylist()

    assert len(rows) == len(live(store))
    assert rows[0]["double"] is None or isinstance(rows[0]["double"], float)
    assert [row["card"] for row in rows[:4]] == ["0", "1", "2", "0"]


def test_a_function_may_give_a_batch_or_a_table(store):
    """What any Arrow function gives."""
    expected = mapped(store)
    by_batch = mapped(store, lambda b: pa.RecordBatch.from_pydict(renew(b)))
    by_table = mapped(store, lambda b: pa.table(renew(b)))

    assert by_batch == expected
    assert by_table == expected


def drop_a_row(batch):
    return {name: column.slice(1) for name, column in renew(batch).items()}


@pytest.mark.parametrize(("function", "message"), [
    (drop_a_row, "rows for"),
    (lambda batch: {**renew(batch), "more": batch["x"]}, "'more'|more"),
    (lambda batch: {"card": batch["card"]}, "does not give the input of g@3"),
    (lambda batch: None, "does not give the input of g@3"),
    (lambda batch: 1 / 0, "ZeroDivisionError"),
])  # fmt: skip
def test_a_function_that_is_wrong_is_said_so(store, function, message):
    """And makes no entries."""
    with pytest.raises(TransformFailed, match=f"HOF-209.*({message})"):
        mapped(store, function)


def test_an_empty_log_becomes_an_empty_one(open_store, void):
    """Also one of nothing but marks."""
    store = open_store()
    assert mapped(store) == []
    store.log.append([void(1), void(2)])
    assert mapped(store) == []
    store.seal()
    assert mapped(store) == []
