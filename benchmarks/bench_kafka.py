"""One event through Kafka and back: how much longer than its ways alone?

Measures:   client send -> answer read, one warm `do_exchange` stream, loopback, closed loop:
            Flight -> server -> Kafka -> worker -> Kafka -> server -> Flight, over the sum of a
            bare Flight echo on that server and a bare aiokafka round trip of two hops (a process
            that sends each record back), in interleaved blocks of one run (`ratio_p50`).
            Then requests a second with 1, 16 and 256 requests in flight, over those of an embedded
            server in the same run. Server, worker, echo, broker and clients share the cores.
Not shown:  other machines, replication, TLS.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import orjson

from benchmarks.bench_exchange import Source, percentiles
from benchmarks.harness import ECHO, WarmStream, machine, requests_per_s, serving, summary
from benchmarks.workloads import expressions
from hofflight.eventlog.kafka import Cluster, partition_of_topic
from hofflight.eventlog.topics import TopicSpec
from hofflight.settings import load_settings
from hofflight.testing.kafka import kafka_broker

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

WORKLOAD: Final = "benchmarks.workloads:expressions"
VIEW: Final = "expressions"
LOOP: Final = ("bench.there", "bench.back")
IN_FLIGHT: Final = (1, 16, 256)
_COMMAND: Final = (sys.executable, "-m", "hofflight.cli.main")
Times = dict[str, list[list[float]]]


@contextmanager
def started(command: list[str], environment: dict[str, str]) -> Iterator[str]:
    """A process, and the first line that it says."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, env={**os.environ, **environment}, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline()
        finally:
            process.terminate()
            process.wait(60)


class TwoHops:
    """A bare round trip: a record to a topic, the same back on another one."""

    def __init__(self, bootstrap: str) -> None:
        self._cluster = Cluster(load_settings(kafka={"bootstrap": bootstrap}).kafka)
        self._runner = asyncio.Runner()
        self._stack: Any = None

    def open(self) -> None:
        """Connect, and read from the end."""
        self._runner.run(self._open())

    async def _open(self) -> None:
        from contextlib import AsyncExitStack

        self._stack = AsyncExitStack()
        self._producer = await self._stack.enter_async_context(self._cluster.producer())
        self._consumer = await self._stack.enter_async_context(self._cluster.consumer())
        key = partition_of_topic(LOOP[1], 0)
        self._consumer.assign([key])
        self._consumer.seek(key, (await self._consumer.end_offsets([key]))[key])

    def times_us(self, values: list[bytes]) -> list[float]:
        """Microseconds of each, one after the other."""
        return self._runner.run(self._times_us(values))

    async def _times_us(self, values: list[bytes]) -> list[float]:
        times = []
        for value in values:
            started_s = perf_counter()
            await self._producer.send(LOOP[0], value, partition=0)
            await self._consumer.getone()
            times.append((perf_counter() - started_s) * 1e6)
        return times

    def close(self) -> None:
        """Let go of the brokers."""
        self._runner.run(self._stack.aclose())
        self._runner.close()


def latency(address: str, hops: TwoHops, blocks: int, requests: int) -> dict[str, Any]:
    """The whole way, and its two ways alone, by turns."""
    source = Source(0)
    whole = WarmStream(address, VIEW, expressions.input)
    whole.times_us(source.singles(500))
    times = by_turns(whole, address, hops, source, ("kafka", "echo", "two_hops"), blocks, requests)
    return summary("ratio_p50", over_the_sum(times)) | percentiles(times)


def by_turns(
    whole: WarmStream, address: str, hops: TwoHops, source: Source, names: tuple[str, str, str],
    blocks: int, requests: int,
) -> Times:  # fmt: skip
    """Times of a warm stream, of a bare echo and of the two hops, in blocks, under these names."""
    echo = WarmStream(address, ECHO, expressions.input)
    record = bytes(1_500)  # what a record of one such row has, with its schema
    echo.times_us(source.singles(500))
    hops.times_us([record] * 500)
    times: Times = {name: [] for name in names}
    for _ in range(blocks):
        times[names[0]].append(whole.times_us(source.singles(requests)))
        times[names[1]].append(echo.times_us(source.singles(requests)))
        times[names[2]].append(hops.times_us([record] * requests))
    whole.close()
    echo.close()
    return times


def over_the_sum(times: Times) -> list[float]:
    """The median of the first over those of the other two together, block by block."""
    return [
        statistics.median(way) / (statistics.median(flight) + statistics.median(loop))
        for way, flight, loop in zip(*times.values(), strict=True)
    ]


def rates(address: str, requests: int) -> dict[int, float]:
    """Requests a second with so many in flight, a stream each."""
    found = {}
    for count in IN_FLIGHT:
        source = Source(count)
        streams = [WarmStream(address, VIEW, expressions.input) for _ in range(count)]
        each = max(4, requests // count)
        work: list[list[pa.RecordBatch]] = [source.singles(each) for _ in streams]
        found[count] = requests_per_s(streams, work)
        for stream in streams:
            stream.close()
    return found


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON line")
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--requests", type=int, default=200, help="in a block")
    given = parser.parse_args()
    with ExitStack() as stack:
        broker = stack.enter_context(kafka_broker())
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        environment = {
            "HOF_REGISTRY__URL": f"sqlite:///{folder}/registry.sqlite",
            "HOF_KAFKA__BOOTSTRAP": broker.bootstrap,
            "HOF_KAFKA__PARTITIONS": "1",
        }
        cluster = Cluster(load_settings(kafka={"bootstrap": broker.bootstrap}).kafka)
        asyncio.run(cluster.ensure([TopicSpec(name, 1, -1, 900_000) for name in LOOP]))
        command = [*_COMMAND, "register", WORKLOAD]
        subprocess.run(command, check=True, env={**os.environ, **environment}, capture_output=True)
        work = [*_COMMAND, "worker", "--json", "--group", VIEW, "--modules", WORKLOAD]
        stack.enter_context(started([*work, "--store", f"{folder}/worker"], environment))
        serve = [*_COMMAND, "serve", "--json", "--grpc", "127.0.0.1:0"]
        said = stack.enter_context(started(serve, environment))
        address = orjson.loads(said)["address"]
        loop = [sys.executable, "-m", "benchmarks.kafka_echo", broker.bootstrap, *LOOP]
        stack.enter_context(started(loop, {}))
        hops = TwoHops(broker.bootstrap)
        hops.open()
        result = latency(address, hops, given.blocks, given.requests)
        hops.close()
        ways = {"kafka": rates(address, 10 * given.requests)}
        with serving(WORKLOAD) as (tcp, _, _):
            ways["embedded"] = rates(tcp, 10 * given.requests)
    for count in IN_FLIGHT:
        for name, found in ways.items():
            result[f"{name}_per_s_{count}"] = round(found[count])
        result[f"rate_ratio_{count}"] = round(ways["kafka"][count] / ways["embedded"][count], 3)
    option = 0 if given.json else orjson.OPT_INDENT_2
    sys.stdout.write(orjson.dumps(result | machine(), option=option).decode() + "\n")


if __name__ == "__main__":
    main()
