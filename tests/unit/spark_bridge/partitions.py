"""A partition as Spark works it, without Spark: a topic, Python workers that die, a sink."""

import shutil
from collections import defaultdict
from contextlib import contextmanager

import pyarrow as pa

from hofflight.engine.answer_export import Outlet
from hofflight.engine.embedded import Engine
from hofflight.engine.kafka_partition import PartitionWorker
from hofflight.eventlog.local import LocalLog, SyncThread
from hofflight.eventlog.topics import features_topic, reply_topics
from hofflight.features.registry import Registry
from hofflight.features.sqlite import SqliteDatabase
from hofflight.replay.answer_records import AnswerRecords
from hofflight.settings import EngineSettings, KafkaSettings, LogSettings
from hofflight.spark_bridge.executor_side import (
    HEADERS,
    OUTPUT,
    KafkaRow,
    PartitionTask,
    Place,
    SinkRow,
    State,
)
from hofflight.spark_bridge.state_store import StateStore
from hofflight.wire import envelope
from hofflight.wire.ipc import encode_batch, join_message
from hofflight.wire.kafka_record import NUDGE, Framing, RequestHead, decode_answers
from tests.unit.kafka_engines import id_of
from tests.unit.kafka_fakes import WALL_US, FakeClock

IN, DLQ, REPLIES, FEATURES = "hof.in.g.1", "hof.dlq", "hof.reply.00", "hof.features.g.1"
# As Spark's source hands them over.
INPUT = pa.schema(
    [
        ("value", pa.binary()),
        ("offset", pa.int64()),
        ("timestamp", pa.int64()),
        ("headers", HEADERS),
    ]
)


class Killed(BaseException):
    """A process ends here: no handler of errors runs in one that is killed."""


class Answered:
    """An answer as it reached its topic."""

    def __init__(self, head, batch, body):
        self.call = head.call
        self.meta = envelope.read_answer(head.meta)
        self.head, self.body = batch, body


class World:
    """A topic of one partition, and the directory that its workers' state is in.

    rows: what reached each topic, by name. open_log: what makes a worker's log.
    """

    def __init__(self, directory, *groups, bytes_max=1 << 20, open_log=LocalLog, clock=None,
                 segment_bytes=None, partitions=1, **engine):  # fmt: skip
        self.directory = directory
        self.groups = groups
        self.group = groups[0]
        self.bytes_max = bytes_max
        self.partitions = partitions
        self.clock = clock or FakeClock()
        self.task_clock = self.clock
        self.topic = []
        self.next_offset = 0
        self.sealed_to = 0
        self.outlets = True
        self.settings = EngineSettings(**engine)
        self.log_settings = LogSettings()
        if segment_bytes is not None:  # below what a user may set: tests rotate often
            changed = {"segment_bytes_max": segment_bytes}
            self.log_settings = self.log_settings.model_copy(update=changed)
        self.open_log = open_log
        self.registry = Registry(SqliteDatabase(None))
        for group in groups:  # all versions read one stream
            saved = self.registry.save_group(group, module="", created_us=0)
        self.stream = saved.partition
        self.place = Place(self.stream, 0, "hof")
        self.framing = Framing(self.group.input)
        self.rows = defaultdict(list)
        self.refetched = []
        self._workers = []

    @property
    def log_path(self):
        return self.directory / "log" / self.stream

    def put(self, value, headers):
        """A record of anybody; gives its offset."""
        offset = self.next_offset
        self.topic.append(KafkaRow(offset, 1_700 + offset, value, headers))
        self.next_offset += 1
        return offset

    def ask(self, *requests, arrival_us=None, reply=REPLIES, epoch=7):
        """A record of requests: (number, rows) or (number, rows, changes) each."""
        heads = []
        for number, batch, *more in requests:
            message = join_message(*encode_batch(batch))
            fields = {"view": self.group.name, "version": 1, **(more[0] if more else {})}
            fields = {"call": number, "id": id_of(number), **fields}
            heads.append((RequestHead(size=len(message), **fields), message))
        arrival_us = WALL_US + self.next_offset if arrival_us is None else arrival_us
        return self.put(*self.framing.encode(arrival_us, reply, epoch, heads))

    def nudge(self):
        return self.put(None, NUDGE)

    def between(self, begin, end):
        """The records of a range of offsets; noted, as a task asks for what it missed."""
        self.refetched.append((begin, end))
        return self.slice(begin, end)

    def slice(self, begin, end):
        return [row for row in self.topic if begin <= row.offset < end]

    def worker(self, **store):
        """Another Python worker."""
        worker = Worker(self, **store)
        self._workers.append(worker)
        return worker

    def trigger(self, worker, begin=0, end=None, size=None):
        """Work the records of a trigger to its end, and send what comes of it; what was sent.

        size: of the batches, None for all in one.
        """
        sent = []
        for rows in worker.run(self.slice(begin, self.next_offset if end is None else end), size):
            self.send(rows)
            sent += rows
        return sent

    def send(self, rows):
        for row in rows:
            self.rows[row.topic].append(row)

    def answers(self, topic=REPLIES):
        """Everything that reached a topic of answers, in order."""
        return answers_of(self.rows[topic])

    def codes(self, topic=REPLIES):
        return [(answer.call, answer.meta.code) for answer in self.answers(topic)]

    def exported(self, topic=FEATURES):
        """Every row that reached a topic of features."""
        found = [pa.ipc.open_stream(row.value).read_all() for row in self.rows[topic]]
        return [row for table in found for row in table.to_pylist()]

    def close(self):
        for worker in self._workers:
            worker.kill()
        self.registry.close()
        shutil.rmtree(self.directory, ignore_errors=True)  # a log keeps 16 MiB of room


class Worker:
    """A Python worker of Spark's, as `assemble_executor` puts one together."""

    def __init__(self, world, **store):
        self.world = world
        self.opened = []
        self.store = StateStore(world.log_path, self._open, **store)

    def _open(self):
        world = self.world
        sync = SyncThread(world.log_settings)
        log = world.open_log(world.log_path, sync, world.log_settings)
        engine = Engine(
            world.registry, lambda _: log, world.directory / "snapshots", world.clock,
            world.settings,
        )  # fmt: skip
        for group in world.groups:
            engine.load(group)

        def abandon():
            engine.abandon()
            log.abandon()
            sync.stop()

        outlets = {}
        for group in world.groups if world.outlets else ():
            full = world.registry.group(group.name, group.version).schema
            records = AnswerRecords(group.name, group.version, full, world.bytes_max)
            outlets[group.version] = Outlet(features_topic(group.name, group.version), records, -1)
        partition = PartitionWorker(0, engine, {world.stream: world.partitions}, world.bytes_max)
        state = State(
            partition, log, world.stream, outlets, abandon=abandon,
            sealed_to=lambda: world.sealed_to,
        )  # fmt: skip
        self.opened.append(state)
        return state

    @property
    def engine(self):
        return self.opened[-1].worker.engine

    @contextmanager
    def task(self):
        """A task's hold on the partition; gives the task."""
        world = self.world
        with self.store.held() as (state, mark):
            yield PartitionTask(
                world.place, state, mark, world.framing, frozenset(reply_topics(KafkaSettings())),
                world.bytes_max, world.task_clock, world.between,
            )  # fmt: skip

    def run(self, records, size=None):
        """The rows for the sink, batch by batch, as `answer_partition` gives them."""
        with self.task() as task:
            for start in range(0, len(records), size or len(records) or 1):
                yield rows_of(
                    task.answer(batch_of(records[start : start + (size or len(records))]))
                )
            for batch in task.rest():
                yield rows_of(batch)

    def kill(self):
        """Nothing is written; the files are let go of, as a dead process's are."""
        for state in self.opened:
            state.abandon()
        self.opened = []


def batch_of(records):
    """Records as an Arrow batch of Spark's source."""
    columns = [
        [record.value for record in records],
        [record.offset for record in records],
        [record.timestamp_ms for record in records],
        [
            [{"key": n, "value": v} for n, v in record.headers] if record.headers else None
            for record in records
        ],
    ]
    arrays = [pa.array(c, f.type) for c, f in zip(columns, INPUT, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=INPUT)


def rows_of(batch):
    """A batch for Spark's sink as rows."""
    assert batch.schema == OUTPUT
    return [
        SinkRow(row["topic"], row["partition"], row["value"],
                [(h["key"], h["value"]) for h in row["headers"]])
        for row in batch.to_pylist()
    ]  # fmt: skip


def answers_of(rows):
    """The answers of rows for topics of answers."""
    found = []
    for row in rows:
        if row.topic.startswith("hof.reply."):
            record = decode_answers(row.value, row.headers)
            found += [Answered(*one) for one in record.answers]
    return found
