"""Snapshots of window state, taken a few keys at a time between requests.

A snapshot is fuzzy: each key is dumped with the number of the last entry folded into it, and a
restart folds, key by key, what came after. So taking one never stops serving. A file is written
under a temporary name, synced and renamed; a damaged or foreign one is passed over, since the log
has everything.
"""

from __future__ import annotations

import contextlib
import os
import struct
import threading
import zlib
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import msgspec

from hofflight.eventlog.directory import sync_path
from hofflight.observe.events import Events
from hofflight.transform.state_codec import dump_key, load_key

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hofflight.engine.runner import Runner

MAGIC: Final = b"HOFSNAP1"
KEPT: Final = 2
_DAMAGE: Final = (ValueError, LookupError, TypeError, OSError, msgspec.DecodeError)
_FRAME: Final = struct.Struct("<II")
_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder()
_events = Events("hofflight.engine")


class SnapshotWriter:
    """Writes one runner's state, `step` by `step`, while the runner goes on folding."""

    def __init__(self, runner: Runner, directory: Path, *, number: int, ids_after: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._runner = runner
        self._path = directory / f"v{runner.group.version}-{number:019d}.snap"
        # A process that was away may still hold one of this number, and write when it lets go.
        self._temporary = self._path.with_suffix(f".{os.getpid()}.tmp")
        self._file = self._temporary.open("wb")
        self._file.write(MAGIC)
        self._keys = iter(list(runner.state.keys))
        head = {"number": number, "ids_after": ids_after, "code_hash": runner.code_hash}
        _write(self._file, head)

    def step(self, keys: int | None = None) -> bool:
        """Dump up to `keys` more keys (all for None); True when the snapshot is complete."""
        left = -1 if keys is None else keys
        while left:
            left -= 1
            key = next(self._keys, None)
            if key is None:
                _write(self._file, None)
                if keys is None:
                    self._publish()
                else:
                    # Between two requests: a sync of tens of megabytes must not hold up the next.
                    threading.Thread(target=self._publish, name="hof-snapshot").start()
                return True
            state = self._runner.state.keys.get(key)
            if state is not None:
                _write(self._file, [key, self._runner.folded, dump_key(state)])
        return False

    def abandon(self) -> None:
        """Leave no trace."""
        with contextlib.suppress(OSError):  # a full disk: what was buffered cannot be written
            self._file.close()
        self._temporary.unlink(missing_ok=True)

    def _publish(self) -> None:
        """Make the file durable, then visible; a full disk costs the snapshot alone."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._temporary.rename(self._path)
            sync_path(self._path.parent)
        except OSError as error:
            self.abandon()
            _events.warning("snapshot_failed", file=self._path.name, error=error.strerror)
            return
        for old in _snapshots(self._path.parent, self._runner.group.version)[KEPT:]:
            old.unlink(missing_ok=True)


def write_snapshot(runner: Runner, directory: Path) -> None:
    """Write a whole snapshot at once, of a runner that nobody works."""
    writer = SnapshotWriter(runner, directory, number=runner.folded, ids_after=ids_after(directory))
    writer.step()


def oldest_number(directory: Path, version: int) -> int:
    """Number after which the log is needed even if all but the oldest snapshot are damaged."""
    kept = _snapshots(directory, version)
    return int(_number_of(kept[-1]).removesuffix(kept[-1].suffix)) if kept else 0


def ids_after(directory: Path) -> int:
    """Number of the entry after which the log has remembered ids, as the newest snapshot knew."""
    for path in sorted(directory.glob("v*.snap"), key=_number_of, reverse=True):
        with contextlib.suppress(*_DAMAGE), path.open("rb") as file:
            if file.read(len(MAGIC)) == MAGIC:
                head: dict[str, Any] = next(_read(file), {})
                return int(head["ids_after"])
    return 0


def load_snapshot(runner: Runner, directory: Path, last: int) -> int:
    """Restore the newest whole snapshot of this very code into the runner.

    last: the log's last entry. A power loss may have taken entries that a snapshot has; their
    numbers are given away again, so it must not be believed.

    Returns the number of the entry after which folding goes on; 0 without a usable snapshot.
    """
    for path in _snapshots(directory, runner.group.version):
        try:
            return _load(runner, path, last)
        except _DAMAGE as error:
            runner.state = runner.plan.new_state()
            runner.key_folded.clear()
            _events.warning("snapshot_passed_over", file=path.name, error=str(error))
    return 0


def _load(runner: Runner, path: Path, last: int) -> int:
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            msg = "not a snapshot of this release"
            raise ValueError(msg)
        values = _read(file)
        head: dict[str, Any] = next(values, {})
        if head["code_hash"] != runner.code_hash:
            msg = "made by another definition"
            raise ValueError(msg)
        if head["number"] > last:
            msg = f"it has entry {head['number']}, the log ends with {last}"
            raise ValueError(msg)
        for value in values:
            if value is None:
                runner.folded = head["number"]
                return int(head["number"])
            key = tuple(value[0]) if isinstance(value[0], list) else value[0]
            runner.state.keys[key] = load_key(runner.plan.windows, value[2])
            runner.key_folded[key] = value[1]
    msg = "it ends too early"
    raise ValueError(msg)


def _snapshots(directory: Path, version: int) -> list[Path]:
    """Newest first: the number in the name has a fixed width."""
    return sorted(directory.glob(f"v{version}-*.snap"), reverse=True)


def _number_of(path: Path) -> str:
    return path.name.split("-", 1)[1]


def _write(file: BinaryIO, value: Any) -> None:
    payload = _encoder.encode(value)
    file.write(_FRAME.pack(len(payload), zlib.crc32(payload)) + payload)


def _read(file: BinaryIO) -> Iterator[Any]:
    while len(header := file.read(_FRAME.size)) == _FRAME.size:
        length, crc = _FRAME.unpack(header)
        payload = file.read(length)
        if len(payload) != length or zlib.crc32(payload) != crc:
            msg = "a frame is damaged"
            raise ValueError(msg)
        yield _decoder.decode(payload)
