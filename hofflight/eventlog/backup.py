"""Copies of a log, its snapshots and its sealed files, in another folder or in an object store.

```
backup/card_tx.1/3/manifest-00000000000000000042.json     what belongs together: the newest counts
backup/card_tx.1/3/objects/4f0c...                        pieces of files, named by their content
```

A segment that grew costs its new bytes, and those of the pieces before that are as small: so it has
few, however slowly it grows. A piece that is there already is not written again. Taking a copy
holds nobody up: links freeze which files there are, and of an open segment the whole frames are
taken, which never change.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import pyarrow as pa
from pyarrow import fs

from hofflight.errors import BackupUnavailable, StoreFormat
from hofflight.eventlog.directory import sync_path
from hofflight.eventlog.frames import frames_of
from hofflight.observe.events import Events

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hofflight.eventlog.store import Store

_events = Events("hofflight.eventlog")
FORMAT: Final = 1
_KEPT: Final = 2
_BLOCK: Final = 1 << 20
_TRIES: Final = 5
_DIGEST_BYTES: Final = 20
_NUMBER: Final = re.compile(r"manifest-([0-9]{20})\.json")
# The log comes last: a store that has one is restored.
_FOLDERS: Final = ("snapshots", "sealed", "log")
# What a manifest may name: a manifest of anybody's must not reach outside.
_Name = Annotated[str, msgspec.Meta(pattern=r"^(snapshots|sealed|log)(/[\w=-][\w=.-]*)+\Z")]
_Digest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{40}\Z")]


class _Damaged(Exception):
    """Of a copy: another one may be whole."""


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """Bytes of a file, and the name of the object that has them."""

    object: _Digest
    size: Annotated[int, msgspec.Meta(ge=1)]


class _Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The pieces of each file, by its path in the store. next: the offset that comes after it."""

    files: dict[_Name, list[Piece]]
    next: Annotated[int, msgspec.Meta(ge=0)] = 0
    format: int = FORMAT


class Backup:
    """The copies of one partition's log. Thread: one at a time; one writer at a time.

    url: a folder, or an object store as pyarrow knows them (`s3://`, `gs://`, `abfs://`,
    `hdfs://`; `s3a://` is Spark's word for the first).
    Raises: BackupUnavailable (HOF-516), from every call: it cannot be reached, read or written.
    """

    def __init__(self, url: str, stream: str, number: int) -> None:
        self._stream = stream
        with _reached(url):
            self._files, root = _opened(url)
        self._path = f"{root.rstrip('/')}/backup/{stream}/{number}"
        # As this process listed them. Other pieces are compared with the files: they may have what
        # a power loss took here, or be another host's.
        self._mine: dict[str, list[Piece]] = {}

    def save(self, store: Store, next_offset: int) -> int:
        """Copy what is new in a store's log, also while it is written; gives the bytes of it.

        next_offset: what the log had of the topic before this call. A copy that has more, as
        another host left it, stays as it is until this one caught up; so it does where there is no
        log. Raises: LogCorrupt (HOF-502); StoreFormat (HOF-503), the copy is of another release.
        """
        with _reached(self._path):
            numbers = self._numbers()
            newest = next(self._whole(numbers), _Manifest({}))
            if next_offset < newest.next:
                _events.warning(
                    "copy_is_further", log=self._stream, next=next_offset, copy=newest.next
                )
                return 0
            there = self._objects()
            # Without a piece that was lost there, and what follows on it: that is written again.
            before = {
                name: [*takewhile(lambda piece: there.get(piece.object) == piece.size, pieces)]
                for name, pieces in newest.files.items()
            }
            listed: dict[str, list[Piece]] = {}
            copied = 0
            with _scratch(store.path / f"still-{self._stream}") as still:
                for path in _linked(store, self._stream, still):
                    name = path.relative_to(still).as_posix()
                    known = before.get(name, [])
                    pieces = _standing(path, known, is_mine=known == self._mine.get(name))
                    begin, end = _lacking(path, pieces)
                    if end > begin:
                        piece = Piece(_digest(path, begin, end), end - begin)
                        if there.get(piece.object) != piece.size:
                            self._write(path, begin, piece)
                            there[piece.object] = piece.size
                            copied += piece.size
                        pieces.append(piece)
                    listed[name] = pieces
            if listed and (listed != newest.files or next_offset != newest.next):
                self._publish(numbers, _Manifest(listed, next_offset))
            self._mine = listed
            return copied

    def restore(self, store: Store) -> int | None:
        """Bring the newest whole copy into a store that has no log of this name.

        Gives the offset that the topic goes on with; None: there is no copy.
        Raises: StoreFormat (HOF-503), all that are kept are damaged, or of another release.
        """
        with _reached(self._path):
            numbers = self._numbers()
            for manifest in self._whole(numbers):
                try:
                    self._bring(manifest, store)
                except _Damaged as error:
                    _events.warning("copy_passed_over", log=self._stream, error=str(error))
                else:
                    return manifest.next
            if numbers:
                msg = f"the backup of {self._stream} is damaged: no manifest has all its pieces"
                raise StoreFormat(msg, hint="delete it, to begin with what the topic has")
            return None

    # --- files ---

    def _bring(self, manifest: _Manifest, store: Store) -> None:
        with _scratch(store.path / f"restored-{self._stream}") as fresh:
            for name, pieces in manifest.files.items():
                path = fresh / name
                path.parent.mkdir(parents=True, exist_ok=True)
                self._fetch(path, pieces)
            for folder in _FOLDERS:
                _moved(fresh / folder / self._stream, store.path / folder / self._stream)

    def _write(self, path: Path, begin: int, piece: Piece) -> None:
        with self._files.open_output_stream(self._object(piece)) as sink:
            for block in _blocks(path, begin, begin + piece.size):
                sink.write(block)

    def _fetch(self, path: Path, pieces: Sequence[Piece]) -> None:
        with path.open("wb") as file:
            for piece in pieces:
                seen = hashlib.blake2b(digest_size=_DIGEST_BYTES)
                try:
                    source = self._files.open_input_stream(self._object(piece))
                except FileNotFoundError:
                    raise _Damaged(f"a piece of {path.name} is missing") from None
                with source:
                    while block := source.read(_BLOCK):
                        seen.update(block)
                        file.write(block)
                if seen.hexdigest() != piece.object:
                    raise _Damaged(f"a piece of {path.name} has changed")
        sync_path(path)

    # --- manifests ---

    def _numbers(self) -> list[int]:
        found = self._listed("")
        numbers = sorted(int(m[1]) for name in found if (m := _NUMBER.fullmatch(name)))
        if not numbers:  # there are none only where some could be
            self._files.create_dir(f"{self._path}/objects", recursive=True)
        return numbers

    def _objects(self) -> dict[str, int]:
        return self._listed("/objects")

    def _listed(self, folder: str) -> dict[str, int]:
        selector = fs.FileSelector(self._path + folder, allow_not_found=True)
        return {info.base_name: info.size for info in self._files.get_file_info(selector)}

    def _whole(self, numbers: Sequence[int]) -> Iterator[_Manifest]:
        """The manifests that can be read, newest first. Raises: StoreFormat (HOF-503)."""
        for number in reversed(numbers):
            with self._files.open_input_stream(self._manifest(number)) as source:
                data = source.read()
            try:
                found = msgspec.json.decode(data, type=_Manifest)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                _events.warning("copy_passed_over", log=self._stream, error=str(error))
                continue
            if found.format != FORMAT:
                msg = f"the backup of {self._stream} has format {found.format}, this reads {FORMAT}"
                raise StoreFormat(msg, hint="upgrade hofflight")
            yield found

    def _publish(self, before: Sequence[int], manifest: _Manifest) -> None:
        """Make a manifest the one that counts, and forget what only older ones name."""
        numbers = [*before, max(before, default=0) + 1]
        path = self._manifest(numbers[-1])
        with self._files.open_output_stream(f"{path}.tmp") as sink:
            sink.write(msgspec.json.encode(manifest))
        self._files.move(f"{path}.tmp", path)
        for old in numbers[:-_KEPT]:
            self._files.delete_file(self._manifest(old))
        named = {
            piece.object
            for kept in self._whole(numbers[-_KEPT:])
            for pieces in kept.files.values() for piece in pieces
        }  # fmt: skip
        for name in self._objects().keys() - named:
            self._files.delete_file(f"{self._path}/objects/{name}")

    def _object(self, piece: Piece) -> str:
        return f"{self._path}/objects/{piece.object}"

    def _manifest(self, number: int) -> str:
        return f"{self._path}/manifest-{number:020d}.json"


def _opened(url: str) -> tuple[Any, str]:
    scheme, mark, rest = url.partition("://")
    if not mark:
        return fs.LocalFileSystem(), str(Path(url).resolve())
    found, path = fs.FileSystem.from_uri(f"s3://{rest}" if scheme == "s3a" else url)
    return found, path


@contextmanager
def _reached(where: str) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        what = (str(error) or type(error).__name__).splitlines()[0]
        msg = f"the backup at {where}: {what}"
        raise BackupUnavailable(msg, hint="what is in the store is not lost") from error


@contextmanager
def _scratch(path: Path) -> Iterator[Path]:
    """An empty folder, which is gone at the end, with what a process that was killed left in it."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(mode=0o700)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _linked(store: Store, stream: str, still: Path) -> list[Path]:
    """Links to the files that make a whole: snapshots before the log, which has all they have.

    Sealed files are before it too: what they end with, the log goes on from. A log that was trimmed
    meanwhile may not reach back to them, so it is looked at again. None where there is no log.
    """
    log = store.log / stream
    for _ in range(_TRIES):
        first = min((path.name for path in log.glob("*.log")), default="")
        found: list[Path] = []
        try:
            for folder in _FOLDERS:
                found += _link_all(store.path, f"{folder}/{stream}", still)
        except FileNotFoundError:
            found = []
        if found and first and first == min((path.name for path in log.glob("*.log")), default=""):
            return found
        for path in still.iterdir():
            shutil.rmtree(path)
    return []


def _link_all(root: Path, folder: str, still: Path) -> list[Path]:
    """Links to a folder's files of ours, those of others left out."""
    found = []
    for path in sorted((root / folder).rglob("*")):
        if path.suffix in {".log", ".snap", ".parquet", ".json"} and path.is_file():
            link = still / path.relative_to(root)
            link.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, link)
            found.append(link)
    return found


def _moved(fresh: Path, target: Path) -> None:
    """Put a folder in the place of what an earlier try may have left there."""
    shutil.rmtree(target, ignore_errors=True)
    if fresh.exists():
        for folder in (fresh, *(path for path in fresh.rglob("*") if path.is_dir())):
            sync_path(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh.rename(target)
        sync_path(target.parent)


def _standing(path: Path, known: Sequence[Piece], *, is_mine: bool) -> list[Piece]:
    """The pieces of a file that are still its bytes. is_mine: nobody else listed them."""
    is_whole = sum(piece.size for piece in known) == path.stat().st_size
    if path.suffix == ".json" or (path.suffix != ".log" and not is_whole):
        return []
    # Numbers that are sealed are never given away again: of those files the size tells.
    if is_mine or path.suffix == ".parquet":
        return list(known)
    begin, kept = 0, []
    for piece in known:
        if _digest(path, begin, begin + piece.size) != piece.object:
            break
        begin += piece.size
        kept.append(piece)
    return kept


def _lacking(path: Path, pieces: list[Piece]) -> tuple[int, int]:
    """The range of a file's bytes that becomes a piece; takes from its end what goes into that."""
    begin = sum(piece.size for piece in pieces)
    if path.suffix != ".log":
        return begin, path.stat().st_size
    end = max((frame.end for frame in frames_of(path, begin)), default=begin)
    while end > begin and pieces and pieces[-1].size <= end - begin:
        begin -= pieces.pop().size
    return begin, end


def _digest(path: Path, begin: int, end: int) -> str:
    seen = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for block in _blocks(path, begin, end):
        seen.update(block)
    return seen.hexdigest()


def _blocks(path: Path, begin: int, end: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(begin)
        while begin < end and (block := file.read(min(_BLOCK, end - begin))):
            begin += len(block)
            yield block
