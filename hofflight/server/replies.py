"""Where a worker's answer meets the stream that waits for it, across threads."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from hofflight.eventlog.protocol import Answer


class Replies:
    """Makes the reply functions of requests, all for the loop of the thread it was made in."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.thread = threading.get_ident()
        self.lock = threading.Lock()

    def expect(self) -> Reply:
        """The place of one answer."""
        return Reply(self)


class Reply:
    """The place of one answer: called by the worker from any thread, awaited by the stream.

    A second answer is dropped. An answer that comes before anybody waits costs no turn of the loop.
    """

    __slots__ = ("_answer", "_on_arrival", "_replies", "_waiter")

    def __init__(self, replies: Replies) -> None:
        self._replies = replies
        self._answer: Answer | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._on_arrival: Callable[[], None] | None = None

    def __call__(self, answer: Answer) -> None:
        """Deliver; an answer that comes after the loop was closed has nobody to reach."""
        if threading.get_ident() == self._replies.thread:
            self._arrive(answer)
            return
        with self._replies.lock:
            if self._waiter is None and self._on_arrival is None:
                # The loop is not asleep for this one: it has not come to wait for it yet.
                self._answer = self._answer or answer
                return
        with contextlib.suppress(RuntimeError):  # the loop was closed
            self._replies.loop.call_soon_threadsafe(self._arrive, answer)

    async def wait(self) -> Answer:
        """The answer."""
        if self._answer is None:
            with self._replies.lock:
                if self._answer is None:
                    self._waiter = self._replies.loop.create_future()
            if self._waiter is not None:
                await self._waiter
        assert self._answer is not None
        return self._answer

    def when_done(self, on_arrival: Callable[[], None]) -> None:
        """Run a function once the worker is done with the request: now, if the answer has come."""
        if self._answer is None:
            with self._replies.lock:
                if self._answer is None:
                    self._on_arrival = on_arrival
                    return
        on_arrival()

    def _arrive(self, answer: Answer) -> None:
        if self._answer is not None:
            return
        self._answer = answer
        if self._on_arrival is not None:
            self._on_arrival()
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
