"""One connection on which lookups go out as they come and are answered in that order.

No task, no future and no stream stand between the socket and whoever waits: redis-py's own way
from a command to its answer takes as long as the round trip itself. The protocol's grammar is
hiredis' on both ways; the rest of the store's traffic goes through redis-py.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from hiredis import ProtocolError, Reader, ReplyError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# An answer, or why there is none: ReplyError, what the server says; ConnectionError.
Reply = Any


class Pipeline(asyncio.Protocol):
    """Made by `loop.create_connection`. `greeting`: commands that must be answered without error.

    Every `done` of `ask` is called once, in order, from the loop.
    """

    def __init__(self, greeting: Sequence[bytes]) -> None:
        self._greeting = greeting
        self._reader = Reader()
        self._waiting: deque[Callable[[Reply], None]] = deque()
        self._transport: asyncio.Transport | None = None
        self.is_open = False

    @property
    def outstanding(self) -> int:
        """Commands without an answer yet."""
        return len(self._waiting)

    def ask(self, command: bytes, done: Callable[[Reply], None]) -> None:
        """Send a packed command now."""
        assert self._transport is not None
        self._waiting.append(done)
        self._transport.write(command)

    def abort(self, why: str) -> None:
        """End it at once: what was asked is answered with a ConnectionError, late answers never."""
        self.is_open = False
        if self._transport is not None:
            self._transport.abort()
        self._fail(ConnectionError(why))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.is_open = True
        for command in self._greeting:
            self.ask(command, self._greeted)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not False:
                if not self._waiting:
                    self.abort("the server answered what nobody asked")
                    return
                self._waiting.popleft()(reply)
        except ProtocolError as error:
            self.abort(f"the server does not speak this protocol: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        self._fail(ConnectionError(str(exc) if exc else "the server closed the connection"))

    def _greeted(self, reply: Reply) -> None:
        if isinstance(reply, ReplyError):
            self.abort(str(reply))

    def _fail(self, error: ConnectionError) -> None:
        waiting, self._waiting = self._waiting, deque()
        for done in waiting:
            done(error)
