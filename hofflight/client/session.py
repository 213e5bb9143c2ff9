"""The verbs as steps, shared by the blocking and the asyncio client."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar
from uuid import UUID

import pyarrow as pa

from hofflight.client.exchange import GOODBYE_S, Exchange
from hofflight.client.failures import from_answer
from hofflight.client.request import (
    Path,
    checked_deadline,
    checked_id,
    metadata_of,
    parts_of,
    path_of,
)
from hofflight.client.retry import Chance, persist
from hofflight.client.steps import Steps, Wait
from hofflight.client.stream import FlightStream, call, put
from hofflight.client.views import ViewInfo, view_info
from hofflight.errors import (
    BadMetadata,
    ConnectionLost,
    HofError,
    NoAnswer,
    SchemaMismatch,
)
from hofflight.wire import envelope
from hofflight.wire.envelope import RequestMeta
from hofflight.wire.keys import plain_keys
from hofflight.wire.rows import Rows, to_request
from hofflight.wire.vector import Vector, vector_of

if TYPE_CHECKING:
    from hofflight.client.address import Address
    from hofflight.client.key_hash import KeyHasher

T = TypeVar("T")

# The server's own last word ("too late, but counted") is worth more than our silence.
GRACE_S: Final = 0.05
# Threads of ended streams that hang in a connection to a server that is neither there nor gone.
STUCK_MAX: Final = 8
_CALLS_MAX: Final = 4


class Session:
    """What one client holds: a stream for each view in use, and what is known of the views.

    Thread: any may call, also several at once.
    """

    def __init__(
        self, address: Address, deadline_ms: int, clock: Callable[[], float], rng: Chance
    ) -> None:
        self.address = address
        self._deadline_ms = checked_deadline(deadline_ms)
        self._clock = clock
        self._rng = rng
        self._lock = threading.Lock()
        self._exchanges: dict[Path, Exchange] = {}
        self._ended: list[Exchange] = []
        self._views: dict[Path, Future[ViewInfo | HofError]] = {}
        self._calls = ThreadPoolExecutor(_CALLS_MAX, thread_name_prefix="hof-call")
        self._closed = False

    # --- verbs ---

    def vector(
        self,
        view: str,
        rows: Rows | None,
        *,
        keys: Mapping[str, Any] | None,
        version: int | None,
        deadline_ms: int | None,
        store: bool,
        request_id: bytes | UUID | None,
    ) -> Steps[Vector]:
        """Ask for the feature vectors of rows."""
        id_ = checked_id(request_id)
        deadline_s = self._deadline_s(deadline_ms)
        path = path_of(view, version)
        plain = plain_keys(keys) if keys else None

        def ask(batch: pa.RecordBatch, hasher: KeyHasher | None) -> Steps[Vector]:
            key_hash = None if hasher is None else hasher.of(batch)
            template = RequestMeta(id=id_, store=store, keys=plain, key_hash=key_hash)
            return self._persist(partial(self._exchange, path, batch, template), deadline_s)

        try:
            return (yield from self._with_batch(path, rows, deadline_s, ask))
        except HofError as error:
            error.request_id = id_
            raise

    def ingest(self, group: str, rows: Rows, request_id: bytes | UUID | None) -> Steps[int]:
        """Send rows whose vectors nobody needs, in parts; each part has the default deadline."""
        id_ = checked_id(request_id)
        taken = 0

        def send(batch: pa.RecordBatch, hasher: KeyHasher | None) -> Steps[int]:
            nonlocal taken
            taken = 0
            for part, part_id in parts_of(batch, id_):
                key_hash = None if hasher is None else hasher.of(part)
                template = RequestMeta(id=part_id, key_hash=key_hash)
                attempt = partial(self._put, group, part, template)
                yield from self._persist(attempt, self._deadline_s(None))
                taken += part.num_rows
            return taken

        try:
            deadline_s = self._deadline_s(None)
            return (yield from self._with_batch(path_of(group, None), rows, deadline_s, send))
        except HofError as error:
            if taken:
                error.add_note(
                    f"{taken} rows before were taken. The same rows again, with "
                    "request_id=error.request_id, count none of them twice."
                )
            error.request_id = id_
            raise

    def view(self, name: str, version: int | None) -> Steps[ViewInfo]:
        """What the server says of a view now."""
        deadline_s = self._deadline_s(None)
        return (yield from self._view(path_of(name, version), deadline_s, fresh=True))

    def views(self) -> Steps[list[ViewInfo]]:
        """What the server says of all views."""

        def ask(left_s: float) -> list[ViewInfo]:
            options = self.address.options(left_s)
            return call(
                self.address, lambda c: [view_info(i) for i in c.list_flights(b"", options)]
            )

        return (yield from self._persist(partial(self._call, ask), self._deadline_s(None)))

    def training_data(self, ticket: dict[str, Any], deadline_ms: int) -> Steps[pa.Table]:
        """The table of a training ticket."""
        data = json.dumps(ticket).encode()

        def ask(left_s: float) -> pa.Table:
            from pyarrow import flight

            options = self.address.options(left_s)
            return call(self.address, lambda c: c.do_get(flight.Ticket(data), options).read_all())

        return (yield from self._persist(partial(self._call, ask), self._deadline_s(deadline_ms)))

    def action(
        self, name: str, body: dict[str, Any] | bytes, deadline_ms: int | None = None
    ) -> Steps[dict[str, Any]]:
        """The JSON that an action answers."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode() if body else b""

        def ask(left_s: float) -> dict[str, Any]:
            options = self.address.options(left_s)
            results = call(self.address, lambda c: list(c.do_action((name, data), options)))
            try:
                found: dict[str, Any] = json.loads(results[0].body.to_pybytes())
            except (IndexError, ValueError) as error:
                raise BadMetadata(f"the answer to {name!r} is no JSON: {error}") from error
            return found

        deadline_s = self._deadline_s(deadline_ms)
        return (yield from self._persist(partial(self._call, ask), deadline_s))

    def close(self) -> None:
        """End all streams; whoever still waits gets ConnectionLost."""
        with self._lock:
            self._closed = True
            exchanges = [*self._exchanges.values(), *self._ended]
            self._exchanges.clear()
        for exchange in exchanges:
            exchange.close()
        for exchange in exchanges:
            exchange.join(2 * GOODBYE_S)
        self._calls.shutdown(wait=False, cancel_futures=True)

    # --- how a request is made ---

    def _with_batch(
        self,
        path: Path,
        rows: Rows | None,
        deadline_s: float,
        use: Callable[[pa.RecordBatch, KeyHasher | None], Steps[T]],
    ) -> Steps[T]:
        """Use rows as a batch of the view's columns; of its new ones, where those have changed."""
        info = yield from self._view(path, deadline_s)
        try:
            return (yield from use(to_request(rows, info.input_schema), info.hasher))
        except SchemaMismatch:
            now = yield from self._view(path, deadline_s, fresh=True)
            if now.input_schema.equals(info.input_schema):
                raise
        return (yield from use(to_request(rows, now.input_schema), now.hasher))

    def _persist(self, attempt: Callable[[float], Steps[T]], deadline_s: float) -> Steps[T]:
        return persist(
            attempt,
            deadline_s=deadline_s,
            clock=self._clock,
            rng=self._rng,
            is_over=lambda: self._closed,
        )

    def _exchange(
        self, path: Path, batch: pa.RecordBatch, template: RequestMeta, left_s: float
    ) -> Steps[Vector]:
        assert template.id is not None
        metadata = metadata_of(template, batch, left_s)
        exchange = self._stream_of(path, batch.schema)
        future = exchange.submit(template.id, batch, metadata)
        try:
            yield Wait(future, left_s + GRACE_S)
        finally:
            if not future.done():
                exchange.give_up(template.id)
        outcome = _value(future)
        if isinstance(outcome, HofError):
            raise outcome
        meta, answer = outcome
        return vector_of(answer, meta)

    def _stream_of(self, path: Path, schema: pa.Schema) -> Exchange:
        with self._lock:
            if self._closed:
                raise ConnectionLost("the client was closed")
            found = self._exchanges.get(path)
            if found is not None and not found.ended and found.schema.equals(schema):
                return found
            self._ended = [old for old in (*self._ended, found) if old is not None and old.alive]
            if len(self._ended) >= STUCK_MAX:
                raise ConnectionLost(f"{STUCK_MAX} connections to {self.address.url} hang")
            if found is not None:
                found.close()
            made = Exchange(partial(FlightStream, self.address, path, schema), schema, self._clock)
            self._exchanges[path] = made
            return made

    def _put(
        self, group: str, batch: pa.RecordBatch, template: RequestMeta, left_s: float
    ) -> Steps[None]:
        metadata = metadata_of(template, batch, left_s)

        def send(timeout_s: float) -> None:
            said = put(self.address, group, batch, metadata, timeout_s + GRACE_S)
            if said is None:
                raise ConnectionLost("the server ended the stream without an answer")
            meta = envelope.read_answer(said)
            if meta.code != envelope.OK:
                raise from_answer(meta)

        yield from self._call(send, left_s)

    def _view(self, path: Path, deadline_s: float, *, fresh: bool = False) -> Steps[ViewInfo]:
        def ask(left_s: float) -> ViewInfo:
            from pyarrow import flight

            descriptor = flight.FlightDescriptor.for_path(*path)
            options = self.address.options(left_s)
            return view_info(call(self.address, lambda c: c.get_flight_info(descriptor, options)))

        def attempt(left_s: float) -> Steps[ViewInfo]:
            # Many callers that start together ask once.
            with self._lock:
                future = self._views.get(path)
                if future is None or fresh or _failed(future):
                    future = self._views[path] = self._start(ask, left_s)
            yield Wait(future, left_s + GRACE_S)
            found = _value(future)
            if isinstance(found, HofError):
                with self._lock:
                    if self._views.get(path) is future:
                        del self._views[path]
                raise found
            return found

        return (yield from self._persist(attempt, deadline_s))

    # --- short calls, each in a thread ---

    def _call(self, ask: Callable[[float], T], left_s: float) -> Steps[T]:
        future = self._start(ask, left_s)
        yield Wait(future, left_s + GRACE_S)
        found = _value(future)
        if isinstance(found, HofError):
            raise found
        return found

    def _start(self, ask: Callable[[float], T], left_s: float) -> Future[T | HofError]:
        def run() -> T | HofError:
            try:
                return ask(max(left_s, 0.001))
            except HofError as error:
                return error

        try:
            return self._calls.submit(run)
        except RuntimeError:
            raise ConnectionLost("the client was closed") from None

    def _deadline_s(self, deadline_ms: int | None) -> float:
        chosen = self._deadline_ms if deadline_ms is None else checked_deadline(deadline_ms)
        return self._clock() + chosen / 1_000


def _failed(future: Future[Any]) -> bool:
    return future.done() and (future.cancelled() or isinstance(future.result(), HofError))


def _value(future: Future[T]) -> T:
    if future.cancelled():
        raise ConnectionLost("the client was closed")
    if not future.done():
        raise NoAnswer(
            "no answer came by the deadline",
            hint="ask again with the same request_id, or give a longer deadline_ms",
        )
    return future.result()
