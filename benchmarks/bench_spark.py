"""One event through Kafka and Spark and back: how much longer than its ways alone?

Measures:   client send -> answer read, one warm `do_exchange` stream, loopback, closed loop:
            Flight -> server -> Kafka -> Spark in Real-Time Mode, 15 windows in Python -> Kafka ->
            server -> Flight, over the sum of a bare Flight echo on that server and a bare round
            trip through a Real-Time query without Python (`ratio_floor_p50`), in interleaved
            blocks of one run. The same application in micro-batches, after it
            (`ratio_microbatch_p50`: this way over that one). Percentiles with and without the
            boundaries of triggers. Rows a second with requests of many rows, several under way.
Not shown:  other machines, several hosts, replication, TLS.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final

import orjson

from benchmarks.bench_exchange import Source, percentiles
from benchmarks.bench_kafka import LOOP, TwoHops, by_turns, over_the_sum, started
from benchmarks.harness import WarmStream, machine, requests_per_s, summary
from benchmarks.workloads import expressions
from hofflight.eventlog.kafka import Cluster
from hofflight.eventlog.topics import TopicSpec
from hofflight.settings import load_settings
from hofflight.testing.kafka import kafka_broker

if TYPE_CHECKING:
    from collections.abc import Iterator

WORKLOAD: Final = "benchmarks.workloads:expressions"
VIEW: Final = "expressions"
_COMMAND: Final = (sys.executable, "-m", "hofflight.cli.main")
_WARM_S: Final = 60.0
# Wide enough for what a trigger's end holds up, 0.3 s, and the queue behind it.
_AROUND_S: Final = 1.0
_BULK_ROWS: Final = 2_000
_BULK_STREAMS: Final = 4
# A micro-batch takes 0.2 s and more.
_BATCHES: Final = 60


def warmed(stream: WarmStream, source: Source, times: int = 300) -> None:
    """Ask until answers come, then some times more.

    Raises: RuntimeError, none came.
    """
    end_s = time.monotonic() + _WARM_S
    while True:
        try:
            stream.times_us(source.singles(1))
        except RuntimeError:
            if time.monotonic() > end_s:
                raise
        else:
            break
    stream.times_us(source.singles(times))


def latency(address: str, hops: TwoHops, source: Source, blocks: int, requests: int) -> Any:
    """The whole way, and its two ways alone, by turns."""
    whole = WarmStream(address, VIEW, expressions.input)
    warmed(whole, source)
    names = ("spark", "echo", "passthrough")
    times = by_turns(whole, address, hops, source, names, blocks, requests)
    return summary("ratio_floor_p50", over_the_sum(times)) | percentiles(times)


def with_boundaries(address: str, source: Source, seconds: float, period_s: float) -> Any:
    """Times of a client that asks 50 times a second, over some triggers; the worst of each apart.

    A boundary holds up whoever asks then: the times within a second of a trigger's worst are left
    out of the second row of percentiles.
    """
    stream = WarmStream(address, VIEW, expressions.input)
    warmed(stream, source)
    begin_s = time.monotonic()
    found: list[tuple[float, float]] = []
    while (at_s := time.monotonic() - begin_s) < seconds:
        found.append((at_s, stream.times_us(source.singles(1))[0]))
        time.sleep(0.02)
    stream.close()
    worst = [
        max((t for t in found if start <= t[0] < start + period_s), key=lambda t: t[1])
        for start in range(0, int(seconds), int(period_s))
    ]
    apart = [t for t in found if all(abs(t[0] - w[0]) > _AROUND_S for w in worst)]
    return {
        "stall_ms": round(statistics.median(w[1] for w in worst) / 1_000, 1),
        **percentiles({"paced_all": [[t[1] for t in found]]}, (50, 95, 99, 99.9)),
        **percentiles({"paced_between": [[t[1] for t in apart]]}, (50, 95, 99, 99.9)),
    }


def rows_per_s(address: str, source: Source, requests: int) -> float:
    """Rows a second of requests with many rows, each a record, several under way."""
    streams = [WarmStream(address, VIEW, expressions.input) for _ in range(_BULK_STREAMS)]
    work = [[source.batch(_BULK_ROWS) for _ in range(requests)] for _ in streams]
    streams[0].ask(source.batch(_BULK_ROWS))
    found = requests_per_s(streams, work) * _BULK_ROWS
    for stream in streams:
        stream.close()
    return found


@contextmanager
def spark(folder: str, environment: dict[str, str], mode: str, trigger: str) -> Iterator[None]:
    """`hof spark`, until the end of the block."""
    command = [*_COMMAND, "spark", "--json", "--group", VIEW, "--modules", WORKLOAD]
    command += ["--store", f"{folder}/spark", "--mode", mode, "--trigger", trigger]
    with started(command, environment) as said:
        orjson.loads(said)
        yield


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON line")
    parser.add_argument("--blocks", type=int, default=10)
    parser.add_argument("--requests", type=int, default=150, help="in a block")
    parser.add_argument("--triggers", type=int, default=6, help="of 10 s each; 0: none")
    given = parser.parse_args()
    with ExitStack() as stack:
        broker = stack.enter_context(kafka_broker())
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        environment = {
            "HOF_REGISTRY__URL": f"sqlite:///{folder}/registry.sqlite",
            "HOF_KAFKA__BOOTSTRAP": broker.bootstrap,
            "HOF_KAFKA__PARTITIONS": "1",
            "HOF_KAFKA__DEADLINE_MS": "30000",
            "HOF_KAFKA__NUDGE": "1",
        }
        cluster = Cluster(load_settings(kafka={"bootstrap": broker.bootstrap}).kafka)
        asyncio.run(cluster.ensure([TopicSpec(name, 1, -1, 900_000) for name in LOOP]))
        command = [*_COMMAND, "register", WORKLOAD]
        subprocess.run(command, check=True, env={**os.environ, **environment}, capture_output=True)
        serve = [*_COMMAND, "serve", "--json", "--grpc", "127.0.0.1:0"]
        address = orjson.loads(stack.enter_context(started(serve, environment)))["address"]
        source = Source(0)
        with ExitStack() as beside:
            beside.enter_context(spark(folder, environment, "realtime", "5m"))
            loop = [sys.executable, "-m", "benchmarks.spark_passthrough", broker.bootstrap, *LOOP]
            beside.enter_context(started(loop, {}))
            hops = TwoHops(broker.bootstrap)
            hops.open()
            result = latency(address, hops, source, given.blocks, given.requests)
            hops.close()
        with spark(folder, environment, "realtime", "5m"):
            result["rows_per_s"] = round(rows_per_s(address, source, given.requests // 10))
        if given.triggers:
            with spark(folder, environment, "realtime", "10s"):
                result |= with_boundaries(address, source, 10.0 * given.triggers, 10.0)
        with spark(folder, environment, "microbatch", "5m"):
            stream = WarmStream(address, VIEW, expressions.input)
            warmed(stream, source, 5)
            batches = stream.times_us(source.singles(_BATCHES))
            stream.close()
        result |= percentiles({"microbatch": [batches]})
        ratio = result["spark_us"]["p50"] / result["microbatch_us"]["p50"]
        result["ratio_microbatch_p50"] = round(ratio, 4)
    option = 0 if given.json else orjson.OPT_INDENT_2
    sys.stdout.write(orjson.dumps(result | machine(), option=option).decode() + "\n")


if __name__ == "__main__":
    main()
