"""SIGTERM and SIGINT: the first ends what runs in good order, a second one at once."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def stop_on_signal() -> Iterator[asyncio.Event]:
    """An event of the running loop, set by the first signal; a second one ends the process with 1.

    The logs survive either, so the impatient end costs a recovery and no answered request.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def begin_to_stop() -> None:
        stop.set()
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
            # Closing a store keeps the loop busy, so this one must not need the loop.
            signal.signal(number, lambda *_: os._exit(1))

    for number in _SIGNALS:
        loop.add_signal_handler(number, begin_to_stop)
    yield stop


def set_on_signal(begin_to_stop: Callable[[], object]) -> None:
    """The same where no loop runs: the first signal calls it, a second one ends the process with 1.

    Thread: the main one.
    """

    def first(*_: object) -> None:
        for number in _SIGNALS:
            signal.signal(number, lambda *_: os._exit(1))
        begin_to_stop()

    for number in _SIGNALS:
        signal.signal(number, first)
