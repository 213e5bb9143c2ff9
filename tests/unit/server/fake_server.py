"""A program: our Flight server before a fake worker. Prints its port, stops on SIGTERM.

Run as `fake_server.py '{"grpc": "127.0.0.1:0", ...}'`: the ServerSettings. Its worker has no
engine: a view's name says how it behaves (see `FakeWorker`), so every fault comes when asked for.
"""

import asyncio
import json
import signal
import sys
import threading
import time
from pathlib import Path

import pyarrow as pa
import structlog

from hofflight.errors import CodeNotLoaded, HofError, TransformFailed, UnknownView
from hofflight.eventlog.protocol import Answer, Served
from hofflight.server.serve import FlightServer
from hofflight.settings import ServerSettings
from hofflight.wire.envelope import OK, AnswerMeta
from hofflight.wire.ipc import BatchReader, empty_message, encode_batch
from hofflight.wire.schema import TIMESTAMP

INPUT = pa.schema(
    {"card": pa.int64(), "ts": TIMESTAMP, "amount": pa.float64(), "shop": pa.string()}
)
OUTPUT = pa.schema({"g.card": pa.int64(), "g.twice": pa.float64(), "g.text": pa.string()})
MIB = 1024 * 1024


class FakeWorker:
    """Answers each row with its key and twice its amount.

    echo: at once. thread: from another thread, 5 ms later. slow: the same, 500 ms later.
    spread: by card, over 8 partitions.
    big: with 1 MiB of text a row. bug: `submit` raises. old: bind refuses. never: no answer.
    Amount 13 fails its request alone.
    """

    def __init__(self):
        self.reader = BatchReader(INPUT)
        self.batches = []

    def views(self):
        others = ("thread", "slow", "big", "bug", "spread")
        names = [("echo", 1), ("echo", 2), *((name, 1) for name in others)]
        return [self.served(name, version) for name, version in names]

    def served(self, name, version):
        spread = {"partition_key": ("card",), "partitions": 8} if name == "spread" else {}
        return Served(
            name, version, "g", 3, "c0de", INPUT, OUTPUT, ("is_fraud",), gains_from_company=True,
            **spread,
        )  # fmt: skip

    def bind(self, view, version):
        if view == "old":
            msg = "group g@3 is registered, its code is not loaded"
            raise CodeNotLoaded(msg)
        if view == "never":
            return self.served("never", 1)
        found = [s for s in self.views() if s.view == view and version in (None, s.version)]
        if not found:
            msg = f"view {view!r} version {version} is not served here"
            raise UnknownView(msg)
        return found[-1]

    def submit(self, requests):
        self.batches.append(len(requests))
        for request in requests:
            if request.served.view == "bug":
                msg = f"secret of {Path.cwd()}"
                raise RuntimeError(msg)
            if request.served.view == "never":
                continue
            delay_s = {"thread": 0.005, "slow": 0.5}.get(request.served.view)
            if delay_s is None:
                request.reply(self.answer(request))
            else:
                threading.Timer(delay_s, lambda r=request: r.reply(self.answer(r))).start()

    def answer(self, request):
        served = request.served
        meta = AnswerMeta(OK, id=request.id, view=served.view, version=served.version)
        try:
            head, body = self.compute(request)
        except HofError as error:
            meta.code, meta.error, meta.hint = error.code, error.message, error.hint
            head, body = empty_message(OUTPUT)
        return Answer(meta, head, body)

    def compute(self, request):
        self.reader.layout(request.head, request.body)
        rows = self.reader.read_batch(request.head, request.body)
        amounts = rows["amount"].to_pylist()
        if 13 in amounts:
            msg = "amount 13 fails"
            raise TransformFailed(msg)
        if not request.wants_answer:
            return empty_message(OUTPUT)
        text = "x" * MIB if request.served.view == "big" else ""
        left_s = request.deadline_s and request.deadline_s - time.monotonic()
        texts = [text or f"store={request.store} deadline={left_s is not None}"] * len(amounts)
        columns = [rows["card"], pa.array([2 * a for a in amounts]), pa.array(texts)]
        return encode_batch(pa.RecordBatch.from_arrays(columns, schema=OUTPUT))


async def main():
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    settings = ServerSettings(**json.loads(sys.argv[1]))
    worker = FakeWorker()
    server = FlightServer(worker, settings, metrics=lambda: json.dumps(
        {"batches": worker.batches, "threads": threading.active_count(), **as_dict(server.stats)}
    ).encode())  # fmt: skip
    try:
        port = await server.start()
    except HofError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return 1
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    print(json.dumps({"port": port}), flush=True)
    await stopped.wait()
    first = time.monotonic()
    drains = [asyncio.create_task(server.drain()), asyncio.create_task(server.drain())]
    clean = all(await asyncio.gather(*drains))
    print(json.dumps({"clean": clean, "seconds": time.monotonic() - first}), flush=True)
    return 0


def as_dict(stats):
    return {name: getattr(stats, name) for name in stats.__slots__}


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
