"""Views of several groups, before any worker: a request is taken apart, looked up and put together.

1. what would be refused is refused, before any group counts it
2. the lookup starts, and beside it every streaming group answers for its own columns
3. when all are there, what was looked up goes into the view's log
4. the vector leaves

With one streaming group and a store that never waits there is nothing to put together: the lookup
comes first, and the group puts what it found beside its own columns, in its own record.

A killed process may leave rows counted and nothing recorded: then no answer had left, and the
request asked again gets the recorded values of its groups and is looked up afresh.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from hofflight.errors import (
    DeadlinePassed,
    Draining,
    HofError,
    Indefinite,
    InternalError,
    StoredUnavailable,
    TooLarge,
)
from hofflight.eventlog.joins import Beside, join_stream
from hofflight.eventlog.protocol import Answer, Request
from hofflight.observe.events import Events
from hofflight.server.forwarding import Forwarding
from hofflight.server.join_answer import finish_with, meta_of, policy_error
from hofflight.server.join_log import JoinLog, require_same_keys
from hofflight.server.join_plan import JoinPlan, require_no_keys
from hofflight.wire.envelope import OK, AnswerMeta
from hofflight.wire.ipc import empty_message

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hofflight.clock import Clock
    from hofflight.eventlog.joins import JoinRecord
    from hofflight.eventlog.protocol import EventLog, Served, Worker
    from hofflight.online.lookups import Lookups
    from hofflight.online.protocol import Found
    from hofflight.server.join_plan import Keys
    from hofflight.settings import EngineSettings

_events = Events("hofflight.join")


class Joiner(Forwarding["Worker"]):
    """A worker that answers joined views out of the answers of the one behind it."""

    def __init__(
        self,
        worker: Worker,
        lookups: Lookups,
        open_log: Callable[[str], EventLog],
        clock: Clock,
        settings: EngineSettings,
    ) -> None:
        super().__init__(worker)
        self.lookups = lookups
        self._open_log = open_log
        self.clock = clock
        self._settings = settings
        self._views: dict[tuple[str, int], _View] = {}
        self._lock = threading.Lock()
        self._closed = False

    def submit(self, requests: Sequence[Request]) -> None:
        """Take over requests; every outcome is a reply."""
        ready: list[Request] = []  # for the groups, together: they may gain from company
        for request in requests:
            if request.served.is_joined:
                self._begin(request, ready)
            elif request.keys:
                _guarded(request, partial(require_no_keys, request.keys))
            else:
                ready.append(request)
        if ready:
            self.worker.submit(ready)

    def prepare(self, served: Served) -> None:
        """Compile a joined view and open its log, so that its first request need not."""
        self._view(served)

    def logs(self) -> dict[str, JoinLog]:
        """The logs at work, by name."""
        return {view.name: view.log for view in list(self._views.values())}

    def trim(self, sealed_to: Callable[[str], int]) -> int:
        """Let each log forget what is sealed and no remembered id needs; gives the bytes freed."""
        freed = 0
        for name, log in self.logs().items():
            through = min(sealed_to(name), log.ids.needed_after)
            freed += log.log.trim(through) if through else 0
        return freed

    def close(self) -> None:
        """Close the logs and the store; what is under way was answered before."""
        self._closed = True
        for view in self._views.values():
            view.log.log.close()
        self.lookups.close()

    def _begin(self, request: Request, ready: list[Request]) -> None:
        try:
            if self._closed:
                raise Draining("the store is closed, or closing")
            self._view(request.served).begin(request, ready)
        except HofError as error:
            _refuse(request, error)
        except Exception as bug:  # noqa: BLE001 it must still be an answer
            _refuse(request, _incident(request, bug))

    def _view(self, served: Served) -> _View:
        found = self._views.get((served.view, served.version))
        if found is None:
            with self._lock:
                found = self._views.get((served.view, served.version))
                if found is None:
                    name = join_stream(served.view, served.version)
                    log = JoinLog(self._open_log(name), self._settings)
                    found = _View(self, name, JoinPlan(served), log)
                    self._views[served.view, served.version] = found
        return found


class _View:
    """A joined view at work: how it is answered, its log, and what it asks."""

    def __init__(self, joiner: Joiner, name: str, plan: JoinPlan, log: JoinLog) -> None:
        self.name = name
        self.plan = plan
        self.log = log
        self.worker = joiner.worker
        self.lookups = joiner.lookups
        self.clock = joiner.clock
        self.empty = empty_message(plan.served.output_schema)
        # One streaming group, a store that answers at once: nothing has to be waited for.
        self._is_direct = plan.is_whole and not joiner.lookups.store.waits

    def begin(self, request: Request, ready: list[Request]) -> None:
        """1 and 2: check, start the lookup, and add what the groups are asked to `ready`.

        Raises: HofError, nothing was asked.
        """
        arrival_us = self.clock.wall_us()
        if request.deadline_s is not None and self.clock.monotonic_s() > request.deadline_s:
            raise DeadlinePassed("the deadline had passed before the work began")
        # 1. what would be refused is refused, before any group counts it
        rows = self.plan.rows(request.head, request.body)
        # Events without answers look nothing up.
        keys = self.plan.keys_of(rows, request.keys) if request.wants_answer else [[]]
        if not keys:
            raise TooLarge("a request has one row or one key at least")
        is_direct = self._is_direct and request.wants_answer
        if is_direct and self._put_beside(request, keys, arrival_us):
            # The group reads the very same rows.
            request.raw = rows.raw if rows is not None else None
            ready.append(request)
            return
        bodies = self.plan.split(request.head, request.body, rows)
        _Joining(self, request, keys, arrival_us).begin(bodies, ready)

    def _put_beside(self, request: Request, keys: Keys, arrival_us: int) -> bool:
        """Look up now: the only group puts it beside its own columns, in its own record.

        False where that is not the way: an id that came before, a row that must be there and is
        not.
        """
        if request.store and self.worker.remembers(request):
            return False
        asked = self.plan.lookup(keys)
        found = self.lookups.at_once(asked)
        records = self.plan.records(keys, asked, found, arrival_us, [])
        part = self.plan.stored_part(records)
        if part.missing and request.served.on_missing == "fail":
            return False
        request.beside = Beside(part.values, part.status, part.age_ms, records, self._recalled)
        return True

    def _recalled(self, request: Request, records: list[JoinRecord]) -> Beside:
        """What was recorded for this id, while this request was on its way.

        `records` is empty where that was under another view: then what was found now is recorded.

        Raises: IdReused (HOF-208), StoredMissing (HOF-217), StorageFailed (HOF-304).
        """
        beside, record = request.beside, request.record
        assert beside is not None
        assert record is not None
        keys = [one.keys for one in beside.records]
        if records:
            require_same_keys(request.id, records, keys)
        else:
            numbers = [record.number]
            mine = [msgspec.structs.replace(one, numbers=numbers) for one in beside.records]
            records = (
                mine if self.log.add(request, mine) else self.log.recorded(request, keys) or []
            )
        part = self.plan.stored_part(records)
        error = policy_error(request.served, part.missing)
        if error is not None:
            raise error
        return Beside(part.values, part.status, part.age_ms, records, beside.recall)


class _Joining:
    """One request on its way through its parts. Parts answer from any thread."""

    def __init__(self, view: _View, request: Request, keys: Keys, arrival_us: int) -> None:
        self.view = view
        self.request = request
        self.keys = keys
        self.arrival_us = arrival_us
        self.started_s = self.looked_up_s = view.clock.monotonic_s()
        self.lock = threading.Lock()
        self.answers: list[Answer | None] = [None] * len(request.served.parts)
        self.requests: list[Request] = []
        self.asked: list[bytes] = []
        self.found: Found = []
        self.records: list[JoinRecord] | None = None

    def begin(self, bodies: Sequence[tuple[bytes, bytes]], ready: list[Request]) -> None:
        """Look up, and add what each streaming group is sent, `bodies`, to `ready`.

        Raises: HofError, nothing was asked.
        """
        request, worker = self.request, self.view.worker
        self.requests = [
            Request(
                part, *bodies[place], request.id, partial(self._answered, place),
                request.deadline_s, request.store, request.wants_answer,
            )
            for place, part in enumerate(request.served.parts)
        ]  # fmt: skip
        if len(self.requests) > 1:
            for part in self.requests:
                worker.check(part)
        if request.store and request.wants_answer:
            self.records = self.view.log.recorded(request, self.keys)
        # 2. the lookup starts, and beside it every streaming group answers
        has_stored = bool(request.served.stored)
        looks_up = self.records is None and has_stored and request.wants_answer
        self.open = len(self.requests) + looks_up
        if looks_up:
            self._look_up()
        ready += self.requests
        if not self.requests and not looks_up:
            self._finish()

    def _look_up(self) -> None:
        deadline_s = self.request.deadline_s
        # A tenth of it is left for what comes after.
        left_s = None if deadline_s is None else 0.9 * (deadline_s - self.started_s)
        self.asked = self.view.plan.lookup(self.keys)
        self.view.lookups.start(self.asked, left_s, self._looked_up)

    def _looked_up(self, found: Found) -> None:
        self.found = found
        self.looked_up_s = self.view.clock.monotonic_s()
        self._one_less()

    def _answered(self, place: int, answer: Answer) -> None:
        self.answers[place] = answer
        self._one_less()

    def _one_less(self) -> None:
        with self.lock:
            self.open -= 1
            if self.open:
                return
        self._finish()

    def _finish(self) -> None:
        _guarded(self.request, self._join)

    def _join(self) -> None:
        """3 and 4: record, then answer.

        Raises: HofError, what a part was refused for; StorageFailed (HOF-304).
        """
        request, plan, log = self.request, self.view.plan, self.view.log
        answers = [answer for answer in self.answers if answer is not None]
        for answer in answers:
            if answer.meta.code != OK:
                finish_with(request, answer.meta)
                return
        meta = meta_of(request, [answer.meta for answer in answers])
        if not request.wants_answer:
            request.finish(Answer(meta, *self.view.empty))
            return
        if self.records is None and request.store:
            self.records = self._recorded_beside()
        is_new = self.records is None
        if self.records is None:
            numbers = [p.record.number if p.record is not None else 0 for p in self.requests]
            self.records = plan.records(self.keys, self.asked, self.found, self.arrival_us, numbers)
        values: list[Any] = [answer.values for answer in answers]
        joined = plan.joined(values, self.records)
        stored = joined.stored
        error = policy_error(request.served, stored.missing)
        # 3. what was looked up goes into the view's log
        keeps = is_new and request.store and not isinstance(error, StoredUnavailable)
        if keeps and not log.add(request, self.records, error):
            # Another of this id was first: its answer is the answer.
            self.records = log.recorded(request, self.keys)
            self._join()
            return
        # 4. the vector leaves
        meta.status = {**meta.status, **stored.status} if meta.status else stored.status
        meta.age_ms = stored.age_ms
        meta.timings_us["lookup"] = int((self.looked_up_s - self.started_s) * 1e6)
        answer = Answer(meta, joined.head, joined.body)
        if error is not None:
            meta.code, meta.error, meta.hint = error.code, error.message, error.hint
            answer = Answer(meta, *self.view.empty)
        if request.store and not log.log.is_durable_at_once:
            log.log.when_durable(lambda: self._finish_durable(answer))
        else:
            request.finish(answer)

    def _finish_durable(self, answer: Answer) -> None:
        """After a sync; where that failed, nobody knows what a power loss would leave."""
        failed = self.view.log.log.failed
        if failed:
            error = Indefinite(failed, hint="ask again when the server restarted")
            _refuse(self.request, error)
        else:
            self.request.finish(answer)

    def _recorded_beside(self) -> list[JoinRecord] | None:
        """What stands in the group's own record of this id, answered under this view before.

        Raises: IdReused (HOF-208), it had other keys.
        """
        served = self.request.served
        for part in self.requests:
            record = part.record
            if record is not None and record.joined:
                if (record.view, record.view_version) != (served.view, served.version):
                    return None
                require_same_keys(self.request.id, record.joined, self.keys)
                return record.joined
        return None


def _guarded(request: Request, work: Callable[[], None]) -> None:
    """Do it; what goes wrong is the answer."""
    try:
        work()
    except HofError as error:
        _refuse(request, error)
    except Exception as bug:  # noqa: BLE001 it must still be an answer
        _refuse(request, _incident(request, bug))


def _incident(request: Request, bug: Exception) -> InternalError:
    """A bug's details are for the server's log alone."""
    _events.exception("join_failed", request_id=request.id.hex(), exc_info=bug)
    return InternalError(f"internal error; quote the request id {request.id.hex()}")


def _refuse(request: Request, error: HofError) -> None:
    meta = AnswerMeta(
        error.code, error=error.message, hint=error.hint, retry_after_ms=error.retry_after_ms
    )
    finish_with(request, meta)
