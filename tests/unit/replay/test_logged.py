"""Entries as Arrow rows: a row of its own and a batch of many read the same."""

import pyarrow as pa
import pytest

from hofflight.errors import HofError, LogCorrupt
from hofflight.replay.logged import ABOUT, EntryReader, logged_schema, number_of


def entries_of(store, version):
    return [e for _, e in store.log.read() if e.meta.group_version == version]


def reader(store, version, *, answers=True):
    record = store.app.engine.registry.group("g", version)
    return EntryReader(record.input, record.full if answers else None)


@pytest.mark.parametrize("version", [1, 2])
def test_rows_have_the_schema_that_is_declared(store, version):
    """With answers, and without."""
    record = store.app.engine.registry.group("g", version)
    entries = entries_of(store, version)

    assert reader(store, version).rows(entries).schema == logged_schema(record.input, record.full)
    plain = reader(store, version, answers=False).rows(entries)
    assert plain.schema == logged_schema(record.input)
    assert plain.schema.names[: len(ABOUT)] == ABOUT.names


def test_no_entries_are_no_rows(store):
    """And void marks have none either."""
    voids = [entry for entry in entries_of(store, 2) if entry.meta.code != "OK"]

    assert voids
    for entries in ([], voids):
        assert reader(store, 2).rows(entries).num_rows == 0


@pytest.mark.parametrize("version", [1, 2])
def test_entries_read_alone_are_what_they_are_together(store, version):
    """Answered or not, of one row or of many: how they are grouped makes no difference."""
    entries = entries_of(store, version)
    whole = reader(store, version).rows(entries)
    alone = [reader(store, version).rows([entry]) for entry in entries]

    assert repr(pa.concat_batches(alone).to_pylist()) == repr(whole.to_pylist())
    again = reader(store, version)
    one_by_one = pa.concat_batches([again.rows([entry]) for entry in entries])
    assert repr(one_by_one.to_pylist()) == repr(whole.to_pylist())


def test_a_row_without_an_answer_has_null(store):
    """Whether it was asked for says `_answered`."""
    rows = reader(store, 2).rows(entries_of(store, 2)).to_pylist()

    assert {row["_answered"] for row in rows} == {True, False}
    assert all((row["_answer"] is not None) == row["_answered"] for row in rows)


def test_a_seq_is_a_record_and_a_row(store):
    """Of one number and of columns."""
    rows = reader(store, 2).rows(entries_of(store, 2))
    seqs = rows.column("_seq").to_numpy()

    assert number_of(seqs).tolist() == [seq >> 20 for seq in seqs.tolist()]
    assert rows.column("_row").to_pylist() == [seq & (2**20 - 1) for seq in seqs.tolist()]


def test_an_entry_that_does_not_hold_its_rows_is_an_error(store):
    """Metadata and bytes of two entries, mixed up."""
    many = next(e for e in entries_of(store, 2) if e.meta.rows > 1)
    one = next(e for e in entries_of(store, 2) if e.meta.rows == 1)
    with pytest.raises(LogCorrupt, match="do not add up"):
        reader(store, 2).rows([many._replace(head=one.head, body=one.body)])
    with pytest.raises(HofError):
        reader(store, 2).rows([many._replace(body=many.body[:-8])])
    with pytest.raises(LogCorrupt, match="answers do not add up"):
        reader(store, 2).rows([one._replace(answer_head=many.answer_head,
                                            answer_body=many.answer_body)])  # fmt: skip
