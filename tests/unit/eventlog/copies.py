"""Hosts whose logs are copied elsewhere, what a store has, and file systems that fail."""

import shutil
from pathlib import Path

from pyarrow import fs

from hofflight.eventlog.backup import Backup
from hofflight.eventlog.frames import frames_of
from hofflight.eventlog.local import LocalLog, LogReader
from hofflight.eventlog.store import Store
from hofflight.settings import LogSettings
from tests.unit.eventlog.conftest import make_entry

STREAM = "g.1"
SNAPSHOT = "snapshots/g.1/v1-0000000000000000010.snap"
SEALED = "sealed/g.1/version=1/day=2026-01-01/1-10.parquet"
MANIFEST = "sealed/g.1/manifest.json"


class Unsynced:
    """Stands for the thread that makes logs durable: no test cuts the power."""

    def mark(self, log):
        pass

    def call_when_durable(self, done):
        done()


class Host:
    """A store, the log in it that somebody writes, and what copies it to `url`.

    A second one of the same directory is the next start of its process. next_offset: how far it is
    in its topic, of which each entry is a record.
    """

    def __init__(self, directory, url, *, segment_bytes=1_000, number=0):
        self.store = Store(Path(directory))
        self.store.require(create=True)
        self.number = number
        self.backup = Backup(str(url), STREAM, number)
        self.folder = Path(url) / "backup" / STREAM / str(number)
        self._settings = LogSettings().model_copy(update={"segment_bytes_max": segment_bytes})
        self.log = None
        self.next_offset = 0

    @property
    def directory(self):
        return self.store.log / STREAM

    def open(self):
        self.log = LocalLog(self.directory, Unsynced(), self._settings)
        self.next_offset = max(self.next_offset, self.log.last_number())
        return self

    def append(self, count=1, size=40):
        """So many entries more, written one by one; those."""
        self.log or self.open()
        first = self.log.last_number() + 1
        entries = [make_entry(number, size=size) for number in range(first, first + count)]
        for entry in entries:
            self.log.append([entry])
            self.next_offset += 1
        return entries

    def put(self, name, data):
        """A file of the store."""
        path = self.store.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def lose(self, last):
        """A power loss takes what is behind an entry; the process begins again."""
        self.close()
        for _, first, path in self.log.segments():
            if first > last:
                path.unlink()
            else:
                entries = [frame for frame in frames_of(path) if frame.is_entry]
                path.write_bytes(path.read_bytes()[: entries[: last - first + 1][-1].end])
        self.log = None

    def save(self):
        return self.backup.save(self.store, self.next_offset)

    def restored(self, directory):
        """The copy in another host's store; None where there is none."""
        other = Host(directory, self.folder.parents[2], number=self.number)
        return other.store if other.backup.restore(other.store) is not None else None

    def objects(self):
        """What is copied: sizes and times by name."""
        found = (path.stat() for path in self.folder.glob("objects/*"))
        names = (path.name for path in self.folder.glob("objects/*"))
        return {n: (stat.st_size, stat.st_mtime_ns) for n, stat in zip(names, found, strict=True)}

    def manifests(self):
        return sorted(path.name for path in self.folder.glob("manifest-*"))

    def close(self):
        if self.log is not None:
            self.log.close()


def content(store):
    """Entries and files of a store: what a copy has to give back."""
    folders = [store.snapshots / STREAM, store.sealed / STREAM]
    files = {
        path.relative_to(store.path).as_posix(): path.read_bytes()
        for folder in folders
        for path in folder.rglob("*")
        if path.suffix in {".snap", ".parquet", ".json"}
    }
    return list(LogReader(store.log / STREAM).read()), files


def numbers(store):
    return [meta.number for _, meta in LogReader(store.log / STREAM).read_meta()]


def crashed(source, target):
    """What a kill of the process that writes a store would leave, elsewhere; no room kept free."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("lock"))
    return target


class Restless(Store):
    """A store in which something happens at the `at`-th look at where it is."""

    def __init__(self, path, at, happens):
        self._at, self._happens = at, happens
        super().__init__(path)

    @property
    def path(self):
        self._at -= 1
        if self._at == 0:
            self._happens()
        return self._path

    @path.setter
    def path(self, path):
        self._path = path


class Failing:
    """A file system in a folder that is gone at the `at`-th call, from there on for good.

    half: what is being written then is there in part.
    """

    def __init__(self, at, *, half=False):
        self._files = fs.LocalFileSystem()
        self._left = at
        self._half = half

    def __getattr__(self, name):
        call = getattr(self._files, name)

        def counted(*args, **options):
            self._left -= 1
            if self._left == 0 and self._half and name == "open_output_stream":
                return _Broken(call(*args, **options))
            if self._left <= 0:
                raise OSError("the object store is gone")
            return call(*args, **options)

        return counted


class _Broken:
    """A file that takes half of the first bytes."""

    def __init__(self, sink):
        self._sink = sink

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._sink.close()

    def write(self, data):
        self._sink.write(data[: len(data) // 2])
        raise OSError("the object store is gone")
