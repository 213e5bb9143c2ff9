"""The floor under a request through Kafka: a process that sends each record of a topic back.

`python -m benchmarks.kafka_echo HOST:PORT IN OUT`: no decoding, no state, aiokafka as hofflight
sets it up. It says `ready` once it reads.
"""

from __future__ import annotations

import asyncio
import sys

from hofflight.eventlog.kafka import Cluster, partition_of_topic
from hofflight.settings import load_settings


async def echo(bootstrap: str, source: str, target: str) -> None:
    """Until it is killed."""
    cluster = Cluster(load_settings(kafka={"bootstrap": bootstrap}).kafka)
    async with cluster.producer() as producer, cluster.consumer() as consumer:
        key = partition_of_topic(source, 0)
        consumer.assign([key])
        consumer.seek(key, (await consumer.end_offsets([key]))[key])
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            found = await consumer.getmany(timeout_ms=200)
            for records in found.values():
                for record in records:
                    await producer.send(target, record.value, partition=0, headers=record.headers)


if __name__ == "__main__":
    asyncio.run(echo(*sys.argv[1:]))
