"""A request id counts once: now, after a restart, after a crash, and under any view."""

import uuid

import pytest

from hofflight.errors import BadMetadata, IdReused, NullKey
from hofflight.eventlog.ids import RequestIds
from hofflight.settings import EngineSettings

ONE, TWO = uuid.UUID(int=1), uuid.UUID(int=2)


def values(vector):
    return [list(row.values()) for row in vector.batch.to_pylist()]


@pytest.mark.parametrize("when", ["at once", "after a restart", "after a crash"])
def test_the_same_id_and_payload_get_the_same_answer_and_count_once(stores, group, event, when):
    """A client that never heard the answer asks again, and nobody is counted twice."""
    app = stores.open(group())
    first = app.vector("g", event(7, 0), request_id=ONE)
    app.vector("g", event(7, 1))
    if when == "after a restart":
        app.close()
        app = stores.open(group())
    elif when == "after a crash":
        app = stores.crashed(group())

    again = app.vector("g", event(7, 0), request_id=ONE)

    assert values(again) == values(first)
    assert (again.request_id, again.code_hash) == (ONE.bytes, first.code_hash)
    assert app.vector("g", event(7, 2)).to_dict()["g.n"] == 3


def test_the_same_id_is_answered_under_any_view_of_the_group(stores, group, event):
    """The id belongs to the events, not to the columns that somebody asks for."""
    app = stores.open(group())
    app.view("narrow", 1, ["g.more", "g.n"])
    batch = [event(7, 0), event(7, 1), event(8, 1)]
    whole = app.vector("g", batch, request_id=ONE)
    narrow = app.vector("narrow", batch, request_id=ONE)
    other = app.vector("narrow", event(7, 2), request_id=TWO)
    back = app.vector("g", event(7, 2), request_id=TWO)

    assert values(narrow) == [[row["g.more"], row["g.n"]] for row in whole.batch.to_pylist()]
    assert (narrow.view, narrow.batch.schema.names) == ("narrow", ["g.more", "g.n"])
    assert values(other) == [[4, 3]]
    assert back.to_dict()["g.n"] == 3
    assert app.vector("g", event(7, 3)).to_dict()["g.n"] == 4


@pytest.mark.parametrize("when", ["at once", "after a restart", "after a crash"])
def test_the_same_id_with_another_payload_is_refused(stores, group, event, when):
    """Two events under one id: one of them would be lost without a word."""
    app = stores.open(group())
    app.vector("g", event(7, 0), request_id=ONE)
    if when == "after a restart":
        app.close()
        app = stores.open(group())
    elif when == "after a crash":
        app = stores.crashed(group())

    for other in (event(7, 1), event(7, 0, x=2), [event(7, 0)] * 2):
        with pytest.raises(IdReused, match=r"HOF-208.*another payload"):
            app.vector("g", other, request_id=ONE)
    assert app.vector("g", event(7, 1)).to_dict()["g.n"] == 2


def test_a_refused_request_is_refused_again_under_its_id(stores, group, event, log_of):
    """A definite error is final: it is looked up, not tried again."""
    app = stores.open(group())
    bad = [event(7, 0), event(None, 0)]
    for _ in range(3):
        with pytest.raises(NullKey, match="HOF-205"):
            app.vector("g", bad, request_id=ONE)

    assert [meta.code for meta in log_of(app)] == ["HOF-205"]


def test_late_rows_and_overflows_are_repeated_with_their_status(stores, group, event):
    """The repeated answer is the whole answer, not only its columns."""
    app = stores.open(group())
    rows = [event(7, 2_000, 2**62), event(7, 0), event(7, 2_001, 2**62)]
    first = app.vector("g", rows, request_id=ONE)
    again = app.vector("g", rows, request_id=ONE)

    assert first.late == again.late == [False, True, False]
    assert first.status == again.status
    assert again.status["g.total"] == ["OK", "LATE", "OVERFLOW"]


def test_an_id_is_16_bytes_or_a_uuid(stores, group, event):
    """Anything else would not survive the wire."""
    app = stores.open(group())
    for bad in (b"", b"x" * 15, b"x" * 17, "0" * 16, 7):
        with pytest.raises(BadMetadata, match="HOF-204"):
            app.vector("g", event(7, 0), request_id=bad)

    assert app.vector("g", event(7, 0)).to_dict()["g.n"] == 1


def test_ids_are_scoped_to_one_log(stores, group, event):
    """Two groups may be sent the same event under the same id."""
    app = stores.open(group(), group(name="h"))

    assert app.vector("g", event(7, 0), request_id=ONE).to_dict()["g.n"] == 1
    assert app.vector("h", event(7, 0), request_id=ONE).to_dict()["h.n"] == 1


def ids_with(**settings):
    return RequestIds(EngineSettings(**settings))


def add(ids, number, at_s=0):
    ids.add(number.to_bytes(16, "big"), number * 10, number=number, arrival_us=at_s * 1_000_000)


def remembered(ids, numbers):
    return [n for n in numbers if ids.find(n.to_bytes(16, "big")) == n * 10]


def test_the_newest_ids_are_remembered_and_memory_is_bounded():
    """At least ids_max of them, at most twice as many, whatever comes."""
    ids = ids_with(ids_max=10)
    for number in range(1, 101):
        add(ids, number)
        kept = remembered(ids, range(1, number + 1))
        assert kept[-10:] == list(range(max(1, number - 9), number + 1))
        assert len(kept) <= 20
        assert kept[0] > ids.needed_after


def test_old_ids_are_forgotten_by_age():
    """At least ids_age_s are remembered, and twice that is forgotten."""
    ids = ids_with(ids_age_s=100)
    for number in range(1, 51):
        add(ids, number, at_s=number * 10)

    kept = remembered(ids, range(1, 51))
    assert kept == list(range(kept[0], 51))
    assert 40 >= kept[0] >= 28


def test_forgotten_ids_count_again_and_remembered_ones_do_not(stores, group, event):
    """ids_max says how long a retry is safe; past it an id is a new one."""
    app = stores.open(group(), ids_max=2)
    for number in range(6):
        app.vector("g", event(7, number), request_id=uuid.UUID(int=number))

    assert app.vector("g", event(7, 5), request_id=uuid.UUID(int=5)).to_dict()["g.n"] == 6
    assert app.vector("g", event(7, 0), request_id=uuid.UUID(int=0)).to_dict()["g.n"] == 2
    assert app.vector("g", event(7, 9)).to_dict()["g.n"] == 8
