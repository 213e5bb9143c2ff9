"""One stream of batches: read, admit, hand over, await, write; DoExchange and DoPut."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final

import grpc

from hofflight import limits
from hofflight.errors import HofError, MalformedBatch, TooLarge
from hofflight.eventlog.protocol import Answer, Request, Served
from hofflight.server.opening import parse_data, read_schema, view_of
from hofflight.server.status import incident
from hofflight.server.streams import READING, WORKING, WRITING
from hofflight.wire import envelope
from hofflight.wire.flight_pb2 import FlightData, PutResult
from hofflight.wire.ipc import empty_message, encode_schema
from hofflight.wire.message import RECORD_BATCH, message_kind, read_batch_header
from hofflight.wire.schema import require_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hofflight.server.microbatch import MicroBatcher
    from hofflight.server.replies import Replies
    from hofflight.server.shared import Shared
    from hofflight.server.streams import Stream

EOF = grpc.aio.EOF
# Of a hundred columns; `layouts_max` of them are 4 MiB. A longer header is read each time.
_HEAD_CACHED_BYTES_MAX: Final = 4 * limits.KIB


@dataclass
class Opened:
    """What a stream was opened for. deadline_s: the call's own deadline, on the monotonic clock."""

    served: Served
    wants_answer: bool
    deadline_s: float | None

    @cached_property
    def nothing(self) -> tuple[bytes, bytes]:
        """Head and body of zero rows."""
        return empty_message(self.served.output_schema)


class Exchange:
    """Answers the batches of streams, each stream's one after the other and in order.

    A client that does not read blocks its own stream's write, so nothing more is read from it.
    """

    def __init__(self, shared: Shared, batcher: MicroBatcher, replies: Replies) -> None:
        self._shared = shared
        self._batcher = batcher
        self._replies = replies
        self._rows: dict[bytes, int] = {}

    async def run(self, stream: Stream, first: Any) -> None:
        """DoExchange: the schema of the answers, then one answer a batch."""
        opened = await self._open(stream, first, wants_answer=True)
        if opened is not None:
            head = encode_schema(opened.served.output_schema)
            stream.state = WRITING
            await stream.context.write(FlightData(data_header=head).SerializeToString())
            await self._serve(stream, opened, _answer_frame)

    async def put(self, stream: Stream, first: Any) -> None:
        """DoPut: events without answers; one small PutResult a batch says whether they count."""
        opened = await self._open(stream, first, wants_answer=False)
        if opened is not None:
            await self._serve(stream, opened, _put_frame)

    async def _open(self, stream: Stream, first: Any, *, wants_answer: bool) -> Opened | None:
        served = self._shared.worker.bind(*view_of(first.flight_descriptor))
        schema = await read_schema(stream, first)
        if schema is None:
            return None
        require_schema(served.input_schema, schema)
        left_s = stream.context.time_remaining()
        deadline_s = None if left_s is None else self._shared.clock.monotonic_s() + left_s
        return Opened(served, wants_answer, deadline_s)

    async def _serve(
        self, stream: Stream, opened: Opened, frame: Callable[[Answer], bytes]
    ) -> None:
        read, shared = stream.context.read, self._shared
        stats, admission, streams = shared.stats, shared.admission, shared.streams
        while streams.ending is None:
            stream.state = READING
            raw = await read()
            if raw is EOF:
                return
            stream.state = WORKING
            size = len(raw)
            stats.requests += 1
            stats.bytes_in += size
            data = parse_data(raw)
            rows = self._rows_of(data.data_header)
            reply = self._replies.expect()
            try:
                request = self._request(opened, data, reply)
                admission.admit(rows, size)
            except HofError as error:
                await self._write(stream, frame(self._refusal(opened, data, error)))
                continue
            try:
                alone = len(streams.open) == 1 or not opened.served.gains_from_company
                self._batcher.put(request, alone=alone)
                answer = await reply.wait()
                if answer.meta.code != envelope.OK:
                    self._count_error(answer.meta.code)
                await self._write(stream, frame(answer))
            finally:
                # Until the answer is written it is memory; without an answer the worker holds it.
                reply.when_done(partial(admission.release, rows, size))
        raise streams.ending

    async def _write(self, stream: Stream, message: bytes) -> None:
        stream.state = WRITING
        await stream.context.write(message)
        stream.written += 1
        self._shared.stats.answers += 1
        self._shared.stats.bytes_out += len(message)

    def _request(self, opened: Opened, data: Any, reply: Callable[[Answer], None]) -> Request:
        head = data.data_header
        if not head:
            msg = "the message has metadata but no record batch"
            raise MalformedBatch(msg)
        meta = envelope.read_request(data.app_metadata)
        deadline_s = opened.deadline_s
        if meta.deadline_ms is not None:
            own_s = self._shared.clock.monotonic_s() + meta.deadline_ms / 1_000
            deadline_s = own_s if deadline_s is None else min(own_s, deadline_s)
        return Request(
            opened.served, head, data.data_body, meta.id or self._shared.new_id(), reply,
            deadline_s, meta.store, opened.wants_answer, meta.keys, key_hash=meta.key_hash,
        )  # fmt: skip

    def _rows_of(self, head: bytes) -> int:
        """Rows that a header announces; 1 for a header the worker will refuse.

        Raises:
            MalformedBatch: HOF-203, a schema or dictionary where a batch should be.
        """
        rows = self._rows.get(head)
        if rows is not None:
            return rows
        try:
            rows = max(1, read_batch_header(head).rows)
        except (MalformedBatch, TooLarge):
            if _is_other_message(head):
                raise
            return 1
        if rows > limits.request_rows_max:
            return 1
        if len(head) <= _HEAD_CACHED_BYTES_MAX:
            if len(self._rows) >= limits.layouts_max:
                self._rows.clear()
            self._rows[head] = rows
        return rows

    def _refusal(self, opened: Opened, data: Any, error: HofError) -> Answer:
        self._count_error(error.code)
        return refusal(opened, error, _id_of(data.app_metadata))

    def _count_error(self, code: str) -> None:
        self._shared.stats.errors += 1
        self._shared.stats.refused += code.startswith("HOF-3")


def submit_guarded(shared: Shared) -> Callable[[Sequence[Request]], None]:
    """`worker.submit` for which "never raises" is true: a bug is an answer to each request."""

    def submit(requests: Sequence[Request]) -> None:
        try:
            shared.worker.submit(requests)
        except Exception as bug:
            shared.stats.incidents += 1
            error = incident(bug, shared.log, shared.new_id, "submit")
            for request in requests:
                opened = Opened(request.served, request.wants_answer, None)
                request.reply(refusal(opened, error, request.id))

    return submit


def refusal(opened: Opened, error: HofError, request_id: bytes | None) -> Answer:
    """An answer without rows that says why."""
    served = opened.served
    meta = envelope.AnswerMeta(
        error.code, id=request_id, view=served.view, version=served.version,
        code_hash=served.code_hash, error=error.message, hint=error.hint,
        retry_after_ms=error.retry_after_ms,
    )  # fmt: skip
    return Answer(meta, *opened.nothing)


def _id_of(metadata: bytes) -> bytes | None:
    """The request id of a refused request, where its metadata can be read at all."""
    try:
        return envelope.read_request(metadata).id
    except HofError:
        return None


def _is_other_message(head: bytes) -> bool:
    try:
        return bool(head) and message_kind(head) != RECORD_BATCH
    except (MalformedBatch, TooLarge):
        return False


def _answer_frame(answer: Answer) -> bytes:
    data = FlightData(
        data_header=answer.head,
        app_metadata=envelope.write(answer.meta),
        data_body=answer.body,
    )
    return data.SerializeToString()


def _put_frame(answer: Answer) -> bytes:
    return PutResult(app_metadata=envelope.write(answer.meta)).SerializeToString()
