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
import re
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import pyarrow as pa
from pyarrow import fs

from hofflight.errors import BackupUnavailable, StoreFormat
from hofflight.eventlog.backup_files import (
    BLOCK_BYTES,
    DIGEST_BYTES,
    FOLDERS,
    Piece,
    blocks,
    digest,
    lacking,
    linked,
    moved,
    origin_of,
    scratch,
    standing,
)
from hofflight.eventlog.directory import sync_path
from hofflight.observe.events import Events

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hofflight.eventlog.store import Store

_events = Events("hofflight.eventlog")
FORMAT: Final = 1
_KEPT: Final = 2
# Also one that was not escaped, as keys of S3 have a slash.
_SECRET: Final = re.compile(r"//[^/:@\s]*(:\S*)?@")
_NUMBER: Final = re.compile(r"manifest-([0-9]{20})\.json")
# What a manifest may name: a manifest of anybody's must not reach outside.
_Name = Annotated[str, msgspec.Meta(pattern=r"^(snapshots|sealed|log)(/[\w=-][\w=.-]*)+\Z")]


class _Damaged(Exception):
    """Of a copy: another one may be whole."""


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The pieces of each file, by its path in the store.

    origin: of the log, see `origin_of`. next: the offset that comes after it.
    """

    files: dict[_Name, list[Piece]]
    origin: str = ""
    next: Annotated[int, msgspec.Meta(ge=0)] = 0
    format: int = FORMAT


class _Format(msgspec.Struct, frozen=True):
    """What every release writes."""

    format: int


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
        self._is_folder = isinstance(self._files, fs.LocalFileSystem)
        self._path = f"{root.rstrip('/')}/backup/{stream}/{number}"
        # As this process listed them. Other pieces are compared with the files: they may have what
        # a power loss took here, or be another host's.
        self._mine: dict[str, list[Piece]] = {}

    def newest(self) -> Manifest | None:
        """The newest copy that can be read. Raises: StoreFormat (HOF-503), another release's."""
        with _reached(self._path):
            return next(self._whole(self._numbers()), None)

    def save(self, store: Store, next_offset: int) -> int:
        """Copy what is new in a store's log, also while it is written; gives the bytes of it.

        next_offset: what the log had of the topic before this call. A copy that has more, as
        another host left it, stays as it is until this one caught up; so it does where there is no
        log. Raises: LogCorrupt (HOF-502); StoreFormat (HOF-503), the copy is of another release.
        """
        with _reached(self._path):
            numbers = self._numbers()
            newest = next(self._whole(numbers), Manifest({}))
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
            origin = origin_of(store.log / self._stream)  # a file of it: the first copy has it too
            with scratch(store.path / f"still-{self._stream}") as still:
                for path in linked(store, self._stream, still):
                    name = path.relative_to(still).as_posix()
                    known = before.get(name, [])
                    pieces = standing(path, known, is_mine=known == self._mine.get(name))
                    begin, end = lacking(path, pieces)
                    if end > begin:
                        piece = Piece(digest(path, begin, end), end - begin)
                        if there.get(piece.object) != piece.size:
                            self._write(path, begin, piece)
                            there[piece.object] = piece.size
                            copied += piece.size
                        pieces.append(piece)
                    listed[name] = pieces
            manifest = Manifest(listed, origin, next_offset)
            if listed and manifest != newest:
                self._publish(numbers, manifest)
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

    def _bring(self, manifest: Manifest, store: Store) -> None:
        with scratch(store.path / f"restored-{self._stream}") as fresh:
            for name, pieces in manifest.files.items():
                path = fresh / name
                path.parent.mkdir(parents=True, exist_ok=True)
                self._fetch(path, pieces)
            for folder in FOLDERS:
                moved(fresh / folder / self._stream, store.path / folder / self._stream)

    def _write(self, path: Path, begin: int, piece: Piece) -> None:
        with self._files.open_output_stream(self._object(piece)) as sink:
            for block in blocks(path, begin, begin + piece.size):
                sink.write(block)
        self._synced(self._object(piece))

    def _fetch(self, path: Path, pieces: Sequence[Piece]) -> None:
        path.touch(mode=0o600)
        with path.open("wb") as file:
            for piece in pieces:
                seen = hashlib.blake2b(digest_size=DIGEST_BYTES)
                try:
                    source = self._files.open_input_stream(self._object(piece))
                except FileNotFoundError:
                    raise _Damaged(f"a piece of {path.name} is missing") from None
                with source:
                    while block := source.read(BLOCK_BYTES):
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
            if self._is_folder:  # others of this host have no business with events and answers
                Path(self._path).chmod(0o700)
        return numbers

    def _objects(self) -> dict[str, int]:
        return self._listed("/objects")

    def _listed(self, folder: str) -> dict[str, int]:
        selector = fs.FileSelector(self._path + folder, allow_not_found=True)
        return {info.base_name: info.size for info in self._files.get_file_info(selector)}

    def _whole(self, numbers: Sequence[int]) -> Iterator[Manifest]:
        """The manifests that can be read, newest first. Raises: StoreFormat (HOF-503)."""
        for number in reversed(numbers):
            with self._files.open_input_stream(self._manifest(number)) as source:
                data = source.read()
            try:
                written = msgspec.json.decode(data, type=_Format).format
                found = msgspec.json.decode(data, type=Manifest) if written == FORMAT else None
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                _events.warning("copy_passed_over", log=self._stream, error=str(error))
                continue
            if found is None:
                msg = f"the backup of {self._stream} has format {written}, this reads {FORMAT}"
                raise StoreFormat(msg, hint="upgrade hofflight")
            yield found

    def _publish(self, before: Sequence[int], manifest: Manifest) -> None:
        """Make a manifest the one that counts, and forget what only older ones name."""
        numbers = [*before, max(before, default=0) + 1]
        path = self._manifest(numbers[-1])
        self._synced(f"{self._path}/objects")
        with self._files.open_output_stream(f"{path}.tmp") as sink:
            sink.write(msgspec.json.encode(manifest))
        self._synced(f"{path}.tmp")
        self._files.move(f"{path}.tmp", path)
        self._synced(self._path)
        for old in numbers[:-_KEPT]:
            self._files.delete_file(self._manifest(old))
        kept = list(self._whole(numbers[-_KEPT:]))
        if len(kept) < len(numbers[-_KEPT:]):
            return  # nobody knows what the damaged one names
        named = {piece.object for m in kept for pieces in m.files.values() for piece in pieces}
        for name in self._objects().keys() - named:
            self._files.delete_file(f"{self._path}/objects/{name}")

    def _synced(self, path: str) -> None:
        """An object store has what it has; a folder is to survive a power loss too."""
        if self._is_folder:
            sync_path(Path(path))

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
        # Whoever writes a secret into an address shall not find it in a log.
        msg = _SECRET.sub("//", f"the backup at {where}: {what}")
        raise BackupUnavailable(msg, hint="what is in the store is not lost") from error
