"""The worker behind Kafka, as a server sees it: requests leave as records, answers come back.

1. `submit`    the partition is found, the request waits for it in a queue
2. `_send`     what waits for a partition leaves as one record
3. `arrived`   an answer finds its call, and the request its reply
4. `tick`      what nobody waits for any longer gets the error that says so

Rows are decoded only where a client did not say to which partition they belong.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from hofflight.errors import (
    BadRecord,
    BadRequest,
    DeadlinePassed,
    Draining,
    HofError,
    Indefinite,
    NoAnswer,
    NotReady,
    TooLarge,
)
from hofflight.eventlog.joins import pack_join
from hofflight.eventlog.protocol import Answer, Request, Served
from hofflight.eventlog.topics import input_topic
from hofflight.observe.events import Events
from hofflight.server.gather import gathered
from hofflight.server.partition_queue import Outgoing, PartitionQueue
from hofflight.server.pending import Gathering, Pending
from hofflight.server.routes import Route
from hofflight.wire import envelope
from hofflight.wire.ipc import empty_message, join_message
from hofflight.wire.kafka_record import NUDGE, RequestHead, decode_answers

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from hofflight.clock import Clock
    from hofflight.eventlog.protocol import Produce
    from hofflight.server.catalog import RegistryCatalog
    from hofflight.server.pending import Call
    from hofflight.settings import KafkaSettings
    from hofflight.wire.kafka_record import Headers

_events = Events("hofflight.kafka")
_GOODBYE_S: Final = 0.2


@dataclass(slots=True)
class KafkaCounters:
    """What went and came.

    foreign: answers that no call here waits for. bad: records of answers that are none. expired:
    requests without an answer in time. failed: those whose record the brokers did not take.
    nudges: empty records, for Spark.
    """

    records: int = 0
    requests: int = 0
    answers: int = 0
    foreign: int = 0
    bad: int = 0
    expired: int = 0
    failed: int = 0
    nudges: int = 0


@dataclass(slots=True)
class Place:
    """Where answers go, for which taking of it, and until when that is ours (monotonic clock)."""

    topic: str
    epoch: int
    until_s: float


class KafkaWorker:
    """A Worker that leaves all work to those who read the topics. Thread: its loop's."""

    def __init__(
        self,
        catalog: RegistryCatalog,
        produce: Produce,
        definite: tuple[type[BaseException], ...],
        clock: Clock,
        settings: KafkaSettings,
    ) -> None:
        self._catalog = catalog
        self._produce = produce
        self._definite = definite
        self._clock = clock
        self._settings = settings
        self.counters = KafkaCounters()
        self._pending = Pending()
        self._place: Place | None = None
        self._is_draining = False
        self._routes: dict[tuple[str, int], Route] = {}
        self._queues: dict[tuple[str, int], PartitionQueue] = {}
        self._heads: dict[int, RequestHead] = {}
        self._sending: set[asyncio.Task[None]] = set()

    # --- the Worker protocol ---

    def views(self) -> list[Served]:
        """Every view that can be asked for."""
        return self._catalog.views()

    def bind(self, view: str, version: int | None) -> Served:
        """The view of that name; the newest version for None.

        Raises: UnknownView (HOF-201), NotSupported (HOF-213).
        """
        return self._catalog.bind(view, version)

    def remembers(self, request: Request) -> bool:
        """Whether a request of this id was answered before: not known here."""
        return False

    def check(self, request: Request) -> None:
        """Refuse what cannot leave.

        Raises: NotReady (HOF-306), Draining (HOF-303).
        """
        self._leased()
        self._route(request.served)

    def submit(self, requests: Sequence[Request]) -> None:
        """1. Let requests wait for their partitions; every outcome is a reply."""
        touched: dict[tuple[str, int], Route] = {}
        for request in requests:
            try:
                self._leased()
                route = self._route(request.served)
                for partition in self._enqueue(request, route):
                    touched[route.topic, partition] = route
            except HofError as error:
                refuse(request, error)
        for key, route in touched.items():
            self._send(key, route)

    # --- 1 ---

    def _leased(self) -> Place:
        if self._is_draining:
            raise Draining("the server is stopping", hint="connect again")
        place = self._place
        if place is None or self._clock.monotonic_s() >= place.until_s:
            raise NotReady("the server has no topic for answers", retry_after_ms=100)
        return place

    def _route(self, served: Served) -> Route:
        key = (served.group, served.group_version)
        route = self._routes.get(key)
        if route is None:
            topic = input_topic(self._catalog.stream_of(served), self._settings.prefix)
            route = self._routes[key] = Route(topic, served)
        return route

    def _enqueue(self, request: Request, route: Route) -> list[int]:
        """Put a request, or its parts, into the queues; which partitions those are.

        Raises: BadRequest (HOF-2xx).
        """
        now_s = self._clock.monotonic_s()
        deadline_s = request.deadline_s or now_s + self._settings.deadline_ms / 1_000
        parts = route.parts_of(request)
        joined = [_joined(request, part.places) for part in parts]
        # What travels in the header: a place in a request takes up to 5 bytes.
        besides = [
            len(beside) + 5 * len(part.places) for part, beside in zip(parts, joined, strict=True)
        ]
        size = max(
            len(part.body) + len(part.head) + beside
            for part, beside in zip(parts, besides, strict=True)
        )
        room = self._room(route)
        if size > room:
            msg = f"a request of {size} bytes, a record has room for {room}"
            raise TooLarge(msg, hint="ask in several requests, or raise kafka.record_bytes_max")
        gathering = Gathering([part.places for part in parts]) if len(parts) > 1 else None
        left_us = int((deadline_s - now_s) * 1e6)
        deadline_us = self._clock.wall_us() + left_us
        served = request.served
        for place, part in enumerate(parts):
            call = self._pending.add(request, deadline_s, place, gathering)
            message = join_message(part.head, part.body)
            self._heads[call] = RequestHead(
                call, request.id, len(message), served.view, served.version, deadline_us,
                request.store, request.wants_answer, joined[place], part.places,
            )  # fmt: skip
            self._queue(route, part.partition).put(
                Outgoing(call, message, part.rows, deadline_s, besides[place])
            )
        self.counters.requests += 1
        return [part.partition for part in parts]

    def _room(self, route: Route) -> int:
        """What of a record is left for requests."""
        return self._settings.record_bytes_max - route.framing.overhead_bytes

    def _queue(self, route: Route, partition: int) -> PartitionQueue:
        key = (route.topic, partition)
        if key not in self._queues:
            rows_max = self._settings.record_rows_max
            self._queues[key] = PartitionQueue(rows_max, self._room(route))
        return self._queues[key]

    # --- 2 ---

    def _send(self, key: tuple[str, int], route: Route) -> bool:
        """Let what waits for a partition leave, unless a record is under way; whether one does."""
        queue = self._queues[key]
        leaving, expired = queue.take(self._clock.monotonic_s())
        for item in expired:
            error = DeadlinePassed("the deadline passed before the request could leave")
            self._fail(item.call, error)
        if not leaving:
            return False
        place = self._place
        if place is None or self._clock.monotonic_s() >= place.until_s:
            queue.done()
            for item in [*leaving, *queue.clear()]:
                self._fail(item.call, NotReady("the server lost its topic for answers"))
            return False
        heads = [(self._heads.pop(item.call), item.message) for item in leaving]
        value, headers = route.framing.encode(
            self._clock.wall_us(), place.topic, place.epoch, heads
        )
        self.counters.records += 1
        self._keep(self._sent(key, route, [item.call for item in leaving], value, headers))
        return True

    def _keep(self, sending: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(sending)
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _sent(
        self, key: tuple[str, int], route: Route, calls: list[int], value: bytes, headers: Headers
    ) -> None:
        """Until the brokers have it. What may have landed is not known not to have."""
        # What waits will be the next record, and do as well; unless it is late by then.
        has_next = len(self._queues[key]) > 0
        try:
            record = self._produce(*key, value, headers)
            if self._settings.nudge and not has_next:
                record = asyncio.ensure_future(record)  # begun first: the nudge must lie behind it
                self._keep(self._nudge(key))
            await record
        except self._definite as error:
            self._failed(calls, BadRequest(f"the brokers refused the record: {error}"))
        except Exception as error:  # noqa: BLE001 whatever it was, its callers are owed an answer
            text = f"{type(error).__name__}: {error}".rstrip(": ")
            msg = f"the record may have been lost, or not: {text}"
            self._failed(calls, Indefinite(msg, hint="ask again with the same request id"))
        self._queues[key].done()
        if not self._send(key, route) and has_next and self._settings.nudge:
            self._keep(self._nudge(key))

    async def _nudge(self, key: tuple[str, int]) -> None:
        """Send what makes Spark go on: its source hands over a record when it sees the next one."""
        self.counters.nudges += 1
        with contextlib.suppress(Exception):  # the record itself says what is wrong
            await self._produce(*key, None, NUDGE)

    def _failed(self, calls: list[int], error: HofError) -> None:
        self.counters.failed += len(calls)
        _events.warning("record_failed", requests=len(calls), error=error.message)
        for call in calls:
            self._fail(call, error)

    # --- 3 ---

    def arrived(self, value: bytes | None, headers: Sequence[tuple[str, bytes]]) -> None:
        """A record of the leased topic came."""
        try:
            record = decode_answers(value, headers)
        except BadRecord as error:
            self.counters.bad += 1
            _events.warning("bad_answers", error=error.message)
            return
        place = self._place
        # A process that was stopped may wake up after its topic went to another one.
        is_ours = place is not None and self._clock.monotonic_s() < place.until_s
        if place is None or not is_ours or record.epoch != place.epoch:
            self.counters.foreign += len(record.answers)
            return
        for head, answer_head, body in record.answers:
            call = self._pending.pop(head.call)
            if call is None:
                self.counters.foreign += 1
                continue
            try:
                answer = Answer(envelope.read_answer(head.meta), answer_head, body)
            except HofError as error:
                self.counters.bad += 1
                self._finish(call, error)
                continue
            self._finish(call, answer)

    def _finish(self, call: Call, outcome: Answer | HofError) -> None:
        request, gathering = call.request, call.gathering
        if gathering is not None:
            if not gathering.add(call.place, outcome):
                return
            outcome = gathered(request, gathering)
        if isinstance(outcome, HofError):
            refuse(request, outcome)
            return
        if outcome.meta.code != envelope.OK:
            outcome.head, outcome.body = empty_message(request.served.output_schema)
        self.counters.answers += 1
        request.finish(outcome)

    # --- 4 ---

    def tick(self) -> None:
        """Answer for those who did not, whose time is over."""
        now_s = self._clock.monotonic_s()
        for queue in self._queues.values():
            for item in queue.expire(now_s) if len(queue) else ():
                late = DeadlinePassed("the deadline passed before the request could leave")
                self._fail(item.call, late)
        for call in self._pending.expired(now_s):
            self.counters.expired += 1
            error = NoAnswer("no answer came within the deadline", hint="ask again, same id")
            self._finish(call, error)

    def next_deadline_s(self) -> float | None:
        """When `tick` has something to do next."""
        return self._pending.next_deadline_s()

    # --- where answers go ---

    def take(self, place: Place) -> None:
        """Answers go there from now on; whoever reads that topic calls `arrived`."""
        self._place = place

    def lose(self, why: str) -> None:
        """Nothing comes back any more: nobody knows what became of what had left."""
        self._place = None
        for queue in self._queues.values():
            for item in queue.clear():
                # These never left: a refusal is the truth.
                self._fail(item.call, NotReady(why, retry_after_ms=100))
        error = Indefinite(why, hint="ask again with the same request id")
        for call in self._pending.clear():
            self._finish(call, error)

    async def drain(self, timeout_s: float) -> None:
        """Take nothing new; wait for what is under way, but not longer than that."""
        self._is_draining = True
        end_s = self._clock.monotonic_s() + timeout_s
        while self._pending and self._clock.monotonic_s() < end_s:
            self.tick()
            await asyncio.sleep(0.01)
        self.lose("the server stopped")
        if self._sending:  # whose callers have their answers: the brokers need not be waited for
            await asyncio.wait(self._sending, timeout=_GOODBYE_S)
        for task in self._sending:
            task.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)

    def _fail(self, number: int, error: HofError) -> None:
        self._heads.pop(number, None)
        call = self._pending.pop(number)
        if call is not None:
            self._finish(call, error)


def _joined(request: Request, places: Sequence[int]) -> bytes:
    """What was looked up for a part's rows; empty places: for all."""
    records = request.looked_up
    if records is None:
        return b""
    return pack_join([records[place] for place in places] if places else records)


def refuse(request: Request, error: HofError) -> None:
    """Answer with an error and no rows."""
    request.finish(refusal(request, error))


def refusal(request: Request, error: HofError) -> Answer:
    """The answer that is an error, and has no rows."""
    served = request.served
    meta = envelope.AnswerMeta(
        error.code, 1, request.id, served.view, served.version, served.code_hash,
        error=error.message, hint=error.hint, retry_after_ms=error.retry_after_ms,
    )  # fmt: skip
    return Answer(meta, *empty_message(served.output_schema))
