"""Seal a log: its whole entries become Parquet, a bounded part at a time.

1. take entries after what is sealed, some 250,000 rows of them
2. write their files under temporary names, make them durable, rename them
3. make the log itself as durable: a power loss must not give a sealed number away again
4. publish the manifest: from here on they are sealed

A crash before 4 leaves files that nobody lists; the next seal removes them and begins again.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pyarrow as pa

from hofflight import limits
from hofflight.eventlog.directory import sync_path
from hofflight.eventlog.lock import one_at_a_time
from hofflight.replay.logged import EntryReader
from hofflight.replay.parquet import write_whole
from hofflight.replay.sealed import VOIDS, Manifest, SealedFile
from hofflight.wire.envelope import OK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from hofflight.eventlog.protocol import Entry
    from hofflight.replay.read_log import LiveLog
    from hofflight.replay.sealed import SealedLog


@dataclass(frozen=True, slots=True)
class Sorting:
    """How a version's rows are sealed: its schemas, and what they are sorted by.

    full: of its answers; None for rows that have none.
    """

    raw: pa.Schema
    full: pa.Schema | None
    key: tuple[str, ...]
    event_time: str


@dataclass(slots=True)
class SealReport:
    """What a seal did."""

    stream: str
    records: int = 0
    rows: int = 0
    voids: int = 0
    bytes: int = 0
    sealed_to: int = 0


def seal(
    log: LiveLog,
    sealed: SealedLog,
    versions: Mapping[int, Sorting],
    *,
    rows_max: int = limits.sealed_rows_max,
    until_us: int = limits.event_time_us_max,
    progress: Callable[[int], None] = lambda _: None,
) -> SealReport:
    """Seal what the log holds. `progress` is told how many more rows are sealed.

    `until_us`: entries that arrived later are left to the next seal: a busy log has no end.

    Raises: StoreLocked (HOF-501), somebody else seals this log; SealDamaged (HOF-506), the
        manifest cannot be read; LogCorrupt (HOF-502).
    """
    report = SealReport(sealed.name)
    sealed.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    with one_at_a_time(sealed.directory / "lock", wait=False):
        manifest = sealed.manifest()
        for path in list(sealed.orphans(manifest)):
            path.unlink()
        for entries in _parts(log, manifest.sealed_to, rows_max, until_us):
            files = _write(sealed, entries, versions)
            _sync_log(log, manifest.sealed_to)
            last = entries[-1].meta.number
            manifest = Manifest(sealed_to=last, files=(*manifest.files, *files))
            sealed.publish(manifest)
            _count(report, entries, files)
            progress(sum(file.rows for file in files if file.version))
        report.sealed_to = manifest.sealed_to
    return report


def _parts(log: LiveLog, after: int, rows_max: int, until_us: int) -> Iterator[list[Entry]]:
    """Entries after a number, in parts of about `rows_max` rows; none is cut."""
    part: list[Entry] = []
    rows = size = 0
    for _, entry in log.read(after):
        if entry.meta.arrival_us > until_us:
            break
        part.append(entry)
        rows += entry.meta.rows
        size += len(entry.body) + len(entry.answer_body)
        if rows >= rows_max or size >= limits.sealed_part_bytes_max:
            yield part
            part, rows, size = [], 0, 0
    if part:
        yield part


def _write(
    sealed: SealedLog, entries: Sequence[Entry], versions: Mapping[int, Sorting]
) -> list[SealedFile]:
    """The files of some entries, durable under their names."""
    first, last = entries[0].meta.number, entries[-1].meta.number
    groups: defaultdict[tuple[int, str], list[Entry]] = defaultdict(list)
    for entry in entries:
        day = datetime.fromtimestamp(entry.meta.arrival_us // 1_000_000, UTC).date().isoformat()
        groups[(entry.meta.group_version, day) if entry.meta.code == OK else (0, "")].append(entry)
    files = []
    for (version, day), mine in sorted(groups.items()):
        folder = f"version={version}/day={day}" if version else "voids"
        table = _sorted_rows(mine, versions[version]) if version else _void_marks(mine)
        path = f"{folder}/{first:019d}-{last:019d}.parquet"
        size = write_whole(table, sealed.directory / path)
        sync_path((sealed.directory / path).parent.parent)
        files.append(SealedFile(path, version, first, last, table.num_rows, size))
    return files


def _sorted_rows(entries: Sequence[Entry], sorting: Sorting) -> pa.Table:
    rows = EntryReader(sorting.raw, sorting.full).rows(entries)
    order = [*sorting.key, sorting.event_time, "_seq"]
    return pa.Table.from_batches([rows]).sort_by([(name, "ascending") for name in order])


def _void_marks(entries: Sequence[Entry]) -> pa.Table:
    metas = [entry.meta for entry in entries]
    columns = [
        [m.number for m in metas], [m.arrival_us for m in metas], [m.id for m in metas],
        [m.view for m in metas], [m.view_version for m in metas],
        [m.group_version for m in metas], [m.code_hash for m in metas],
        [m.code for m in metas], [m.error for m in metas],
        [e.head for e in entries], [e.body for e in entries],
    ]  # fmt: skip
    arrays = [pa.array(values, t) for values, t in zip(columns, VOIDS.types, strict=True)]
    return pa.Table.from_arrays(arrays, schema=VOIDS)


def _sync_log(log: LiveLog, after: int) -> None:
    """Make the segments durable that hold entries above `after`; the writer may not have yet."""
    segments = log.segments()
    for index, (_, _, path) in enumerate(segments):
        is_last = index + 1 == len(segments)
        if is_last or segments[index + 1][1] > after + 1:
            with contextlib.suppress(FileNotFoundError):  # trimmed just now: it was durable
                sync_path(path)


def _count(report: SealReport, entries: Sequence[Entry], files: Sequence[SealedFile]) -> None:
    report.records += len(entries)
    report.rows += sum(file.rows for file in files if file.version)
    report.voids += sum(entry.meta.code != OK for entry in entries)
    report.bytes += sum(file.bytes for file in files)
