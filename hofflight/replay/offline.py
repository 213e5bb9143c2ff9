"""The offline verbs of a store: training data, labels, parity, sealing; beside any writer."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from hofflight.errors import BadRange, CodeChanged, StoreFormat, UnknownView, WrongType
from hofflight.eventlog.directory import whole_file
from hofflight.features.view import find_view
from hofflight.replay.explain import explain
from hofflight.replay.label_join import LabelJoin
from hofflight.replay.labels import LabelStore, checked_labels, read_labels
from hofflight.replay.parquet import ROW_GROUP_ROWS
from hofflight.replay.read_log import History
from hofflight.replay.seal import Sorting, seal
from hofflight.replay.sealed import SealedLog
from hofflight.replay.span import Moment, Parts, Span, Split, moment_us
from hofflight.replay.training import Training, metadata_of
from hofflight.replay.verify import Verification

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hofflight.clock import Clock
    from hofflight.features.group import FeatureGroup
    from hofflight.features.registry import GroupRecord, Registry
    from hofflight.features.view import View
    from hofflight.replay.prepared import AsOf
    from hofflight.replay.read_log import LiveLog
    from hofflight.replay.seal import SealReport
    from hofflight.replay.training import TrainingReport
    from hofflight.replay.windowed import EngineName
    from hofflight.settings import ReplaySettings
    from hofflight.wire.parity import Explanation, Parity


def _silent(_: int) -> None:
    """Nobody watches."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What a training table shall be; the arguments of `training_data`, checked later."""

    start: Moment | None = None
    end: Moment | None = None
    labels: Any = None
    as_of: AsOf = "arrival"
    split: Split | None = None
    engine: EngineName = "auto"
    ids: bool = False


class Offline:
    """A store, read by replay. `group_of`: loaded code, by name and version (None: the newest)."""

    def __init__(
        self,
        registry: Registry,
        open_log: Callable[[str], LiveLog],
        sealed: Path,
        labels: Path,
        group_of: Callable[[str, int | None], FeatureGroup],
        settings: ReplaySettings,
        clock: Clock,
    ) -> None:
        self._registry = registry
        self._clock = clock
        self._open_log = open_log
        self._sealed = sealed
        self._labels = labels
        self._group_of = group_of
        self._settings = settings

    def training_data(
        self, view: str, version: int | None, ask: Ask, progress: Callable[[int], None] = _silent
    ) -> pa.Table:
        """A view's training table, in memory."""
        with self._training(view, version, ask, progress) as (schema, batches, report):
            table = pa.Table.from_batches(batches, schema)
        return table.replace_schema_metadata(metadata_of(report))

    def write_training_data(
        self,
        path: Path,
        view: str,
        version: int | None,
        ask: Ask,
        progress: Callable[[int], None] = _silent,
    ) -> TrainingReport:
        """A view's training table as a Parquet or Arrow file, whole or not there.

        Raises: BadRange (HOF-215), the file's name ends otherwise.
        """
        if path.suffix not in (".parquet", ".arrow"):
            raise BadRange(f"{path.name!r} is neither .parquet nor .arrow")
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            self._training(view, version, ask, progress) as (schema, batches, report),
            whole_file(path) as fresh,
        ):
            if path.suffix == ".parquet":
                _write_parquet(fresh, schema, batches, report)
            else:
                _write_arrow(fresh, schema, batches)
        return report

    def label(self, view: str, version: int | None, labels: Any) -> int:
        """Keep labels of a view's rows; gives how many rows of labels came.

        Raises: BadLabels (HOF-214).
        """
        found = find_view(view, version, self._registry.views(), self._group_of)
        record = self._registry.group(*found.group)
        table = checked_labels(read_labels(labels, record.input), found, record)
        LabelStore(self._labels / found.name).add(table)
        return table.num_rows

    def verify(
        self,
        view: str,
        version: int | None = None,
        *,
        since: Moment | None = None,
        sample: float | None = None,
        changed_code: bool = False,
        progress: Callable[[int], None] = _silent,
    ) -> Parity:
        """Compare what was answered with what replay gives.

        Raises: CodeChanged (HOF-507), without `changed_code`; BadRange (HOF-215).
        """
        found, group = self._view(view, version)
        if sample is not None and not 0 < sample <= 1:
            raise BadRange(f"sample= takes a share of the keys, 0 < sample <= 1, got {sample!r}")
        notes = self._compare_code(group, changed_code=changed_code)
        history = self.history(group.name, group.version)
        since_us = None if since is None else moment_us(since, "since")
        wanted = 1.0 if sample is None else sample
        parity = Verification(history, group, found, self._settings, since_us, wanted).run(progress)
        parity.notes += notes
        parity.explainer = lambda request_id: explain(history, group, self._settings, request_id)
        return parity

    def explain(
        self, view: str, version: int | None, request_id: bytes | str, *, changed_code: bool = False
    ) -> list[Explanation]:
        """The rows of one request, both sides of each feature, the events in each window.

        Raises: UnknownView (HOF-201), it was not answered; CodeChanged (HOF-507).
        """
        _, group = self._view(view, version)
        self._compare_code(group, changed_code=changed_code)
        return explain(self.history(group.name, group.version), group, self._settings, request_id)

    def seal(self, stream: str, progress: Callable[[int], None] = _silent) -> SealReport:
        """Seal what a log holds now.

        Raises: StoreLocked (HOF-501), somebody else does; StoreFormat (HOF-503), the types of its
            answers are not known.
        """
        name = self.records(stream)[0].name
        return seal(
            self._open_log(stream), SealedLog(self._sealed / stream),
            _Sortings(self._registry, name), until_us=self._clock.wall_us(), progress=progress,
        )  # fmt: skip

    def sealed_to(self, stream: str) -> int:
        """Number of the last record of a log that is sealed."""
        return SealedLog(self._sealed / stream).manifest().sealed_to

    def history(self, name: str, version: int | None = None) -> History:
        """The log that a group version reads, sealed and live."""
        return self.history_of(self._registry.group(name, version).partition)

    def history_of(self, stream: str) -> History:
        """A log by its own name, sealed and live."""
        records = self.records(stream)
        full = {r.version: r.full for r in records if r.full is not None}
        sealed = SealedLog(self._sealed / stream)
        return History(self._open_log(stream), sealed, records[0].input, full)

    def history_before(self, record: GroupRecord) -> History:
        """The log of the newest sibling of another input schema.

        Raises: UnknownView (HOF-201), there is none.
        """
        others = [
            r for r in self._registry.groups()
            if r.name == record.name and r.partition != record.partition
        ]  # fmt: skip
        if not others:
            msg = f"{record.name} has no version with another input schema"
            raise UnknownView(msg, hint="without --map, the history is that of the same input")
        return self.history_of(others[-1].partition)

    def stream_of(self, group: FeatureGroup) -> str:
        """The log that a group version reads, or will read once it is registered.

        Raises: UnknownView (HOF-201), no version with its input schema is registered.
        """
        for record in self._registry.groups():
            if record.name == group.name and record.input.equals(group.input):
                return record.partition
        msg = f"no version of {group.name} with this input is registered"
        raise UnknownView(msg, hint="with another input, give --map MODULE:FUNCTION")

    def rows_for(self, group: FeatureGroup) -> int:
        """About how many rows a backfill of the group will read."""
        records = [r for r in self._registry.groups() if r.name == group.name]
        same = [r for r in records if r.input.equals(group.input)]
        chosen = same or records
        return self.history_of(chosen[-1].partition).extent().rows if chosen else 0

    def group_of_view(self, view: str, version: int | None) -> tuple[str, int]:
        """Name and version of the group that answers a view."""
        return find_view(view, version, self._registry.views(), self._group_of).group

    def records(self, stream: str) -> list[GroupRecord]:
        """The group versions that read a log.

        Raises: StoreFormat (HOF-503), there is no such log.
        """
        records = [r for r in self._registry.groups() if r.partition == stream]
        if not records:
            known = sorted({r.partition for r in self._registry.groups()})
            raise StoreFormat(f"there is no log {stream!r}; there are {known}")
        return records

    def _view(self, name: str, version: int | None) -> tuple[View, FeatureGroup]:
        found = find_view(name, version, self._registry.views(), self._group_of)
        return found, self._group_of(*found.group)

    def _compare_code(self, group: FeatureGroup, *, changed_code: bool) -> list[str]:
        """What is to be said about the code; a changed one only if that was asked for."""
        record = self._registry.group(group.name, group.version)
        if record.code_hash == group.code_hash():
            return []
        what = f"{group.name}@{group.version} served with code {record.code_hash}"
        msg = f"{what}, the code given is {group.code_hash()}"
        if not changed_code:
            hint = (
                "check out what served; or compare all the same: changed_code=True, --changed-code"
            )
            raise CodeChanged(msg, hint=hint)
        return [f"{msg}; packages then: {json.dumps(record.packages)}"]

    @contextmanager
    def _training(
        self, view: str, version: int | None, ask: Ask, progress: Callable[[int], None]
    ) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch], TrainingReport]]:
        found, group = self._view(view, version)
        if ask.as_of not in ("arrival", "event"):
            raise WrongType(f'as_of= is "arrival" or "event", got {ask.as_of!r}')
        if ask.engine not in ("duckdb", "kernel", "auto"):
            raise WrongType(f'engine= is "duckdb", "kernel" or "auto", got {ask.engine!r}')
        training = Training(
            self.history(group.name, group.version), group, found,
            self._label_join(found, group, ask.labels), Span.of(ask.start, ask.end),
            None if ask.split is None else Parts.of(ask.split), ask.engine, ask.as_of,
            self._settings, ask.ids,
        )  # fmt: skip
        with training.batches(progress) as (batches, report):
            yield training.schema(), batches, report

    def _label_join(self, view: View, group: FeatureGroup, labels: Any) -> LabelJoin | None:
        """The labels given, or else those that were loaded; None where the view has none."""
        if labels is not None:
            loads = [checked_labels(read_labels(labels, group.input), view, group)]
        elif view.labels:
            loads = LabelStore(self._labels / view.name).loads()
        else:
            return None
        return LabelJoin(group, view.labels, loads)


class _Sortings(dict[int, Sorting]):
    """By version, looked up when its rows are met: it may be registered while a seal runs."""

    def __init__(self, registry: Registry, name: str) -> None:
        super().__init__()
        self._registry = registry
        self._name = name

    def __missing__(self, version: int) -> Sorting:
        found = self[version] = _sorting(self._registry.group(self._name, version))
        return found


def _sorting(record: GroupRecord) -> Sorting:
    full = record.full
    if full is None:
        msg = f"the types of {record.name}@{record.version} were not kept by the release that made"
        raise StoreFormat(f"{msg} this store", hint="register it once with this release")
    return Sorting(record.input, full, record.key, record.event_time)


def _write_parquet(
    path: Path, schema: pa.Schema, batches: Iterator[pa.RecordBatch], report: TrainingReport
) -> None:
    # With Arrow's schema in the file, readers would show its metadata and not the report: that is
    # known at the end only. Parquet's own types are enough for every column there is.
    with pq.ParquetWriter(path, schema, compression="zstd", store_schema=False) as writer:
        for batch in batches:
            writer.write_batch(batch, row_group_size=ROW_GROUP_ROWS)
        writer.add_key_value_metadata(metadata_of(report))


def _write_arrow(path: Path, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
    """The report is printed, not kept: an Arrow file's schema is written before its rows."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
