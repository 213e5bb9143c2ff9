"""`hof.open`: a store's verbs in this process: serve without any network, train, verify."""

from __future__ import annotations

import os
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa

from hofflight.errors import Draining, HofError, NoAnswer, NotSupported, by_code
from hofflight.eventlog.protocol import Answer, Request
from hofflight.features.view import declare_view
from hofflight.wire.envelope import ID_BYTES, OK, checked_id
from hofflight.wire.ipc import encode_batch, join_message
from hofflight.wire.rows import to_batch
from hofflight.wire.vector import Vector, vector_of

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from hofflight.clock import Clock
    from hofflight.engine.embedded import Engine
    from hofflight.eventlog.protocol import Served
    from hofflight.features.group import FeatureGroup
    from hofflight.features.registry import GroupRecord
    from hofflight.features.view import View
    from hofflight.replay.offline import Offline
    from hofflight.replay.prepared import AsOf
    from hofflight.replay.seal import SealReport
    from hofflight.replay.span import Moment, Split
    from hofflight.replay.training import TrainingReport
    from hofflight.replay.windowed import EngineName
    from hofflight.wire.parity import Parity
    from hofflight.wire.rows import Rows


class App:
    """A store opened for serving: register groups, make views, ask for vectors.

    Thread-safe. Use it as a context manager, or call `close`: a store that was not closed is
    recovered from its log at the next start.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        *,
        path: Path,
        offline: Callable[[], Offline],
        announce: Callable[[str], None],
        on_close: Callable[[], None],
    ) -> None:
        self.engine = engine
        self.path = path
        self.offline = offline
        self.announce = announce
        self._clock = clock
        self._on_close = on_close
        self._closed = False

    def __enter__(self) -> Self:
        """Nothing to do: the store is open."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the store."""
        self.close()

    def register(self, group: FeatureGroup, *, module: str = "") -> GroupRecord:
        """Keep a group version (code, hash, schemas) and serve it.

        `module` is where its code can be imported from again; a function knows its own.

        Raises: VersionChanged (HOF-107), MissingFunction (HOF-106).
        """
        self._require_open()
        if not module and group.function is not None:
            module = group.function.__module__
        created_us = self._clock.wall_us()
        record = self.engine.registry.save_group(group, module=module, created_us=created_us)
        self.engine.load(group)
        return record

    def view(
        self, name: str, version: int, features: Sequence[str], labels: Sequence[str] = ()
    ) -> View:
        """Declare an ordered list of features, such as `["card_tx.*"]`, under a name and version.

        Raises: InvalidView (HOF-108), VersionChanged (HOF-107), UnknownView (HOF-201).
        """
        self._require_open()
        view = declare_view(name, version, features, labels, self.engine.group)
        self.engine.registry.save_view(view, created_us=self._clock.wall_us())
        self.engine.forget_views()
        return view

    def views(self) -> list[Served]:
        """Every view that can be asked for, implicit ones included."""
        return self.engine.views()

    def vector(
        self,
        view: str,
        rows: Rows,
        *,
        keys: Mapping[str, Any] | None = None,
        version: int | None = None,
        deadline_ms: int | None = None,
        store: bool = True,
        request_id: bytes | uuid.UUID | None = None,
    ) -> Vector:
        """Take raw rows in and give their feature vectors, one row per row, same order.

        With `store=False` each row is answered as if it came next, and nothing of it is kept.

        Raises: BadRequest (HOF-2xx), Refused (HOF-3xx), Indefinite (HOF-4xx).
        """
        self._require_open()
        if keys:
            msg = "keys= asks for stored features, and no view here has any"
            raise NotSupported(msg)
        served = self.engine.bind(view, version)
        answer = self._ask(served, rows, deadline_ms, request_id, store=store, wants_answer=True)
        message = pa.py_buffer(join_message(answer.head, answer.body))
        return vector_of(pa.ipc.read_record_batch(message, served.output_schema), answer.meta)

    def ingest(self, group: str, rows: Rows, *, request_id: bytes | uuid.UUID | None = None) -> int:
        """Take events in without an answer (warm-up, backfill); the number of rows taken.

        Raises: BadRequest (HOF-2xx), Refused (HOF-3xx), Indefinite (HOF-4xx).
        """
        self._require_open()
        served = self.engine.bind(group, None)
        batch = to_batch(rows, served.input_schema)
        self._ask(served, batch, None, request_id, store=True, wants_answer=False)
        return batch.num_rows

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

    def seal(self) -> list[SealReport]:
        """Turn what the logs hold into Parquet, and let them forget what nothing needs any more.

        Raises: StoreLocked (HOF-501), another process is sealing.
        """
        self._require_open()
        offline = self.offline()
        reports = [offline.seal(stream) for stream in self.engine.streams()]
        self.engine.trim(offline.sealed_to)
        return reports

    def close(self) -> None:
        """Finish what is under way, write snapshots and let go of the store."""
        if not self._closed:
            self._closed = True
            self.engine.close()
            self._on_close()

    def _require_open(self) -> None:
        if self._closed:
            msg = "the store is closed"
            raise Draining(msg, hint="open it again with hof.open")

    def _ask(
        self, served: Served, rows: Rows, deadline_ms: int | None,
        request_id: bytes | uuid.UUID | None, *, store: bool, wants_answer: bool,
    ) -> Answer:  # fmt: skip
        head, body = encode_batch(to_batch(rows, served.input_schema))
        future: Future[Answer] = Future()
        deadline_s = None if deadline_ms is None else self._clock.monotonic_s() + deadline_ms / 1e3
        id_ = checked_id(request_id, _new_id)
        request = Request(
            served, head, body, id_, future.set_result, deadline_s, store, wants_answer
        )
        self.engine.submit([request])
        try:
            answer = future.result(None if deadline_ms is None else deadline_ms / 1e3)
        except TimeoutError:
            msg = f"no answer within {deadline_ms} ms"
            raise NoAnswer(msg, hint="ask again with the same request id") from None
        meta = answer.meta
        if meta.code != OK:
            error = by_code().get(meta.code, HofError)
            raise error(meta.error, hint=meta.hint, retry_after_ms=meta.retry_after_ms)
        return answer


def _ask(
    start: Any, end: Any, labels: Any, as_of: Any, split: Any, engine: Any, ids: bool
) -> Any:  # fmt: skip
    from hofflight.replay.offline import Ask

    return Ask(start, end, labels, as_of, split, engine, ids)


def _new_id() -> bytes:
    return os.urandom(ID_BYTES)
