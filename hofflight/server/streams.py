"""The open streams: what each is doing, which are stuck, and how all of them end."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final

import grpc

from hofflight.errors import HofError, Overloaded
from hofflight.server.hangup import hang_up
from hofflight.server.status import status_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hofflight.server.admission import Admission
    from hofflight.server.counters import ServerStats

READING: Final = 0
WORKING: Final = 1
WRITING: Final = 2


class Stream:
    """One open call. Its handler keeps `state` and `written` (messages sent) up to date.

    Two plain stores a message instead of a timer: somebody else looks at them now and then.
    """

    __slots__ = ("context", "ending", "seen_s", "seen_written", "state", "written")

    def __init__(self, context: Any) -> None:
        self.context = context
        self.state = READING
        self.written = 0
        self.seen_written = -1
        self.seen_s = 0.0
        self.ending = False


class Streams:
    """All open streams of a server. `ending`, once set, is why no further one is opened."""

    def __init__(self, admission: Admission, stats: ServerStats) -> None:
        self.open: set[Stream] = set()
        self.ending: HofError | None = None
        self._admission = admission
        self._stats = stats
        self._emptied = asyncio.Event()
        self._aborts: set[asyncio.Task[None]] = set()

    def enter(self, context: Any) -> Stream:
        """A new stream; must be given to `leave`.

        Raises:
            Draining: HOF-303.
            Overloaded: HOF-301.
        """
        if self.ending is not None:
            raise self.ending
        self._admission.open_stream()
        stream = Stream(context)
        self.open.add(stream)
        self._stats.streams_open = len(self.open)
        return stream

    def leave(self, stream: Stream) -> None:
        """The handler of a stream returns."""
        self.open.discard(stream)
        self._stats.streams_open = len(self.open)
        self._admission.close_stream()
        if not self.open:
            self._emptied.set()

    async def end(self, error: HofError, timeout_s: float) -> bool:
        """End streams that wait for their client now and the others after their answer.

        Returns: whether all of them ended within the time.
        """
        self.ending = error
        self._abort([stream for stream in self.open if stream.state == READING], error)
        if self.open:
            self._emptied.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._emptied.wait(), timeout_s)
        return not self.open

    def end_slow_readers(self, now_s: float, timeout_ms: int) -> int:
        """End streams that have been writing one message since `timeout_ms`; gives their number.

        The status waits behind what was written, until the client reads or goes: so the handler
        and its share of the bounds stay too, and memory is never more than what admission counts.
        After the same time again the connection is closed.
        """
        slow = []
        for stream in self.open:
            if stream.state != WRITING:
                stream.seen_written = -1
            elif stream.seen_written != stream.written:
                stream.seen_written, stream.seen_s = stream.written, now_s
            elif (now_s - stream.seen_s) * 1_000 < timeout_ms:
                continue
            elif stream.ending:
                hang_up(stream.context.peer())
            else:
                stream.seen_s = now_s
                slow.append(stream)
        msg = f"the stream was ended, no answer was read for {timeout_ms} ms"
        self._abort(slow, Overloaded(msg, hint="read answers while you send requests"))
        return len(slow)

    def _abort(self, streams: Iterable[Stream], error: HofError) -> None:
        # gRPC lets another task than the handler's abort a call: the client sees this status, and
        # the read or write that the handler waits in raises AbortError. Cancelling the handler's
        # task instead would leave the call open without any status.
        for stream in streams:
            stream.ending = True
            task = asyncio.get_running_loop().create_task(_abort_one(stream.context, error))
            self._aborts.add(task)
            task.add_done_callback(self._aborts.discard)


async def _abort_one(context: Any, error: HofError) -> None:
    with contextlib.suppress(grpc.aio.BaseError):
        await context.abort(*status_of(error))
