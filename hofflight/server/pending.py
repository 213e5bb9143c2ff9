"""Requests that left for a worker, until their answers are back. Pure.

A call is one request in one partition. What is not in here is nobody's: answers that come twice,
late, or to another start of a server find no call, and are counted and dropped.
"""

from __future__ import annotations

import heapq
import itertools
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from hofflight.eventlog.protocol import Request

_SPARE: Final = 1_000  # deadlines of answered calls that may wait to be forgotten


class Call(NamedTuple):
    """A request's part in one partition: `place` of `parts`."""

    request: Request
    place: int
    gathering: Gathering | None


class Gathering:
    """A request whose rows went to several partitions: which rows are where, what is back.

    rows: of each part the places of its rows in the request.
    """

    def __init__(self, rows: list[list[int]]) -> None:
        self.rows = rows
        self.answers: list[object] = [None] * len(rows)
        self.open = len(rows)

    def add(self, place: int, answer: object) -> bool:
        """Keep a part's answer; whether all are there."""
        if self.answers[place] is None:
            self.answers[place] = answer
            self.open -= 1
        return not self.open


class Pending:
    """Calls by number, and which of them nobody waits for any longer."""

    def __init__(self) -> None:
        self._calls: dict[int, Call] = {}
        self._numbers = itertools.count(1)
        self._deadlines: list[tuple[float, int]] = []

    def __len__(self) -> int:
        return len(self._calls)

    def add(
        self, request: Request, deadline_s: float, place: int = 0,
        gathering: Gathering | None = None,
    ) -> int:  # fmt: skip
        """The number of a new call."""
        number = next(self._numbers)
        self._calls[number] = Call(request, place, gathering)
        heapq.heappush(self._deadlines, (deadline_s, number))
        return number

    def pop(self, number: int) -> Call | None:
        """The call that an answer is for; None where nobody waits for it."""
        call = self._calls.pop(number, None)
        # Most calls are answered long before their deadline: forget those now and then.
        if len(self._deadlines) > 2 * len(self._calls) + _SPARE:
            self._deadlines = [one for one in self._deadlines if one[1] in self._calls]
            heapq.heapify(self._deadlines)
        return call

    def get(self, number: int) -> Call | None:
        """The call, which stays."""
        return self._calls.get(number)

    def expired(self, now_s: float) -> list[Call]:
        """The calls whose time is over; nobody waits for them any longer."""
        found = []
        while self._deadlines and self._deadlines[0][0] <= now_s:
            _, number = heapq.heappop(self._deadlines)
            call = self._calls.pop(number, None)
            if call is not None:
                found.append(call)
        return found

    def next_deadline_s(self) -> float | None:
        """When to look again."""
        while self._deadlines and self._deadlines[0][1] not in self._calls:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def clear(self) -> list[Call]:
        """Every call, and nobody waits for any."""
        calls, self._calls = list(self._calls.values()), {}
        self._deadlines.clear()
        return calls
