"""The whole history of a log: its sealed segments, then the entries that are not sealed yet.

Reads beside whoever writes, and beside a seal or a trim that happens meanwhile. A batch holds whole
requests only, so whatever must be judged request by request can be judged batch by batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeVar

import pyarrow as pa

from hofflight import limits
from hofflight.errors import HistoryMissing, LogCorrupt
from hofflight.replay.logged import ABOUT, ANSWER, EntryReader, selected
from hofflight.replay.sealed import in_range
from hofflight.wire.envelope import OK

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from hofflight.eventlog.protocol import Entry, EntryMeta
    from hofflight.replay.sealed import SealedLog

_LIVE_ROWS: Final = 65_536
_TRIES_MAX: Final = 5
T = TypeVar("T")
# (after, end): (number up to which it read, what it found) of records after `after` up to `end`.
_Source = Callable[[int, int], Iterator[tuple[int, T | None]]]


class LiveLog(Protocol):
    """The part of an event log that replay reads."""

    def read(self, after: int = 0) -> Iterator[tuple[int, Entry]]:
        """(position, entry) of every entry numbered above `after`."""
        ...

    def read_meta(self, after: int = 0) -> Iterator[tuple[int, EntryMeta]]:
        """The same without the rows."""
        ...

    def segments(self) -> list[tuple[int, int, Path]]:
        """(ordinal, first number, path) of each segment, in order."""
        ...


class Part(NamedTuple):
    """Rows of whole requests, all sent to one version of the group."""

    version: int
    rows: pa.RecordBatch


class Void(NamedTuple):
    """A record that does not count: which, and why."""

    number: int
    arrival_us: int
    request_id: bytes
    code: str
    error: str

    @property
    def seq(self) -> int:
        """Where its first row would be."""
        return self.number << limits.ROW_BITS

    @property
    def arrival(self) -> datetime:
        """When it came, UTC."""
        return datetime.fromtimestamp(self.arrival_us / 1e6, UTC)


class Extent(NamedTuple):
    """The number of the last entry, and about how many rows there are."""

    last: int
    rows: int


class Counts(NamedTuple):
    """What there is. `live_rows` are not sealed yet; `voids` are refused records of both."""

    last: int
    sealed_rows: int
    sealed_bytes: int
    live_rows: int
    voids: int


class History:
    """Every counted row of a log.

    `raw`: the registered input. `full`: per group version the answers' columns; versions that are
    not in it come without answers.
    """

    def __init__(
        self, live: LiveLog, sealed: SealedLog, raw: pa.Schema, full: Mapping[int, pa.Schema]
    ) -> None:
        self.live = live
        self.sealed = sealed
        self.raw = raw
        self._full = full

    @property
    def partitions(self) -> list[int]:
        """The partitions that it is kept in; none: it is one log."""
        return []

    def place_of(self, seq: int) -> tuple[int | None, int]:
        """The partition that a row is in, if any, and its seq there."""
        return None, seq

    def extent(self) -> Extent:
        """How far the history goes now.

        Raises: SealDamaged (HOF-506), LogCorrupt (HOF-502).
        """
        counts = self.counts()
        return Extent(counts.last, counts.sealed_rows + counts.live_rows)

    def unsealed_rows(self) -> int:
        """How many rows a seal would find."""
        return self.counts().live_rows

    def counts(self) -> Counts:
        """What there is now, counted. `last`: the number of the last entry.

        Raises: SealDamaged (HOF-506), LogCorrupt (HOF-502).
        """
        for _ in range(_TRIES_MAX):
            manifest = self.sealed.manifest()
            sealed_rows = sum(file.rows for file in manifest.files if file.version)
            voids = sum(file.rows for file in manifest.files if not file.version)
            last, live_rows = manifest.sealed_to, 0
            try:
                for _, meta in self.live.read_meta(last):
                    last = meta.number
                    live_rows += meta.rows if meta.code == OK else 0
                    voids += meta.code != OK
            except FileNotFoundError:
                continue  # trimmed while it was read: it is sealed by now
            sealed_bytes = sum(file.bytes for file in manifest.files)
            return Counts(last, sealed_rows, sealed_bytes, live_rows, voids)
        raise LogCorrupt(f"segments of {self.sealed.name} vanish while it is read")

    def ranges(self, records: int = 65_536) -> Iterator[tuple[int, int]]:
        """(after, last) of stretches that follow each other: a seal's each, then of `records`."""
        end, after = self.extent().last, 0
        for last in sorted({file.last for file in self.sealed.manifest().files}):
            yield after, last
            after = last
        while after < end:
            yield after, min(after + records, end)
            after = min(after + records, end)

    def voids(self, after: int, last: int) -> Iterator[Void]:
        """What was refused of the records `after` + 1 to `last`.

        Raises: SealDamaged (HOF-506), LogCorrupt (HOF-502), HistoryMissing (HOF-508).
        """
        end = min(last, self.extent().last)
        yield from self._onward(after, end, self._sealed_voids, self._live_voids)

    def parts(
        self,
        after: int = 0,
        last: int | None = None,
        *,
        about: Sequence[str] = ABOUT.names,
        answers: int | None = None,
    ) -> Iterator[Part]:
        """Rows of the records `after` + 1 to `last` (None: all there are), in no order.

        Columns: `about` of `logged.ABOUT` (or `_joined`), then the raw ones, then for rows sent to
        version `answers` their answers.
        Raises: LogCorrupt (HOF-502), SealDamaged (HOF-506), HistoryMissing (HOF-508).
        """
        end = self.extent().last if last is None else last
        chosen: dict[str, Any] = {"about": about, "answers": answers}
        sealed = partial(self._sealed_parts, **chosen)
        yield from self._onward(after, end, sealed, partial(self._live_parts, **chosen))

    def _onward(self, after: int, end: int, *sources: _Source[T]) -> Iterator[T]:
        """What is sealed, then what is live; and again, where a trim came in between.

        Raises: HistoryMissing (HOF-508), no source goes on any further.
        """
        tries = 0
        while after < end:
            before = after
            for source in sources:
                for to, found in source(after, end):
                    after = to
                    if found is not None:
                        yield found
            tries = 0 if after > before else tries + 1
            if tries >= _TRIES_MAX:
                msg = f"record {after + 1} of {self.sealed.name} is neither in the log nor sealed"
                raise HistoryMissing(msg, hint="restore the log's segments, or the sealed ones")

    def _sealed_voids(self, after: int, end: int) -> Iterator[tuple[int, Void | None]]:
        """(number up to which it read, mark) of the sealed files with marks of the range."""
        manifest = self.sealed.manifest()
        if manifest.sealed_to <= after:
            return
        for file in manifest.files:
            if not file.version and file.last > after and file.first <= end:
                for mark in self.sealed.read_voids(file).to_pylist():
                    if after < mark["number"] <= end:
                        yield after, Void(*(mark[name] for name in Void._fields))
        yield min(manifest.sealed_to, end), None

    def _live_voids(self, after: int, end: int) -> Iterator[tuple[int, Void | None]]:
        """(number up to which it read, mark) of live entries, as far as they follow each other."""
        with suppress(FileNotFoundError):  # trimmed while it was read: it is sealed by now
            for _, meta in self.live.read_meta(after):
                if meta.number != after + 1 or meta.number > end:
                    return
                after = meta.number
                void = Void(after, meta.arrival_us, meta.id, meta.code, meta.error)
                yield after, None if meta.code == OK else void

    def _sealed_parts(
        self, after: int, end: int, about: Sequence[str], answers: int | None
    ) -> Iterator[tuple[int, Part | None]]:
        """(number up to which it read, part) of the sealed files with records of the range."""
        manifest = self.sealed.manifest()
        if manifest.sealed_to <= after:
            return
        for file in manifest.files:
            if file.version and file.last > after and file.first <= end:
                full = self._full.get(file.version)
                columns = [*about, *self.raw.names]
                if full is not None and file.version == answers:
                    columns.append(ANSWER)
                found = self.sealed.read(file, self.raw, full, ["_seq", *columns])
                rows = in_range(found, after, end).select(columns)
                yield after, Part(file.version, rows)
        yield min(manifest.sealed_to, end), None

    def _live_parts(
        self, after: int, end: int, about: Sequence[str], answers: int | None
    ) -> Iterator[tuple[int, Part | None]]:
        """(number up to which it read, part) of live entries, as far as they follow each other."""
        readers: dict[int, EntryReader] = {}
        waiting: list[Entry] = []
        rows = 0
        try:
            for _, entry in self.live.read(after):
                if entry.meta.number != after + 1 or entry.meta.number > end:
                    break  # read up to the end; or trimmed since: it is sealed by now
                after = entry.meta.number
                waiting.append(entry)
                rows += entry.meta.rows
                if rows >= _LIVE_ROWS:
                    yield from self._decoded(waiting, readers, about, answers)
                    waiting, rows = [], 0
        except FileNotFoundError:
            pass  # trimmed while it was read: what is missing is sealed by now
        yield from self._decoded(waiting, readers, about, answers)

    def _decoded(
        self,
        entries: Sequence[Entry],
        readers: dict[int, EntryReader],
        about: Sequence[str],
        answers: int | None,
    ) -> Iterator[tuple[int, Part | None]]:
        if not entries:
            return
        by_version: dict[int, list[Entry]] = {}
        for entry in entries:
            if entry.meta.code == OK:
                by_version.setdefault(entry.meta.group_version, []).append(entry)
        # Only the last part may say how far it went: a reader that begins again reads no row twice.
        after = entries[0].meta.number - 1
        for version, mine in by_version.items():
            full = self._full.get(version) if version == answers else None
            reader = readers.setdefault(version, EntryReader(self.raw, full))
            columns = [*about, *self.raw.names, *([ANSWER] if full is not None else [])]
            yield after, Part(version, selected(reader.rows(mine), columns))
        yield entries[-1].meta.number, None
