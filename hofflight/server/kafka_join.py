"""Views with stored features before Kafka: looked up first, and what was found travels along.

1. `_begin`    rows and keys are read, the lookup starts
2. `_found`    what was found leaves with the rows: their worker records it in their own entry
3. `_replied`  what the view does about rows that are missing, of the answer: for an id that came
               before it holds what was recorded then

So a worker needs no online store, and a server keeps nothing: the join is where the rows are.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from hofflight.errors import DeadlinePassed, HofError, StoredUnavailable, TooLarge
from hofflight.server.forwarding import Forwarding
from hofflight.server.join_answer import policy_error
from hofflight.server.join_plan import MISSING, JoinPlan, require_no_keys
from hofflight.server.kafka_worker import KafkaWorker, refusal, refuse
from hofflight.wire.envelope import OK

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hofflight.clock import Clock
    from hofflight.eventlog.protocol import Answer, Request, Served
    from hofflight.online.lookups import Lookups
    from hofflight.online.protocol import Found
    from hofflight.server.join_plan import Keys


class KafkaJoiner(Forwarding[KafkaWorker]):
    """A Worker that looks stored rows up for the one behind it. Thread: its loop's."""

    def __init__(self, worker: KafkaWorker, lookups: Lookups, clock: Clock) -> None:
        super().__init__(worker)
        self._lookups = lookups
        self._clock = clock
        self._plans: dict[tuple[str, int], JoinPlan] = {}

    def submit(self, requests: Sequence[Request]) -> None:
        """Take over requests; every outcome is a reply."""
        ready: list[Request] = []
        for request in requests:
            try:
                if request.served.is_joined and request.wants_answer:
                    self.worker.check(request)
                    self._begin(request)
                else:
                    require_no_keys(request.keys)
                    ready.append(request)
            except HofError as error:
                refuse(request, error)
        if ready:
            self.worker.submit(ready)

    def _begin(self, request: Request) -> None:
        """1. Read rows and keys, and start the lookup.

        Raises: HofError, nothing was asked.
        """
        plan = self._plan(request.served)
        now_s = self._clock.monotonic_s()
        if request.deadline_s is not None and now_s > request.deadline_s:
            raise DeadlinePassed("the deadline had passed before the work began")
        keys = plan.keys_of(plan.rows(request.head, request.body), request.keys)
        if not keys:
            raise TooLarge("a request has one row at least")
        asked = plan.lookup(keys)
        arrival_us = self._clock.wall_us()
        # Half of it is left for the way through Kafka.
        left_s = None if request.deadline_s is None else 0.5 * (request.deadline_s - now_s)
        self._lookups.start(
            asked, left_s, partial(self._found, plan, request, keys, asked, arrival_us)
        )

    def _found(
        self, plan: JoinPlan, request: Request, keys: Keys, asked: list[bytes], arrival_us: int,
        found: Found,
    ) -> None:  # fmt: skip
        """2. Let the request leave with what was found."""
        records = plan.records(keys, asked, found, arrival_us, [])
        part = plan.stored_part(records)
        error = policy_error(request.served, part.missing)
        if isinstance(error, StoredUnavailable):
            # Nothing has left: the next try looks again, and its rows count then.
            refuse(request, error)
            return
        request.looked_up = records
        if request.served.on_missing == "fail":
            request.reply = partial(self._replied, plan, request, request.reply)
        self.worker.submit([request])

    @staticmethod
    def _replied(
        plan: JoinPlan, request: Request, reply: Callable[[Answer], None], answer: Answer
    ) -> None:
        """3. An error where the view must have its stored rows, and one was not there."""
        error = None
        if answer.meta.code == OK:
            found = {state for name in plan.stored_names for state in _states(answer, name)}
            missing = next((state for state in MISSING if state in found), "")
            error = policy_error(request.served, missing)
        reply(answer if error is None else refusal(request, error))

    def _plan(self, served: Served) -> JoinPlan:
        key = (served.view, served.version)
        if key not in self._plans:
            self._plans[key] = JoinPlan(served)
        return self._plans[key]


def _states(answer: Answer, name: str) -> Sequence[str]:
    """A feature's status in each row, or the one of all."""
    found = answer.meta.status.get(name, "")
    return found if isinstance(found, list) else [found]
