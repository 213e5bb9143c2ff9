"""Servers and workers as processes, on topics of their own in a broker that tests share."""

import json
import select
import signal
import subprocess
import uuid
from contextlib import contextmanager

from aiokafka import AIOKafkaProducer
from aiokafka.record.util import calc_crc32c

from tests.integration.test_cli import COMMAND, environment

FEATURES = """
import pyarrow as pa
import hofflight as hof

card_tx = hof.feature_group(
    "card_tx", version=1, key="card", event_time="ts", late="10m",
    input={"card": pa.int64(), "ts": hof.TIMESTAMP, "amount": pa.float64()},
    output={"double": hof.col("amount") * 2},
    windows={"n_10m": hof.count().over("10m"), "sum_1h": hof.sum("amount").over("1h"),
             "n_60": hof.count().last(60)},
)
fraud = hof.view("fraud", version=1, features=["card_tx.sum_1h", "card_tx.n_10m", "card_tx.card"])
"""
NOON_US = 1_700_000_000_000_000


def event(card, number):
    """The number-th transaction of a card."""
    return {"card": card, "ts": NOON_US + number * 1_000_000, "amount": 1.0 + number % 7}


class KafkaPlace:
    """A folder with a module, a registry, and stores of workers."""

    def __init__(self, folder, bootstrap, *, partitions=2, **settings):
        self.folder = folder
        self.registry = f"sqlite:///{folder}/registry.sqlite"
        self.prefix = f"t{uuid.uuid4().hex[:12]}"
        (folder / "features.py").write_text(FEATURES)
        self.environment = {
            **environment(),
            "HOF_REGISTRY__URL": self.registry,
            "HOF_KAFKA__BOOTSTRAP": bootstrap,
            "HOF_KAFKA__PREFIX": self.prefix,
            "HOF_KAFKA__PARTITIONS": str(partitions),
            "HOF_KAFKA__REPLY_TOPICS": "4",
            "HOF_KAFKA__LEASE_TTL_MS": "2000",
            **{f"HOF_KAFKA__{name.upper()}": str(value) for name, value in settings.items()},
        }

    def __call__(self, *arguments, **more):
        return subprocess.run(
            [*COMMAND, *map(str, arguments)], cwd=self.folder,
            env={**self.environment, **more}, capture_output=True, text=True, timeout=100,
            check=False,
        )  # fmt: skip

    def register(self, module="features"):
        done = self("register", module)
        assert done.returncode == 0, done.stderr
        return done.stdout

    @contextmanager
    def serving(self, wait_s=60, **more):
        """`hof serve` before Kafka: the process and its address."""
        command = [*COMMAND, "serve", "--json", "--grpc", "127.0.0.1:0"]
        with self.started(command, wait_s, **more) as (process, said):
            yield process, said["address"]

    @contextmanager
    def working(self, partitions=None, store="worker", **more):
        """`hof worker`: the process."""
        command = [*COMMAND, "worker", "--json", "--group", "card_tx", "--modules", "features"]
        command += ["--store", store]
        if partitions is not None:
            command += ["--partitions", partitions]
        with self.started(command, 60, **more) as (process, _):
            yield process

    @contextmanager
    def sparking(self, *options, group="card_tx", modules="features", store="worker", **more):
        """`hof spark`: the process, ended in good order so that no JVM is left."""
        command = [*COMMAND, "spark", "--json", "--group", group, "--modules", modules]
        command += ["--store", store, *options]
        with self.started(command, 100, **more) as (process, _):
            try:
                yield process
            finally:
                if process.poll() is None:
                    ended(process)

    @contextmanager
    def started(self, command, wait_s, **more):
        """A process that has said that it is ready, and what it said."""
        with self.process(command, **more) as process:
            readable, _, _ = select.select([process.stdout], [], [], wait_s)
            line = process.stdout.readline() if readable else ""
            assert line, process.log.read_text()
            yield process, json.loads(line)

    @contextmanager
    def process(self, command, **more):
        """A process, killed at the end; `log` is what it writes to its standard error."""
        log = self.folder / f"{uuid.uuid4().hex}.log"
        with log.open("wb") as errors, subprocess.Popen(
            command, cwd=self.folder, env={**self.environment, **more}, text=True,
            stdout=subprocess.PIPE, stderr=errors,
        ) as process:  # fmt: skip
            process.log = log
            try:
                yield process
            finally:
                process.kill()

    def verified(self, partition, store="worker"):
        """`hof verify` of what the worker of a partition answered."""
        done = self(
            "verify", "card_tx", "--modules", "features", "--json",
            "--store", f"{store}/{partition}",
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)


def ended(process, signum=signal.SIGTERM):
    """Its exit code, after a signal."""
    process.send_signal(signum)
    return process.wait(30)


async def send_odd_name(bootstrap, topic):
    """A record whose header has the name 0xFF: a batch with one byte of it exchanged."""
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        batch = producer.create_batch()
        batch.append(key=None, value=b"odd", timestamp=None, headers=[("Z", b"")])
        data = bytearray(batch._build())
        data[data.rindex(b"Z")] = 0xFF
        data[17:21] = calc_crc32c(bytes(data[21:])).to_bytes(4, "big")
        batch._buffer = bytes(data)
        await (await producer.send_batch(batch, topic, partition=0))
