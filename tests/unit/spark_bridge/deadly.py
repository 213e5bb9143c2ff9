"""A Python worker in a process of its own, some of whose records end it.

`python -m tests.unit.spark_bridge.deadly DIRECTORY` works one trigger and prints what was answered.
"""

import os
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

import hofflight as hof
from tests.unit.engine.conftest import make_group
from tests.unit.kafka_engines import batch_of
from tests.unit.spark_bridge.partitions import World, answers_of

CODE = 77


def dies(batch):
    """Ends the process where a row says so, as a fault in somebody's library would."""
    if pc.any(pc.equal(batch.column("x"), -1)).as_py():
        os._exit(CODE)
    return pa.RecordBatch.from_arrays([pc.multiply(batch.column("x"), 2)], names=["y"])


def main(directory):
    group = make_group(
        output={"y": pa.int64()}, windows={"n": hof.count().over("1h")}, derive={}, early="1d"
    )(dies)
    world = World(Path(directory), group, transform_timeout_ms=20_000)
    for number, x in enumerate([1, 2, -1, 3]):
        world.ask((number, batch_of((7, number, x))))
    worker = world.worker()
    for rows in worker.run(world.topic):
        for answer in answers_of(rows):
            print(f"{answer.call}:{answer.meta.code}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
