"""One copy of several hosts' logs: the one that is further counts, then the one that goes on."""

import shutil
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from hofflight.eventlog.backup_files import origin_of
from tests.unit.eventlog.conftest import make_entry
from tests.unit.eventlog.copies import SEALED, SNAPSHOT, Host, content, numbers


@pytest.fixture
def make_host(tmp_path):
    """Makes a host in a folder; all of them have their copies in one place."""
    hosts = []

    def make_host(name):
        hosts.append(Host(tmp_path / name, tmp_path / "copies"))
        return hosts[-1]

    yield make_host
    for host in hosts:
        host.close()


@pytest.fixture
def host(make_host):
    """One that has some of everything, and copied it."""
    host = make_host("host")
    host.append(30)
    host.put(SNAPSHOT, b"snapshot" * 9)
    host.put(SEALED, b"rows" * 9)
    host.save()
    return host


@pytest.fixture
def stepped_in(host, make_host):
    """Another one, which restored that, went on and copied it."""
    other = make_host("other")
    other.next_offset = other.backup.restore(other.store)
    other.append(10, size=90)
    other.put(SNAPSHOT, b"another one's")
    other.save()
    return other


def copied(host):
    return host.objects(), host.manifests()


# --- whose log it is ------------------------------------------------------------------------------


def test_the_newest_copy_says_how_far_it_is_and_of_which_log(host, stepped_in):
    """Whoever took it: who steps in goes on with that log."""
    newest = host.backup.newest()
    assert newest == stepped_in.backup.newest()
    assert (newest.next, newest.origin) == (40, origin_of(host.directory))
    assert set(newest.files) > {SNAPSHOT, SEALED, "log/g.1/origin.json"}


def test_where_there_is_no_copy_there_is_no_newest(make_host):
    assert make_host("host").backup.newest() is None


def test_the_newest_copy_is_the_newest_that_can_be_read(host, stepped_in):
    with max(host.folder.glob("manifest-*")).open("wb") as file:
        file.write(b"{")
    assert host.backup.newest().next == 30
    for path in host.folder.glob("manifest-*"):
        path.write_bytes(b"{")
    assert host.backup.newest() is None


@pytest.mark.parametrize("saves", [1, 2])
def test_a_log_takes_its_origin_along(make_host, tmp_path, saves):
    """From its first copy on: else who begins with that one would be another log's host."""
    host = make_host("a")
    for _ in range(saves):
        host.append(1)
        host.save()
    store = host.restored(tmp_path / "b")
    assert origin_of(store.log / "g.1") == origin_of(host.directory)
    assert host.backup.newest().origin == origin_of(host.directory)


def test_the_copy_of_a_log_that_began_anew_has_another_origin(host, make_host):
    """It got as far, and its windows are others."""
    before = host.backup.newest()
    other = make_host("anew")
    other.append(31)
    other.save()
    after = host.backup.newest()
    assert after.origin == origin_of(other.directory) != before.origin


# --- the further one wins -------------------------------------------------------------------------


def test_a_host_that_returns_with_less_leaves_the_further_copy(host, stepped_in, tmp_path):
    """Its own log is the older one; a third host goes on from the further one."""
    before = copied(host)
    for more in (0, 9):
        host.append(more)
        with capture_logs() as told:
            assert host.save() == 0
        assert told == [
            {
                "event": "copy_is_further", "log_level": "warning", "log": "g.1",
                "next": 30 + more, "copy": 40,
            }
        ]  # fmt: skip
    assert copied(host) == before
    third = Host(tmp_path / "third", tmp_path / "copies")
    assert third.backup.restore(third.store) == 40
    assert content(third.store) == content(stepped_in.store)


@pytest.mark.parametrize("more", [10, 11])
def test_once_it_caught_up_the_copy_is_its_own(host, stepped_in, tmp_path, more):
    """It is the one that goes on."""
    host.append(more)
    with capture_logs() as told:
        assert host.save() > 0
    assert told == []
    third = Host(tmp_path / "third", tmp_path / "copies")
    assert third.backup.restore(third.store) == 30 + more
    assert content(third.store) == content(host.store) != content(stepped_in.store)


def test_also_its_next_process_leaves_the_further_copy(host, stepped_in, make_host, tmp_path):
    """Which never saved anything, and after a restart of the machine knows of no offset."""
    host.close()
    fresh = make_host("host")
    before = copied(fresh)
    assert fresh.save() == 0
    assert copied(fresh) == before
    assert content(fresh.restored(tmp_path / "third")) == content(stepped_in.store)


def test_a_damaged_manifest_does_not_make_an_older_host_the_further_one(host, stepped_in, tmp_path):
    """What is known of the copy is what the newest manifest says that can be read."""
    stepped_in.append(1)
    stepped_in.save()
    max(host.folder.glob("manifest-*")).write_bytes(b"{")
    host.append(9)
    assert host.save() == 0
    host.append(1)
    assert host.save() > 0
    assert content(host.restored(tmp_path / "third")) == content(host.store)


# --- the local one wins ---------------------------------------------------------------------------


@pytest.mark.parametrize("last", [1, 4, 15, 29])
@pytest.mark.parametrize("more", [0, 3, 40])
def test_after_a_power_loss_the_copy_becomes_what_is_here(host, make_host, tmp_path, last, more):
    """It took entries that were copied; their records came again, and have other numbers now."""
    host.lose(last)
    fresh = make_host("host")
    fresh.append(1, size=90)
    fresh.append(more)
    fresh.next_offset = max(fresh.next_offset, 30)
    fresh.save()
    store = fresh.restored(tmp_path / "third")
    assert content(store) == content(host.store)
    assert numbers(store) == list(range(1, last + 1 + 1 + more))
    assert [e for _, e in content(store)[0]][last] == make_entry(last + 1, size=90)
    fresh.append(5)
    fresh.save()
    assert content(fresh.restored(tmp_path / "later")) == content(host.store)


def test_a_log_that_lost_its_end_leaves_it_in_the_copy_until_it_caught_up(
    host, make_host, tmp_path
):
    """The disk may be the next that is lost."""
    before = content(host.store)
    host.lose(17)
    fresh = make_host("host").open()
    for _ in range(13):
        assert fresh.save() == 0
        fresh.append(1, size=90)
    assert content(fresh.restored(tmp_path / "before")) == before
    assert fresh.save() > 0
    assert content(fresh.restored(tmp_path / "after")) == content(fresh.store)


def test_a_snapshot_of_a_number_that_was_given_away_again_is_copied_anew(host, make_host, tmp_path):
    """It has as many bytes as the one before the power loss, and other windows."""
    host.put(SNAPSHOT, b"SNAPSHOT" * 9)
    host.close()
    fresh = make_host("host").open()
    fresh.save()
    assert content(fresh.restored(tmp_path / "third"))[1][SNAPSHOT] == b"SNAPSHOT" * 9


def test_what_another_host_copied_meanwhile_is_no_beginning_of_ours(host, make_host, tmp_path):
    """It had stepped in, and this one took the partition back: pieces of two logs do not mix."""
    shutil.copytree(host.store.path, tmp_path / "other")
    other = make_host("other")
    for one, size in [(other, 90), (host, 40), (other, 90), (host, 40)]:
        one.append(3, size=size)
        assert one.save() > 0
        assert content(one.restored(tmp_path / f"{one.log.last_number()}.{size}")) == content(
            one.store
        )


# --- whatever happens -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Folders for many examples."""
    directory = tmp_path_factory.mktemp("hosts")
    return (directory / str(number) for number in count())


STEPS = st.tuples(st.integers(0, 1), st.integers(0, 5), st.sampled_from([8, 300]), st.booleans())


@settings(max_examples=settings().max_examples // 4)  # each opens a few logs
@given(st.lists(STEPS, min_size=2, max_size=8))
def test_the_copy_is_of_whoever_saved_and_was_not_behind_it(places, steps):
    """Two hosts that write logs of their own, in any order; some processes start anew."""
    place = next(places)
    hosts = [Host(place / str(number), place / "copies", segment_bytes=700) for number in range(2)]
    expected, furthest = None, 0
    for at, (number, more, size, is_new) in enumerate(steps):
        one = hosts[number]
        one.append(more, size=size)
        if is_new:
            one.close()
            one = hosts[number] = Host(one.store.path, place / "copies", segment_bytes=700).open()
        one.save()
        if one.next_offset >= furthest:
            expected, furthest = content(one.store), one.next_offset
        third = Host(place / f"third{at}", place / "copies")
        assert third.backup.restore(third.store) == furthest
        assert content(third.store) == expected
    for one in hosts:
        one.close()
    shutil.rmtree(place)
