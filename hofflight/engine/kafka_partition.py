"""One Kafka partition's requests through an engine of its own.

The engine's log is what a repeated record is answered from: it has every request with its answer
and the offset of its record. What the log had at the start is not folded again.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeAlias

import pyarrow as pa

from hofflight.errors import BadRequest, HofError, TooLarge, WrongPartition
from hofflight.eventlog.protocol import Answer, Request
from hofflight.wire import envelope
from hofflight.wire.ipc import empty_message
from hofflight.wire.kafka_record import RequestHead
from hofflight.wire.key_hash import hash_columns, murmur2, partition_of, partitions_of
from hofflight.wire.keys import KeyCodec
from hofflight.wire.message import read_batch_header

if TYPE_CHECKING:
    from collections.abc import Callable

    from hofflight.engine.embedded import Engine
    from hofflight.engine.runner import Decoded, Runner
    from hofflight.eventlog.joins import Beside
    from hofflight.eventlog.protocol import Served
    from hofflight.wire.kafka_record import RequestRecord

# (view, request id, its `joined`): what its group's answer takes beside its own columns.
BesideOf: TypeAlias = "Callable[[Served, bytes, bytes], Beside]"
# (call, metadata, head, body) of an answer.
CallAnswer = tuple[int, bytes, bytes, bytes]
_NOTHING = empty_message(pa.schema([]))
_AHEAD_US = 300_000_000


class PartitionWorker:
    """Answers the records of one partition of every topic that a group reads.

    partitions: of each stream's topic, how many there are. beside_of: makes of what a server looked
    up for a request's rows what its answer takes.
    """

    def __init__(
        self, number: int, engine: Engine, partitions: dict[str, int], answer_bytes_max: int,
        beside_of: BesideOf | None = None,
    ) -> None:  # fmt: skip
        self.number = number
        self.engine = engine
        self._beside_of = beside_of
        self._answer_bytes_max = answer_bytes_max
        self.next_offset = {
            stream: engine.behind_kafka(stream, Here(number, count).require) + 1
            for stream, count in partitions.items()
        }

    def work(
        self, stream: str, offset: int, record: RequestRecord,
        done: Callable[[list[CallAnswer], str], None],
    ) -> None:  # fmt: skip
        """Answer a record's requests; `done` is called once, from any thread.

        It gets the answers, and the first code of a refusal (HOF-3xx), "" without one: what the
        engine refused is not answered but read again by the next start.
        """
        requests = self._requests(stream, offset, record, done)
        if requests:
            self.engine.submit(requests)

    def skip(
        self, stream: str, offset: int, record: RequestRecord,
        done: Callable[[list[CallAnswer], str], None], error: HofError,
    ) -> None:  # fmt: skip
        """Answer a record's requests with an error, and never count their rows."""
        requests = self._requests(stream, offset, record, done)
        if requests:
            self.engine.skip(requests, error)

    def repeats(self, stream: str, before: int) -> None:
        """Records before an offset come again: none counts that the log does not know by its id."""
        self.engine.repeats(stream, before)

    def _requests(
        self, stream: str, offset: int, record: RequestRecord,
        done: Callable[[list[CallAnswer], str], None],
    ) -> list[Request]:  # fmt: skip
        """A record's requests; those that are none are answered at once."""
        answering = _Answering(len(record.requests), self._answer_bytes_max, done)
        # A server with a wrong clock must not make ids old that came a moment ago.
        arrival_us = min(record.arrival_us, self.engine.clock.wall_us() + _AHEAD_US)
        requests = []
        for head, batch, body in record.requests:
            try:
                served = self._served(stream, head)
                _require_places(head, batch)
                beside = self._beside(served, head, batch)
            except HofError as error:
                answering.add(head, _refusal(head, error))
                continue
            requests.append(
                Request(
                    served,
                    batch,
                    body,
                    head.id,
                    answering.reply_to(head),
                    None,
                    head.store,
                    head.wants_answer,
                    beside=beside,
                    offset=offset,
                    arrival_us=arrival_us,
                    places=head.places,
                )
            )
        return requests

    def _served(self, stream: str, head: RequestHead) -> Served:
        served = self.engine.bind(head.view, head.version)
        if len(served.parts) > 1 or (served.stored and not served.parts):
            msg = f"view {head.view!r} is not answered by one group's worker"
            raise BadRequest(msg)
        own = self.engine.stream_of(served)
        if own != stream:
            msg = f"view {head.view!r} reads the events of {own}, not of {stream}"
            raise BadRequest(msg)
        return served

    def _beside(self, served: Served, head: RequestHead, batch: bytes) -> Beside | None:
        """What was looked up for a request of a view with stored groups.

        Raises: BadRequest (HOF-200), it is missing, or for other rows; MalformedBatch (HOF-203).
        """
        if not (served.stored and head.wants_answer):
            return None
        if self._beside_of is None or not head.joined:
            raise BadRequest(f"view {head.view!r} has stored groups, nothing was looked up")
        beside = self._beside_of(served, head.id, head.joined)
        rows = read_batch_header(batch).rows
        if len(beside.records) != rows:
            raise BadRequest(f"{rows} rows came, {len(beside.records)} were looked up")
        return beside


def _require_places(head: RequestHead, batch: bytes) -> None:
    """Raises: BadRequest (HOF-200), not each row is said which of the request's it is."""
    places = head.places
    if places and (len(places) != read_batch_header(batch).rows or len(places) != len({*places})):
        raise BadRequest("the rows are not those that the request says")


class Here:
    """Refuses rows whose key belongs to another partition: their windows are there."""

    def __init__(self, number: int, partitions: int) -> None:
        self._number = number
        self._partitions = partitions
        self._codecs: dict[int, tuple[KeyCodec, list[int]]] = {}

    def require(self, runner: Runner, decoded: Decoded) -> None:
        """Raises: WrongPartition (HOF-221). Rows without a key are somebody else's affair."""
        group = runner.group
        if group.version not in self._codecs:
            places = [group.input.names.index(name) for name in group.key]
            schema = pa.schema([group.input.field(place) for place in places])
            self._codecs[group.version] = KeyCodec(schema), places
        codec, places = self._codecs[group.version]
        if decoded.raw is not None:
            key = codec.encode([decoded.raw[place] for place in places])
            if key is not None and partition_of(murmur2(key), self._partitions) != self._number:
                raise self._wrong(0)
            return
        assert decoded.batch is not None
        keys = codec.encode_columns([decoded.batch.column(place) for place in places])
        if keys.null_count:
            return
        strangers = partitions_of(hash_columns(keys), self._partitions) != self._number
        if strangers.any():
            raise self._wrong(int(strangers.argmax()))

    def _wrong(self, row: int) -> WrongPartition:
        msg = f"row {row} does not belong to partition {self._number} of {self._partitions}"
        return WrongPartition(msg, hint="send no key_hash: the server finds the partition")


class _Answering:
    """The answers of one record, until all are there."""

    def __init__(
        self, size: int, answer_bytes_max: int, done: Callable[[list[CallAnswer], str], None]
    ) -> None:
        self._open = size
        self._bytes_max = answer_bytes_max
        self._done = done
        self._lock = threading.Lock()
        self._answers: list[CallAnswer] = []
        self._refused = ""

    def reply_to(self, head: RequestHead) -> Callable[[Answer], None]:
        """What an engine calls with the answer to one of them."""
        return lambda answer: self.add(head, answer)

    def add(self, head: RequestHead, answer: Answer) -> None:
        """One more."""
        meta = envelope.write(answer.meta)
        size = len(meta) + len(answer.head) + len(answer.body)
        if size > self._bytes_max:
            msg = f"the rows were counted, their answer has {size} bytes: too many for a record"
            answer = _refusal(head, TooLarge(msg, hint="ask for fewer rows at once"))
            meta = envelope.write(answer.meta)
        found = (head.call, meta, answer.head, answer.body)
        with self._lock:
            self._answers.append(found)
            if answer.meta.code.startswith("HOF-3"):
                self._refused = self._refused or answer.meta.code
            self._open -= 1
            is_last = not self._open
        if is_last:
            self._done(self._answers, self._refused)


def _refusal(head: RequestHead, error: HofError) -> Answer:
    meta = envelope.AnswerMeta(
        error.code, 1, head.id, head.view, head.version, error=error.message, hint=error.hint
    )
    return Answer(meta, *_NOTHING)
