"""A verb is a generator of waits, so that one text serves threads and asyncio alike."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError, Future
from contextlib import closing, suppress
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class Wait(NamedTuple):
    """Wait until `future` is done, `seconds` at most; without a future, just so long.

    Whoever drives the steps only waits: the steps look at the future themselves. Futures here
    hold an error as a value, so that one nobody looks at any more makes no noise.
    """

    future: Future[Any] | None
    seconds: float


Steps = Generator[Wait, None, T]


def drive(steps: Steps[T], sleep: Callable[[float], None] = time.sleep) -> T:
    """Run the steps to their end, waiting in this thread."""
    with closing(steps):
        while True:
            try:
                future, seconds = next(steps)
            except StopIteration as done:
                result: T = done.value
                return result
            if future is None:
                sleep(max(0.0, seconds))
            else:
                with suppress(TimeoutError, CancelledError):
                    future.exception(max(0.0, seconds))


async def drive_async(steps: Steps[T]) -> T:
    """Run the steps to their end, waiting in this task.

    Cancelling the task ends the steps where they wait; a request already sent stays sent.
    """
    with closing(steps):
        while True:
            try:
                future, seconds = next(steps)
            except StopIteration as done:
                result: T = done.value
                return result
            if future is None:
                await asyncio.sleep(max(0.0, seconds))
            elif not future.done():
                # Others may wait for the same future: giving up must not cancel it.
                shared = asyncio.shield(asyncio.wrap_future(future))
                with suppress(TimeoutError):
                    await asyncio.wait_for(shared, max(0.0, seconds))
