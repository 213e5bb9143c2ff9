"""One DoExchange stream as bytes and batches; the only file that reads and writes with Flight."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import pyarrow as pa

from hofflight.client.failures import from_flight
from hofflight.errors import BadMetadata

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyarrow import flight

    from hofflight.client.address import Address

T = TypeVar("T")
# FlightError is no ArrowException, though both come out of any call.
_FOREIGN: Final = (pa.ArrowException, OSError, RuntimeError, ValueError)


class Stream(Protocol):
    """A stream that is open. One thread writes while another reads; any may cancel.

    Every method but `cancel` and `close` raises errors of ours only (HOF-nnn).
    """

    def write(self, batch: pa.RecordBatch, metadata: bytes) -> None:
        """Send one request; blocks while the server takes no more."""
        ...

    def read(self) -> tuple[bytes, pa.RecordBatch] | None:
        """The next answer's metadata and rows; None when the server has ended the stream."""
        ...

    def half_close(self) -> None:
        """Say that no request will follow."""
        ...

    def cancel(self) -> None:
        """End the stream now: `read` returns, and `write` too unless the connection is stuck."""
        ...

    def close(self) -> None:
        """Let go of everything, after the last read and write."""
        ...


class FlightStream:
    """The stream of a view over `pyarrow.flight`, on a connection of its own."""

    def __init__(self, address: Address, path: tuple[str, ...], schema: pa.Schema) -> None:
        from pyarrow import flight

        self._foreign = (flight.FlightError, *_FOREIGN)
        self._client = address.dial()
        try:
            descriptor = flight.FlightDescriptor.for_path(*path)
            self._writer, self._reader = self._client.do_exchange(descriptor, address.options())
            self._writer.begin(schema)
        except self._foreign as error:
            self._client.close()
            # `from None` throughout: pyarrow's text may hold the server's traceback and paths.
            raise from_flight(error) from None

    def write(self, batch: pa.RecordBatch, metadata: bytes) -> None:
        try:
            self._writer.write_with_metadata(batch, pa.py_buffer(metadata))
        except self._foreign as error:
            raise from_flight(error) from None

    def read(self) -> tuple[bytes, pa.RecordBatch] | None:
        try:
            chunk = self._reader.read_chunk()
        except StopIteration:
            return None
        except self._foreign as error:
            raise from_flight(error) from None
        if chunk.app_metadata is None or chunk.data is None:
            raise BadMetadata("an answer came without metadata or without a batch")
        return chunk.app_metadata.to_pybytes(), chunk.data

    def half_close(self) -> None:
        try:
            self._writer.done_writing()
        except self._foreign as error:
            raise from_flight(error) from None

    def cancel(self) -> None:
        with suppress(*self._foreign):
            self._reader.cancel()

    def close(self) -> None:
        # Unclosed, a writer that is collected prints its error from C++.
        with suppress(*self._foreign):
            self._writer.close()
        with suppress(*self._foreign):
            self._client.close()


def put(
    address: Address, group: str, batch: pa.RecordBatch, metadata: bytes, timeout_s: float
) -> bytes | None:
    """Send one batch without asking for its vector; gives the metadata of the answer, if one came.

    Raises:
        HofError: whatever the server or the connection said.
    """
    from pyarrow import flight

    def send(client: flight.FlightClient) -> bytes | None:
        writer, reader = client.do_put(
            flight.FlightDescriptor.for_path(group), batch.schema, address.options(timeout_s)
        )
        try:
            writer.write_with_metadata(batch, pa.py_buffer(metadata))
            writer.done_writing()
            said = reader.read()
            return None if said is None else said.to_pybytes()
        finally:
            writer.close()

    return call(address, send)


def call(address: Address, ask: Callable[[flight.FlightClient], T]) -> T:
    """One short call on a connection of its own.

    Raises:
        HofError: whatever the server or the connection said.
    """
    from pyarrow import flight

    try:
        with address.dial() as client:
            return ask(client)
    except (flight.FlightError, *_FOREIGN) as error:
        raise from_flight(error) from None
