"""The files of a log for its copies: frozen while they are written, put where they belong."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from hofflight import limits
from hofflight.errors import StoreFormat
from hofflight.eventlog.directory import sync_path, whole_file
from hofflight.eventlog.frames import frames_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hofflight.eventlog.store import Store

# The log comes last: a store that has one is restored.
FOLDERS: Final = ("snapshots", "sealed", "log")
DIGEST_BYTES: Final = 20
BLOCK_BYTES: Final = limits.MIB
_TRIES: Final = 5
_SUFFIXES: Final = {".log", ".snap", ".parquet", ".json"}


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """Bytes of a file, and the name of the object that has them."""

    object: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{40}\Z")]
    size: Annotated[int, msgspec.Meta(ge=1)]


class _Origin(msgspec.Struct, frozen=True):
    origin: str


def origin_of(log: Path) -> str:
    """What a log and its copies have in common wherever they go, and two histories never have.

    Raises: StoreFormat (HOF-503).
    """
    path = log / "origin.json"
    if not path.exists():
        log.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as fresh:
            fresh.write_bytes(msgspec.json.encode(_Origin(secrets.token_hex(16))))
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Origin).origin
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        msg = f"{path.name} of {log.name} is damaged"
        raise StoreFormat(msg, hint="delete it: copies are another log's then") from error


def set_aside(store: Store, stream: str, name: str) -> None:
    """Put a log, its snapshots and its sealed files out of the way; nothing is deleted."""
    aside = store.path / "aside" / name
    while aside.exists():  # an older copy was all there was, and that is left again
        aside = aside.with_name(f"{aside.name}+")
    for folder in FOLDERS:  # the log last: as long as it is here, the next start goes on with this
        path = store.path / folder / stream
        if path.exists():
            target = aside / folder / stream
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)


@contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """An empty folder, which is gone at the end, with what a process that was killed left in it."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(mode=0o700)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def linked(store: Store, stream: str, still: Path) -> list[Path]:
    """Links to the files that make a whole: snapshots before the log, which has all they have.

    Sealed files are before it too: what they end with, the log goes on from. A log that was trimmed
    meanwhile may not reach back to them, so it is looked at again. None where there is no log.
    """
    log = store.log / stream
    for _ in range(_TRIES):
        first = min((path.name for path in log.glob("*.log")), default="")
        found: list[Path] = []
        try:
            for folder in FOLDERS:
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
    manifest = root / folder / "manifest.json"
    # First: what it names is there already. A seal may publish another one while we look.
    found = [_link(manifest, root, still)] if manifest.exists() else []
    others = [path for path in sorted((root / folder).rglob("*")) if path != manifest]
    found += [_link(p, root, still) for p in others if p.suffix in _SUFFIXES and p.is_file()]
    return found


def _link(path: Path, root: Path, still: Path) -> Path:
    link = still / path.relative_to(root)
    link.parent.mkdir(parents=True, exist_ok=True)
    os.link(path, link)
    return link


def moved(fresh: Path, target: Path) -> None:
    """Put a folder in the place of what an earlier try may have left there."""
    shutil.rmtree(target, ignore_errors=True)
    if fresh.exists():
        for folder in (fresh, *(path for path in fresh.rglob("*") if path.is_dir())):
            sync_path(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh.rename(target)
        sync_path(target.parent)


def standing(path: Path, known: Sequence[Piece], *, is_mine: bool) -> list[Piece]:
    """The pieces of a file that are still its bytes. is_mine: nobody else listed them."""
    is_whole = sum(piece.size for piece in known) == path.stat().st_size
    if path.suffix == ".json" or (path.suffix != ".log" and not is_whole):
        return []
    # Numbers that are sealed are never given away again: of those files the size tells.
    if is_mine or path.suffix == ".parquet":
        return list(known)
    begin, kept = 0, []
    for piece in known:
        if digest(path, begin, begin + piece.size) != piece.object:
            break
        begin += piece.size
        kept.append(piece)
    return kept


def lacking(path: Path, pieces: list[Piece]) -> tuple[int, int]:
    """The range of a file's bytes that becomes a piece; takes from its end what goes into that."""
    begin = sum(piece.size for piece in pieces)
    if path.suffix != ".log":
        return begin, path.stat().st_size
    end = max((frame.end for frame in frames_of(path, begin)), default=begin)
    while end > begin and pieces and pieces[-1].size <= end - begin:
        begin -= pieces.pop().size
    return begin, end


def digest(path: Path, begin: int, end: int) -> str:
    """What names a piece of a file: BLAKE2b of its bytes."""
    seen = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for block in blocks(path, begin, end):
        seen.update(block)
    return seen.hexdigest()


def blocks(path: Path, begin: int, end: int) -> Iterator[bytes]:
    """The bytes of a piece, a MiB at a time."""
    with path.open("rb") as file:
        file.seek(begin)
        while begin < end and (block := file.read(min(BLOCK_BYTES, end - begin))):
            begin += len(block)
            yield block
