"""What every benchmark needs: a server of its own, warm streams, percentiles, and where it ran."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
import orjson
import pyarrow as pa
from pyarrow import flight

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ECHO: Final = "hof.echo"
_encode: Final = msgspec.msgpack.Encoder().encode


@contextlib.contextmanager
def serving(
    modules: str, prepare: Callable[[Path], None] = lambda _: None, **environment: str
) -> Iterator[tuple[str, str, int]]:
    """`hof serve` as its own process over a fresh store: TCP address, Unix address, pid.

    `prepare` is given the path of the store before it is served.
    """
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder) / "store")
        socket = Path(folder) / "hof.sock"
        command = [sys.executable, "-m", "hofflight.cli.main", "serve", "--json"]
        command += ["--store", f"{folder}/store", "--modules", modules]
        command += ["--grpc", "127.0.0.1:0", "--grpc-unix", str(socket)]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, env={**os.environ, **environment}
        ) as server:
            assert server.stdout is not None
            address = orjson.loads(server.stdout.readline())["address"]
            try:
                yield address, f"grpc+unix://{socket}", server.pid
            finally:
                server.terminate()
                server.wait(60)


class WarmStream:
    """One open `do_exchange`, one request under way at a time."""

    def __init__(self, address: str, view: str, schema: pa.Schema) -> None:
        self.view = view
        self._client = flight.connect(address)
        descriptor = flight.FlightDescriptor.for_path(view)
        self._writer, self._reader = self._client.do_exchange(descriptor)
        self._writer.begin(schema)

    def ask(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Send a batch, wait for its answer; an error answer ends the benchmark."""
        self._writer.write_with_metadata(batch, _encode({"v": 1, "id": os.urandom(16)}))
        chunk = self._reader.read_chunk()
        if chunk.data.num_rows != batch.num_rows:
            raise RuntimeError(str(msgspec.msgpack.decode(chunk.app_metadata.to_pybytes())))
        return chunk.data

    def times_us(self, batches: Sequence[pa.RecordBatch]) -> list[float]:
        """Microseconds from send to answer of each batch, one after the other."""
        times = []
        for batch in batches:
            started = perf_counter()
            self.ask(batch)
            times.append((perf_counter() - started) * 1e6)
        return times

    def close(self) -> None:
        """End the stream."""
        self._writer.done_writing()
        with contextlib.suppress(StopIteration):
            self._reader.read_chunk()
        self._writer.close()
        self._client.close()


def requests_per_s(
    streams: Sequence[WarmStream], work: Sequence[Sequence[pa.RecordBatch]]
) -> float:
    """Requests a second when every stream sends its batches at the same time as the others."""
    start = threading.Barrier(len(streams) + 1)

    def drive(stream: WarmStream, batches: Sequence[pa.RecordBatch]) -> None:
        start.wait()
        for batch in batches:
            stream.ask(batch)

    with ThreadPoolExecutor(len(streams)) as pool:
        running = [pool.submit(drive, *pair) for pair in zip(streams, work, strict=True)]
        start.wait()
        started = perf_counter()
        for future in running:
            future.result()
        return sum(map(len, work)) / (perf_counter() - started)


def summary(name: str, ratios: Sequence[float]) -> dict[str, Any]:
    """Median of block ratios under `name`, 10th and 90th percentile under `name_spread`."""
    low, middle, high = (round(float(v), 4) for v in np.percentile(ratios, [10, 50, 90]))
    return {name: middle, f"{name}_spread": [low, high]}


def machine() -> dict[str, Any]:
    """Where and with what it ran."""
    names = ("hofflight", "pyarrow", "grpcio", "protobuf", "msgspec", "numpy")
    return {
        "cores": os.cpu_count(),
        "load_1m": round(os.getloadavg()[0], 1),
        "cpu": _cpu(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in names},
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def resident_kib(pid: int) -> int:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise ProcessLookupError(pid)
