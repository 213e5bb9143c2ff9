"""One request before it is sent: id, path and metadata, checked here rather than by a server."""

from __future__ import annotations

import hashlib
import math
import os
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec
import pyarrow as pa

from hofflight import limits
from hofflight.errors import BadMetadata, TooLarge
from hofflight.wire import envelope

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    from hofflight.wire.envelope import RequestMeta

Path = tuple[str, ...]

INGEST_ROWS_MAX: Final = 10_000
DEADLINE_MS_MAX: Final = 3_600_000


def metadata_of(template: RequestMeta, batch: pa.RecordBatch, left_s: float) -> bytes:
    """The bytes beside a batch, after what a server would end the whole stream for.

    Raises:
        TooLarge: HOF-207.
        BadMetadata: HOF-204, keys that cannot travel.
    """
    size = pa.ipc.get_record_batch_size(batch)
    if batch.num_rows > limits.request_rows_max or size > limits.message_bytes_max:
        raise TooLarge(
            f"{batch.num_rows} rows of {size} bytes are too many for one request, at most "
            f"{limits.request_rows_max} rows and {limits.message_bytes_max} bytes",
            hint="ask in several requests",
        )
    deadline_ms = min(max(1, math.ceil(left_s * 1_000)), DEADLINE_MS_MAX)
    try:
        metadata = envelope.write(msgspec.structs.replace(template, deadline_ms=deadline_ms))
    except (TypeError, ValueError, OverflowError) as error:
        raise BadMetadata(f"keys cannot travel: {error}") from None
    if len(metadata) > limits.metadata_bytes_max:
        raise BadMetadata(
            f"keys make {len(metadata)} bytes of metadata, at most {limits.metadata_bytes_max}",
            hint="ask in several requests",
        )
    return metadata


def parts_of(batch: pa.RecordBatch, id_: bytes) -> Iterator[tuple[pa.RecordBatch, bytes]]:
    """Parts small enough for one request each; their ids follow from the first one's."""
    row_bytes = max(1, batch.nbytes // max(1, batch.num_rows))
    rows = max(1, min(INGEST_ROWS_MAX, limits.message_bytes_max // 2 // row_bytes))
    size = envelope.ID_BYTES
    for number, start in enumerate(range(0, max(1, batch.num_rows), rows)):
        own = hashlib.blake2b(id_ + number.to_bytes(8, "little"), digest_size=size).digest()
        yield batch.slice(start, rows), own if number else id_


def path_of(view: str, version: int | None) -> Path:
    """The path that names a view.

    Raises:
        BadMetadata: HOF-204, no name or version that any view can have.
    """
    if not isinstance(view, str) or not view:
        raise BadMetadata(f"a view is named by a str, got {type(view).__name__}")
    if version is None:
        return (view,)
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise BadMetadata(f"version must be a whole number from 1, got {version!r}")
    return (view, str(version))


def checked_deadline(deadline_ms: int) -> int:
    """A deadline as it may travel.

    Raises:
        BadMetadata: HOF-204.
    """
    is_int = isinstance(deadline_ms, int) and not isinstance(deadline_ms, bool)
    if not is_int or not 1 <= deadline_ms <= DEADLINE_MS_MAX:
        raise BadMetadata(f"deadline_ms must be 1 to {DEADLINE_MS_MAX}, got {deadline_ms!r}")
    return deadline_ms


def checked_id(request_id: bytes | UUID | None) -> bytes:
    """A request id as it travels; a new one for None.

    Raises:
        BadMetadata: HOF-204.
    """
    return envelope.checked_id(request_id, partial(os.urandom, envelope.ID_BYTES))
