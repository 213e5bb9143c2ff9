"""Copies of a log: what was saved is what comes back, and what is there already costs nothing."""

import shutil
import threading
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hofflight.eventlog.backup import Backup
from hofflight.eventlog.frames import frames_of
from hofflight.eventlog.local import LogReader
from tests.unit.eventlog.conftest import make_entry
from tests.unit.eventlog.copies import (
    MANIFEST,
    SEALED,
    SNAPSHOT,
    STREAM,
    Host,
    Restless,
    content,
    numbers,
)


def again(host):
    """The next start of a host's process."""
    host.close()
    fresh = Host(host.store.path, host.folder.parents[2], number=host.number)
    fresh.next_offset = host.next_offset
    return fresh


def origin_bytes(host):
    return (host.directory / "origin.json").stat().st_size


# --- back again -----------------------------------------------------------------------------------


def test_what_was_saved_is_restored(host, tmp_path):
    """Several segments, the open one too; snapshots; sealed files."""
    host.append(40)
    for name in (SNAPSHOT, SEALED, MANIFEST):
        host.put(name, name.encode() * 100)
    host.save()
    store = host.restored(tmp_path / "other")

    entries, files = content(store)
    assert [entry for _, entry in entries] == [make_entry(number) for number in range(1, 41)]
    assert sorted(files) == sorted([SNAPSHOT, SEALED, MANIFEST])
    assert (entries, files) == content(host.store)
    assert len(LogReader(store.log / STREAM).segments()) > 3


def test_where_nothing_was_saved_nothing_is_restored(host, tmp_path):
    assert host.restored(tmp_path / "other") is None
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["hofflight.json"]


def test_a_restore_gives_the_offset_that_comes_after_the_copy(host, tmp_path):
    """The log does not tell: what came last may be no entry."""
    for number, next_offset in enumerate([7, 9]):
        host.append(1)
        host.next_offset = next_offset
        host.save()
        other = Host(tmp_path / f"other{number}", tmp_path / "copies")
        assert other.backup.restore(other.store) == next_offset


def test_a_topic_that_went_on_without_an_entry_changes_the_offset_alone(host, tmp_path):
    """As with nudges."""
    host.append(5)
    host.save()
    before = host.objects()
    host.next_offset += 3
    assert host.save() == 0
    assert host.objects() == before
    other = Host(tmp_path / "other", tmp_path / "copies")
    assert other.backup.restore(other.store) == 8
    assert content(other.store) == content(host.store)


def test_a_store_without_a_log_is_no_copy(host):
    """As before the first record."""
    host.put(SNAPSHOT, b"of nothing")
    assert host.save() == 0
    assert host.manifests() == []


def test_a_log_that_is_gone_does_not_take_its_copy_along(host, tmp_path):
    """Somebody deleted it by mistake, while it was worked."""
    host.append(40)
    host.put(SNAPSHOT, b"snapshot")
    host.save()
    expected = content(host.store)
    host.close()
    shutil.rmtree(host.store.log)
    for _ in range(4):
        assert host.save() == 0
    assert content(host.restored(tmp_path / "other")) == expected


def test_files_of_others_in_a_store_are_not_copied(host, tmp_path):
    """Half a snapshot, torn bytes kept aside, a mark and its lock, another stream's log."""
    host.append(5)
    for name in ("snapshots/g.1/v1-3.77.tmp", "log/g.1/1.torn-9", "log/g.1/mark", "log/g.1/lock",
                 "log/g.2/1.log", "registry.sqlite"):  # fmt: skip
        host.put(name, b"HOFLOG1\n")
    host.save()
    store = host.restored(tmp_path / "other")
    found = {path.name for path in store.path.rglob("*") if path.is_file()}
    segments = {path.name for _, _, path in host.log.segments()}
    assert found == {"hofflight.json", "origin.json", *segments}


def test_each_partition_and_stream_has_copies_of_its_own(tmp_path):
    """In one place for all."""
    first, second = (
        Host(tmp_path / str(number), tmp_path / "copies", number=number) for number in range(2)
    )
    first.append(3)
    second.append(5)
    first.save()
    second.save()
    assert numbers(first.restored(tmp_path / "a")) == [1, 2, 3]
    assert numbers(second.restored(tmp_path / "b")) == [1, 2, 3, 4, 5]
    assert Backup(str(tmp_path / "copies"), "g.2", 0).restore(first.store) is None
    first.close()
    second.close()


# --- what it costs --------------------------------------------------------------------------------


def test_a_second_save_copies_only_what_is_new(host):
    """What is there already is not written again, whoever saves."""
    host.append(40)
    host.put(SEALED, b"rows" * 1_000)
    first = host.save()
    before = host.objects()
    assert first == sum(size for size, _ in before.values())

    for _ in range(3):
        host.append(1)
        assert 0 < host.save() < 400
        after = host.objects()
        assert [b for b in before.items() if b not in after.items() and b[1][0] > 400] == []
        before = after
        host = again(host)


def test_a_save_without_anything_new_writes_nothing(host):
    host.append(40)
    host.put(SNAPSHOT, b"snapshot")
    host.put(MANIFEST, b"{}")
    host.save()
    before = (host.objects(), host.manifests())
    for one in (host, again(host)):
        assert one.save() == 0
        assert (one.objects(), one.manifests()) == before


def test_room_that_an_open_segment_keeps_free_is_not_copied(host):
    """16 MiB of it."""
    host.append(1)
    (path,) = host.directory.glob("*.log")
    assert path.stat().st_size > 1 << 20
    assert host.save() == max(frame.end for frame in frames_of(path)) + origin_bytes(host)


def test_a_segment_without_entries_is_copied_as_one(host, tmp_path):
    """It goes on with number 1."""
    host.open()
    assert host.save() == origin_bytes(host)
    other = Host(tmp_path / "other", tmp_path / "copies")
    assert other.backup.restore(other.store) == 0
    assert other.append(1) == [make_entry(1)]
    assert numbers(other.store) == [1]
    other.close()


def test_a_log_that_grows_slowly_has_few_pieces(tmp_path):
    """A record a minute fills a segment in months: a piece of each minute would be thousands."""
    host = Host(tmp_path / "host", tmp_path / "copies", segment_bytes=1 << 20)
    copied = 0
    for _ in range(200):
        host.append(1)
        copied += host.save()
    size = max(frame.end for _, _, path in host.log.segments() for frame in frames_of(path))

    assert len(host.objects()) <= 18  # of two manifests
    assert copied <= 8 * size  # each byte is copied again where its piece doubles: log2(200) times
    assert content(host.restored(tmp_path / "other")) == content(host.store)
    host.close()


def test_a_sealed_manifest_that_changed_is_copied_however_long_it_is(host, tmp_path):
    """It is written in place of itself, maybe with as many bytes."""
    host.append(1)
    for text in (b'{"to":1}', b'{"to":2}'):
        host.put(MANIFEST, text)
        host.save()
    assert content(host.restored(tmp_path / "other"))[1] == {MANIFEST: b'{"to":2}'}


# --- while it is written --------------------------------------------------------------------------


def test_a_frame_that_is_half_written_is_left_to_the_next_save(host, tmp_path):
    host.append(3)
    (path,) = host.directory.glob("*.log")
    *_, last = frames_of(path)
    whole = path.read_bytes()
    for cut in range(last.offset + 1, last.end):
        with path.open("r+b") as file:
            file.seek(cut)
            file.write(bytes(last.end - cut))
        host.save()
    assert numbers(host.restored(tmp_path / "before")) == [1, 2]
    with path.open("r+b") as file:
        file.write(whole[: last.end])
    assert host.save() > 0
    assert numbers(host.restored(tmp_path / "after")) == [1, 2, 3]


def test_trimmed_segments_leave_the_copy_and_their_objects_are_deleted(host, tmp_path):
    host.append(60)
    host.save()
    size = sum(size for size, _ in host.objects().values())
    host.log.trim(50)
    for _ in range(2):  # the one before the newest is kept
        host.append(1)
        host.save()
    store = host.restored(tmp_path / "other")
    assert numbers(store) == numbers(host.store)
    assert numbers(store)[0] > 40
    assert sum(size for size, _ in host.objects().values()) < size / 2


def test_two_manifests_are_kept_and_nothing_that_neither_names(host):
    """So that whoever reads the older one finds its objects."""
    for number in range(5):
        host.append(3)
        shutil.rmtree(host.store.snapshots, ignore_errors=True)
        host.put(f"snapshots/g.1/v1-{number}.snap", b"%d" % number * 100)
        host.save()
        assert len(host.manifests()) == min(number + 1, 2)
    kept = list(host.backup._whole(host.backup._numbers()))
    assert len(kept) == 2
    named = {piece.object for one in kept for pieces in one.files.values() for piece in pieces}
    assert set(host.objects()) == named
    assert host.manifests()[-1] == "manifest-00000000000000000005.json"


@pytest.mark.parametrize("at", range(1, 6))
def test_a_log_that_is_trimmed_while_it_is_copied_is_looked_at_again(host, tmp_path, at):
    """Its sealed files were there already, as they were before."""
    host.append(40)
    host.put(MANIFEST, b"0")

    def trim():
        (host.store.path / MANIFEST).unlink()  # a seal puts another file there
        host.put(MANIFEST, b"40")
        host.log.trim(40)

    host.backup.save(Restless(host.store.path, at, trim), host.next_offset)
    store = host.restored(tmp_path / "other")
    assert numbers(store)[0] <= int((store.path / MANIFEST).read_bytes()) + 1
    assert numbers(store)[-1] == 40


def test_copies_taken_while_it_is_written_sealed_and_trimmed_are_whole(host, tmp_path):
    """Whatever was trimmed is in the sealed files of the same copy."""
    stop = threading.Event()

    def write():
        while not stop.wait(0.001):
            host.append(7)
            last = host.log.last_number()
            host.put(f"sealed/g.1/version=1/{last}.parquet", b"%d" % last)
            host.put(f"{MANIFEST}.tmp", b"%d" % last)
            (host.store.path / f"{MANIFEST}.tmp").rename(host.store.path / MANIFEST)
            host.log.trim(last)

    host.append(1)
    host.put(MANIFEST, b"0")
    thread = threading.Thread(target=write)
    thread.start()
    seen = []
    try:
        for number in range(8):
            host.save()
            if (store := host.restored(tmp_path / str(number))) is not None:
                found = numbers(store)
                sealed_to = int((store.path / MANIFEST).read_bytes())
                assert found == list(range(found[0], found[-1] + 1))
                assert found[0] <= sealed_to + 1
                assert sealed_to <= found[-1]
                seen.append(found[-1])
    finally:
        stop.set()
        thread.join()
    assert seen == sorted(seen)
    assert seen[-1] > seen[0]


# --- whatever happens -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Folders for many examples."""
    directory = tmp_path_factory.mktemp("copies")
    return (directory / str(number) for number in count())


STEPS = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 4), st.sampled_from([8, 60, 900])),
    st.tuples(st.just("trim"), st.integers(0, 40)),
    st.sampled_from([("save",), ("kill",), ("tear",), ("turn",)]),
)


@settings(max_examples=settings().max_examples // 2)  # each opens a few logs
@given(st.lists(STEPS, max_size=10))
def test_a_restored_log_is_the_log_at_its_last_save(places, steps):
    """Whoever saved, whatever was trimmed, and however often its process died."""
    place = next(places)
    host = Host(place / "host", place / "copies", segment_bytes=700)
    written, expected = [], None
    for step, *numbers_of in [*steps, ("save",)]:
        host.log or host.open()
        if step == "append":
            written += host.append(*numbers_of)
        elif step == "trim":
            host.log.trim(*numbers_of)
        elif step == "save":
            host.save()
            expected = written[host.log.first_number() - 1 :]
        elif step == "turn":  # another process of this host, which does not know the copy
            host = again(host)
        else:
            host.log.abandon()
            if step == "tear":
                *_, (_, _, path) = host.log.segments()
                end = max((frame.end for frame in frames_of(path)), default=8)
                with path.open("r+b") as file:
                    file.seek(end)
                    file.write(b"\x30\0\0\0torn")
            host.log = None
    other = Host(place / "other", place / "copies", segment_bytes=700)
    assert other.backup.restore(other.store) == len(written)
    log = other.open().log
    assert [entry for _, entry in log.read()] == expected
    assert log.last_number() == len(written)
    for one in (host, other):
        one.close()
    shutil.rmtree(place)
