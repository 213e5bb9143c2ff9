"""To which partitions the rows of a request belong, and how they are framed for them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from hofflight import limits
from hofflight.errors import MalformedBatch, NullKey, TooLarge
from hofflight.wire.ipc import BatchReader, encode_batch
from hofflight.wire.kafka_record import Framing
from hofflight.wire.key_hash import hash_columns, murmur2, partition_of, partitions_of
from hofflight.wire.keys import KeyCodec
from hofflight.wire.message import read_batch_header

if TYPE_CHECKING:
    from hofflight.eventlog.protocol import Request, Served


class Part(NamedTuple):
    """Rows of a request that belong to one partition; `places`: which of the request's they are."""

    partition: int
    head: bytes
    body: bytes
    rows: int
    places: list[int]


class Route:
    """The way of one group version's requests."""

    def __init__(self, topic: str, served: Served) -> None:
        self.topic = topic
        self.framing = Framing(served.input_schema)
        self._partitions = served.partitions
        self._key = served.partition_key
        self._places = [served.input_schema.names.index(name) for name in self._key]
        fields = [served.input_schema.field(place) for place in self._places]
        self._codec = KeyCodec(pa.schema(fields))
        self._reader = BatchReader(served.input_schema)
        self._headers: dict[bytes, tuple[int, int]] = {}

    def parts_of(self, request: Request) -> list[Part]:
        """The request as it is where its client named the partition, or all rows are of one.

        Raises: MalformedBatch (HOF-203), TooLarge (HOF-207), NullKey (HOF-205).
        """
        rows, body_length = self._announced(request.head)
        if body_length != len(request.body):
            msg = f"the header announces a body of {body_length} bytes, {len(request.body)} came"
            raise MalformedBatch(msg)
        if request.key_hash is not None:
            partition = partition_of(request.key_hash, self._partitions)
            return [Part(partition, request.head, request.body, rows, [])]
        layout = self._reader.layout(request.head, request.body)
        if layout.read_row is not None:  # Arrow would take fifty times as long
            raw = layout.read_row(request.body)
            key = self._codec.encode([raw[place] for place in self._places])
            if key is None:
                raise self._no_key(0)
            partition = partition_of(murmur2(key), self._partitions)
            return [Part(partition, request.head, request.body, 1, [])]
        batch = self._reader.read_batch(request.head, request.body)
        keys = self._codec.encode_columns([batch.column(name) for name in self._key])
        if keys.null_count:
            raise self._no_key(int(keys.is_null().to_numpy(zero_copy_only=False).argmax()))
        partitions = partitions_of(hash_columns(keys), self._partitions)
        wanted = np.unique(partitions).tolist()
        if len(wanted) == 1:
            return [Part(wanted[0], request.head, request.body, rows, [])]
        return [self._part(batch, partition, partitions) for partition in wanted]

    def _part(self, batch: pa.RecordBatch, partition: int, partitions: Any) -> Part:
        places = np.flatnonzero(partitions == partition)
        head, body = encode_batch(batch.take(pa.array(places)))
        return Part(partition, head, body, len(places), places.tolist())

    def _no_key(self, row: int) -> NullKey:
        return NullKey(f"row {row} has no key: {', '.join(self._key)} is null")

    def _announced(self, head: bytes) -> tuple[int, int]:
        """Rows and body bytes that a header announces.

        Raises: MalformedBatch (HOF-203), TooLarge (HOF-207).
        """
        known = self._headers.get(head)
        if known is None:
            header = read_batch_header(head)
            if not 1 <= header.rows <= limits.request_rows_max:
                msg = f"a request has 1 to {limits.request_rows_max} rows, got {header.rows}"
                raise TooLarge(msg, hint="split it into several requests" if header.rows else "")
            known = header.rows, header.body_length
            if len(head) <= 4 * limits.KIB:
                if len(self._headers) >= limits.layouts_max:
                    self._headers.clear()
                self._headers[head] = known
        return known
