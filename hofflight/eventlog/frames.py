r"""The bytes of a log segment: CRC-framed, written whole and read with suspicion.

A segment is `HOFLOG1\n`, then frames: u32 payload length, u32 CRC-32 of the payload, payload;
a length of zero is the room kept free after the last frame. Little-endian throughout.

A payload begins with its kind. A *head* (1) is an Arrow IPC header: there are few different ones,
so each is written once a segment. An *entry* (2) holds u32 lengths of metadata, raw body and
answer body, u64 offsets of the two heads' frames, then the parts: metadata as msgpack, bodies as
Arrow IPC.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple

import msgspec

from hofflight import limits
from hofflight.errors import LogCorrupt
from hofflight.eventlog.protocol import Entry, EntryMeta

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

MAGIC: Final = b"HOFLOG1\n"
HEAD: Final = 1
ENTRY: Final = 2
_FRAME: Final = struct.Struct("<II")
_PARTS: Final = struct.Struct("<B3I2Q")
# A request and its answer: the answer repeats the input and adds columns, so leave it room.
_payload_bytes_max: Final = 64 * limits.message_bytes_max
_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(EntryMeta)


class Frame(NamedTuple):
    """A payload and where its frame lies in the segment."""

    offset: int
    end: int
    payload: bytes

    @property
    def is_entry(self) -> bool:
        """Whether it is an entry; else it is a head."""
        return self.payload[0] == ENTRY


def encode_head(head: bytes) -> bytes:
    """The frame of a head."""
    payload = bytes((HEAD,)) + head
    return _FRAME.pack(len(payload), zlib.crc32(payload)) + payload


def encode_entry(entry: Entry, head_at: int, answer_head_at: int) -> bytes:
    """The frame of an entry whose heads lie at these offsets (0: there is none)."""
    meta = _encoder.encode(entry.meta)
    body, answer_body = entry.body, entry.answer_body
    parts = _PARTS.pack(ENTRY, len(meta), len(body), len(answer_body), head_at, answer_head_at)
    payload = b"".join((parts, meta, body, answer_body))
    return _FRAME.pack(len(payload), zlib.crc32(payload)) + payload


def decode_entry(payload: bytes, heads: Mapping[int, bytes]) -> Entry:
    """The entry of a frame whose CRC was right; `heads` are those of its segment, by offset.

    Raises: ValueError, KeyError or msgspec.DecodeError, the bytes are no entry of this release.
    """
    _, meta, body, answer, head_at, answer_head_at = _PARTS.unpack_from(payload)
    if _PARTS.size + meta + body + answer != len(payload):
        msg = "the part lengths do not add up"
        raise ValueError(msg)
    body_at = _PARTS.size + meta
    return Entry(
        _decoder.decode(payload[_PARTS.size : body_at]),
        heads[head_at] if head_at else b"",
        payload[body_at : body_at + body],
        heads[answer_head_at] if answer_head_at else b"",
        payload[body_at + body :],
    )


def heads_of(payload: bytes) -> list[int]:
    """Offsets of the heads that an entry refers to."""
    return [at for at in _PARTS.unpack_from(payload)[4:] if at]


def decode_meta(payload: bytes) -> EntryMeta:
    """Only the metadata: a fraction of the work, for scans that look for ids and numbers."""
    length = _PARTS.unpack_from(payload)[1]
    return _decoder.decode(payload[_PARTS.size : _PARTS.size + length])


def read_frames(file: BinaryIO) -> Iterator[Frame]:
    """Frames of a segment from its current position up to the first that is not whole.

    The caller compares the last `end` with the file to know whether all was read.
    """
    offset = file.tell()
    while len(header := file.read(_FRAME.size)) == _FRAME.size:
        length, crc = _FRAME.unpack(header)
        if not 1 <= length <= _payload_bytes_max:
            return
        payload = file.read(length)
        if len(payload) != length or zlib.crc32(payload) != crc or payload[0] not in (HEAD, ENTRY):
            return
        if payload[0] == ENTRY and length < _PARTS.size:
            return
        yield Frame(offset, offset + _FRAME.size + length, payload)
        offset += _FRAME.size + length


def frame_at(file: BinaryIO, offset: int) -> Frame:
    """The frame at an offset.

    Raises: LogCorrupt (HOF-502), there is none.
    """
    file.seek(offset)
    frame = next(read_frames(file), None)
    if frame is None:
        msg = f"no whole frame at byte {offset}"
        raise LogCorrupt(msg)
    return frame


def frames_of(path: Path, begin: int = 0) -> Iterator[Frame]:
    """The frames of a segment file, up to the first that is not whole. begin: of which; 0: all.

    Raises: LogCorrupt (HOF-502), it is no segment at all.
    """
    with path.open("rb") as file:
        magic = file.read(len(MAGIC))
        if magic != MAGIC:
            if MAGIC.startswith(magic) or not any(magic):
                return  # being made just now, or when the process died
            msg = f"{path.name} is not a log segment of this release"
            raise LogCorrupt(msg)
        if begin:
            file.seek(begin)
        yield from read_frames(file)
