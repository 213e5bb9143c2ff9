"""Starts lookups and gives what they found, in time or not at all.

A store that never waits (LMDB) answers on the caller's thread before `start` returns. One that does
(Valkey) is asked on one event loop: the server's own, or a thread's where there is none.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Final, TypeVar, cast

from hofflight.errors import OnlineUnavailable
from hofflight.observe.events import Events
from hofflight.observe.metrics import named

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from typing import Any

    from hofflight.online.protocol import Found, LocalStore, OnlineStore, RemoteStore

T = TypeVar("T")
_CLOSE_S: Final = 1.0
_CLOSED: Final = "the online store is closed"
_events = Events("hofflight.online")


class Lookups:
    """One store and the loop that it is asked on. Thread: any may call `start`."""

    def __init__(self, store: OnlineStore, timeout_ms: int) -> None:
        self.store = store
        self._local = cast("LocalStore", store)  # only asked where it never waits
        self._timeout_s = timeout_ms / 1_000
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._loop_thread = 0
        self.lookups = self.failed = 0

    def attach(self) -> None:
        """From now on ask on the running loop of this thread; nothing was asked before."""
        if self.store.waits:
            assert self._thread is None
            self._loop = asyncio.get_running_loop()
            self._loop_thread = threading.get_ident()

    async def detach(self) -> None:
        """Let go of a store that was asked on the running loop."""
        if self._loop is not None:
            await self.store.close()

    def start(
        self, keys: Sequence[bytes], left_s: float | None, done: Callable[[Found], None]
    ) -> None:
        """Look keys up; `done` is called once, with what was found or why not.

        It is called within the store's timeout, and within `left_s` where that is shorter.
        """
        if not self.store.waits:
            done(self.at_once(keys))
            return
        self.lookups += 1
        timeout_s = self._timeout_s if left_s is None else min(self._timeout_s, left_s)
        if self._is_on_loop():
            self._begin(keys, timeout_s, done)
            return
        try:
            self._own_loop().call_soon_threadsafe(self._begin, keys, timeout_s, done)
        except RuntimeError:  # the loop was closed
            done(self._unavailable(OnlineUnavailable(_CLOSED)))

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """What a verb of the store gives; waits for it, so never on the loop itself.

        Raises: OnlineUnavailable (HOF-510).
        """
        if not self.store.waits:
            return driven(coroutine)
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, self._own_loop()).result()
        except RuntimeError:  # the loop was closed
            coroutine.close()
            raise OnlineUnavailable(_CLOSED) from None

    def metrics(self) -> dict[str, float]:
        """The store's metrics by full name."""
        return named("online", {"lookups": self.lookups, "failed": self.failed})

    def close(self) -> None:
        """Let go of the store, unless `detach` did."""
        loop, thread = self._loop, self._thread
        if not self.store.waits:
            driven(self.store.close())
        elif loop is not None and thread is not None:
            with contextlib.suppress(TimeoutError):
                asyncio.run_coroutine_threadsafe(self.store.close(), loop).result(_CLOSE_S)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(_CLOSE_S)
            loop.close()

    def at_once(self, keys: Sequence[bytes]) -> Found:
        """What a store that never waits finds."""
        self.lookups += 1
        try:
            return self._local.get_now(keys)
        except OnlineUnavailable as error:
            return self._unavailable(error)

    def _begin(
        self, keys: Sequence[bytes], timeout_s: float, done: Callable[[Found], None]
    ) -> None:
        def found(answer: Found) -> None:
            if isinstance(answer, OnlineUnavailable):
                self._unavailable(answer)
            done(answer)

        cast("RemoteStore", self.store).start_get(keys, timeout_s, found)

    def _is_on_loop(self) -> bool:
        return self._loop_thread == threading.get_ident()

    def _unavailable(self, error: OnlineUnavailable) -> OnlineUnavailable:
        self.failed += 1
        # Not each: while a store is away every request meets this.
        if self.failed.bit_count() == 1:
            _events.warning("store_unavailable", error=error.message, failed=self.failed)
        return error

    def _own_loop(self) -> asyncio.AbstractEventLoop:
        """The loop; in a thread of its own where nobody gave one."""
        with self._lock:
            if self._loop is None:
                loop = self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=loop.run_forever, name="hof-online", daemon=True
                )
                self._thread.start()
            return self._loop


def driven(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits.

    Raises: what it raises.
    """
    try:
        coroutine.send(None)
    except StopIteration as end:
        found: T = end.value
        return found
    coroutine.close()
    msg = "a store that says it never waits did"
    raise AssertionError(msg)
