"""The offline verbs of a store: training data, labels, parity, sealing; beside any writer."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from hofflight.errors import BadRange, CodeChanged, InvalidName, WrongType
from hofflight.eventlog.directory import whole_file
from hofflight.features.dataset import Dataset, Model, checked_tags, require_document
from hofflight.features.view import code_hash_of
from hofflight.replay.datasets import described_dataset, free_version, require_own_file
from hofflight.replay.explain import checked_request_id, explain
from hofflight.replay.histories import Histories
from hofflight.replay.join_history import JoinHistory
from hofflight.replay.label_join import LabelJoin
from hofflight.replay.labels import checked_labels, read_labels
from hofflight.replay.materialize import Materializer
from hofflight.replay.parquet import ROW_GROUP_ROWS
from hofflight.replay.seal import seal
from hofflight.replay.span import Moment, Parts, Span, Split, moment_us
from hofflight.replay.stored_join import StoredJoin, StoredRelation
from hofflight.replay.stored_rows import open_source
from hofflight.replay.training import Training, metadata_of
from hofflight.replay.verify import Verification
from hofflight.replay.verify_stored import StoredVerification
from hofflight.wire.parity import Explanation, Parity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from hofflight.clock import Clock
    from hofflight.features.group import FeatureGroup
    from hofflight.features.registry import Registry
    from hofflight.features.view import AnyGroup, View
    from hofflight.online.lookups import Lookups
    from hofflight.replay.histories import Folders, Logs
    from hofflight.replay.materialize import LoadReport, Mode
    from hofflight.replay.prepared import AsOf
    from hofflight.replay.seal import SealReport
    from hofflight.replay.training import TrainingReport
    from hofflight.replay.windowed import EngineName
    from hofflight.settings import ReplaySettings


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


class Offline(Histories):
    """A store, read by replay. `group_of`: loaded code, by name and version (None: the newest)."""

    def __init__(
        self,
        registry: Registry,
        logs: Logs,
        folders: Folders,
        group_of: Callable[[str, int | None], FeatureGroup],
        settings: ReplaySettings,
        clock: Clock,
        partitions: Mapping[int, Logs] | None = None,
    ) -> None:
        super().__init__(registry, logs, folders, group_of, partitions)
        self._clock = clock
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

    def training_dataset(
        self,
        name: str,
        version: int | None,
        view: tuple[str, int | None],
        ask: Ask,
        path: Path | None = None,
        progress: Callable[[int], None] = _silent,
    ) -> Dataset:
        """Write a view's training table, keep what is known of it under a name.

        Raises: InvalidName (HOF-101), the name or version is taken; as `write_training_data`.
        """
        number = free_version(self.registry, name, version)
        file = path or self.folders.datasets / f"{name}.{number}.parquet"
        require_own_file(self.registry, file)
        found = self.view(*view)
        # Before the rows are read: a load that is committed meanwhile may be in it or not.
        stored = [self.stored_group(*group) for group in found.stored]
        loads = {
            f"{g.name}@{g.version}": self.stored_history(g).manifest().commits.last for g in stored
        }
        self.write_training_data(file, found.name, found.version, ask, progress)
        span = Span.of(ask.start, ask.end)
        asked = {
            "start_us": None if ask.start is None else span.start_us,
            "end_us": None if ask.end is None else span.end_us,
            "as_of": ask.as_of,
        }
        groups: list[AnyGroup] = [*self._streaming(found), *stored]
        hashes = {f"{group.name}@{group.version}": group.code_hash() for group in groups}
        dataset = described_dataset(
            name, number, found, asked, file.resolve(), hashes, loads, self._settings
        )
        self.registry.save_document(dataset, created_us=self._clock.wall_us())
        return dataset

    def model(
        self, name: str, version: int | None, dataset: tuple[str, int | None], tags: dict[str, str]
    ) -> Model:
        """Keep which dataset a model was trained on.

        Raises: UnknownView (HOF-201), there is no such dataset; InvalidName (HOF-101).
        """
        found = self.registry.dataset(*dataset)
        taken = [m.version for m in self.registry.models() if m.name == name]
        number = max(taken, default=0) + 1 if version is None else version
        require_document("model", name, number)
        if number in taken:
            raise InvalidName(f"model {name}@{number} is there", hint=f"take {max(taken) + 1}")
        model = Model(name, number, found.name, found.version, checked_tags(tags))
        self.registry.save_document(model, created_us=self._clock.wall_us())
        return model

    def label(self, view: str, version: int | None, labels: Any) -> int:
        """Keep labels of a view's rows; gives how many rows of labels came.

        Raises: BadLabels (HOF-214).
        """
        found = self.view(view, version)
        record = self.registry.group(*found.group)
        table = checked_labels(read_labels(labels, record.input), found, record)
        self.label_store(found).add(table)
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
        found = self.view(view, version)
        if sample is not None and not 0 < sample <= 1:
            raise BadRange(f"sample= takes a share of the keys, 0 < sample <= 1, got {sample!r}")
        since_us = None if since is None else moment_us(since, "since")
        wanted = 1.0 if sample is None else sample
        groups = self._streaming(found)
        notes = [n for g in groups for n in self._compare_code(g, changed_code=changed_code)]
        every: list[AnyGroup] = [*groups, *(self.stored_group(*group) for group in found.stored)]
        parity = Parity(found.name, found.version, code_hash_of(every), notes=notes)
        started_s = time.monotonic()
        for group in groups:
            history = self.history(group.name, group.version)
            Verification(history, group, found, self._settings, since_us, wanted).run(
                parity, progress
            )
        if found.stored:
            self._verify_stored(found, since_us, wanted).run(parity, progress)
        parity.rows = next(iter(parity.parts.values()), 0)
        parity.seconds = round(time.monotonic() - started_s, 3)
        parity.explainer = lambda request_id: self._explained(found, groups, request_id)
        return parity

    def explain(
        self, view: str, version: int | None, request_id: bytes | str, *, changed_code: bool = False
    ) -> list[Explanation]:
        """The rows of one request, both sides of each feature, the events in each window.

        Raises: UnknownView (HOF-201), it was not answered; CodeChanged (HOF-507).
        """
        found = self.view(view, version)
        groups = self._streaming(found)
        for group in groups:
            self._compare_code(group, changed_code=changed_code)
        return self._explained(found, groups, request_id)

    def materialize(
        self,
        name: str,
        version: int | None,
        source: Any,
        mode: Mode,
        lookups: Lookups,
        progress: Callable[[int], None] = _silent,
    ) -> LoadReport:
        """Load rows into a stored group.

        Raises: as `Materializer.load`.
        """
        return self._materializer(name, version, lookups, progress).load(source, mode)

    def source_rows(self, name: str, version: int | None, source: Any) -> int:
        """How many rows a source has, for a progress bar; 0 where that is not known."""
        return open_source(source, self.stored_group(name, version)).rows or 0

    def loaded_rows(self, name: str, version: int | None) -> int:
        """How many rows were ever loaded into a stored group."""
        manifest = self.stored_history(self.stored_group(name, version)).manifest()
        return sum(load.rows for load in manifest.loads)

    def refill(
        self,
        name: str,
        version: int | None,
        lookups: Lookups,
        progress: Callable[[int], None] = _silent,
    ) -> int:
        """Fill the online store from a stored group's history; how many rows it got.

        Raises: as `Materializer.refill`.
        """
        return self._materializer(name, version, lookups, progress).refill()

    def seal(self, stream: str, progress: Callable[[int], None] = _silent) -> SealReport:
        """Seal what a log holds now.

        Raises: StoreLocked (HOF-501), somebody else does; StoreFormat (HOF-503), the types of its
            answers are not known.
        """
        logs, name = self._place_of(stream)
        report = seal(
            logs.open(name), logs.sealed_log(name), self.sortings(name),
            until_us=self._clock.wall_us(), progress=progress,
        )  # fmt: skip
        report.stream = stream
        return report

    def _materializer(
        self, name: str, version: int | None, lookups: Lookups, progress: Callable[[int], None]
    ) -> Materializer:
        history = self.stored_history(self.stored_group(name, version))
        store, run = lookups.store, lookups.run
        return Materializer(history, store, run, self._settings, self._clock, progress)

    def _streaming(self, view: View) -> list[FeatureGroup]:
        """The code of a view's streaming groups."""
        return [self._group_of(*group) for group in view.streaming]

    def _stored_join(self, view: View, *, every: bool = False) -> StoredJoin | None:
        """The stored part of a view: its own columns, or `every` one of its groups."""
        relations = []
        for place, each in enumerate(view.stored):
            group = self.stored_group(*each)
            columns = tuple(group.schema.names) if every else view.columns_of(each)
            relations.append(StoredRelation(self.stored_history(group), place, columns))
        beside = self.history(*view.group) if len(view.streaming) == 1 else None
        joins = JoinHistory(self.join_history(view), view, beside)
        return StoredJoin(view, tuple(relations), joins) if relations else None

    def _verify_stored(
        self, view: View, since_us: int | None = None, sample: float = 1.0,
        request_id: bytes | None = None,
    ) -> StoredVerification:  # fmt: skip
        join = self._stored_join(view, every=True)
        assert join is not None
        streams = tuple(self.history(*group) for group in view.streaming)
        return StoredVerification(
            join.joins, streams, join.relations, self._settings, since_us, sample, request_id
        )

    def _explained(
        self, view: View, groups: Sequence[FeatureGroup], request_id: bytes | str
    ) -> list[Explanation]:
        found = [
            explanation
            for group in groups
            for explanation in explain(
                self.history(group.name, group.version), group, self._settings, request_id
            )
        ]
        if view.stored:
            id_ = checked_request_id(request_id)
            rows = self._verify_stored(view, request_id=id_).explain()
            found += [
                Explanation(id_.hex(), row, 0, False, features, {})
                for row, features in sorted(rows.items())
            ]
        return found

    def _compare_code(self, group: FeatureGroup, *, changed_code: bool) -> list[str]:
        """What is to be said about the code; a changed one only if that was asked for."""
        record = self.registry.group(group.name, group.version)
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
        found = self.view(view, version)
        if ask.as_of not in ("arrival", "event"):
            raise WrongType(f'as_of= is "arrival" or "event", got {ask.as_of!r}')
        if ask.engine not in ("duckdb", "kernel", "auto"):
            raise WrongType(f'engine= is "duckdb", "kernel" or "auto", got {ask.engine!r}')
        self.registry.group(*found.group)
        (first, group), *others = [
            (self.history(each.name, each.version), each) for each in self._streaming(found)
        ]
        training = Training(
            first, group, found, self._label_join(found, group, ask.labels),
            Span.of(ask.start, ask.end), None if ask.split is None else Parts.of(ask.split),
            ask.engine, ask.as_of, self._settings, ask.ids, tuple(others),
            self._stored_join(found),
        )  # fmt: skip
        with training.batches(progress) as (batches, report):
            yield training.schema(), batches, report

    def _label_join(self, view: View, group: FeatureGroup, labels: Any) -> LabelJoin | None:
        """The labels given, or else those that were loaded; None where the view has none."""
        if labels is not None:
            loads = [checked_labels(read_labels(labels, group.input), view, group)]
        elif view.labels:
            loads = self.label_store(view).loads()
        else:
            return None
        return LabelJoin(group, view.labels, loads)


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
