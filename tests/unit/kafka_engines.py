"""Registries, engines and requests of Kafka's two sides, in a directory of the test's own."""

import queue
import shutil

import pyarrow as pa

from hofflight.engine.embedded import Engine
from hofflight.eventlog.local import LocalLog, SyncThread
from hofflight.eventlog.protocol import Request
from hofflight.features.registry import Registry
from hofflight.features.sqlite import SqliteDatabase
from hofflight.features.view import declare_view
from hofflight.settings import EngineSettings, KafkaSettings, LogSettings
from hofflight.wire import envelope
from hofflight.wire.ipc import encode_batch, join_message
from hofflight.wire.kafka_record import Framing, RequestHead, RequestRecord
from hofflight.wire.key_hash import murmur2, partition_of
from hofflight.wire.keys import KeyCodec
from tests.unit.engine.conftest import S, copy_sparse, make_group

CODEC = KeyCodec(pa.schema([("card", pa.int64())]))
SETTINGS = KafkaSettings()
INPUT = make_group().input


def hash_of(card):
    return murmur2(CODEC.encode([card]))


def cards_of(partition, partitions, count=5):
    """The first cards whose partition this is."""
    found = (card for card in range(10_000) if partition_of(hash_of(card), partitions) == partition)
    return [next(found) for _ in range(count)]


def batch_of(*rows):
    """Rows are (card, second) or (card, second, x)."""
    values = [
        {"card": row[0], "ts": None if row[1] is None else row[1] * S, "x": (*row, 1)[2]}
        for row in rows
    ]
    return pa.RecordBatch.from_pylist(values, schema=INPUT)


def id_of(number):
    return number.to_bytes(16, "big")


def request_of(served, *rows, number=1, reply=lambda answer: None, **fields):
    head, body = encode_batch(batch_of(*rows))
    return Request(served, head, body, id_of(number), reply, **fields)


def values_of(answer, schema):
    """The rows of an answer as plain values."""
    message = pa.py_buffer(join_message(answer.head, answer.body))
    return pa.ipc.read_record_batch(message, schema).to_pylist()


def meaning_of(answer):
    """All of an answer but how long it took, and the bytes of a refusal's empty batch."""
    meta = {name: getattr(answer.meta, name) for name in answer.meta.__struct_fields__}
    del meta["timings_us"]
    is_ok = answer.meta.code == envelope.OK
    return meta, (answer.head, answer.body) if is_ok else None


def heads_of(*requests, view="g", version=1):
    """(head, message) of each (number, rows) or (number, rows, changes)."""
    found = []
    for number, rows, *more in requests:
        batch = rows if isinstance(rows, pa.RecordBatch) else batch_of(*rows)
        message = join_message(*encode_batch(batch))
        fields = {"call": number, "id": id_of(number), "view": view, "version": version}
        fields |= more[0] if more else {}
        found.append((RequestHead(size=len(message), **fields), message))
    return found


def bytes_of(*requests, arrival_us=5, reply="hof.reply.00", epoch=7, **view):
    """Value and headers of a record of requests."""
    return Framing(INPUT).encode(arrival_us, reply, epoch, heads_of(*requests, **view))


def record_of(*requests, **fields) -> RequestRecord:
    """The same, decoded."""
    return Framing(INPUT).decode(*bytes_of(*requests, **fields))


def answers_of(answers):
    """{call: Answer} of what a PartitionWorker gave."""
    found = {}
    for call, meta, head, body in answers:
        assert call not in found, f"call {call} was answered twice"
        found[call] = envelope.AnswerMeta, envelope.read_answer(meta), head, body
    return {call: _Answer(meta, head, body) for call, (_, meta, head, body) in found.items()}


class _Answer:
    def __init__(self, meta, head, body):
        self.meta, self.head, self.body = meta, head, body

    @property
    def code(self):
        return self.meta.code


class Engines:
    """Opens engines on stores of their own, of one registry."""

    def __init__(self, directory, clock, durability="interval"):
        self.directory = directory
        self.clock = clock
        self.registry = Registry(SqliteDatabase(None))
        self._log = LogSettings(durability=durability)
        self._sync = SyncThread(self._log)
        self._opened = []
        self._copies = 0

    def register(self, *groups):
        for group in groups:
            self.registry.save_group(group, module="", created_us=0)

    def view(self, name, features, *groups):
        by_name = {(g.name, v): g for g in groups for v in (g.version, None)}
        view = declare_view(name, 1, features, (), lambda n, v: by_name[n, v])
        self.registry.save_view(view, created_us=0)

    def open(self, *groups, store="store", **settings):
        self.register(*groups)
        path = self.directory / store

        def open_log(stream):
            return LocalLog(path / "log" / stream, self._sync, self._log)

        engine = Engine(
            self.registry, open_log, path / "snapshots", self.clock, EngineSettings(**settings)
        )
        self._opened.append(engine)
        for group in groups:
            engine.load(group)
        return engine

    def crashed(self, *groups, store="store", **settings):
        """An engine on what a kill at this moment would have left of a store."""
        self._copies += 1
        copy = f"crashed{self._copies}"
        if (self.directory / store).exists():
            source, target = self.directory / store, self.directory / copy
            shutil.copytree(source, target, copy_function=copy_sparse)
        return self.open(*groups, store=copy, **settings)

    def close(self):
        for engine in self._opened:
            engine.close()
        self._sync.stop()
        self.registry.close()


def log_of(engine, stream="g.1"):
    """Metadata of every entry of a log."""
    return [entry.meta for _, entry in engine._works[stream].partition.log.read()]


def state_of(engine, *cards, stream="g.1", at=3_000):
    """The count of each card, as a peek finds it; its own row not counted."""
    served = engine.bind(stream.split(".")[0], None)
    found = {}
    for card in cards:
        partition = engine._works[stream].partition
        require_here, partition.require_here = partition.require_here, None
        got = queue.SimpleQueue()
        engine.submit([request_of(served, (card, at), number=9, reply=got.put, store=False)])
        (row,) = values_of(got.get(timeout=20), served.output_schema)
        partition.require_here = require_here
        found[card] = row[f"{served.group}.n"] - 1
    return found


def foreign_replies(own, dlq):
    """Good requests whose answers must not go where they say, by what that is."""
    topics = {
        "a topic that is no reply topic": "orders",
        "its own topic": own,
        "the dead letters": dlq,
        "a reply topic that is not there": "hof.reply.99",
        "a path": "hof.reply.00/../x" + "y" * 5_000,
        "an empty reply topic": "",
    }
    return {name: bytes_of((1, [(7, 1)]), reply=topic) for name, topic in topics.items()}
