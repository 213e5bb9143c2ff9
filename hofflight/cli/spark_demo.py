"""`hof demo spark`: the whole way over Kafka and Spark, and the proof that answers are right."""

from __future__ import annotations

import importlib.util
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from hofflight.assemble_sealing import HOF
from hofflight.cli import exchange, spark_features
from hofflight.cli.cards_data import card_transactions
from hofflight.cli.offline import verified
from hofflight.cli.output import note, progress
from hofflight.cli.server_process import hof_process
from hofflight.errors import HofError, SettingsError
from hofflight.settings import without_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pyarrow as pa

    from hofflight.cli.exchange import Answers, Latencies
    from hofflight.cli.server_process import HofProcess
    from hofflight.features.group import FeatureGroup

MODULE: Final = spark_features.__name__
PARTITIONS: Final = 2
SERVERS: Final = 2
_STORE: Final = "spark"
_BATCH_ROWS: Final = 250
_FIRST_ROWS: Final = 64
# In micro-batches a request waits for half a second or more.
_SINGLE_ROWS_MAX: Final = {"realtime": 500, "microbatch": 40}
_BLOCKS: Final = 10
_SHOWN: Final = 3
# A JVM, its queries and their workers, on a laptop with two cores that are busy.
_SPARK_START_S: Final = 180.0
# The first rows wait for the first task and the imports of its Python worker.
_DEADLINE_MS: Final = 90_000
# What Java and Python packages are needed for; the extras that bring the latter.
_PACKAGES: Final = {"aiokafka": "kafka", "pyspark": "spark", "pandas": "pandas"}


class Way(NamedTuple):
    """A group, and the view of it that is asked for."""

    group: FeatureGroup
    view: str

    @property
    def functions(self) -> str:
        """What computes its columns: its own functions get frames, or there are none."""
        return self.group.mode if self.group.function is not None else "expressions"


WAYS: Final = (
    Way(spark_features.card_tx, spark_features.card_spending.name),
    Way(spark_features.card_habits, spark_features.card_habits.name),
)


class Measured(NamedTuple):
    """What a group answered, and how fast."""

    many: Answers
    few: Answers
    ours: Latencies
    bare: Latencies
    streamed_s: float


def run_spark_demo(*, customers: int, days: int, seed: int, mode: str) -> dict[str, Any]:
    """Start everything, stream, measure, verify; what came of it as plain values.

    A broker, two servers, one Spark application; the history goes in batches through both
    servers at once, the end of it row by row.

    Raises: SettingsError (HOF-601), Java, jars or packages are missing; HofError (HOF-000), a
        process did not start, or did not stop well.
    """
    _require_installed()
    rows = card_transactions(customers=customers, days=days, seed=seed)
    rows = rows.select(spark_features.card_tx.input.names)
    note(f"{rows.num_rows} transactions of {customers} customers over {days} days, seed {seed}")
    started_s = time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hof-demo-")))
        registry = f"sqlite:///{folder}/registry.sqlite"
        with ExitStack() as running:
            addresses = _started(running, folder, registry, mode)
            ready_s = time.monotonic() - started_s
            single = min(_SINGLE_ROWS_MAX[mode], rows.num_rows // 4)
            found = [_measured(addresses, way, rows, single) for way in WAYS]
        from hofflight.settings import with_registry

        settings = with_registry(None, registry)
        store = folder / _STORE
        parity = [verified(store, [way.group], way.group.name, settings) for way in WAYS]
    groups = {
        way.group.name: {"functions": way.functions, **_numbers(rows, each), **proof}
        for way, each, proof in zip(WAYS, found, parity, strict=True)
    }
    total = {
        name: sum(group[name] for group in groups.values())
        for name in ("events", "answers", "errors", "parity_rows", "parity_mismatches")
    }
    return {
        **total,
        "mode": mode,
        "servers": SERVERS,
        "partitions": PARTITIONS,
        "ready_seconds": round(ready_s, 3),
        "seconds": round(time.monotonic() - started_s, 3),
        "groups": groups,
        "vectors": _last_vectors(rows, found[-1].few),
    }


# --- processes ------------------------------------------------------------------------------------


def _require_installed() -> None:
    """Raises: SettingsError (HOF-601), naming what is missing and how to get it."""
    from hofflight.jars import kafka_jars, spark_jars
    from hofflight.jars.java import find_java

    for package, extra in _PACKAGES.items():
        if importlib.util.find_spec(package) is None:
            msg = f"the demo needs {package}"
            raise SettingsError(msg, hint=f"pip install 'hofflight[{extra}]', or make demo-spark")
    find_java()
    kafka_jars()
    spark_jars()


def _started(running: ExitStack, folder: Path, registry: str, mode: str) -> list[str]:
    """Start a broker, register, start all others at once; gives the servers' addresses."""
    from hofflight.testing.kafka import kafka_broker

    broker = running.enter_context(kafka_broker())
    note(f"a Kafka broker at {broker.bootstrap}")
    environment = without_settings() | {
        "HOF_KAFKA__BOOTSTRAP": broker.bootstrap,
        "HOF_REGISTRY__URL": registry,
        "HOF_KAFKA__PARTITIONS": str(PARTITIONS),
        "HOF_KAFKA__REPLY_TOPICS": str(2 * SERVERS),
        "HOF_KAFKA__DEADLINE_MS": str(_DEADLINE_MS),
        # Where Spark keeps what is of no use after it.
        "SPARK_LOCAL_DIRS": str(folder),
    }
    _register(environment, folder)

    def start(name: str, arguments: list[str]) -> HofProcess:
        note("hof " + " ".join(arguments))
        return running.enter_context(hof_process(arguments, folder / f"{name}.log", environment))

    groups = [option for way in WAYS for option in ("--group", way.group.name)]
    arguments = ["spark", "--json", *groups, "--modules", MODULE, "--store", _STORE]
    application = start("spark", [*arguments, "--mode", mode])
    arguments = ["serve", "--json", "--grpc", "127.0.0.1:0", "--nudge"]
    servers = [start(f"server-{number}", arguments) for number in range(SERVERS)]
    for process in (application, *servers):
        # Told to end before the first is waited for: together they take half the time.
        running.callback(process.end)
    addresses = [str(server.said()["address"]) for server in servers]
    said = application.said(_SPARK_START_S)
    names, partitions = (", ".join(map(str, said[name])) for name in ("groups", "partitions"))
    note(f"Spark works {names}, partitions {partitions}")
    return addresses


def _register(environment: dict[str, str], folder: Path) -> None:
    note(f"hof register {MODULE}")
    done = subprocess.run(
        [*HOF, "register", MODULE], env=environment, cwd=folder, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode:
        raise HofError(f"hof register failed: {done.stdout}{done.stderr}".strip())


# --- rows -----------------------------------------------------------------------------------------


def _measured(addresses: Sequence[str], way: Way, rows: pa.Table, single: int) -> Measured:
    """Send all rows through a view, the last ones by themselves."""
    history, end = rows.slice(0, rows.num_rows - single), rows.slice(rows.num_rows - single)
    many = exchange.Answers()
    with ExitStack() as stack:
        clients = [stack.enter_context(exchange.connect(address)) for address in addresses]
        first = history.slice(0, _FIRST_ROWS)
        with progress(f"{way.group.name}: first rows", first.num_rows) as advance:
            many.extend(_through_all(clients, way.view, first, advance))
        started_s = time.monotonic()
        rest = history.slice(first.num_rows)
        with progress(f"{way.group.name}: streaming", rest.num_rows) as advance:
            many.extend(_through_all(clients, way.view, rest, advance))
        streamed_s = time.monotonic() - started_s
        with progress(f"{way.group.name}: row by row", end.num_rows) as advance:
            few, ours, bare = _one_by_one(clients, way.view, end, advance)
    return Measured(many, few, ours, bare, streamed_s)


def _through_all(
    clients: Sequence[Any], view: str, rows: pa.Table, advance: Callable[[int], None]
) -> Answers:
    """Stream rows through all servers at once.

    A customer's go through one of them: over two, their order would be chance, and some be late.
    """
    from pyarrow import compute as pc

    customer = rows["customer"]
    # Arrow has no remainder.
    lot = pc.subtract(customer, pc.multiply(pc.divide(customer, len(clients)), len(clients)))
    parts = [rows.filter(pc.equal(lot, number)) for number in range(len(clients))]
    answers = exchange.Answers()
    with ThreadPoolExecutor(len(clients)) as pool:
        sent = [
            pool.submit(exchange.send, client, view, part, batch_rows=_BATCH_ROWS, advance=advance)
            for client, part in zip(clients, parts, strict=True)
            if part.num_rows
        ]
        for each in sent:
            answers.extend(each.result())
    return answers


def _one_by_one(
    clients: Sequence[Any], view: str, rows: pa.Table, advance: Callable[[int], None]
) -> tuple[Answers, Latencies, Latencies]:
    """Each row by itself, the servers one after the other."""
    answers, ours, bare = exchange.Answers(), exchange.Latencies(), exchange.Latencies()
    for client, part in zip(clients, _shares(rows, len(clients)), strict=True):
        block_rows = max(1, part.num_rows // _BLOCKS)
        some, measured, echo = exchange.measure(
            client, view, part, block_rows=block_rows, advance=advance
        )
        answers.extend(some)
        ours.blocks += measured.blocks
        bare.blocks += echo.blocks
    return answers, ours, bare


def _shares(rows: pa.Table, count: int) -> Iterator[pa.Table]:
    """The rows in their order, in so many parts."""
    for number in range(count):
        first, after = (rows.num_rows * place // count for place in (number, number + 1))
        yield rows.slice(first, after - first)


# --- what came of it ------------------------------------------------------------------------------


def _numbers(rows: pa.Table, found: Measured) -> dict[str, Any]:
    many, few = found.many, found.few
    asked = sum(map(len, found.ours.blocks))
    streamed = rows.num_rows - asked - min(_FIRST_ROWS, rows.num_rows - asked)
    latency = {
        name: {**each.percentiles(), "max": each.longest()}
        for name, each in (("vector", found.ours), ("echo", found.bare))
    }
    return {
        "events": rows.num_rows,
        "answers": many.rows + few.rows,
        "errors": len(many.refused) + len(few.refused),
        "error_codes": sorted({meta.code for meta in (*many.refused, *few.refused)}),
        "late": sum(many.late) + sum(few.late),
        "rows_per_s": round(streamed / found.streamed_s),
        "one_row_requests": asked,
        "latency_us": latency,
    }


def _last_vectors(rows: pa.Table, answers: Answers) -> list[dict[str, Any]]:
    """The last few vectors, each as plain values."""
    return [batch.to_pylist()[0] for batch in answers.batches[-min(_SHOWN, rows.num_rows) :]]
