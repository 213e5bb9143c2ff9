"""The files of a log and of its copies: whole, durable, out of the way, and nobody else's."""

import json
import os
import stat
from itertools import pairwise
from pathlib import Path

import pytest

from hofflight.errors import StoreFormat
from hofflight.eventlog import backup
from hofflight.eventlog.backup import Backup
from hofflight.eventlog.backup_files import origin_of, set_aside
from hofflight.eventlog.store import Store
from tests.unit.eventlog.copies import MANIFEST, SNAPSHOT, STREAM, Failing, content, numbers

# --- whose log it is ------------------------------------------------------------------------------


def test_a_log_has_one_origin_and_no_other_has_it(tmp_path):
    """Random: two hosts begin logs of one name."""
    first, second = (origin_of(tmp_path / name) for name in ("a", "b"))
    assert first == origin_of(tmp_path / "a") != second
    assert len(first) == len(second) == 32


def test_an_origin_outlives_a_move_of_its_log(tmp_path):
    expected = origin_of(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    assert origin_of(tmp_path / "b") == expected != origin_of(tmp_path / "a")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b'{"origin":1}', b'{"origin":"\xff"}'])
def test_a_damaged_origin_is_said_and_left(tmp_path, data):
    path = tmp_path / "origin.json"
    path.write_bytes(data)
    with pytest.raises(StoreFormat, match=r"HOF-503: origin.json of .* is damaged.*delete it"):
        origin_of(tmp_path)
    assert path.read_bytes() == data


# --- out of the way -------------------------------------------------------------------------------


def test_what_is_put_aside_is_whole_and_nothing_else_is(host, tmp_path):
    """Another stream's log is at work just now."""
    host.append(5)
    others = ("snapshots/g.10/v1-1.snap", "sealed/g.10/manifest.json", "log/g.10/1.log")
    for name in (SNAPSHOT, MANIFEST, *others):
        host.put(name, name.encode())
    expected = content(host.store)
    host.close()
    set_aside(host.store, STREAM, "g.1-5")
    assert content(Store(host.store.path / "aside" / "g.1-5")) == expected
    assert content(host.store) == ([], {})
    assert all((host.store.path / name).read_bytes() == name.encode() for name in others)


def test_what_is_put_aside_twice_is_there_twice(host):
    for size in (40, 90, 300):
        host.append(3, size=size)
        host.close()
        set_aside(host.store, STREAM, "g.1-3")
        host.log = None
    names = ("g.1-3", "g.1-3+", "g.1-3++")
    found = [content(Store(host.store.path / "aside" / name))[0] for name in names]
    assert [len(entries) for entries in found] == [3, 3, 3]
    assert all(first != second for first, second in pairwise(found))


def test_where_there_is_nothing_nothing_is_put_aside(host):
    set_aside(host.store, STREAM, "g.1-0")
    assert [path.name for path in host.store.path.iterdir()] == ["hofflight.json"]


# --- whole ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", range(1, 9))
def test_a_seal_that_is_published_meanwhile_leaves_a_copy_that_is_whole(
    host, tmp_path, monkeypatch, at
):
    """At each link: what its manifest of sealed files names is there."""
    host.append(20)
    host.put(SNAPSHOT, b"snapshot")
    sealed = []

    def seal(last):
        sealed.append(f"sealed/g.1/version=1/day=2026-01-01/{last}.parquet")
        host.put(sealed[-1], b"rows to %d" % last)
        host.put(f"{MANIFEST}.tmp", json.dumps(sealed).encode())
        (host.store.path / f"{MANIFEST}.tmp").rename(host.store.path / MANIFEST)

    seal(5)
    link, links = os.link, []

    def linking(source, target):
        links.append(source)
        if len(links) == at:
            seal(10)
        link(source, target)

    monkeypatch.setattr(os, "link", linking)
    host.save()
    assert len(links) >= 8
    store = host.restored(tmp_path / "other")
    named = json.loads((store.path / MANIFEST).read_bytes())
    assert named in ([sealed[0]], sealed)
    assert all((store.path / name).exists() for name in named)
    assert numbers(store) == list(range(1, 21))


# --- durable --------------------------------------------------------------------------------------


@pytest.fixture
def synced(monkeypatch):
    """The paths that were made durable, in order."""
    fsync, paths = os.fsync, []

    def syncing(fd):
        paths.append(str(Path(f"/proc/self/fd/{fd}").readlink()))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", syncing)
    return paths


def test_a_copy_in_a_folder_outlives_a_power_loss(host, synced):
    """Its objects, then their names, then the manifest that names them, then its own name."""
    for _ in range(2):
        host.append(30)
        host.put(SNAPSHOT, b"%d" % host.next_offset)
        before = set(host.objects())
        synced.clear()
        host.save()
        seen = [path for path in synced if path.startswith(str(host.folder))]
        objects = [str(host.folder / "objects" / name) for name in set(host.objects()) - before]
        manifest = str(host.folder / f"{host.manifests()[-1]}.tmp")
        assert len(objects) > 1
        assert sorted(seen[:-3]) == sorted(objects)
        assert seen[-3:] == [str(host.folder / "objects"), manifest, str(host.folder)]


def test_an_object_store_is_not_taken_for_a_folder(host, synced, tmp_path, monkeypatch):
    """What it has is durable, and a path of its own is none of this machine's."""

    class Known:
        @staticmethod
        def from_uri(_):
            return Failing(10_000), str(tmp_path / "copies")

    monkeypatch.setattr(backup.fs, "FileSystem", Known)
    host.append(3)
    Backup("s3://copies", STREAM, 0).save(host.store, 3)
    assert not [path for path in synced if path.startswith(str(host.folder))]
    assert stat.S_IMODE(host.folder.stat().st_mode) != 0o700
    assert numbers(host.restored(tmp_path / "other")) == [1, 2, 3]


# --- nobody else's --------------------------------------------------------------------------------


@pytest.fixture
def umask():
    """Whatever the process leaves to others."""
    before = os.umask(0)
    yield
    os.umask(before)


def modes(path):
    return {stat.S_IMODE(path.stat().st_mode) for path in path.rglob("*") if path.is_file()}


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_a_folder_of_copies_is_of_its_owner_alone(host, tmp_path, umask, form):
    """Events and answers are in it. What is above it is somebody's own."""
    host.append(3)
    Backup(form.format(tmp_path / "copies"), STREAM, 0).save(host.store, 3)
    assert stat.S_IMODE(host.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "copies").stat().st_mode) == 0o777


def test_what_its_owner_opened_to_others_stays_open(host):
    """As to a group that looks after backups."""
    host.append(3)
    host.save()
    host.folder.chmod(0o750)
    host.append(1)
    host.save()
    assert stat.S_IMODE(host.folder.stat().st_mode) == 0o750


def test_restored_files_are_of_their_owner_alone(host, tmp_path, umask):
    """As those are that a log writes itself."""
    host.append(30)
    host.put(SNAPSHOT, b"snapshot")
    host.put(MANIFEST, b"[]")
    host.save()
    store = host.restored(tmp_path / "other")
    assert content(store) == content(host.store)
    for folder in (store.log, store.snapshots, store.sealed):
        assert modes(folder) == {0o600}
