"""A load is seen whole or not at all, whatever came before it and however it ended."""

import struct

import msgspec
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hofflight.errors import StoredUnreadable
from hofflight.online.packed import Packing, stamp
from hofflight.online.protocol import KEY_BYTES_MAX
from hofflight.online.slots import (
    COMMITS_KEY,
    Commits,
    key_prefix,
    newest_row,
    read_commits,
    replaced,
    row_key,
    write_commits,
)
from hofflight.wire.keys import KEY_BYTES_MAX as LONGEST_KEY

PACKING = Packing(pa.schema([("x", pa.int64())]))
KEYS = "abcd"


def row_of(time_us, load, value=0):
    """A packed row."""
    [row] = PACKING.pack(pa.array([time_us]), pa.array([load]), [pa.array([value])]).to_pylist()
    return row


# --- the promise ---


class Loading(msgspec.Struct, frozen=True):
    """One load: rows by key, in the order in which they are put; cut: broken off after so many.

    `cut` beyond the rows: all were put, yet the load was broken off before its commit.
    """

    rows: tuple[tuple[str, int], ...]
    cut: int | None


@st.composite
def loadings(draw):
    """Few keys and few times, so that equal times and older rows come often."""
    times = draw(st.dictionaries(st.sampled_from(KEYS), st.integers(0, 4), max_size=4))
    rows = draw(st.permutations(sorted(times.items())))
    return Loading(tuple(rows), draw(st.none() | st.integers(0, 5)))


class Reader:
    """What is obviously right beside what a reader of the store sees."""

    def __init__(self):
        self.store = {}
        self.commits = Commits()
        self.committed = []  # (key, time, load) of every row of a committed load

    def expected(self):
        """The newest row of each key by (time, load)."""
        best = {}
        for key, time_us, load in self.committed:
            best[key] = max(best.get(key, (time_us, load)), (time_us, load))
        return {key: best.get(key) for key in KEYS}

    def seen(self):
        """Stamps that a lookup finds now."""
        found = {}
        for key in KEYS:
            value = self.store.get(key)
            row = None if value is None else newest_row(value, self.commits)
            found[key] = None if row is None else stamp(row)
            # The value that belongs to this stamp, not another row's.
            if row is not None:
                assert PACKING.unpack(row).values == [worth(key, *stamp(row))]
        return found

    def put(self, key, time_us, load):
        """As `Materializer._put`; True where the key got a newer row."""
        row = row_of(time_us, load, worth(key, time_us, load))
        value = replaced(self.store.get(key), row, self.commits)
        if value is not None:
            self.store[key] = value
        return value is not None


def worth(key, time_us, load):
    """A value that no other row has."""
    return load * 1_000 + time_us * 10 + KEYS.index(key)


def run(loads, check):
    """Load after load as `Materializer.load` does it; `check` after every single step."""
    reader = Reader()
    voided = set()
    for number, load in enumerate(loads, 1):
        reader.commits = msgspec.structs.replace(reader.commits, voided=frozenset(voided))
        before = reader.expected()
        for place, (key, time_us) in enumerate(load.rows):
            if place == load.cut:
                break
            is_newer = before[key] is None or (time_us, number) > before[key]
            assert reader.put(key, time_us, number) == is_newer
            check(reader)
        if load.cut is not None:
            voided.add(number)
        else:
            reader.committed += [(key, time_us, number) for key, time_us in load.rows]
            reader.commits = Commits(number, frozenset(voided))
        check(reader)
    return reader


def sees_what_is_right(reader):
    assert reader.seen() == reader.expected()


@given(st.lists(loadings(), max_size=8))
def test_a_reader_sees_whole_loads_and_of_each_key_the_newest_row(loads):
    """After every put, before and after every commit, whatever was broken off before."""
    run(loads, sees_what_is_right)


@given(st.lists(loadings(), max_size=6))
def test_a_page_that_lags_behind_shows_the_loads_that_it_knows(loads):
    """The page of a voided load is written with the next commit only; until then it is the old."""
    reader = Reader()
    voided = []
    for number, load in enumerate(loads, 1):
        for place, (key, time_us) in enumerate(load.rows):
            if place == load.cut:
                break
            # The manifest knows what was voided, the page in the store does not yet.
            known = Commits(reader.commits.last, frozenset(voided))
            row = row_of(time_us, number, worth(key, time_us, number))
            reader.store[key] = replaced(reader.store.get(key), row, known) or reader.store[key]
            sees_what_is_right(reader)
        if load.cut is None:
            reader.committed += [(key, time_us, number) for key, time_us in load.rows]
            reader.commits = Commits(number, frozenset(voided))
        else:
            voided.append(number)
        sees_what_is_right(reader)


@given(st.lists(loadings(), max_size=6), st.sets(st.sampled_from(KEYS)), st.data())
def test_filling_a_store_again_that_lost_rows_shows_what_was_there(loads, lost, data):
    """As a refill does it: the newest committed row of each key, in any order, twice."""
    reader = run(loads, sees_what_is_right)
    for key in lost:
        reader.store.pop(key, None)
    newest = {key: at for key, at in reader.expected().items() if at is not None}
    for key in data.draw(st.permutations(sorted(newest))) * 2:
        reader.put(key, *newest[key])

    sees_what_is_right(reader)


def test_a_load_in_the_making_is_behind_nobodys_back():
    """The whole promise with one key, by hand."""
    first, second = row_of(10, 1, 1), row_of(20, 2, 2)
    value = replaced(replaced(None, first, Commits()), second, Commits(1))

    assert newest_row(replaced(None, first, Commits()), Commits()) is None
    assert newest_row(value, Commits(1)) == first
    assert newest_row(value, Commits(2)) == second
    assert newest_row(value, Commits(3, frozenset({2}))) == first
    assert newest_row(value, Commits(3, frozenset({1, 2}))) is None


@pytest.mark.parametrize(("time_us", "load", "is_newer"), [
    (9, 2, False), (10, 2, True), (11, 2, True), (10, 1, False), (-(2**63), 2, False),
])  # fmt: skip
def test_a_row_replaces_an_older_one_and_with_the_same_time_that_of_an_earlier_load(
    time_us, load, is_newer
):
    """Event times decide, then the order of loads; the same row again changes nothing."""
    value = replaced(None, row_of(10, 1), Commits())
    found = replaced(value, row_of(time_us, load), Commits(1))

    assert (found is not None) == is_newer


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=9))
def test_a_value_never_holds_more_than_two_rows(loads):
    """However many loads were broken off: a value would grow for ever."""
    value, last, voided, size = None, 0, set(), len(row_of(0, 0))
    for number, (time_us, is_void) in enumerate(loads, 1):
        value = replaced(value, row_of(time_us, number), Commits(last, frozenset(voided))) or value
        assert len(value) <= 5 + 2 * size
        if is_void:
            voided.add(number)
        else:
            last = number


# --- the page of loads ---

NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,62}\.[1-9][0-9]{0,5}", fullmatch=True)
COMMITS = st.builds(Commits, st.integers(0, 2**62), st.frozensets(st.integers(1, 2**62)))


@given(st.dictionaries(NAMES, COMMITS, max_size=5))
def test_the_page_of_loads_is_read_back_as_it_was_written(groups):
    """Of no group, and of many."""
    assert read_commits(write_commits(groups)) == groups


def test_the_bytes_of_the_page_never_change():
    """Readers of other releases look at it: MessagePack, a map of maps."""
    page = write_commits({"a.1": Commits(3, frozenset({2})), "b.12": Commits()})

    assert msgspec.msgpack.decode(page) == {
        "v": 1,
        "groups": {
            "a.1": {"last": 3, "voided": [2], "first": 1},
            "b.12": {"last": 0, "voided": [], "first": 1},
        },
    }  # fmt: skip


@given(st.integers(1, 9), st.frozensets(st.integers(1, 9)), st.integers(1, 12))
def test_a_load_counts_up_to_the_last_unless_it_was_broken_off(last, voided, load):
    """A load in the making has a number that is greater than the last."""
    assert Commits(last, voided).has(load) == (load <= last and load not in voided)
    assert not Commits().has(load)


HOSTILE = [
    ("nothing", b""),
    ("no MessagePack", b"\xc1"),
    ("a number", msgspec.msgpack.encode(7)),
    ("a list", msgspec.msgpack.encode([1, {}])),
    ("no groups", msgspec.msgpack.encode({"v": 1})),
    ("no format", msgspec.msgpack.encode({"groups": {}})),
    ("an unknown field", msgspec.msgpack.encode({"v": 1, "groups": {}, "more": 1})),
    ("groups as a list", msgspec.msgpack.encode({"v": 1, "groups": []})),
    ("a load as text", msgspec.msgpack.encode({"v": 1, "groups": {"a.1": {"last": "3"}}})),
    ("a list in the list", msgspec.msgpack.encode({"v": 1, "groups": {"a.1": {"voided": [[1]]}}})),
    ("names that are bytes", msgspec.msgpack.encode({"v": 1, "groups": {b"\xff": {}}})),
    ("text that is not UTF-8", b"\x82\xa1v\x01\xa6groups\x81\xa1\xff\x80"),
    ("bytes behind it", write_commits({}) + b"\0"),
    ("cut", write_commits({"a.1": Commits(3)})[:-1]),
    ("a long list that is not there", b"\x82\xa1v\x01\xa6groups\xdf\xff\xff\xff\xff"),
    ("very deep", b"\x82\xa1v\x01\xa1x" + b"\x91" * 100_000),
]


@pytest.mark.parametrize("page", [w[1] for w in HOSTILE], ids=[w[0] for w in HOSTILE])
def test_a_page_that_is_none_is_refused(page):
    """Whoever else writes to the server under this key."""
    with pytest.raises(StoredUnreadable, match="HOF-511"):
        read_commits(page)


@given(st.binary(max_size=60))
def test_random_bytes_as_a_page_are_refused_and_nothing_else_is_raised(page):
    """A lookup answers UNAVAILABLE then, and does not end."""
    with pytest.raises(StoredUnreadable, match="HOF-511"):
        read_commits(page)


@given(st.dictionaries(NAMES, COMMITS, max_size=3), st.data())
def test_a_page_with_a_changed_byte_is_read_or_refused(groups, data):
    """It is a value of a store that others may write to."""
    page = bytearray(write_commits(groups))
    page[data.draw(st.integers(0, len(page) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = read_commits(bytes(page))
    except StoredUnreadable:
        return
    assert all(isinstance(each, Commits) for each in found.values())


@pytest.mark.parametrize("number", [0, 2, 99, -1])
def test_a_page_of_another_format_is_refused_by_its_number(number):
    """The hint is to upgrade, not to load again."""
    page = msgspec.msgpack.encode({"v": number, "groups": {}})

    with pytest.raises(StoredUnreadable, match=rf"HOF-511.*format {number},.*upgrade"):
        read_commits(page)


# --- values that cannot be read ---

OLD, NEW = row_of(10, 1, 1), row_of(20, 2, 2)
VALUE = replaced(replaced(None, OLD, Commits()), NEW, Commits(1))
PAGES = [Commits(), Commits(1), Commits(2), Commits(2, frozenset({2}))]


@pytest.mark.parametrize("commits", PAGES)
def test_a_cut_value_is_refused_or_gives_a_row_that_is_whole(commits):
    """Cut anywhere: a row that is given is refused by its own length where it is not whole."""
    for end in range(len(VALUE)):
        try:
            row = newest_row(VALUE[:end], commits)
        except StoredUnreadable:
            continue
        if row is None or row in (OLD, NEW):
            continue
        with pytest.raises(StoredUnreadable):
            PACKING.unpack(row)


@pytest.mark.parametrize("value", [
    b"", b"\1", b"\1\0\0\0", b"\1\0\0\0\0", b"\2" + VALUE[1:], b"\0" + VALUE[1:],
    b"\1\xff\xff\xff\xff" + VALUE[5:], b"\1\3\0\0\0abc", VALUE[:5], b"hello, I am of another app",
    b"\1\0\0\0\0" + bytes(24), b"\1\x0f\0\0\0" + bytes(24),
])  # fmt: skip
def test_a_value_that_is_none_of_ours_is_refused(value):
    """Empty, cut in its head, of another format, of a length beyond its end or below a stamp."""
    for commits in PAGES:
        with pytest.raises(StoredUnreadable, match="HOF-511"):
            newest_row(value, commits)


@given(st.binary(max_size=80), st.booleans(), COMMITS)
def test_random_bytes_as_a_value_raise_nothing_else(data, has_head, commits):
    """Also where they begin as one of ours."""
    value = struct.pack("<BI", 1, len(data) // 2) + data if has_head else data
    try:
        row = newest_row(value, commits)
    except StoredUnreadable:
        return
    assert row is None or (len(row) >= 16 and row in value and commits.has(stamp(row)[1]))


@given(st.binary(max_size=80), st.booleans())
@example(bytes(16), True)
def test_a_value_that_cannot_be_read_is_replaced_or_kept_but_never_in_the_way(data, has_head):
    """The new row is seen once its load is committed, unless a newer one stands there."""
    value = struct.pack("<BI", 1, len(data) // 2) + data if has_head else data
    row = row_of(10, 5)
    try:
        before = newest_row(value, Commits(4))
    except StoredUnreadable:
        before = None
    found = replaced(value, row, Commits(4))

    if before is None:
        assert newest_row(found, Commits(5)) == row
        assert newest_row(found, Commits(4)) is None
    elif found is None:
        assert stamp(before) >= stamp(row)
    else:
        assert newest_row(found, Commits(4)) == before


@pytest.mark.parametrize("value", [b"", b"\1\0", VALUE[:20], b"\7" * 60])
def test_a_load_writes_over_what_cannot_be_read(value):
    """So loading again mends a store."""
    row = row_of(30, 3)

    assert newest_row(replaced(value, row, Commits(2)), Commits(3)) == row


def test_a_row_that_is_damaged_behind_its_stamp_is_written_over_by_the_same_row_again():
    """What `unpack` says of it is to fill the store again; that must help."""
    damaged = VALUE[:5] + NEW[:16] + b"\xff\xff\xff\xff" + NEW[20:] + OLD
    found = replaced(damaged, NEW, Commits(2))

    with pytest.raises(StoredUnreadable, match="--refill"):
        PACKING.unpack(newest_row(damaged, Commits(2)))
    assert found is not None
    assert newest_row(found, Commits(2)) == NEW


# --- keys ---

LABELS = st.builds(
    "{}.{}".format,
    st.from_regex(r"[a-c][a-c0-9_]{0,3}", fullmatch=True),
    st.sampled_from([1, 2, 11, 12, 111]),
)
SOME_BYTES = st.binary(max_size=4) | st.sampled_from([b"1", b".1", b"\x041", b"a.1"])


@given(LABELS, SOME_BYTES, LABELS, SOME_BYTES)
def test_the_place_of_a_row_is_that_of_no_other_key_or_group(one, key, other, another):
    """Also where a group's name begins like another's, or its key does."""
    assert (row_key(one, key) == row_key(other, another)) == ((one, key) == (other, another))


@given(LABELS, LABELS)
def test_no_groups_places_begin_like_anothers(one, other):
    """A scan over one group finds its rows and nothing else."""
    if one != other:
        assert not key_prefix(one).startswith(key_prefix(other))
    assert row_key(one, b"k") == key_prefix(one) + b"k"
    assert not COMMITS_KEY.startswith(key_prefix(one))
    assert not key_prefix(one).startswith(COMMITS_KEY)


@pytest.mark.parametrize(("one", "other"), [
    ("a.1", "a.11"), ("a.1", "a1.1"), ("ab.1", "a.1"), ("a.12", "a.1"), ("a_b.1", "a.1"),
])  # fmt: skip
def test_groups_whose_names_begin_alike_share_no_place(one, other):
    """Whatever their keys are: every tail of one name is tried as a key of the other."""
    places = {row_key(one, key) for key in (b"", b"1", b"2", b".1", b"\x031")}
    others = {row_key(other, key) for key in (b"", b"1", b"2", b".1", b"\x031")}

    assert places & others == set()


def test_the_longest_place_is_one_that_every_store_can_hold():
    """The longest name, the highest version, the longest key."""
    longest = row_key("x" * 63 + f".{(1 << 31) - 1}", b"k" * LONGEST_KEY)

    assert len(longest) <= KEY_BYTES_MAX
