"""What a conformance suite runs: the same cases over every implementation there is."""

import pyarrow as pa
import pytest

import hofflight as hof
from hofflight.eventlog.local import LocalLog, SyncThread
from hofflight.replay.transformed import Transformation
from hofflight.replay.windowed import How, database, windowed
from hofflight.settings import LogSettings

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


ENGINES = {
    "embedded one row at a time": embedded_rows,
    "embedded batches": embedded_batches,
    "embedded with a restart before each row": embedded_restarts,
    "testing.run": testing_run,
    "kernel replay": kernel_replay,
    "duckdb replay": duckdb_replay,
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
