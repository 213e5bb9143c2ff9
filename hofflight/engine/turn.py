"""One turn: requests that waited together become one write to the log, and their answers.

The order is the guarantee; do not reorder.

1. decode      check and decode each request; a known id gets its recorded answer
2. transform   the group's own function, once for all; a request it fails on is refused alone
3. windows     push, in order, and derive; a refused request is undone alone
4. log         every request with its answer, or its void mark, in one write
5. commit      window state and ids follow the log; if the log refused, all of it is undone
6. reply       the clients stop waiting here
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING

from hofflight.engine.recorded import is_open, recorded_answer
from hofflight.engine.replies import answer_of, refusal
from hofflight.errors import (
    AnsweredTooLate,
    BadRequest,
    DeadlinePassed,
    HofError,
    Indefinite,
    InternalError,
    StorageFailed,
    TransformFailed,
)
from hofflight.eventlog.ids import RequestIds
from hofflight.eventlog.protocol import Entry, EntryMeta
from hofflight.observe.events import Events
from hofflight.wire.envelope import OK

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hofflight.clock import Clock
    from hofflight.engine.runner import Decoded, Opaque, Runner
    from hofflight.eventlog.protocol import Answer, EventLog, Request
    from hofflight.settings import EngineSettings

_events = Events("hofflight.engine")


@dataclass(slots=True)
class Work:
    """A request on its way through the turn."""

    request: Request
    runner: Runner
    decoded: Decoded
    opaque: Opaque = field(default_factory=dict)
    failed: HofError | None = None
    answer: Answer | None = None


@dataclass(slots=True)
class EngineCounters:
    """What happened, for metrics; plain integers that only grow."""

    requests: int = 0
    rows: int = 0
    rows_late: int = 0
    refused: int = 0
    repeated: int = 0
    turns: int = 0


class Partition:
    """The log of one (group, input schema), every version that reads it, and its turns.

    Not thread-safe: a partition is worked by one thread at a time.
    """

    def __init__(
        self, name: str, log: EventLog, clock: Clock, settings: EngineSettings,
        counters: EngineCounters,
    ) -> None:  # fmt: skip
        self.name = name
        self.has_functions = False
        self.log = log
        self.clock = clock
        self.counters = counters
        self.ids = RequestIds(settings)
        self.runners: dict[int, Runner] = {}
        # Behind Kafka: up to which record the log had entries at the start, and what refuses rows
        # that belong elsewhere.
        self.known_offset = -1
        self.has_gap = False
        self.require_here: Callable[[Runner, Decoded], None] | None = None

    def turn(self, requests: Sequence[Request]) -> None:
        """Answer every request, exactly once each.

        Those of one Kafka record came together, those of two did not: a lane may bring both.
        """
        if len(requests) > 1 and len({request.arrival_us for request in requests}) > 1:
            for _, together in groupby(requests, key=attrgetter("arrival_us")):
                self.turn(list(together))
            return
        arrival_us = requests[0].arrival_us or self.clock.wall_us()
        started_s = self.clock.monotonic_s()
        self.counters.turns += 1
        self.counters.requests += len(requests)
        works: list[Work] = []
        again: Sequence[Request] = ()
        if len(requests) == 1:
            self._decode(requests[0], started_s, works)
        else:
            again = self._decode_all(requests, started_s, works)
        if self.has_functions:
            self._transform(works, arrival_us)
        entries, logged = self._windows(works, arrival_us)
        if entries:
            self._log(entries, logged)
        self._reply(works, started_s)
        if again:
            self.turn(again)

    def fold(self, entry: Entry, *, but: int = 0) -> None:
        """Take an entry of the log into every version's state, save version `but`."""
        if entry.meta.code == OK:
            for version, runner in self.runners.items():
                if version != but and runner.folded < entry.meta.number:
                    runner.fold(entry)

    def mark_void(self, requests: Sequence[Request], error: HofError) -> None:
        """Note in the log that these rows never count, save those of which it says what became.

        Raises: StorageFailed (HOF-304).
        """
        number = self.log.last_number() + 1
        kept = [r for r in requests if r.store and not r.is_logged and not self.is_settled(r)]
        metas = [
            EntryMeta(
                number + i, self.clock.wall_us(), r.id, 0, r.served.view, r.served.version,
                r.served.group_version, r.served.code_hash, error.code, error=error.message,
                offset=r.offset,
            )
            for i, r in enumerate(kept)
        ]  # fmt: skip
        if metas:
            positions = self.log.append(
                [Entry(m, r.head, r.body, b"", b"") for m, r in zip(metas, kept, strict=True)]
            )
            for meta, at in zip(metas, positions, strict=True):
                self.ids.add(meta.id, at, number=meta.number, arrival_us=meta.arrival_us)

    def is_settled(self, request: Request) -> bool:
        """Whether the log says what became of the rows, and no more is tried."""
        position = self.ids.find(request.id)
        return position is not None and not is_open(self.log.entry_at(position).meta, request)

    def _decode_all(
        self, requests: Sequence[Request], now_s: float, works: list[Work]
    ) -> list[Request]:
        """Decode into `works`; what repeats an id of this very turn is left for the next."""
        again: list[Request] = []
        seen: set[bytes] = set()
        for request in requests:
            if request.store and request.id in seen:
                again.append(request)
                continue
            seen.add(request.id)
            self._decode(request, now_s, works)
        return again

    def _decode(self, request: Request, now_s: float, works: list[Work]) -> None:
        runner = self.runners[request.served.group_version]
        try:
            if request.deadline_s is not None and now_s > request.deadline_s:
                msg = "the deadline had passed before the work began"
                raise DeadlinePassed(msg)
            decoded = runner.decode(request.head, request.body, request.raw)
            if self.require_here is not None:
                self.require_here(runner, decoded)
            if self.has_gap and request.offset >= 0:
                # Counted, it would say to the next start that those before it were, too.
                raise StorageFailed("a record before this one could not be written")
            if request.store:
                position = self.ids.find(request.id)
                if position is not None:
                    repeated = recorded_answer(self.log.entry_at(position), request, runner)
                    if repeated is not None:
                        self.counters.repeated += 1
                        self._when_durable(lambda: request.finish(repeated))
                        return
                elif 0 <= request.offset <= self.known_offset:
                    msg = "the record was read before, and what became of it is not known"
                    raise Indefinite(msg, hint="ask again with the same request id")
        except HofError as error:
            self._refuse(request, runner, error)
        except Exception as error:
            self._refuse(request, runner, internal(error, request))
        else:
            works.append(Work(request, runner, decoded))

    def _transform(self, works: list[Work], arrival_us: int) -> None:
        for runner in {id(w.runner): w.runner for w in works}.values():
            if not runner.has_function:
                continue
            mine = [w for w in works if w.runner is runner]
            outcomes = runner.call_functions([w.decoded for w in mine], arrival_us)
            for work, outcome in zip(mine, outcomes, strict=True):
                if isinstance(outcome, TransformFailed):
                    work.failed = outcome
                else:
                    work.opaque = outcome

    def _windows(self, works: list[Work], arrival_us: int) -> tuple[list[Entry], list[Work]]:
        entries: list[Entry] = []
        logged: list[Work] = []
        number = self.log.last_number()
        for work in works:
            entry = self._compute(work, arrival_us, number + 1)
            if entry is not None:
                number += 1
                entries.append(entry)
                logged.append(work)
        return entries, logged

    def _compute(self, work: Work, arrival_us: int, number: int) -> Entry | None:
        """Answer one request; its log entry, unless it only peeked."""
        request, runner = work.request, work.runner
        mark = runner.state.mark()
        try:
            if work.failed is not None:
                raise work.failed
            done = runner.compute(work.decoded, arrival_us, work.opaque, peek=not request.store)
            work.answer = answer_of(request, runner, done, work.decoded.rows)
        except BadRequest as error:
            runner.state.undo(mark)
            work.failed = error
            work.answer = refusal(request, runner, error)
        except Exception as error:
            runner.state.undo(mark)
            self._refuse(request, runner, internal(error, request))
            return None
        if not request.store:
            return None
        meta = EntryMeta(
            number, arrival_us, request.id, work.decoded.rows, request.served.view,
            request.served.version, runner.group.version, runner.code_hash, OK,
            offset=request.offset, places=request.places,
        )  # fmt: skip
        if work.failed is not None:
            meta.code, meta.error = work.failed.code, work.failed.message
            self.counters.refused += 1
            return Entry(meta, request.head, request.body, b"", b"")
        meta.late, meta.overflow = done.late, done.overflow
        self.counters.rows += work.decoded.rows
        self.counters.rows_late += len(done.late)
        if not request.wants_answer:
            meta.answered = False
            return Entry(meta, request.head, request.body, b"", b"")
        if request.beside is not None:
            meta.joined = request.beside.records
        return Entry(meta, request.head, request.body, done.head, done.body)

    def _log(self, entries: list[Entry], logged: list[Work]) -> None:
        runners = {id(w.runner): w.runner for w in logged}.values()
        try:
            positions = self.log.append(entries)
        except HofError as error:
            for runner in runners:
                runner.state.undo()
            for work in logged:
                work.answer = refusal(work.request, work.runner, error)
                self.has_gap = self.has_gap or work.request.offset >= 0
            self.counters.refused += len(logged)
            return
        for runner in runners:
            runner.state.commit()
        for work, entry, position in zip(logged, entries, positions, strict=True):
            meta = entry.meta
            self.ids.add(meta.id, position, number=meta.number, arrival_us=meta.arrival_us)
            work.runner.folded = meta.number
            work.request.is_logged = True
            work.request.record = meta
            if len(self.runners) > 1:
                self.fold(entry, but=meta.group_version)

    def _reply(self, works: list[Work], started_s: float) -> None:
        now_s = self.clock.monotonic_s()
        engine_us = int((now_s - started_s) * 1e6)
        for work in works:
            if work.answer is not None:
                work.answer.meta.timings_us = {"engine": engine_us}
        if self.log.is_durable_at_once:
            self._reply_now(works, now_s)
        else:
            self._when_durable(lambda: self._reply_durable(works))

    def _when_durable(self, done: Callable[[], None]) -> None:
        if self.log.is_durable_at_once:
            done()
        else:
            self.log.when_durable(done)

    def _reply_durable(self, works: list[Work]) -> None:
        """After a sync; where that failed, nobody knows what a power loss would leave."""
        for work in works:
            logged = work.request.store and work.answer is not None and work.answer.meta.code == OK
            if self.log.failed and logged:
                error = Indefinite(self.log.failed, hint="ask again when the server restarted")
                work.answer = refusal(work.request, work.runner, error)
        self._reply_now(works, self.clock.monotonic_s())

    def _reply_now(self, works: list[Work], now_s: float) -> None:
        for work in works:
            request, answer = work.request, work.answer
            if answer is None:
                continue  # refused before, by a bug of ours
            if request.deadline_s is not None and now_s > request.deadline_s:
                msg = "the rows were counted and answered, but after the deadline"
                error = AnsweredTooLate(msg, hint="ask again with the same request id")
                answer = refusal(request, work.runner, error)
            request.finish(answer)

    def _refuse(self, request: Request, runner: Runner, error: HofError) -> None:
        self.counters.refused += 1
        request.finish(refusal(request, runner, error))


def internal(error: Exception, request: Request) -> InternalError:
    """Our bug: details to the server's log, none to the client."""
    _events.exception("turn_failed", request_id=request.id.hex(), exc_info=error)
    return InternalError(f"internal error; quote the request id {request.id.hex()}")
