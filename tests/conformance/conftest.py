"""What a conformance suite runs: the same cases over every implementation there is."""

from concurrent.futures import Future

import pyarrow as pa
import pytest

import hofflight as hof
from hofflight.clock import SystemClock
from hofflight.engine.embedded import Engine as KafkaEngine
from hofflight.engine.kafka_partition import PartitionWorker
from hofflight.eventlog.local import LocalLog, SyncThread
from hofflight.features.registry import Registry
from hofflight.features.sqlite import SqliteDatabase
from hofflight.features.view import implicit_view
from hofflight.replay.transformed import Transformation
from hofflight.replay.windowed import How, database, windowed
from hofflight.settings import EngineSettings, LogSettings
from hofflight.testing.postgres import postgres_server
from hofflight.wire.envelope import read_answer
from hofflight.wire.ipc import encode_batch, join_message
from hofflight.wire.kafka_record import Framing, RequestHead, decode_answers, encode_answers
from hofflight.wire.rows import to_batch
from tests.conformance.registries import PostgresPlace, SqlitePlace
from tests.unit.spark_bridge.partitions import World

# --- engines: (group, rows) -> (late, overflowed windows, {column: value}) of each row


def outcome(late, overflow, row):
    return late, sorted(overflow), row


def by_vectors(group, rows, directory, size):
    """Through `hof.open`, `size` rows a request."""
    found = []
    with hof.open(directory / "store") as app:
        app.register(group)
        for start in range(0, len(rows), size):
            vector = app.vector(group.name, rows[start : start + size])
            for number, row in enumerate(vector.batch.to_pylist()):
                over = []
                for name, status in vector.status.items():
                    per_row = status if isinstance(status, list) else [status] * len(vector.late)
                    if per_row[number] == "OVERFLOW":
                        over.append(name.split(".")[1])
                plain = {name.split(".", 1)[1]: value for name, value in row.items()}
                found.append(outcome(vector.late[number], over, plain))
    return found


def embedded_rows(group, rows, directory):
    return by_vectors(group, rows, directory, 1)


def embedded_batches(group, rows, directory):
    return by_vectors(group, rows, directory, 3)


def embedded_restarts(group, rows, directory):
    """Closed and opened again before each row: from snapshot and log, never from memory."""
    found = []
    for row in rows:
        found += by_vectors(group, [row], directory, 1)
    return found


def testing_run(group, rows, directory):
    run = hof.testing.run(group, rows, batch_rows=[1, 2])
    plain = run.table.to_pylist()
    return [outcome(*one) for one in zip(run.late, run.overflow, plain, strict=True)]


def replayed(group, rows, directory, engine):
    """Served, then replayed from the log; in the order in which they were sent."""
    with hof.open(directory / "store") as app:
        app.register(group)
        for row in rows:
            app.vector(group.name, row)
        transformation = Transformation(group)
        question = transformation.preparation.question
        parts = [transformation.apply(p.rows) for p in app.offline().history(group.name).parts()]
        kept = ["_arrival", *question.schema.names, *group.transformed]
        batches = [part.select(kept) for part in parts]
        with database(hof.load_settings().replay) as db:
            found = windowed(db, iter(batches), batches[0].schema, question, How(engine))
            table = pa.Table.from_batches(list(found)).sort_by("_seq")
    batch = table.combine_chunks().to_batches()[0]
    columns = {name: batch.column(name) for name in (*group.transformed, *group.windows)}
    columns |= transformation.derive(batch)
    late, sums = batch.column("_late").to_pylist(), question.sums_integers
    overflow = [[name for name in sums if row[f"_overflow_{name}"]] for row in batch.to_pylist()]
    plain = pa.table(columns).to_pylist()
    return [outcome(*one) for one in zip(late, overflow, plain, strict=True)]


def duckdb_replay(group, rows, directory):
    return replayed(group, rows, directory, "duckdb")


def kernel_replay(group, rows, directory):
    return replayed(group, rows, directory, "kernel")


def kafka_worker(group, rows, directory):
    """As records of a partition, two requests each, worked and answered as `hof worker` does."""
    return list(records_worked(group, rows, directory))


def records_worked(group, rows, directory):
    registry = Registry(SqliteDatabase(directory / "registry.sqlite"))
    record = registry.save_group(group, module="", created_us=1)
    sync = SyncThread(LogSettings())
    engine = KafkaEngine(
        registry, lambda stream: LocalLog(directory / stream, sync, LogSettings()),
        directory / "snapshots", SystemClock(), EngineSettings(),
    )  # fmt: skip
    try:
        engine.load(group)
        worker = PartitionWorker(0, engine, {record.partition: 1}, 1 << 20)
        framing = Framing(group.input)
        for offset, start in enumerate(range(0, len(rows), 2)):
            asked = []
            for number, row in enumerate(rows[start : start + 2], start=start):
                message = join_message(*encode_batch(to_batch(row, group.input)))
                id_ = number.to_bytes(16, "big")
                head = RequestHead(number, id_, len(message), group.name, group.version)
                asked.append((head, message))
            value, headers = framing.encode(SystemClock.wall_us(), "hof.reply.00", 1, asked)
            answered = Future()
            worker.work(
                record.partition, offset, framing.decode(value, headers),
                lambda answers, refused, answered=answered: answered.set_result(answers),
            )  # fmt: skip
            answers = decode_answers(*encode_answers(1, answered.result(10))).answers
            for found in sorted(answers, key=lambda one: one[0].call):
                head, batch, body = found
                yield worker_outcome(group, read_answer(head.meta), batch, body)
    finally:
        engine.close()
        sync.stop()
        registry.close()


def spark_worker(group, rows, directory):
    """As Arrow batches of Spark's, two requests a record; by another Python worker now and then."""
    world = World(directory, group, clock=SystemClock())
    try:
        for start in range(0, len(rows), 2):
            asked = enumerate(rows[start : start + 2], start=start)
            world.ask(*((number, to_batch(row, group.input)) for number, row in asked))
        worker = world.worker()
        for offset in range(world.next_offset):
            if offset % 3 == 2:
                worker.kill()
                worker = world.worker()
            world.trigger(worker, offset, offset + 1)
        answers = sorted(world.answers(), key=lambda answer: answer.call)
        return [worker_outcome(group, one.meta, one.head, one.body) for one in answers]
    finally:
        world.close()


def worker_outcome(group, meta, batch, body):
    assert meta.code == "OK", meta.error
    over = [name.split(".")[1] for name, status in meta.status.items() if status == "OVERFLOW"]
    schema = implicit_view(group).schema(group)
    (row,) = pa.ipc.read_record_batch(pa.py_buffer(join_message(batch, body)), schema).to_pylist()
    return outcome(meta.late, over, {n.split(".", 1)[1]: v for n, v in row.items()})


ENGINES = {
    "embedded one row at a time": embedded_rows,
    "embedded batches": embedded_batches,
    "embedded with a restart before each row": embedded_restarts,
    "testing.run": testing_run,
    "kernel replay": kernel_replay,
    "duckdb replay": duckdb_replay,
    "kafka worker": kafka_worker,
    "spark worker": spark_worker,
}


# DuckDB adds floats its own way: equal within 1e-12 of the sum of |x|, which these cases bound.
TOLERANCES = {duckdb_replay: 1e-12}


class Engine:
    """Answers rows with a group; `tolerance` 0: to the bit."""

    def __init__(self, answer, directory):
        self._answer = answer
        self._directory = directory
        self.tolerance = TOLERANCES.get(answer, 0)

    def __call__(self, group, rows):
        return self._answer(group, rows, self._directory)


@pytest.fixture(params=ENGINES.values(), ids=ENGINES.keys())
def engine(request, tmp_path):
    """Every engine there is; a new store for each test."""
    return Engine(request.param, tmp_path)


# --- logs -----------------------------------------------------------------------------------------


class LocalLogs:
    """The embedded log; `again` opens the same directory as a restarted process would."""

    def __init__(self, directory, **settings):
        self._directory = directory
        self._settings = LogSettings(**settings)
        self._opened = []

    def open(self):
        sync = SyncThread(self._settings)
        log = LocalLog(self._directory / "log", sync, self._settings)
        self._opened.append((log, sync))
        return log

    def close(self):
        for log, sync in self._opened:
            sync.stop()
            log.close()


LOGS = {
    "local, interval": LocalLogs,
    "local, batch": lambda directory: LocalLogs(directory, durability="batch"),
}


@pytest.fixture(params=LOGS.values(), ids=LOGS.keys())
def logs(request, tmp_path):
    """Opens one log, again and again."""
    logs = request.param(tmp_path)
    yield logs
    logs.close()


# --- registries -----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def postgres():
    """One server for all; every test has a database of its own."""
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request, tmp_path):
    """Every database that may hold a registry; empty."""
    if request.param == "sqlite":
        made = SqlitePlace(tmp_path)
    else:
        made = PostgresPlace(request.getfixturevalue("postgres"))
    yield made
    made.close()


@pytest.fixture
def registry(place):
    return place.open()
