"""The online store on a Redis or Valkey server: one MGET a lookup, one MSET a write.

All keys of a store begin with `{prefix}:`. The braces put them into one slot of a cluster, since
only within a slot is MGET one moment. So a store is on one node, whatever the cluster's size: a
node that does not have the slot says which one does (MOVED), and the store goes there. Several
stores spread over a cluster by their prefixes.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from hiredis import ReplyError, pack_command
from redis.exceptions import InvalidResponse, MovedError, RedisError

from hofflight.errors import OnlineUnavailable
from hofflight.online.breaker import Breaker
from hofflight.online.pipeline import Reply
from hofflight.online.protocol import Found, Health, check_keys
from hofflight.online.redis_node import AllBusyError, Node, address_of, trust_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hofflight.settings import OnlineSettings

# A TimeoutError is an OSError; ValueError is what redis-py makes of a MOVED without an address.
_FAILURES: Final = (RedisError, OSError, ValueError)


class RedisStore:
    """An OnlineStore on a server, which is first asked by the first call.

    Nothing is tried twice: whoever asks has a deadline. After a failed lookup others fail at once
    for a while (`Breaker`); writes and `health` always go out. Thread: one event loop's.
    """

    waits = True

    def __init__(
        self, settings: OnlineSettings, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._prefix = b"{%s}:" % settings.prefix.encode()
        self.timeout_s = settings.timeout_ms / 1_000
        self._load_timeout_s = settings.load_timeout_ms / 1_000
        self._clock = clock
        self._breaker = Breaker(settings.retry_after_ms / 1_000)
        self._failure = ""
        self._first = address_of(settings)
        self.lookups_max = settings.lookups_max
        self._tls = trust_of(settings) if settings.url.startswith("rediss:") else None
        self._node = self._node_at(self._first)
        self._is_closed = False
        self._leaving: set[asyncio.Task[None]] = set()

    async def get_many(self, keys: Sequence[bytes], *, patient: bool = False) -> list[bytes | None]:
        if patient and keys:
            found: list[bytes | None] = await self._of_load(
                b"MGET", *(self._prefix + key for key in keys)
            )
            return found
        answer: asyncio.Future[Found] = asyncio.get_running_loop().create_future()

        def done(found: Found) -> None:
            if not answer.done():  # whoever asked may be gone
                answer.set_result(found)

        self.start_get(keys, self.timeout_s, done)
        outcome = await answer
        if isinstance(outcome, OnlineUnavailable):
            raise outcome
        return outcome

    def start_get(
        self, keys: Sequence[bytes], timeout_s: float, done: Callable[[Found], None]
    ) -> None:
        """`get_many` without a coroutine: `done` is called once, within the time.

        Where there is a connection, the command is on its way when this returns.
        """
        if not keys:
            done([])  # MGET of nothing is an error
        elif self._is_closed:
            done(OnlineUnavailable("the online store is closed"))
        elif not self._breaker.admits(self._clock()):
            done(OnlineUnavailable(f"{self._failure}; it will be asked again"))
        else:
            _Lookup(self, keys, min(timeout_s, self.timeout_s), done).send()

    async def put_many(self, items: Sequence[tuple[bytes, bytes]]) -> None:
        check_keys(items)
        if not items:
            return
        await self._of_load(
            b"MSET", *(part for key, value in items for part in (self._prefix + key, value))
        )

    async def health(self) -> Health:
        try:
            keys = await self._ask(self.timeout_s, b"DBSIZE")
        except OnlineUnavailable as error:
            return Health(False, error.message)
        except (*_FAILURES, AllBusyError) as error:
            return Health(False, self._in_words(error, self.timeout_s))
        return Health(True, f"server at {self._node.place}, {keys} keys")

    async def close(self) -> None:
        self._is_closed = True
        with suppress(*_FAILURES):
            async with asyncio.timeout(self.timeout_s):
                await self._node.leave("the online store is closed", wait=True)

    def lookup_failed(self, error: Exception, timeout_s: float) -> OnlineUnavailable:
        """Why a lookup has no answer; others fail at once for a while."""
        self._breaker.failed(self._clock())
        self._failure = self._in_words(error, timeout_s)
        self.go_home()
        return OnlineUnavailable(self._failure)

    def lookup_succeeded(self) -> None:
        """The store is well."""
        self._breaker.succeeded()

    @property
    def prefix(self) -> bytes:
        """What every key begins with."""
        return self._prefix

    @property
    def node(self) -> Node:
        """The server that has the store's keys, as far as is known."""
        return self._node

    def go(self, moved: str) -> None:
        """Go where a MOVED says that the store's keys are: `MOVED slot host:port`."""
        host, _, port = moved.split()[2].rpartition(":")
        left = self._node
        self._node = self._node_at(left.options_of(host, int(port)))
        self._leave(left, "the store moved to another node")

    def go_home(self) -> None:
        """Back to the first address: the node elsewhere may have died, and it finds the new one."""
        left = self._node
        if left.options is not self._first:
            self._node = self._node_at(self._first)
            self._leave(left, "the node was left")

    def _leave(self, left: Node, why: str) -> None:
        """Let go of a node's connections, of those that write in a moment."""
        left.abandon(why)
        task = asyncio.get_running_loop().create_task(left.leave(why))
        self._leaving.add(task)  # a loop holds its tasks weakly
        task.add_done_callback(self._leaving.discard)

    async def _of_load(self, *parts: bytes) -> Any:
        """The answer to a command of a load."""
        try:
            return await self._ask(self._load_timeout_s, *parts)
        except (*_FAILURES, AllBusyError) as error:
            raise OnlineUnavailable(self._in_words(error, self._load_timeout_s)) from error

    async def _ask(self, timeout_s: float, *parts: bytes) -> Any:
        """The answer to one command, from the node that has the store's keys."""
        if self._is_closed:
            msg = "the online store is closed"
            raise OnlineUnavailable(msg)
        command = pack_command(parts)  # type: ignore[arg-type]  # its stub says one part
        node = self._node
        try:
            async with asyncio.timeout(timeout_s):
                try:
                    return await node.ask(command)
                except MovedError as moved:
                    node = await self._go(node, node.options_of(moved.host, moved.port))
                    return await node.ask(command)
        except _FAILURES:
            if node.options is not self._first:  # it may have died: the first address finds the new
                await self._go(node, self._first)
            raise

    async def _go(self, left: Node, options: dict[str, Any]) -> Node:
        """Leave a node for another address, unless another call already did."""
        if self._node is left:
            self._node = self._node_at(options)
            await left.leave("the store is on another node")
        return self._node

    def _node_at(self, options: dict[str, Any]) -> Node:
        return Node(options, self._tls)

    def _in_words(self, error: Exception, timeout_s: float) -> str:
        if isinstance(error, TimeoutError):
            return f"the online store did not answer within {timeout_s * 1_000:.0f} ms"
        return f"the online store failed: {error}"


class _Lookup:
    """One MGET on its way. Its first outcome counts; what comes after its time is nobody's."""

    __slots__ = ("_done", "_has_moved", "_keys", "_size", "_store", "_timeout_s", "_timer")

    def __init__(
        self, store: RedisStore, keys: Sequence[bytes], timeout_s: float,
        done: Callable[[Found], None],
    ) -> None:  # fmt: skip
        self._store = store
        self._keys = keys
        self._size = len(keys)
        self._timeout_s = timeout_s
        self._done: Callable[[Found], None] | None = done
        self._has_moved = False
        self._timer = asyncio.get_running_loop().call_later(timeout_s, self._expired)

    def send(self) -> None:
        prefix = self._store.prefix
        command = pack_command((b"MGET", *[prefix + key for key in self._keys]))  # type: ignore[arg-type]
        pipeline = self._store.node.pipeline
        if pipeline is None or not pipeline.is_open:
            self._store.node.connect(command, self._answered)
        elif pipeline.outstanding >= self._store.lookups_max:  # which says nothing of the server
            msg = f"{pipeline.outstanding} lookups wait for the online store"
            self._finish(OnlineUnavailable(msg, hint="raise online.lookups_max"))
        else:
            pipeline.ask(command, self._answered)

    def _answered(self, reply: Reply) -> None:
        if self._done is None:
            self._timer.cancel()  # late, but the store is there
            return
        if type(reply) is list and len(reply) == self._size:
            self._store.lookup_succeeded()
            self._finish(reply)
        elif _is_moved(reply) and not self._has_moved:
            self._has_moved = True
            self._store.go(str(reply))
            self.send()
        else:
            wrong = "MGET was not answered with one value a key"
            error = reply if isinstance(reply, Exception) else InvalidResponse(wrong)
            self._finish(self._store.lookup_failed(error, self._timeout_s))

    def _expired(self) -> None:
        if self._done is None:
            return
        rest_s = self._store.timeout_s - self._timeout_s
        if rest_s <= 0:
            self._overdue()
            return
        # The caller was in a hurry: that says nothing about the store before its own time is over.
        msg = f"the online store did not answer within {self._timeout_s * 1_000:.0f} ms"
        self._finish(OnlineUnavailable(msg))
        self._timer = asyncio.get_running_loop().call_later(rest_s, self._overdue)

    def _overdue(self) -> None:
        node = self._store.node
        failure = self._store.lookup_failed(TimeoutError(), self._store.timeout_s)
        self._finish(failure)
        # What waits behind it waits for the same; a fresh connection will not.
        node.abandon(failure.message)

    def _finish(self, found: Found) -> None:
        done, self._done = self._done, None
        self._timer.cancel()
        if done is not None:
            done(found)


def _is_moved(reply: Reply) -> bool:
    return isinstance(reply, ReplyError) and str(reply).startswith("MOVED ")
