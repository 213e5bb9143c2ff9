"""Where copies are: in folders and object stores, and what is said where they are out of reach."""

import pytest

from hofflight.errors import BackupUnavailable
from hofflight.eventlog import backup
from hofflight.eventlog.backup import Backup
from tests.unit.eventlog.copies import STREAM, Host, numbers


def filled(host):
    host.append(30)
    return host


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("s3a://bucket/a/b", "s3://bucket/a/b"),
        ("s3://bucket/a", "s3://bucket/a"),
        ("gs://bucket/a?x=1", "gs://bucket/a?x=1"),
    ],
)
def test_an_address_is_read_as_pyarrow_knows_it(monkeypatch, tmp_path, host, url, asked):
    """`s3a` is Spark's word."""
    seen = []

    class Known:
        @staticmethod
        def from_uri(uri):
            seen.append(uri)
            return backup.fs.LocalFileSystem(), str(tmp_path / "bucket/a/")

    monkeypatch.setattr(backup.fs, "FileSystem", Known)
    host.append(1)
    assert Backup(url, STREAM, 3).save(host.store, 1) > 0
    assert seen == [asked]
    assert len(list(tmp_path.glob("bucket/a/backup/g.1/3/objects/*"))) == 2  # with its origin


@pytest.mark.parametrize("form", ["{}", "file://{}", "{}/"])
def test_a_folder_may_be_named_or_addressed(host, tmp_path, form):
    host.append(3)
    Backup(form.format(tmp_path / "copies"), STREAM, 0).save(host.store, 3)
    assert numbers(host.restored(tmp_path / "other")) == [1, 2, 3]


# --- out of reach ---------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["a file", "in a file"])
def test_a_file_where_the_folder_should_be_is_said(tmp_path, where):
    (tmp_path / "file").write_bytes(b"")
    url = tmp_path / "file" if where == "a file" else tmp_path / "file" / "copies"
    host = filled(Host(tmp_path / "host", url))
    for call in (host.save, lambda: host.backup.restore(host.store)):
        with pytest.raises(BackupUnavailable, match=r"HOF-516: the backup at .*file"):
            call()
    assert len(numbers(host.store)) == 30
    host.close()


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    """Not even root makes one there."""
    host = filled(Host(tmp_path / "host", "/proc/nothing"))
    with pytest.raises(BackupUnavailable, match="HOF-516"):
        host.save()
    host.close()


@pytest.mark.parametrize("url", ["nosuch://x/y", "://x"])
def test_an_address_of_nothing_is_said(url):
    with pytest.raises(BackupUnavailable, match=r"HOF-516: the backup at .*://"):
        Backup(url, STREAM, 0)


def test_an_error_without_a_word_is_told_by_its_kind(monkeypatch):
    class Known:
        @staticmethod
        def from_uri(_):
            raise TimeoutError

    monkeypatch.setattr(backup.fs, "FileSystem", Known)
    with pytest.raises(BackupUnavailable, match="HOF-516: the backup at s3://x: TimeoutError"):
        Backup("s3://x", STREAM, 0)


@pytest.mark.parametrize(
    "url",
    [
        "nosuch://me:hidden@bucket/y",
        "nosuch://hidden@bucket/y",
        "s3://AKIA:hid/hidden@bucket/y",  # as it is copied from where keys are shown
        "s3://AKIA:hid@hidden@bucket/y",
        "s3://AKIA:hidden%zz@bucket/y",
    ],
)
def test_a_secret_in_an_address_is_in_no_error(url):
    """Neither from us nor from what pyarrow says: errors are logged. The rest is said."""
    with pytest.raises(BackupUnavailable) as error:
        Backup(url, STREAM, 0)
    assert "hid" not in str(error.value)
    assert str(error.value).count("://bucket/y") == 2


def test_a_secret_in_an_address_is_in_no_error_of_a_later_call(host, monkeypatch):
    """As of a file system that names what it was opened with."""

    class Known:
        @staticmethod
        def from_uri(_):
            return Known, "bucket"

        @staticmethod
        def get_file_info(_):
            raise OSError("s3://me:hidden@bucket cannot be reached")

    monkeypatch.setattr(backup.fs, "FileSystem", Known)
    with pytest.raises(BackupUnavailable, match=r"at bucket/backup/g.1/0: s3://bucket cannot be"):
        Backup("s3://me:hidden@bucket", STREAM, 0).save(host.store, 1)
