"""One warm stream shared by many callers: requests go out pipelined, answers find their caller."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final

import pyarrow as pa

from hofflight import errors, limits
from hofflight.client.failures import again, from_answer
from hofflight.errors import ConnectionLost, HofError, IdReused, Overloaded
from hofflight.wire import envelope

if TYPE_CHECKING:
    from collections.abc import Callable

    from hofflight.client.stream import Stream
    from hofflight.wire.envelope import AnswerMeta

Outcome = tuple["AnswerMeta", pa.RecordBatch] | HofError

OUTSTANDING_MAX: Final = 1_024
# What fits into HTTP/2's first window of 64 KiB can be written by the caller itself without being
# blocked, which saves a change of threads; the rest goes through the writer thread, so that a
# server that stopped reading cannot hold a caller past its deadline.
INLINE_BYTES_MAX: Final = 32 * limits.KIB
# After a deadline: a stream that said nothing for so long while it owed an answer is dead.
SILENCE_S_MAX: Final = 5.0
GOODBYE_S: Final = 0.5
# With these a server refuses a new stream; nothing that was sent on it has been read.
_WHOLE: Final = (
    errors.Refused,
    errors.StoreError,
    errors.NotSupported,
    errors.SchemaMismatch,
    errors.Unauthenticated,
    errors.UnknownView,
)


@dataclass(slots=True)
class _Pending:
    """A request on its way. `abandoned`: its caller went, its answer is still owed."""

    future: Future[Outcome]
    size: int
    sent_s: float
    abandoned: bool = False


class Exchange:
    """The stream of one view.

    It opens in its own thread, ends once, and is then replaced by a new one. Every future that
    `submit` gave gets a value: an answer, or an error that it carried or that ended the stream.

    Thread: any may call. A reader thread gives the answers, a writer thread opens and closes.
    """

    def __init__(
        self, open_stream: Callable[[], Stream], schema: pa.Schema, clock: Callable[[], float]
    ) -> None:
        self.schema = schema
        self._open_stream = open_stream
        self._clock = clock
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._queue: SimpleQueue[tuple[_Pending, pa.RecordBatch, bytes] | None] = SimpleQueue()
        self._pending: dict[bytes, _Pending] = {}
        self._pending_bytes = 0
        self._queued = 0
        self._sent = 0
        self._heard_s = clock()
        self._answered = False
        self._stream: Stream | None = None
        self._error: HofError | None = None
        self._writer = threading.Thread(target=self._write_all, name="hof-writer", daemon=True)
        self._reader = threading.Thread(target=self._read_all, name="hof-reader", daemon=True)
        self._writer.start()

    @property
    def ended(self) -> bool:
        """Whether a new request needs another stream."""
        return self._error is not None

    @property
    def alive(self) -> bool:
        """Whether a thread of this stream still runs; one may be stuck in a dead connection."""
        return self._writer.is_alive()

    def submit(self, request_id: bytes, batch: pa.RecordBatch, metadata: bytes) -> Future[Outcome]:
        """Send a request; never blocks on the server.

        Raises:
            ConnectionLost: HOF-403, the stream has ended.
            Overloaded: HOF-301, too many answers are outstanding.
            IdReused: HOF-208, a request of this id is under way.
        """
        size = pa.ipc.get_record_batch_size(batch) + len(metadata)
        pending = _Pending(Future(), size, self._clock())
        pending.future.set_running_or_notify_cancel()  # so that no waiter can cancel it
        with self._lock:
            self._admit(request_id)
            earlier = self._pending.pop(request_id, None)
            self._pending_bytes += size - (earlier.size if earlier else 0)
            fits = self._pending_bytes <= INLINE_BYTES_MAX
            self._pending[request_id] = pending
            self._sent += 1
            stream = self._stream if fits and not self._queued else None
            if stream is None:
                self._queued += 1
                self._queue.put((pending, batch, metadata))
        if stream is not None:
            try:
                with self._writing:
                    stream.write(batch, metadata)
            except HofError:
                self._queue.put(None)  # the reader hears why
        return pending.future

    def _admit(self, request_id: bytes) -> None:
        if self._error is not None:
            raise ConnectionLost(f"the stream has ended: {self._error.message}")
        earlier = self._pending.get(request_id)
        if earlier is not None and not earlier.abandoned:
            raise IdReused("a request with this id is under way", hint="one id, one request")
        if len(self._pending) >= OUTSTANDING_MAX:
            raise Overloaded(
                f"{OUTSTANDING_MAX} answers are outstanding on this stream",
                retry_after_ms=limits.retry_after_ms,
            )

    def give_up(self, request_id: bytes) -> None:
        """Nobody waits for this answer any more; ends the stream if it looks dead."""
        with self._lock:
            pending = self._pending.get(request_id)
            if pending is None:
                return
            pending.abandoned = True
            # In order of sending, so the first has waited longest.
            oldest = next(iter(self._pending.values()))
            silence_s = self._clock() - max(self._heard_s, oldest.sent_s)
            abandoned = sum(p.abandoned for p in self._pending.values())
        if silence_s > SILENCE_S_MAX or 2 * abandoned > OUTSTANDING_MAX:
            self.end(ConnectionLost(f"the server said nothing for {silence_s:.0f} s"))

    def end(self, error: HofError) -> None:
        """End the stream; what is pending gets an error."""
        self._finish(error)
        stream = self._stream
        if stream is not None:
            stream.cancel()

    def join(self, timeout_s: float) -> None:
        """Wait until the threads are gone, unless the connection is stuck."""
        if self._writer is not threading.current_thread():
            self._writer.join(timeout_s)

    def close(self) -> None:
        """Let the server end the stream; what is pending gets an error now."""
        self._finish(ConnectionLost("the client was closed"))

    def _write_all(self) -> None:
        try:
            stream = self._open_stream()
        except HofError as error:
            self._finish(error)
            return
        with self._lock:
            self._stream = stream
        self._reader.start()
        while (item := self._queue.get()) is not None and self._error is None:
            pending, batch, metadata = item
            try:
                if not pending.abandoned:
                    with self._writing:
                        stream.write(batch, metadata)
            except HofError:
                break  # the reader hears why
            with self._lock:
                self._queued -= 1
        self._say_goodbye(stream)

    def _say_goodbye(self, stream: Stream) -> None:
        try:
            with self._writing:
                stream.half_close()
        except HofError:
            stream.cancel()
        self._reader.join(GOODBYE_S)
        stream.cancel()
        self._reader.join()
        with self._writing:
            stream.close()

    def _read_all(self) -> None:
        stream = self._stream
        assert stream is not None
        error: HofError = ConnectionLost("reading answers failed")
        try:
            while (answer := stream.read()) is not None:
                meta = envelope.read_answer(answer[0])
                if meta.id is None:  # the server could not read which request this was
                    raise from_answer(meta)
                self._settle(meta.id, meta, answer[1])
            error = ConnectionLost("the server ended the stream")
        except HofError as reason:
            error = reason
        finally:
            self._finish(error)

    def _settle(self, request_id: bytes, meta: AnswerMeta, batch: pa.RecordBatch) -> None:
        with self._lock:
            self._answered = True
            self._heard_s = self._clock()
            pending = self._pending.pop(request_id, None)
            if pending is not None:
                self._pending_bytes -= pending.size
        # Without one: the second answer to a request that was sent again.
        if pending is not None:
            is_good = meta.code == envelope.OK
            pending.future.set_result((meta, batch) if is_good else from_answer(meta))

    def _finish(self, error: HofError) -> None:
        with self._lock:
            if self._error is None:
                self._error = error
            waiting = list(self._pending.values())
            self._pending.clear()
            # A stream refused as a whole ends before any answer. Later an end proves nothing about
            # what was under way: it may have been counted.
            is_refusal = not self._answered and (self._sent <= 1 or isinstance(error, _WHOLE))
        for pending in waiting:
            lost = ConnectionLost(f"the stream ended before the answer came: {error.message}")
            pending.future.set_result(again(error) if is_refusal else lost)
        self._queue.put(None)
