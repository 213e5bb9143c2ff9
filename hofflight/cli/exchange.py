"""The client side of the demos: streams over do_exchange, pipelined, and one row at a time."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from pyarrow import flight

from hofflight.wire import envelope

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pyarrow as pa

    from hofflight.wire.envelope import AnswerMeta

ECHO: Final = "hof.echo"
_IN_FLIGHT: Final = 8


@dataclass
class Answers:
    """What came back: the vectors in order, and the batches that were refused."""

    batches: list[pa.RecordBatch] = field(default_factory=list)
    late: list[bool] = field(default_factory=list)
    refused: list[AnswerMeta] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Rows with a vector."""
        return sum(batch.num_rows for batch in self.batches)

    def extend(self, more: Answers) -> None:
        """Count the answers of another stream, which came after these."""
        self.batches += more.batches
        self.late += more.late
        self.refused += more.refused

    def add(self, meta: AnswerMeta, batch: pa.RecordBatch) -> None:
        """Count one answer."""
        if meta.code != envelope.OK:
            self.refused.append(meta)
            return
        self.batches.append(batch)
        is_list = isinstance(meta.late, list)
        self.late.extend(meta.late if is_list else [bool(meta.late)] * batch.num_rows)  # type: ignore[arg-type]


class Exchange:
    """One open stream to a view, or to the bare echo."""

    def __init__(self, client: Any, path: str, schema: pa.Schema) -> None:
        descriptor = flight.FlightDescriptor.for_path(path)
        self._writer, self._reader = client.do_exchange(descriptor)
        self._writer.begin(schema)

    def close(self) -> None:
        """End the stream."""
        self._writer.done_writing()
        self._writer.close()

    def ask(self, batch: pa.RecordBatch) -> Any:
        """One request and its answer: a chunk with `data` and `app_metadata`."""
        self._writer.write_with_metadata(batch, _new_request())
        return self._reader.read_chunk()

    def stream(self, batches: Sequence[pa.RecordBatch]) -> Iterator[Any]:
        """The answers to many requests, in order, with several under way.

        Written by a thread: where both sides only wrote, both would wait for the other to read.
        """
        room = threading.Semaphore(_IN_FLIGHT)
        failed: list[Exception] = []

        def write() -> None:
            try:
                for batch in batches:
                    room.acquire()
                    self._writer.write_with_metadata(batch, _new_request())
            except Exception as error:  # noqa: BLE001 the reading side raises it
                failed.append(error)

        writer = threading.Thread(target=write, name="hof-demo-writer", daemon=True)
        writer.start()
        for _ in batches:
            chunk = self._reader.read_chunk()
            room.release()
            yield chunk
        writer.join()
        if failed:
            raise failed[0]


def connect(address: str) -> Any:
    """A Flight client."""
    return flight.connect(address)


def send(
    client: Any, view: str, rows: pa.Table, *, batch_rows: int, advance: Callable[[int], None]
) -> Answers:
    """Stream a table through a view; `advance` is told how many more rows were answered."""
    answers = Answers()
    batches = rows.combine_chunks().to_batches(max_chunksize=batch_rows)
    exchange = Exchange(client, view, rows.schema)
    for batch, chunk in zip(batches, exchange.stream(batches), strict=True):
        answers.add(envelope.read_answer(chunk.app_metadata.to_pybytes()), chunk.data)
        advance(batch.num_rows)
    exchange.close()
    return answers


@dataclass
class Latencies:
    """Microseconds of one-row requests, block by block."""

    blocks: list[list[float]] = field(default_factory=list)

    def percentiles(self) -> dict[str, float]:
        """p50, p90 and p99 over all blocks."""
        values = sorted(value for block in self.blocks for value in block)
        return {f"p{q}": round(_rank(values, q), 1) for q in (50, 90, 99)}

    def longest(self) -> float:
        """Of all blocks."""
        return round(max(value for block in self.blocks for value in block), 1)


def measure(
    client: Any, view: str, rows: pa.Table, *, block_rows: int, advance: Callable[[int], None]
) -> tuple[Answers, Latencies, Latencies]:
    """Send rows one by one, and the same bytes through the bare echo: answers, ours, echo's.

    In interleaved blocks over two warm streams, so that whatever disturbs hits both alike.
    """
    answers, ours, bare = Answers(), Latencies(), Latencies()
    single = rows.combine_chunks().to_batches(max_chunksize=1)
    view_stream = Exchange(client, view, rows.schema)
    echo_stream = Exchange(client, ECHO, rows.schema)
    for start in range(0, len(single), block_rows):
        block = single[start : start + block_rows]
        bare.blocks.append([_timed(echo_stream, batch)[0] for batch in block])
        timed = [_timed(view_stream, batch) for batch in block]
        ours.blocks.append([us for us, _ in timed])
        for _, chunk in timed:
            answers.add(envelope.read_answer(chunk.app_metadata.to_pybytes()), chunk.data)
        advance(len(block))
    echo_stream.close()
    view_stream.close()
    return answers, ours, bare


def _timed(stream: Exchange, batch: pa.RecordBatch) -> tuple[float, Any]:
    start_ns = time.perf_counter_ns()
    chunk = stream.ask(batch)
    return (time.perf_counter_ns() - start_ns) / 1_000, chunk


def _rank(ordered: Sequence[float], percent: int) -> float:
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def _new_request() -> bytes:
    return envelope.write(envelope.RequestMeta(id=os.urandom(16)))
