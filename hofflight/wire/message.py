"""Read an Arrow IPC message header without trusting a byte of it.

Arrow's own readers check structure, not sizes: a null column of 96 bytes may claim 2^31 rows and
a compressed body may grow thirtyfold before any handler sees it. So the numbers of the flatbuffer
(Message.fbs of the Arrow format, metadata version V5) are read here, each access bounds-checked,
before anything is decoded.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from hofflight import limits
from hofflight.errors import MalformedBatch, TooLarge

SCHEMA: Final = 1
DICTIONARY_BATCH: Final = 2
RECORD_BATCH: Final = 3
METADATA_V5: Final = 4

_I32 = struct.Struct("<i")
_U32 = struct.Struct("<I")
_U16 = struct.Struct("<H")
_I64 = struct.Struct("<q")


@dataclass(frozen=True, slots=True)
class BatchHeader:
    """Numbers of a RecordBatch message and where they stand in its bytes.

    `nodes` are (length, null_count) per column, `buffers` (offset, length) into the body.
    """

    rows: int
    nodes: tuple[tuple[int, int], ...]
    buffers: tuple[tuple[int, int], ...]
    body_length: int
    rows_at: int
    nodes_at: int
    buffers_at: int
    body_length_at: int


def message_kind(head: bytes) -> int:
    """The header type of a message: SCHEMA, DICTIONARY_BATCH, RECORD_BATCH or another.

    Raises:
        MalformedBatch: HOF-203.
        TooLarge: HOF-207, a header longer than `header_bytes_max`.
    """
    return _Message(head).kind


def require_little_endian(head: bytes) -> None:
    """Refuse a schema message for big-endian bodies.

    Raises:
        MalformedBatch: HOF-203.
    """
    message = _Message(head)
    endianness_at = message.field(message.header, 0)
    if endianness_at and message.number(_U16, endianness_at):
        msg = "the schema announces big-endian bodies"
        raise MalformedBatch(msg, hint="write little-endian Arrow")


def read_batch_header(head: bytes) -> BatchHeader:
    """The numbers of a RecordBatch message.

    Raises:
        MalformedBatch: HOF-203, not a record batch, compressed, or lying about itself.
        TooLarge: HOF-207.
    """
    message = _Message(head)
    if message.kind != RECORD_BATCH:
        what = {SCHEMA: "a second schema", DICTIONARY_BATCH: "a dictionary"}
        msg = f"expected a record batch, got {what.get(message.kind, 'another message')}"
        raise MalformedBatch(msg, hint="one schema first, then record batches without dictionaries")
    if message.field(message.header, 3):
        msg = "the body is compressed"
        raise MalformedBatch(msg, hint="write with IpcWriteOptions(compression=None)")
    if message.field(message.header, 4):
        msg = "the batch has variadic buffers (view types)"
        raise MalformedBatch(msg)
    rows_at = message.field(message.header, 0)
    nodes_at, nodes = message.pairs(message.field(message.header, 1))
    buffers_at, buffers = message.pairs(message.field(message.header, 2))
    body_length_at = message.field(message.root, 3)
    return BatchHeader(
        message.number(_I64, rows_at) if rows_at else 0, nodes, buffers,
        message.number(_I64, body_length_at) if body_length_at else 0,
        rows_at, nodes_at, buffers_at, body_length_at,
    )  # fmt: skip


class _Message:
    """Bounds-checked access to the flatbuffer of one message."""

    def __init__(self, head: bytes) -> None:
        if len(head) > limits.header_bytes_max:
            msg = f"the message header has {len(head)} bytes, at most {limits.header_bytes_max}"
            raise TooLarge(msg)
        self.head = head
        self.root = self._follow(0)
        version_at, kind_at = self.field(self.root, 0), self.field(self.root, 1)
        version = self.number(_U16, version_at) if version_at else 0
        if version != METADATA_V5:
            msg = f"Arrow metadata version V{version + 1}, expected V5"
            raise MalformedBatch(msg, hint="write with IpcWriteOptions(metadata_version=V5)")
        self.kind = head[kind_at] if kind_at else 0
        header_at = self.field(self.root, 2)
        if not header_at:
            msg = "the message has no header"
            raise MalformedBatch(msg)
        self.header = self._follow(header_at)

    def number(self, kind: struct.Struct, at: int) -> int:
        """The number at an offset that lies inside the header."""
        if not 0 <= at <= len(self.head) - kind.size:
            msg = "the message header points outside itself"
            raise MalformedBatch(msg)
        value: int = kind.unpack_from(self.head, at)[0]
        return value

    def _follow(self, at: int) -> int:
        return at + self.number(_U32, at)

    def field(self, table: int, index: int) -> int:
        """Where field `index` of a table stands; 0 when it is absent."""
        vtable = table - self.number(_I32, table)
        entry = 4 + 2 * index
        if entry + 2 > self.number(_U16, vtable):
            return 0
        offset = self.number(_U16, vtable + entry)
        if offset and not 0 <= table + offset < len(self.head):
            msg = "the message header points outside itself"
            raise MalformedBatch(msg)
        return table + offset if offset else 0

    def pairs(self, at: int) -> tuple[int, tuple[tuple[int, int], ...]]:
        """A vector of (int64, int64) structs and where its first one stands."""
        if not at:
            return 0, ()
        start = self._follow(at)
        count = self.number(_U32, start)
        if count > (len(self.head) - start - 4) // 16:
            msg = "the message header points outside itself"
            raise MalformedBatch(msg)
        flat = struct.unpack_from(f"<{2 * count}q", self.head, start + 4)
        return start + 4, tuple(zip(flat[::2], flat[1::2], strict=True))
