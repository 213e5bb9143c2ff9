"""The offline verbs of a store in this process: stored rows, training data, labels, parity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pyarrow as pa

    from hofflight.engine.embedded import Engine
    from hofflight.features.dataset import Dataset, Model
    from hofflight.replay.materialize import LoadReport, Mode
    from hofflight.replay.offline import Offline
    from hofflight.replay.prepared import AsOf
    from hofflight.replay.span import Moment, Split
    from hofflight.replay.training import TrainingReport
    from hofflight.replay.windowed import EngineName
    from hofflight.server.join import Joiner
    from hofflight.wire.parity import Parity


class OfflineVerbs:
    """Half of `App`: what reads a store beside its serving."""

    engine: Engine
    worker: Joiner
    offline: Callable[[], Offline]

    def _require_open(self) -> None:
        raise NotImplementedError

    def materialize(
        self, group: str, source: Any, mode: Mode = "full", *, version: int | None = None
    ) -> LoadReport:
        """Load rows into a stored group: the newest of each key is served, all go into history.

        `source`: a Parquet file or folder, a Delta table, CSV, JSON lines, Arrow, a table, a frame
        or dicts. "incremental" takes only rows newer than any there; with "full", rows that are
        known already change nothing. A load is seen whole or not at all.

        Raises: BadStoredRows (HOF-218), nothing was loaded; UnknownView (HOF-201); StoreLocked
            (HOF-501), another load of this group runs; OnlineUnavailable (HOF-510).
        """
        self._require_open()
        return self.offline().materialize(group, version, source, mode, self.worker.lookups)

    def training_data(
        self,
        view: str,
        start: Moment | None = None,
        end: Moment | None = None,
        *,
        labels: Any = None,
        as_of: AsOf = "arrival",
        split: Split | None = None,
        version: int | None = None,
        engine: EngineName = "auto",
        ids: bool = False,
    ) -> pa.Table:
        """The vectors of a view as they were served, replayed from the log, with labels.

        Rows: those with start <= event time < end, by (event time, arrival). Columns: the view's,
        then its labels (null where unknown), then `split`. `hof.report_of(table)` is its report.

        Args:
            view: a view's name, or a feature group's for all of that group's columns.
            start: a datetime with a time zone, a date (its first moment, UTC), ISO 8601 text, or
                microseconds since 1970; None: from the beginning.
            end: the first moment that is left out; None: up to the end.
            labels: a file, a table, a frame or rows; those that `label` took without.
            as_of: "arrival", what was known then; "event", history as corrected by late arrivals.
            split: `{"train": 0.8, "test": 0.2}`, or `{"validation": "2026-05-01", "test":
                "2026-06-01"}`; with "gap" also a duration before each part that is left out.
            version: of the view; the newest without.
            engine: "duckdb", "kernel", or "auto" for what fits.
            ids: `request_id`, `row` and `late` before the view's columns.

        Raises:
            BadRange: HOF-215. BadLabels: HOF-214. UnknownView: HOF-201. CodeNotLoaded: HOF-504.
            SealDamaged: HOF-506.
        """
        self._require_open()
        ask = _ask(start, end, labels, as_of, split, engine, ids)
        return self.offline().training_data(view, version, ask)

    def write_training_data(
        self,
        path: str | Path,
        view: str,
        start: Moment | None = None,
        end: Moment | None = None,
        *,
        labels: Any = None,
        as_of: AsOf = "arrival",
        split: Split | None = None,
        version: int | None = None,
        engine: EngineName = "auto",
        ids: bool = False,
    ) -> TrainingReport:
        """`training_data` into a .parquet or .arrow file: as much as the disk holds, not memory."""
        from pathlib import Path

        self._require_open()
        ask = _ask(start, end, labels, as_of, split, engine, ids)
        return self.offline().write_training_data(Path(path), view, version, ask)

    def training_dataset(
        self,
        name: str,
        view: str,
        start: Moment | None = None,
        end: Moment | None = None,
        *,
        version: int | None = None,
        view_version: int | None = None,
        labels: Any = None,
        as_of: AsOf = "arrival",
        split: Split | None = None,
        engine: EngineName = "auto",
        ids: bool = False,
        path: str | Path | None = None,
    ) -> Dataset:
        """Write `training_data` as Parquet and keep it under a name that requests may give.

        With it are kept the statistics of each column, the hashes of the code, the loads of stored
        groups. `path`: of the file; in the store's own folder without. `version`: the next without.

        Raises: InvalidName (HOF-101), the name or version is taken; as `training_data`.
        """
        from pathlib import Path

        self._require_open()
        ask = _ask(start, end, labels, as_of, split, engine, ids)
        file = None if path is None else Path(path)
        found = self.offline().training_dataset(name, version, (view, view_version), ask, file)
        self.engine.catalog.forget()
        return found

    def model(
        self,
        name: str,
        *,
        training_dataset: str,
        dataset_version: int | None = None,
        version: int | None = None,
        tags: dict[str, str] | None = None,
    ) -> Model:
        """Keep which training dataset a model was trained on: requests may then name the model.

        Raises: UnknownView (HOF-201), there is no such dataset; InvalidName (HOF-101).
        """
        self._require_open()
        dataset = (training_dataset, dataset_version)
        found = self.offline().model(name, version, dataset, tags or {})
        self.engine.catalog.forget()
        return found

    def label(self, view: str, labels: Any, *, version: int | None = None) -> int:
        """Keep what became of a view's events; gives how many rows of labels came.

        `labels`: a file, a table, a frame or rows, with `request_id` (and `row`) or the key and the
        event time, and one or more of the view's labels. The newest load of a column wins.

        Raises: BadLabels (HOF-214).
        """
        self._require_open()
        return self.offline().label(view, version, labels)

    def verify(
        self,
        view: str,
        since: Moment | None = None,
        sample: float | None = None,
        *,
        version: int | None = None,
        changed_code: bool = False,
    ) -> Parity:
        """Compare every answer of a view with what DuckDB makes of the log.

        `since`: only what arrived from then on. `sample`: only this share of the keys. With
        `changed_code` the code given may be another than the one that served.

        Raises: CodeChanged (HOF-507), BadRange (HOF-215), UnknownView (HOF-201).
        """
        self._require_open()
        return self.offline().verify(
            view, version, since=since, sample=sample, changed_code=changed_code
        )

    def signature(self, view: str, version: int | None = None) -> Any:
        """The MLflow `ModelSignature` of a view's vector; `view` may name a dataset or a model.

        Raises: SettingsError (HOF-601), the extra `mlflow` is not installed.
        """
        from hofflight.wire.model_signature import signature_of

        return signature_of(self.worker.bind(view, version).output_schema)

    def check_signature(self, view: str, signature: Any, version: int | None = None) -> None:
        """Refuse a `ModelSignature` of another vector than the view's.

        Raises: SignatureMismatch (HOF-219), naming the columns.
        """
        from hofflight.wire.model_signature import check_signature

        check_signature(self.worker.bind(view, version).output_schema, signature, view)


def _ask(
    start: Any, end: Any, labels: Any, as_of: Any, split: Any, engine: Any, ids: bool
) -> Any:  # fmt: skip
    from hofflight.replay.offline import Ask

    return Ask(start, end, labels, as_of, split, engine, ids)
