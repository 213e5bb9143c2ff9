"""Which requests go to the worker together: those that one pass of the loop brought."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hofflight.eventlog.protocol import Request


class MicroBatcher:
    """Natural micro-batching: no timer, so a request never waits for one that may not come.

    `call_soon` runs a function after everything that is ready now has run. A stream has one
    request under way, so the only stream has nobody to wait for and goes at once; so does a
    request that gains nothing from company (a turn of the loop costs more than a write to the
    log: 8 streams answer 1.1x as many requests a second without it).
    """

    def __init__(
        self,
        submit: Callable[[Sequence[Request]], None],
        call_soon: Callable[[Callable[[], None]], object],
    ) -> None:
        self._submit = submit
        self._call_soon = call_soon
        self._waiting: list[Request] = []

    def put(self, request: Request, *, alone: bool) -> None:
        """Hand a request over, at once when `alone`, else with the others of this pass."""
        if alone and not self._waiting:
            self._submit((request,))
            return
        if not self._waiting:
            self._call_soon(self._flush)
        self._waiting.append(request)

    def _flush(self) -> None:
        requests, self._waiting = self._waiting, []
        self._submit(requests)
