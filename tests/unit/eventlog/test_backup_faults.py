"""Copies that were cut off, damaged, out of reach, or of a log that another power loss changed."""

import re
import shutil

import msgspec
import pytest
from structlog.testing import capture_logs

from hofflight.errors import BackupUnavailable, LogCorrupt, StoreFormat
from hofflight.eventlog import backup
from hofflight.eventlog.backup import Backup
from tests.unit.eventlog.copies import SEALED, SNAPSHOT, STREAM, Failing, Host, content, crashed

PASSED_OVER = {("copy_passed_over", "warning", "g.1")}


@pytest.fixture
def gone_after(monkeypatch, tmp_path):
    """A backup in the test's folder whose file system is gone at a call."""

    def gone_after(at, *, half):
        class Known:
            @staticmethod
            def from_uri(_):
                return Failing(at, half=half), str(tmp_path / "copies")

        monkeypatch.setattr(backup.fs, "FileSystem", Known)
        return Backup("s3://copies", STREAM, 0)

    return gone_after


def filled(host):
    host.append(30)
    host.put(SNAPSHOT, b"snapshot" * 9)
    host.put(SEALED, b"rows" * 9)
    return host


def untouched(store):
    return [path.name for path in store.path.iterdir()] == ["hofflight.json"]


# --- cut off --------------------------------------------------------------------------------------


@pytest.mark.parametrize("half", [False, True])
def test_a_save_that_is_cut_off_anywhere_leaves_the_older_copy_or_the_new_one(
    host, tmp_path, gone_after, half
):
    """And the next save goes on from there."""
    filled(host).save()
    before = content(host.store)
    host.append(10)
    host.put(SNAPSHOT, b"another")
    after = content(host.store)
    copies = crashed(tmp_path / "copies", tmp_path / "as it was")
    seen = []
    for at in range(1, 100):
        try:
            gone_after(at, half=half).save(host.store, 40)
        except BackupUnavailable:
            found = content(host.restored(tmp_path / f"cut{at}"))
        else:
            break
        assert found in (before, after)
        seen.append(found == after)
        Backup(str(tmp_path / "copies"), STREAM, 0).save(host.store, 40)
        assert content(host.restored(tmp_path / f"next{at}")) == after
        shutil.rmtree(tmp_path / "copies")
        crashed(copies, tmp_path / "copies")
    assert seen == sorted(seen)
    assert len(seen) > 10
    assert seen.count(False) > 5


def test_a_process_that_was_killed_in_a_save_leaves_nothing_behind(host, tmp_path):
    """Links keep the room of what is trimmed; the next save takes them away."""
    filled(host)
    for path in host.directory.glob("*.log"):
        host.put(f"still-g.1/log/g.1/{path.name}", b"room")
    host.put("still-g.1/log/g.1/old.log", b"room")
    host.put("still-g.10/log/g.10/old.log", b"another stream's, at work just now")
    host.folder.joinpath("objects").mkdir(parents=True)
    host.folder.joinpath("objects/half").write_bytes(b"half")
    host.folder.joinpath("manifest-00000000000000000001.json.tmp").write_bytes(b"{")
    host.save()
    names = {path.name for path in host.store.path.iterdir()}
    assert names == {"hofflight.json", "log", "snapshots", "sealed", "still-g.10"}
    assert "half" not in host.objects()
    assert content(host.restored(tmp_path / "other")) == content(host.store)


def test_half_an_object_that_a_killed_process_left_is_written_again(host, tmp_path):
    filled(host).save()
    objects = crashed(tmp_path / "copies", tmp_path / "as it was").glob("backup/g.1/0/objects/*")
    shutil.rmtree(tmp_path / "copies")
    host.folder.joinpath("objects").mkdir(parents=True)
    for path in objects:
        host.folder.joinpath("objects", path.name).write_bytes(path.read_bytes()[:-1])
    Backup(str(tmp_path / "copies"), STREAM, 0).save(host.store, 30)
    assert content(host.restored(tmp_path / "other")) == content(host.store)


def test_what_an_aborted_restore_left_is_replaced(host, tmp_path):
    """Snapshots and sealed files come first: without a log it was not finished."""
    filled(host).save()
    other = Host(tmp_path / "other", tmp_path / "copies")
    for name in ("snapshots/g.1/v1-9.snap", "sealed/g.1/version=1/old.parquet", "log/g.1/mark",
                 "restored-g.1/log/g.1/1.log"):  # fmt: skip
        other.put(name, b"left")
    assert other.backup.restore(other.store) == 30
    assert content(other.store) == content(host.store)
    assert {path.name for path in other.store.path.iterdir()} == {
        "hofflight.json", "log", "snapshots", "sealed",
    }  # fmt: skip


def test_a_restore_that_is_cut_off_anywhere_leaves_no_log(host, tmp_path, gone_after):
    """So that it is tried again."""
    filled(host).save()
    for at in range(1, 100):
        other = Host(tmp_path / f"other{at}", tmp_path / "copies")
        try:
            gone_after(at, half=False).restore(other.store)
        except BackupUnavailable:
            assert untouched(other.store)
        else:
            break
    assert at > 8
    assert content(other.store) == content(host.store)


def test_what_cannot_be_put_into_its_place_leaves_no_log(host, tmp_path):
    """The log comes last: without one the next restore begins anew."""
    filled(host).save()
    other = Host(tmp_path / "other", tmp_path / "copies")
    other.put("sealed", b"no folder")
    with pytest.raises(BackupUnavailable, match="HOF-516"):
        other.backup.restore(other.store)
    assert not other.directory.exists()


# --- damaged --------------------------------------------------------------------------------------


SPOILED = ("flipped", "cut", "longer", "missing")


def spoil(path, what):
    data = path.read_bytes()
    if what == "missing":
        path.unlink()
    else:
        flipped = bytes([data[0] ^ 1]) + data[1:]
        path.write_bytes({"flipped": flipped, "cut": data[:-1], "longer": data + b"x"}[what])


def refused(host, directory):
    """What is said where nothing can be restored; nothing is then."""
    other = Host(directory, host.folder.parents[2])
    with capture_logs() as told, pytest.raises(StoreFormat) as error:
        other.backup.restore(other.store)
    assert re.search("HOF-503.*backup of g.1 is damaged: no manifest .*delete", str(error.value))
    assert untouched(other.store)
    assert {(e["event"], e["log_level"], e["log"]) for e in told} == PASSED_OVER
    return [event["error"] for event in told]


@pytest.mark.parametrize("what", SPOILED)
@pytest.mark.parametrize("which", range(3))
def test_a_damaged_object_is_named_and_nothing_is_restored(host, tmp_path, what, which):
    filled(host).save()
    spoil(sorted(host.folder.glob("objects/*"))[which], what)
    (error,) = refused(host, tmp_path / "other")
    how = "is missing" if what == "missing" else "has changed"
    file = r"(v1-)?[\d-]+\.(log|snap|parquet)|origin\.json"
    assert re.fullmatch(rf"a piece of ({file}) {how}", error)


@pytest.mark.parametrize("what", SPOILED)
def test_an_older_copy_is_restored_where_an_object_of_the_newest_is_damaged(host, tmp_path, what):
    """With its own offset, and without a trace of the newest; the more is worked once more."""
    filled(host).save()
    before, known = content(host.store), host.objects()
    host.append(10)
    host.put(SNAPSHOT, b"another")
    host.save()
    newer = [host.folder / "objects" / name for name in host.objects().keys() - known]
    assert len(newer) >= 3
    for number, path in enumerate(newer):
        data = path.read_bytes()
        spoil(path, what)
        other = Host(tmp_path / f"other{number}", tmp_path / "copies")
        with capture_logs() as told:
            assert other.backup.restore(other.store) == 30
        assert {(e["event"], e["log_level"], e["log"]) for e in told} == PASSED_OVER
        assert content(other.store) == before
        assert not list(other.store.path.glob("restored-*"))
        path.write_bytes(data)


@pytest.mark.parametrize("what", ["cut", "longer", "missing"])
@pytest.mark.parametrize("is_mine", [True, False])
def test_a_piece_that_is_not_as_it_was_is_written_again(host, tmp_path, what, is_mine):
    """By the next save, or all later copies would lack it. Its size tells; a flipped bit does not.

    Whoever listed it.
    """
    filled(host).save()
    host.append(3, size=4_000)
    host.save()
    for number, path in enumerate(sorted(host.folder.glob("objects/*"))):
        spoil(path, what)
        if not is_mine:
            host.backup = Backup(str(tmp_path / "copies"), STREAM, 0)
        assert host.save() > 0
        assert content(host.restored(tmp_path / f"other{number}")) == content(host.store)
    assert number > 4


def manifest(*names, **changes):
    pieces = [["0" * 40, 1]]
    return msgspec.json.encode({"files": dict.fromkeys(names, pieces), "format": 1, **changes})


NAME = "log/g.1/1.log"
BAD = {
    "cut": manifest(NAME)[:-9],
    "empty": b"",
    "a list": b"[1]",
    "no text": b'{"files":{"\xff":[]}}',
    "a field more": manifest(NAME, more=1),
    "no files": b'{"format":1}',
    "no format": b'{"files":{}}',
    "a format that is no number": manifest(NAME, format="2"),
    "an origin that is no text": manifest(NAME, origin=1),
    "no digest": manifest(NAME, files={NAME: [["../../x", 1]]}),
    "a digest and more": manifest(NAME, files={NAME: [["0" * 40 + "\n", 1]]}),
    "no size": manifest(NAME, files={NAME: [["0" * 40, -1]]}),
    "outside": manifest("../x"),
    "the root": manifest("/x"),
    "outside of the log": manifest("log/../../x"),
    "itself": manifest("log/."),
    "an offset below 0": manifest(NAME, next=-1),
    "no offset": manifest(NAME, next="5"),
    "the mark": manifest("hofflight.json"),
    "no name": manifest(""),
    "no file": manifest("log/"),
    "nul": manifest("log/g.1/\0"),
    "a line": manifest("log/g.1/1.log\n"),
    "an empty part": manifest("log//x"),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_a_damaged_manifest_is_refused_and_the_next_save_heals_the_copy(host, tmp_path, data):
    """One that names what lies outside of the store too."""
    filled(host).save()
    (path,) = host.folder.glob("manifest-*")
    path.write_bytes(data)
    assert len(refused(host, tmp_path / "deep/down/other")) == 1
    host.save()
    assert content(host.restored(tmp_path / "healed")) == content(host.store)
    host.append(1)
    host.save()
    assert not path.exists()
    assert content(host.restored(tmp_path / "later")) == content(host.store)


@pytest.mark.parametrize("data", [BAD["cut"], BAD["outside"]], ids=["cut", "outside"])
def test_an_older_copy_is_restored_where_the_newest_manifest_is_damaged(host, tmp_path, data):
    """And a save goes on from there: it copies what that one lacks, and no more."""
    filled(host).save()
    before = content(host.store)
    host.append(1)
    host.save()
    _, path = sorted(host.folder.glob("manifest-*"))
    path.write_bytes(data)
    other = Host(tmp_path / "other", tmp_path / "copies")
    with capture_logs() as told:
        assert other.backup.restore(other.store) == 30
    assert {(e["event"], e["log_level"], e["log"]) for e in told} == PASSED_OVER
    assert content(other.store) == before

    known = host.objects()
    host.append(1)
    assert 0 < host.save() < sum(size for size, _ in known.values()) / 2
    healed = Host(tmp_path / "healed", tmp_path / "copies")
    assert healed.backup.restore(healed.store) == 32
    assert content(healed.store) == content(host.store)


def test_nothing_is_deleted_while_a_kept_manifest_cannot_be_read(host, tmp_path):
    """Nobody knows what it names: where it is mended, or was only read badly, it is whole."""
    filled(host).save()
    for number in range(2):
        shutil.rmtree(host.store.snapshots)
        host.put(SNAPSHOT, b"snapshot" * (number + 1))
        host.append(1)
        host.save()
    before = content(host.store)
    path = max(host.folder.glob("manifest-*"))
    data, known = path.read_bytes(), set(host.objects())
    path.write_bytes(BAD["cut"])
    shutil.rmtree(host.store.snapshots)
    host.append(1)
    host.save()
    assert known <= set(host.objects())

    path.write_bytes(data)
    newest = max(host.folder.glob("manifest-*"))
    aside = newest.rename(tmp_path / newest.name)
    assert content(host.restored(tmp_path / "mended")) == before
    aside.rename(newest)
    host.append(1)
    host.save()
    kept = host.backup._whole(host.backup._numbers())
    named = {piece.object for one in kept for pieces in one.files.values() for piece in pieces}
    assert set(host.objects()) == named


def test_where_no_kept_copy_is_whole_nothing_is_restored(host, tmp_path):
    """The newest has no manifest, the older one not all its pieces."""
    filled(host).save()
    for path in host.folder.glob("objects/*"):
        spoil(path, "flipped")
    host.append(1)
    host.save()
    max(host.folder.glob("manifest-*")).write_bytes(BAD["cut"])
    assert len(refused(host, tmp_path / "other")) == 2


OTHERS = {
    "as it is": manifest(NAME, format=2),
    "a field more": manifest(NAME, format=2, more={"a": [1]}),
    "a name that is none here": manifest("mark", format=2),
    "other pieces": manifest(NAME, format=2, files=[{"name": NAME, "digest": "0"}]),
    "nothing else": b'{"format":2}',
    "an older one": manifest(NAME, format=0),
}


@pytest.mark.parametrize("data", OTHERS.values(), ids=OTHERS.keys())
@pytest.mark.parametrize("saves", [1, 2])
def test_a_copy_of_another_release_is_left_to_it(host, saves, data):
    """Whatever is in it. Also where an older one is of this: it has less."""
    filled(host)
    for _ in range(saves):
        host.append(1)
        host.save()
    path = max(host.folder.glob("manifest-*"))
    path.write_bytes(data)
    before = {path: path.read_bytes() for path in host.folder.rglob("*") if path.is_file()}
    host.append(1)
    for call in (lambda: host.backup.restore(host.store), host.save, host.backup.newest):
        with pytest.raises(StoreFormat, match=r"HOF-503.*has format [02], this reads 1.*upgrade"):
            call()
    after = {path: path.read_bytes() for path in host.folder.rglob("*") if path.is_file()}
    assert after == before


def test_a_damaged_log_is_not_copied(host, tmp_path):
    filled(host).save()
    before = host.manifests()
    path = max(host.directory.glob("*.log"))
    path.write_bytes(b"X" + path.read_bytes()[1:])
    with pytest.raises(LogCorrupt, match="HOF-502"):
        Backup(str(tmp_path / "copies"), STREAM, 0).save(host.store, 31)
    assert host.manifests() == before
