"""The rows of a log as people ask for them: in order, of a key, of some time, sent or answered."""

import pytest

from hofflight.errors import BadRange
from hofflight.replay.log_rows import Filter, batches, entries
from hofflight.replay.span import Span

EVERYTHING = Span.of(None, None)


@pytest.fixture(params=["live", "sealed", "both"])
def log(request, store, send):
    """A store of two rounds of everything, sealed or not."""
    if request.param == "both":
        store.seal(rows_max=4)
    send(store.app, 100)
    if request.param == "sealed":
        store.seal(rows_max=4)
    return store


def record(store, version=2):
    return store.app.engine.registry.group("g", version)


def shown(store, key=(), span=EVERYTHING, versions=None):
    return list(entries(store.history, Filter(record(store), key, span), versions))


def test_all_rows_stand_in_order_with_marks_where_they_came(log, live):
    """Whose row, when, whether late; a mark says why it does not count."""
    found = shown(log)
    metas = [entry.meta for _, entry in log.log.read()]

    assert [entry["seq"] for entry in found] == sorted(entry["seq"] for entry in found)
    assert sum(entry["code"] == "OK" for entry in found) == len(live(log))
    voids = [(m.number, m.id.hex(), m.error) for m in metas if m.code != "OK"]
    refused = [entry for entry in found if entry["code"] != "OK"]
    assert voids
    assert [(e["seq"] >> 20, e["id"], e["error"]) for e in refused] == voids
    assert all(entry["row"] is None for entry in refused)
    assert sum(entry["late"] for entry in found) == sum(len(m.late) for m in metas)


def test_a_key_chooses_its_rows(log):
    """And no marks: what was refused may have had no key."""
    found = shown(log, key=("2",))

    assert found
    assert {entry["row"]["card"] for entry in found} == {2}
    assert {entry["code"] for entry in found} == {"OK"}
    everything = [e for e in shown(log) if e["row"] and e["row"]["card"] == 2]
    assert [entry["seq"] for entry in found] == [entry["seq"] for entry in everything]


def test_a_span_chooses_event_times(log, row):
    """From its start on, before its end."""
    start, end = row(3)["ts"], row(9)["ts"]
    found = shown(log, span=Span.of(start, end))
    times = {round(entry["row"]["ts"].timestamp() * 1e6) for entry in found}

    assert times == {row(number)["ts"] for number in range(3, 9)}
    assert shown(log, span=Span.of(start, start)) == []


def test_answers_are_shown_in_place_of_rows(log):
    """Of the versions asked for; events without an answer as they were sent."""
    found = shown(log, versions=[2])

    assert all(e["row"] is None or "card" in e["row"] for e in found)
    assert any(e["row"] and e["row"].get("n") for e in found)
    both = shown(log, versions=[1, 2])
    assert len([e for e in both if e["row"]]) == len([e for e in shown(log) if e["row"]])


@pytest.mark.parametrize(("key", "message"), [
    (("x",), "'card' is int64"), (("1", "2"), "the key of g is"), (("",), "'card' is int64"),
    ((str(2**64),), "'card' is int64"),
])  # fmt: skip
def test_a_key_that_is_none_is_refused(log, key, message):
    """Naming the column and its type."""
    with pytest.raises(BadRange, match=rf"HOF-215.*{message}"):
        shown(log, key=key)


def test_batches_have_one_schema_and_come_in_order(log, live):
    """For a file: every row, or the answers of one version."""
    wanted = Filter(record(log), (), EVERYTHING)
    found = list(batches(log.history, wanted))
    assert all(batch.schema.equals(found[0].schema) for batch in found)
    seqs = [seq for batch in found for seq in batch.column("_seq").to_pylist()]
    assert seqs == sorted(seqs)
    assert len(seqs) == len(live(log))

    answered = list(batches(log.history, wanted, answers=1))
    assert {batch.schema.names[-1] for batch in answered} == {"_answer"}
    ones = [row for row in live(log) if row.startswith("(1,")]
    assert sum(batch.num_rows for batch in answered) == len(ones)
