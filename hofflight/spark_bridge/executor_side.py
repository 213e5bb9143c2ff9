"""What runs in Spark's Python workers: Arrow batches of Kafka records in, rows for the sink out.

    value, offset, timestamp (ms), headers  ->  topic, partition, value, headers

A record becomes one row or more with its answers, for the topic that its server reads; what is no
record becomes a dead letter; what was answered goes to the topics of features, once a second. No
record fails a task: it would come again, and again.

This room never imports pyspark, so that it is tested without.
"""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import pyarrow as pa

from hofflight.engine.answer_export import Followed, next_entries, records_of
from hofflight.engine.kafka_answers import awaited, cut, reason, requests_of
from hofflight.errors import BadRecord, TransformFailed, WorkerStopped
from hofflight.eventlog.topics import dead_letters, input_topic
from hofflight.observe.events import Events
from hofflight.wire.kafka_record import encode_answers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from hofflight.clock import Clock
    from hofflight.engine.answer_export import Outlet
    from hofflight.engine.kafka_partition import CallAnswer, PartitionWorker
    from hofflight.spark_bridge.state_store import Mark
    from hofflight.wire.kafka_record import Framing, Headers, RequestRecord

HEADERS: Final = pa.list_(pa.struct([("key", pa.string()), ("value", pa.binary())]))
OUTPUT: Final = pa.schema(
    [
        ("topic", pa.string()),
        ("partition", pa.int32()),
        ("value", pa.binary()),
        ("headers", HEADERS),
    ]
)
# As Spark writes it.
OUTPUT_DDL: Final = (
    "topic string, partition int, value binary, headers array<struct<key:string,value:binary>>"
)
_events = Events("hofflight.spark")
_EXPORT_S: Final = 1.0
_NO_NUDGE_RECORDS: Final = 20


class Place(NamedTuple):
    """A partition of an input topic. prefix: of all topics."""

    stream: str
    number: int
    prefix: str

    @property
    def topic(self) -> str:
        """Its topic."""
        return input_topic(self.stream, self.prefix)


class KafkaRow(NamedTuple):
    """A record as Spark hands it over; headers None where it has none."""

    offset: int
    timestamp_ms: int
    value: bytes | None
    headers: Headers


class SinkRow(NamedTuple):
    """A row for Spark's sink."""

    topic: str
    partition: int
    value: bytes | None
    headers: Headers


class Log(Followed, Protocol):
    """The part of an event log that a task needs."""

    def last_number(self) -> int:
        """Number of the last entry; 0 when empty."""
        ...

    def position_before(self, offset: int) -> int:
        """A position behind which is every entry of Kafka records from `offset` on."""
        ...


class State:
    """One partition's engine, and what follows its log. `abandon`: see `StateStore`.

    outlets: where answers go, by group version; none where they are not exported. sealed_to: the
    last entry that is sealed.
    """

    def __init__(
        self,
        worker: PartitionWorker,
        log: Log,
        stream: str,
        outlets: Mapping[int, Outlet],
        *,
        sealed_to: Callable[[], int],
        abandon: Callable[[], None],
    ) -> None:
        self.worker = worker
        self.log = log
        self.outlets = outlets
        self.sealed_to = sealed_to
        self.abandon = abandon
        self.logged = worker.next_offset[stream] - 1
        self.position: int | None = None  # of the last entry that was exported; None: unknown
        self.exported_number = 0


class PartitionTask:
    """One task: from a trigger's first record to its last. Thread: the worker's only one.

    refetch: gives the records of a range of offsets, as far as they are there.
    """

    def __init__(
        self,
        place: Place,
        state: State,
        mark: Mark,
        framing: Framing,
        reply_topics: frozenset[str],
        bytes_max: int,
        clock: Clock,
        refetch: Callable[[int, int], Iterable[KafkaRow]],
    ) -> None:
        self._place = place
        self._state = state
        self._mark = mark
        self._framing = framing
        self._reply_topics = reply_topics
        self._bytes_max = bytes_max
        self._clock = clock
        self._refetch = refetch
        self._exported_s = clock.monotonic_s()
        self._is_begun = self._is_behind = False
        self._nudges = self._records = 0

    def answer(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The sink's rows for a batch of records.

        Raises: WorkerStopped (HOF-514), a record cannot be counted now: the next try does.
        """
        rows = list(_rows_of(batch))
        if not rows:
            return _batch_of([])
        self._begin(rows[0].offset)
        made: list[SinkRow] = []
        one_by_one = rows[0].offset <= self._mark.alone_until
        for together in ([row] for row in rows) if one_by_one else [rows]:
            made += self._marked(together)
        now_s = self._clock.monotonic_s()
        if self._is_behind or now_s - self._exported_s >= _EXPORT_S:
            self._exported_s = now_s
            made += self._exported()
        self._warn_without_nudges(len(rows))
        return _batch_of(made)

    def rest(self) -> Iterator[pa.RecordBatch]:
        """What is left for the topics of features at the end of a trigger."""
        self._is_behind = self._is_begun
        while self._is_behind:
            yield _batch_of(self._exported())

    # --- the start of a trigger ---

    def _begin(self, offset: int) -> None:
        """See to what lies between this record and the last one."""
        if offset > self._mark.next:
            self._catch_up(offset)
        if self._is_begun:
            return
        self._is_begun = True
        state = self._state
        if state.position is not None and offset == self._mark.next:
            # What came before is committed: its answers are in their topics.
            state.worker.engine.trim(lambda _: min(state.sealed_to(), state.exported_number))
        else:
            state.worker.repeats(self._place.stream, self._mark.next)
            state.position = state.log.position_before(offset)

    def _catch_up(self, offset: int) -> None:
        """Fold the records that this host has never seen; nobody waits for their answers."""
        first = self._mark.next
        _events.warning("gap", topic=self._place.topic, partition=self._place.number,
                        first=first, last=offset - 1)  # fmt: skip
        for row in self._refetch(first, offset):
            self._marked([row])
        self._mark.next = offset  # what is left between are no records

    # --- records ---

    def _marked(self, rows: list[KafkaRow]) -> list[SinkRow]:
        """Work records, with a mark of it should that be the end of this process."""
        counters = self._state.worker.engine.counters
        before = counters.rows
        self._mark.begin(rows[0].offset, rows[-1].offset)
        try:
            made = self._answered(rows)
        except Exception:
            self._mark.give_up()
            raise
        self._mark.finish(self._state.log.last_number(), counters.rows - before)
        return made

    def _answered(self, rows: list[KafkaRow]) -> list[SinkRow]:
        """Work records together; gives what leaves, as it comes."""
        done: queue.SimpleQueue[tuple[int, list[CallAnswer], str]] = queue.SimpleQueue()
        found: dict[int, RequestRecord] = {}
        letters: list[SinkRow] = []
        for place, row in enumerate(rows):
            try:
                record = requests_of(self._framing, row.value, row.headers, self._reply_topics)
            except BadRecord as error:
                letters.append(self._letter(row, error))
                continue
            if record is None:
                self._nudges += 1
                continue
            found[place] = record
            self._work(row.offset, record, _into(done, place))
        # All of them, also behind a refusal: nothing may be at work when the lock is let go.
        outcomes = [done.get() for _ in found]
        made: list[SinkRow] = []
        for place, answers, refused in outcomes:
            if refused:
                msg = f"record {rows[place].offset} of {self._place.topic} could not be counted"
                raise WorkerStopped(f"{msg}: {refused}", hint="it is tried again")
            record = found[place]
            wanted = awaited(record, answers, self._clock.wall_us())
            parts = cut(wanted, self._bytes_max) if wanted else []
            made += [SinkRow(record.reply, 0, *encode_answers(record.epoch, p)) for p in parts]
        return made + letters

    def _work(
        self, offset: int, record: RequestRecord, done: Callable[[list[CallAnswer], str], None]
    ) -> None:
        worker, stream = self._state.worker, self._place.stream
        if self._mark.is_deadly(offset):
            error = TransformFailed("the worker's process ended twice while it worked these rows")
            worker.skip(stream, offset, record, done, error)
        else:
            worker.work(stream, offset, record, done)

    def _letter(self, row: KafkaRow, error: BadRecord) -> SinkRow:
        place = self._place
        _events.warning("dead_letter", topic=place.topic, partition=place.number,
                        offset=row.offset, error=error.message)  # fmt: skip
        why = reason(error, place.topic, place.number, row.offset, row.timestamp_ms)
        kept = row.headers
        value = row.value
        size = sum(len(name.encode()) + len(text or b"") for name, text in kept)
        if len(value or b"") + size > self._bytes_max:
            kept, value = [], None  # it came compressed, and is too large as it is
        return SinkRow(dead_letters(place.prefix), 0, value, [*kept, *why])

    # --- features ---

    def _exported(self) -> list[SinkRow]:
        """Some of the answers in the log that are not in the topics of features yet."""
        state = self._state
        found, self._is_behind = next_entries(state.log, state.position or 0)
        if not found:
            return []
        entries = [entry for _, entry in found]
        state.position, state.exported_number = found[-1][0], entries[-1].meta.number
        return [
            SinkRow(topic, self._place.number, value, headers)
            for topic, value, headers in records_of(entries, state.outlets)
        ]

    def _warn_without_nudges(self, records: int) -> None:
        if self._records < _NO_NUDGE_RECORDS <= self._records + records and not self._nudges:
            hint = "answers wait for the next record: serve with --nudge"
            _events.warning("no_nudges", topic=self._place.topic, hint=hint)
        self._records += records


def _into(
    done: queue.SimpleQueue[tuple[int, list[CallAnswer], str]], place: int
) -> Callable[[list[CallAnswer], str], None]:
    """What is called from any thread, with a record's answers."""
    return lambda answers, refused: done.put((place, answers, refused))


def _rows_of(batch: pa.RecordBatch) -> Iterator[KafkaRow]:
    columns = [batch.column(n).to_pylist() for n in ("offset", "timestamp", "value", "headers")]
    for offset, timestamp, value, headers in zip(*columns, strict=True):
        yield KafkaRow(offset, timestamp, value, _pairs(headers))


def _pairs(headers: list[dict[str, Any]] | None) -> Headers:
    return [(one["key"], one["value"]) for one in headers or ()]


def _batch_of(rows: list[SinkRow]) -> pa.RecordBatch:
    plain = [
        (topic, partition, value, [{"key": n, "value": v} for n, v in headers])
        for topic, partition, value, headers in rows
    ]
    columns = zip(*plain, strict=True) if plain else ([] for _ in OUTPUT)
    arrays = [pa.array(c, field.type) for c, field in zip(columns, OUTPUT, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=OUTPUT)
