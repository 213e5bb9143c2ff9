"""`hof.open`: a store's verbs in this process: serve without any network, train, verify."""

from __future__ import annotations

import os
from concurrent.futures import Future
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Literal, Self, overload

import pyarrow as pa

from hofflight.app.applied import Embedded, modules_of
from hofflight.app.offline_verbs import OfflineVerbs
from hofflight.errors import Draining, HofError, NoAnswer, SettingsError, by_code
from hofflight.eventlog.protocol import Answer, Request
from hofflight.features.stored import StoredGroup
from hofflight.features.view import declare_view
from hofflight.wire.envelope import ID_BYTES, OK, checked_id
from hofflight.wire.ipc import encode_batch, join_message
from hofflight.wire.rows import to_request
from hofflight.wire.vector import Vector, vector_of

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from hofflight.app.applied import Applied, StartSpark
    from hofflight.clock import Clock
    from hofflight.engine.embedded import Engine
    from hofflight.eventlog.protocol import Served
    from hofflight.features.group import FeatureGroup
    from hofflight.features.records import GroupRecord
    from hofflight.features.view import AnyGroup, OnMissing, View
    from hofflight.replay.offline import Offline
    from hofflight.replay.seal import SealReport
    from hofflight.server.join import Joiner
    from hofflight.spark_bridge.plan import SparkEngine
    from hofflight.wire.rows import Rows


class App(OfflineVerbs):
    """A store opened for serving: register groups, make views, ask for vectors.

    Thread-safe. Use it as a context manager, or call `close`: a store that was not closed is
    recovered from its log at the next start.
    """

    def __init__(
        self,
        engine: Engine,
        joiner: Joiner,
        clock: Clock,
        *,
        path: Path,
        offline: Callable[[], Offline],
        announce: Callable[[str], None],
        on_close: Callable[[], None],
        start_spark: StartSpark,
    ) -> None:
        self.engine = engine
        self.worker = joiner
        self.path = path
        self.offline = offline
        self.announce = announce
        self._clock = clock
        self._on_close = on_close
        self._start_spark = start_spark
        self._applied: list[Applied] = []
        self._closed = False

    def __enter__(self) -> Self:
        """Nothing to do: the store is open."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the store."""
        self.close()

    @overload
    def register(self, group: FeatureGroup, *, module: str = "") -> GroupRecord: ...

    @overload
    def register(self, group: StoredGroup) -> None: ...

    def register(self, group: AnyGroup, *, module: str = "") -> GroupRecord | None:
        """Keep a group version (code, hash, schemas) and serve it; a stored group has no record.

        `module` is where its code can be imported from again; a function knows its own.

        Raises: VersionChanged (HOF-107), MissingFunction (HOF-106), InvalidName (HOF-101), the
            name is another kind of group's.
        """
        self._require_open()
        if isinstance(group, StoredGroup):
            self.engine.registry.save_stored(group, created_us=self._clock.wall_us())
            self.engine.catalog.forget()
            return None
        if not module and group.function is not None:
            module = group.function.__module__
        created_us = self._clock.wall_us()
        record = self.engine.registry.save_group(group, module=module, created_us=created_us)
        self.engine.load(group)
        return record

    def view(
        self,
        name: str,
        version: int,
        features: Sequence[str],
        labels: Sequence[str] = (),
        *,
        on_missing: OnMissing = "mark",
    ) -> View:
        """Declare an ordered list of features, such as `["card_tx.*", "customer.age"]`.

        `on_missing`: what becomes of a request whose stored row is not there: see `hof.view`.

        Raises: InvalidView (HOF-108), VersionChanged (HOF-107), UnknownView (HOF-201).
        """
        self._require_open()
        view = declare_view(
            name, version, features, labels, self.engine.catalog.any_group, on_missing
        )
        self.engine.registry.save_view(view, created_us=self._clock.wall_us())
        self.engine.catalog.forget()
        return view

    def views(self) -> list[Served]:
        """Every view that can be asked for, implicit ones included."""
        return self.engine.views()

    def loaded(self) -> set[tuple[str, int]]:
        """Name and version of the streaming groups that are served."""
        return {(v.group, v.group_version) for v in self.views() if not v.is_joined}

    def vector(
        self,
        view: str,
        rows: Rows | None = None,
        *,
        keys: Mapping[str, Any] | None = None,
        version: int | None = None,
        deadline_ms: int | None = None,
        store: bool = True,
        request_id: bytes | uuid.UUID | None = None,
    ) -> Vector:
        """Take raw rows in and give their feature vectors, one row per row, same order.

        `view` may also name a training dataset or a model: it answers in the order trained on.
        `keys`: of stored groups, by column: a value for all rows, or a list with one for each;
        what the rows have is taken from them. A view of stored groups alone takes no rows.
        With `store=False` each row is answered as if it came next, and nothing of it is kept.

        Raises: BadRequest (HOF-2xx), Refused (HOF-3xx), Indefinite (HOF-4xx).
        """
        self._require_open()
        served = self.worker.bind(view, version)
        answer = self._ask(served, rows, deadline_ms, request_id, store=store, keys=keys)
        message = pa.py_buffer(join_message(answer.head, answer.body))
        return vector_of(pa.ipc.read_record_batch(message, served.output_schema), answer.meta)

    def ingest(self, group: str, rows: Rows, *, request_id: bytes | uuid.UUID | None = None) -> int:
        """Take events in without an answer (warm-up, backfill); the number of rows taken.

        Raises: BadRequest (HOF-2xx), Refused (HOF-3xx), Indefinite (HOF-4xx).
        """
        self._require_open()
        served = self.worker.bind(group, None)
        batch = to_request(rows, served.input_schema)
        self._ask(served, batch, None, request_id, wants_answer=False)
        return batch.num_rows

    def apply(
        self,
        groups: str | Sequence[str],
        *,
        engine: SparkEngine | Literal["embedded"] = "embedded",
        save_features: bool | None = None,
    ) -> Applied:
        """Put registered groups to work, in all their versions, and give what stops them again.

        "embedded": `register` did so already, in this process. `hof.spark(...)`: behind Kafka, by
        an application in a process of its own, which ends with this one at the latest; it takes
        some 10 s until it is ready. It makes missing topics, has a history of its own, and is asked
        through `hof serve --kafka --nudge`; `vector` here goes on to ask this process.

        `save_features`: whether what Spark answered goes to `hof.features.GROUP.VERSION` too; None:
        as `kafka.features` says. Raw rows and answers are always in the log, as state is their
        fold, so there is no `save_raw`.

        Raises: UnknownView (HOF-201); CodeNotLoaded (HOF-504), embedded; SettingsError (HOF-601);
            as the application says it, where it does not start: StoreLocked (HOF-501), CodeChanged
            (HOF-507), KafkaUnavailable (HOF-512), TopicProblem (HOF-513), WorkerStopped (HOF-514).
        """
        self._require_open()
        names = [groups] if isinstance(groups, str) else list(groups)
        if not names:
            msg = "apply takes the name of a group, or several"
            raise SettingsError(msg)
        if engine == "embedded":
            for name in names:
                self.engine.group(name, None)
            if save_features is False:
                msg = "save_features=False: an embedded store keeps what it answered"
                raise SettingsError(msg, hint="leave it out; verify needs the answers")
            return Embedded(names, lambda: not self._closed)
        if isinstance(engine, str):
            msg = f'engine is "embedded" or hof.spark(...), got {engine!r}'
            raise SettingsError(msg)
        for name in names:
            self.engine.registry.group(name)
        modules = engine.modules or modules_of(names, self.engine)
        applied = self._start_spark(names, modules, engine, save_features=save_features)
        self._applied = [each for each in self._applied if each.is_running] + [applied]
        if self._closed:  # by another thread, while Spark started
            applied.stop()
            self._require_open()
        return applied

    def seal(self) -> list[SealReport]:
        """Turn what the logs hold into Parquet, and let them forget what nothing needs any more.

        Raises: StoreLocked (HOF-501), another process is sealing.
        """
        self._require_open()
        offline = self.offline()
        reports = [offline.seal(stream) for stream in self.streams()]
        self.trim(offline.sealed_to)
        return reports

    def streams(self) -> dict[str, int]:
        """The logs at work, by name: the number of each one's last record."""
        joins = {name: log.log.last_number() for name, log in self.worker.logs().items()}
        return {**self.engine.streams(), **joins}

    def trim(self, sealed_to: Callable[[str], int]) -> int:
        """Let the logs forget what is sealed and needed by nothing; gives the bytes freed."""
        return self.engine.trim(sealed_to) + self.worker.trim(sealed_to)

    def close(self) -> None:
        """Stop what was applied, finish what is under way, write snapshots, let go of the store."""
        if not self._closed:
            self._closed = True
            with ExitStack() as closing:  # all of them, whatever one of them raises
                closing.callback(self._on_close)
                closing.callback(self.worker.close)
                closing.callback(self.engine.close)
                for applied in self._applied:
                    closing.callback(applied.stop)

    def _require_open(self) -> None:
        if self._closed:
            msg = "the store is closed"
            raise Draining(msg, hint="open it again with hof.open")

    def _ask(
        self, served: Served, rows: Rows | None, deadline_ms: int | None,
        request_id: bytes | uuid.UUID | None, *, store: bool = True, wants_answer: bool = True,
        keys: Mapping[str, Any] | None = None,
    ) -> Answer:  # fmt: skip
        head, body = encode_batch(to_request(rows, served.input_schema))
        future: Future[Answer] = Future()
        deadline_s = None if deadline_ms is None else self._clock.monotonic_s() + deadline_ms / 1e3
        id_ = checked_id(request_id, _new_id)
        request = Request(
            served, head, body, id_, future.set_result, deadline_s, store, wants_answer, keys
        )
        self.worker.submit([request])
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


def _new_id() -> bytes:
    return os.urandom(ID_BYTES)
