"""The bytes of a log segment: CRC-framed entries, written whole and read with suspicion.

A segment is `HOFLOG1\\n`, then frames: u32 payload length, u32 CRC-32 of the payload, payload.
A payload is five u32 lengths and five parts: meta (msgpack), raw head and body, answer head and
body (Arrow IPC as it came and went). Little-endian throughout.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple

import msgspec

from hofflight import limits
from hofflight.eventlog.protocol import Entry, EntryMeta

if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC: Final = b"HOFLOG1\n"
_FRAME: Final = struct.Struct("<II")
_PARTS: Final = struct.Struct("<5I")
# A request and its answer: the answer repeats the input and adds columns, so leave it room.
_payload_bytes_max: Final = 64 * limits.message_bytes_max
_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(EntryMeta)


class Frame(NamedTuple):
    """An entry and where its frame lies in the segment."""

    offset: int
    end: int
    payload: bytes


def encode_entry(entry: Entry) -> bytes:
    """The frame of an entry."""
    meta = _encoder.encode(entry.meta)
    parts = (meta, *entry[1:])
    payload = b"".join((_PARTS.pack(*map(len, parts)), *parts))
    return _FRAME.pack(len(payload), zlib.crc32(payload)) + payload


def decode_entry(payload: bytes) -> Entry:
    """The entry of a frame whose CRC was right.

    Raises: ValueError or msgspec.DecodeError, the bytes are no entry of this release.
    """
    lengths = _PARTS.unpack_from(payload)
    if sum(lengths) + _PARTS.size != len(payload):
        msg = "the part lengths do not add up"
        raise ValueError(msg)
    parts = []
    at = _PARTS.size
    for length in lengths:
        parts.append(payload[at : at + length])
        at += length
    return Entry(_decoder.decode(parts[0]), *parts[1:])


def decode_meta(payload: bytes) -> EntryMeta:
    """Only the metadata: a sixth of the work, for scans that look for ids and numbers."""
    length = _PARTS.unpack_from(payload)[0]
    return _decoder.decode(payload[_PARTS.size : _PARTS.size + length])


def read_frames(file: BinaryIO) -> Iterator[Frame]:
    """Frames of a segment from its current position up to the first that is not whole.

    The caller compares the last `end` with the file's size to know whether all was read.
    """
    offset = file.tell()
    while len(header := file.read(_FRAME.size)) == _FRAME.size:
        length, crc = _FRAME.unpack(header)
        if not _PARTS.size <= length <= _payload_bytes_max:
            return
        payload = file.read(length)
        if len(payload) != length or zlib.crc32(payload) != crc:
            return
        yield Frame(offset, offset + _FRAME.size + length, payload)
        offset += _FRAME.size + length
