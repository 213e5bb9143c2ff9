"""Our server as a process of its own, seen from its clients. This process never loads grpc.

Two copies of gRPC in one process are unsafe, and `pyarrow.flight` brings one: so what needs the
other, the server and the raw gRPC client, runs in processes of its own.
"""

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
from pyarrow import flight

from hofflight.wire.envelope import RequestMeta, read_answer, write
from hofflight.wire.schema import TIMESTAMP

HERE = Path(__file__).parent
REPO = HERE.parents[2]
INPUT = pa.schema(
    {"card": pa.int64(), "ts": TIMESTAMP, "amount": pa.float64(), "shop": pa.string()}
)


def batch(*amounts):
    rows = [{"card": i, "ts": 0, "amount": a, "shop": "s"} for i, a in enumerate(amounts or (1.5,))]
    return pa.RecordBatch.from_pylist(rows, schema=INPUT)


def program(name, *arguments):
    return subprocess.Popen(
        [sys.executable, HERE / name, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(REPO)},
        text=True,
    )


class RunningServer:
    """A server process; `with` ends it by SIGTERM, and its last words are in `said`."""

    def __init__(self, **settings):
        settings = {"grpc": "127.0.0.1:0", **settings}
        self.process = program("fake_server.py", json.dumps(settings, default=str))
        self.said = json.loads(self.process.stdout.readline())
        self.port = self.said.get("port")
        self.log = None
        self._raw = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.log is None:
            self.stop()
        if self._raw is not None:
            self._raw.communicate(timeout=30)

    def stop(self, *, signals=1):
        for _ in range(signals):
            self.process.send_signal(signal.SIGTERM)
        out, self.log = self.process.communicate(timeout=30)
        if out:
            self.said = json.loads(out)
        return self.process.returncode

    def client(self, location=None, **options):
        # Each client has a connection of its own, as if it were another process.
        options.setdefault("generic_options", []).append(("grpc.use_local_subchannel_pool", 1))
        return flight.connect(location or f"grpc://127.0.0.1:{self.port}", **options)

    def metrics(self):
        return json.loads(action(self.client(), "metrics"))

    def rss_mib(self):
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        return next(int(s.split()[1]) for s in status.splitlines() if s.startswith("VmRSS")) / 1024

    def raw(self, method, messages, *, metadata=(), **options):
        """Call a Flight method with these very bytes, by a plain gRPC client elsewhere."""
        call = {
            "port": self.port,
            "method": method,
            "messages": [base64.b64encode(m).decode() for m in messages],
            "metadata": list(metadata),
            **options,
        }
        if self._raw is None:
            self._raw = program("grpc_client.py")
        self._raw.stdin.write(json.dumps(call) + "\n")
        self._raw.stdin.flush()
        said = json.loads(self._raw.stdout.readline())
        said["messages"] = [base64.b64decode(m) for m in said["messages"]]
        return said


def action(client, name, body=b""):
    (result,) = client.do_action(flight.Action(name, body))
    return result.body.to_pybytes()


class Exchange:
    """One DoExchange stream of pyarrow's client; `with` closes it, whatever became of it."""

    def __init__(self, client, *path, schema=INPUT, options=None, descriptor=None):
        descriptor = descriptor or flight.FlightDescriptor.for_path(*path)
        self.writer, self.reader = client.do_exchange(descriptor, options)
        if schema is not None:
            self.writer.begin(schema)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(pa.ArrowException, flight.FlightError):
            self.writer.close()

    def send(self, rows=None, meta=None, **fields):
        rows = batch() if rows is None else rows
        meta = write(RequestMeta(**fields)) if meta is None else meta
        self.writer.write_with_metadata(rows, meta)

    def receive(self):
        chunk = self.reader.read_chunk()
        return chunk.data, read_answer(chunk.app_metadata.to_pybytes())

    def ask(self, rows=None, meta=None, **fields):
        self.send(rows, meta, **fields)
        return self.receive()


@contextlib.contextmanager
def connected(port, family=socket.AF_INET):
    with socket.socket(family, socket.SOCK_STREAM) as raw:
        raw.settimeout(5)
        raw.connect(("127.0.0.1", port))
        yield raw
