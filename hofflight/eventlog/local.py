"""The embedded event log: append-only segment files, one directory per (group, input schema).

An append survives the death of the process at once; a sync thread makes it survive a power loss,
every `sync_interval_ms` or before the answer leaves (`durability`). Why not a database:
docs/adr/0002.
"""

from __future__ import annotations

import os
import re
import threading
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from hofflight import limits
from hofflight.errors import LogCorrupt, StorageFailed
from hofflight.eventlog.directory import sync_path
from hofflight.eventlog.frames import (
    MAGIC,
    Frame,
    decode_entry,
    decode_meta,
    encode_entry,
    encode_head,
    frame_at,
    frames_of,
    heads_of,
)
from hofflight.eventlog.segment import Segment
from hofflight.observe.events import Events

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from hofflight.eventlog.protocol import Entry, EntryMeta
    from hofflight.settings import LogSettings

# position = segment ordinal << 36 | offset: 64 GiB a segment, 2^27 segments.
_OFFSET_BITS: Final = 36
_SEGMENT: Final = re.compile(r"(?P<ordinal>[0-9]{8})-(?P<first>[0-9]{19})\.log")
_events = Events("hofflight.eventlog")


class LogReader:
    """Reads a log beside its writer, or without one; sees whole entries only."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def segments(self) -> list[tuple[int, int, Path]]:
        """(ordinal, first number, path) of each segment, in order."""
        paths = self.directory.iterdir() if self.directory.exists() else ()
        return sorted(
            (int(match["ordinal"]), int(match["first"]), path)
            for path in paths
            if (match := _SEGMENT.fullmatch(path.name))
        )

    def first_number(self) -> int:
        """Number of the first entry that was not trimmed, or will be the first there is."""
        segments = self.segments()
        return segments[0][1] if segments else 1

    def read(self, after: int = 0) -> Iterator[tuple[int, Entry]]:
        """(position, entry) of every entry numbered above `after`.

        Raises: LogCorrupt (HOF-502).
        """
        for ordinal, path, expected in self._segments_after(after):
            heads: dict[int, bytes] = {}
            for frame in whole_frames(path, expected):
                if not frame.is_entry:
                    heads[frame.offset] = frame.payload[1:]
                elif decode_meta(frame.payload).number > after:
                    yield _position(ordinal, frame.offset), decode_entry(frame.payload, heads)

    def read_meta(self, after: int = 0) -> Iterator[tuple[int, EntryMeta]]:
        """(position, metadata) of every entry numbered above `after`; cheaper than `read`."""
        for ordinal, path, expected in self._segments_after(after):
            for frame in whole_frames(path, expected):
                if frame.is_entry and (meta := decode_meta(frame.payload)).number > after:
                    yield _position(ordinal, frame.offset), meta

    def read_on(self, position: int = 0) -> Iterator[tuple[int, Entry]]:
        """(position, entry) of every entry behind the one at a position; 0: of all.

        For those who follow a log: what was read before is not read again. Raises: LogCorrupt
        (HOF-502).
        """
        ordinal, offset = position >> _OFFSET_BITS, position & ((1 << _OFFSET_BITS) - 1)
        for number, _, path in self.segments():
            if number < ordinal:
                continue
            begin = offset if number == ordinal else 0
            heads: dict[int, bytes] = {}
            with path.open("rb") as aside:  # for heads that stand before where it goes on
                for frame in frames_of(path, begin):
                    if not frame.is_entry or frame.offset == begin:
                        continue
                    for at in heads_of(frame.payload):
                        if at not in heads:
                            heads[at] = frame_at(aside, at).payload[1:]
                    yield _position(number, frame.offset), decode_entry(frame.payload, heads)

    def position_before(self, offset: int) -> int:
        """A position behind which is every entry of Kafka records from `offset` on, and no other.

        Offsets ascend: the last segment that begins before it has the place.
        """
        for _, first, _ in reversed(self.segments()):
            before = 0
            for position, meta in self.read_meta(first - 1):
                if meta.offset >= offset:
                    break
                before = position
            if before:
                return before
        return 0

    def bytes_after(self, number: int) -> int:
        """Size of the segments that begin after a number; names and sizes alone, nothing is read.

        The open segment counts with the room that it keeps free.
        """
        return sum(path.stat().st_size for _, first, path in self.segments() if first > number)

    def first_arrival_us(self) -> int:
        """When the first entry arrived that was not trimmed; 0 in an empty log."""
        first = next(self.read_meta(), None)
        return first[1].arrival_us if first is not None else 0

    def entry_at(self, position: int) -> Entry:
        """The entry at a position.

        Raises: LogCorrupt (HOF-502).
        """
        ordinal, offset = position >> _OFFSET_BITS, position & ((1 << _OFFSET_BITS) - 1)
        for number, _, path in self.segments():
            if number == ordinal:
                with path.open("rb") as file:
                    payload = frame_at(file, offset).payload
                    heads = {at: frame_at(file, at).payload[1:] for at in heads_of(payload)}
                    return decode_entry(payload, heads)
        msg = f"no entry at position {position} of {self.directory.name}"
        raise LogCorrupt(msg)

    def _segments_after(self, after: int) -> Iterator[tuple[int, Path, range]]:
        """(ordinal, path, numbers it must hold) of segments with entries above `after`.

        Nobody knows yet where the last one ends: its numbers are empty.
        """
        segments = self.segments()
        for index, (ordinal, first, path) in enumerate(segments):
            is_last = index + 1 == len(segments)
            end = first if is_last else segments[index + 1][1]
            if is_last or end > after + 1:
                yield ordinal, path, range(first, end)


def whole_frames(path: Path, expected: range) -> Iterator[Frame]:
    """The frames of a segment, which must hold the entries up to the next one's first.

    What follows them does not matter: a writer that was killed leaves room that it kept free.
    Raises: LogCorrupt (HOF-502).
    """
    end, last = len(MAGIC), None
    for frame in frames_of(path):
        end, last = frame.end, frame if frame.is_entry else last
        yield frame
    number = decode_meta(last.payload).number if last else expected.start - 1
    if number + 1 < expected.stop:
        missing = f"entries {number + 1} to {expected.stop - 1} are missing"
        msg = f"{path.name} of {path.parent.name} is damaged at byte {end}: {missing}"
        raise LogCorrupt(msg, hint="restore the file; later segments are intact")


def _position(ordinal: int, offset: int) -> int:
    return ordinal << _OFFSET_BITS | offset


class SyncThread:
    """Makes dirty logs durable, in a thread of its own; shared by all logs of a store."""

    def __init__(self, settings: LogSettings) -> None:
        self.settings = settings
        self._wake = threading.Condition()
        self._dirty: set[LocalLog] = set()
        self._waiting: list[Callable[[], None]] = []
        self._stopping = False
        self._halt = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hof-log-sync", daemon=True)
        self._thread.start()

    def mark(self, log: LocalLog) -> None:
        """A log has new bytes."""
        with self._wake:
            self._dirty.add(log)
            self._wake.notify()

    def call_when_durable(self, done: Callable[[], None]) -> None:
        """Call `done` after the next sync of everything that is dirty now."""
        with self._wake:
            self._waiting.append(done)
            self._wake.notify()

    def stop(self) -> None:
        """Sync what is dirty and end."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._halt.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._dirty or self._waiting or self._stopping):
                    self._wake.wait()
                stopping = self._stopping
            if self.settings.durability == "interval":
                self._halt.wait(self.settings.sync_interval_ms / 1_000)
            with self._wake:
                dirty, self._dirty = self._dirty, set()
                waiting, self._waiting = self._waiting, []
            for log in dirty:
                log.sync()
            for done in waiting:
                done()
            if stopping and not dirty and not waiting:
                return


class LocalLog(LogReader):
    """The writing side of one log directory."""

    def __init__(self, directory: Path, sync: SyncThread, settings: LogSettings) -> None:
        super().__init__(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self._sync_thread = sync
        self._settings = settings
        self.is_durable_at_once = settings.durability == "interval"
        self._is_dirty = False
        self.failed = ""
        self._ordinal = self._number = 0
        self._heads: dict[bytes, int] = {}  # where this segment has them
        self._lock = threading.Lock()
        self._segment: Segment | None = self._recover()

    def last_number(self) -> int:
        """Number of the last entry; 0 when empty."""
        return self._number

    def append(self, entries: Sequence[Entry]) -> list[int]:
        """Write entries in one call and give their positions.

        Raises: StorageFailed (HOF-304); nothing was written.
        """
        with self._lock:
            if self.failed:
                raise StorageFailed(self.failed, hint="restart the server when the disk is well")
            positions = self._write(entries)
            self._number = entries[-1].meta.number
        if not self._is_dirty:
            self._is_dirty = True
            self._sync_thread.mark(self)
        return positions

    def when_durable(self, done: Callable[[], None]) -> None:
        """Call `done` after the next sync, on the sync thread."""
        self._sync_thread.call_when_durable(done)

    def sync(self) -> None:
        """Make what was appended durable; a failure ends writing.

        The kernel may have dropped the pages: a second try would succeed and lie (fsyncgate).
        """
        with self._lock:
            self._is_dirty = False
            if self._segment is None:
                return
            # A descriptor of our own: appends go on, and the segment may change meanwhile.
            fd = self._segment.duplicate()
        try:
            os.fdatasync(fd)
        except OSError as error:
            self.failed = f"the event log could not be made durable: {error.strerror}"
            _events.error("log_sync_failed", log=self.directory.name, error=error.strerror)
        finally:
            os.close(fd)

    def trim(self, through: int) -> int:
        """Remove whole segments with no entry above `through`; gives how many bytes went.

        The open segment stays. Readers that are at it keep their file, later ones begin after it.
        """
        segments = self.segments()
        removed = 0
        for (_, _, path), (_, following, _) in pairwise(segments):
            if following > through + 1:
                break
            removed += path.stat().st_size
            path.unlink()
        if removed:
            sync_path(self.directory)
        return removed

    def abandon(self) -> None:
        """Let go of the file as it is: it is another process's."""
        with self._lock:
            segment, self._segment = self._segment, None
            if segment is not None:
                segment.abandon()

    def close(self) -> None:
        """Make everything durable and let go of the file."""
        with self._lock:
            segment, self._segment = self._segment, None
            try:
                if segment is not None:
                    segment.close()
            except OSError as error:  # closing a store ends, whatever its disk says
                self.failed = f"the event log could not be made durable: {error.strerror}"
                _events.error("log_sync_failed", log=self.directory.name, error=error.strerror)

    def _write(self, entries: Sequence[Entry]) -> list[int]:
        """Frames of the entries, and of heads that this segment has not seen, at its end."""
        try:
            segment = self._roomy_segment()
            if len(self._heads) >= limits.layouts_max:
                self._heads.clear()
            heads = self._heads
            frames: list[bytes] = []
            positions: list[int] = []
            end, new = segment.size, {}
            for entry in entries:
                for head in (entry.head, entry.answer_head):
                    if head and head not in heads and head not in new:
                        new[head] = end
                        frames.append(encode_head(head))
                        end += len(frames[-1])
                known = {**heads, **new} if new else heads
                frame = encode_entry(
                    entry, known.get(entry.head, 0), known.get(entry.answer_head, 0)
                )
                positions.append(_position(self._ordinal, end))
                frames.append(frame)
                end += len(frame)
            segment.reserve(end - segment.size)
        except OSError as error:
            msg = f"the event log could not be written: {error.strerror}"
            raise StorageFailed(msg, hint="free disk space; nothing was counted") from error
        segment.write(frames[0] if len(frames) == 1 else b"".join(frames))
        heads.update(new)
        return positions

    def _roomy_segment(self) -> Segment:
        segment = self._segment
        if segment is None:
            msg = "the event log is closed"
            raise StorageFailed(msg)
        if segment.size >= self._settings.segment_bytes_max:
            fresh = self._new_segment(self._number + 1)
            segment.close()
            self._segment = segment = fresh
        return segment

    def _recover(self) -> Segment:
        """Cut the tail that a crash tore, keep the cut bytes aside, and go on after it."""
        segments = self.segments()
        if not segments:
            return self._new_segment(1)
        self._ordinal, first, path = segments[-1]
        end, self._number = len(MAGIC), first - 1
        for frame in frames_of(path):
            end = frame.end
            if frame.is_entry:
                self._number = decode_meta(frame.payload).number
            else:
                self._heads[frame.payload[1:]] = frame.offset
        data = path.read_bytes()
        torn = data[end:].rstrip(b"\0")  # zeros are the room that was kept free
        if torn:
            path.with_suffix(f".torn-{end}").write_bytes(torn)
            _events.warning(
                "log_tail_cut", log=self.directory.name, bytes=len(torn), last_number=self._number
            )
        if len(data) < len(MAGIC):
            end = 0  # a crash while the segment was made
        os.truncate(path, end)
        return Segment(path, end)

    def _new_segment(self, first: int) -> Segment:
        path = self.directory / f"{self._ordinal + 1:08d}-{first:019d}.log"
        segment = Segment(path, 0)
        sync_path(self.directory)
        self._ordinal += 1
        self._heads = {}
        return segment
