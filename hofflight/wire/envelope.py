"""What travels beside a batch: `app_metadata`, a small versioned msgpack map."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final
from uuid import UUID

import msgspec

from hofflight import limits
from hofflight.errors import BadMetadata

if TYPE_CHECKING:
    from collections.abc import Callable

VERSION: Final = 1
ID_BYTES: Final = 16
OK: Final = "OK"


class RequestMeta(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Beside a request batch. Every field may be left out.

    id: 16 bytes; the same id and payload is answered the same and counted once.
    deadline_ms: from arrival; past it the answer is an error.
    store: False answers each row as if it came next and keeps nothing of it.
    keys: of stored groups, by column: a value for all rows, or a list with one for each.
    ordered: answers must not overtake each other.
    key_hash: `murmur2` of a key in whose partition all rows of the batch are.
    """

    v: int = VERSION
    id: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)] | None = None
    deadline_ms: Annotated[int, msgspec.Meta(ge=1, le=3_600_000)] | None = None
    store: bool = True
    keys: dict[str, Any] | None = None
    ordered: bool = False
    key_hash: Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)] | None = None


class AnswerMeta(msgspec.Struct, omit_defaults=True):
    """Beside an answer batch. `code` is `OK` or an error code; an error's batch has zero rows.

    late, status[feature], age_ms[feature]: one value per row, or one for all when they agree.
    status has every stored feature, and those computed ones that are not OK: OVERFLOW, LATE.
    age_ms has every stored feature; null where there is no row. group_late: of each streaming
    group, where the view has several; `late` says then whether any of them was.
    """

    code: str
    v: int = VERSION
    id: bytes | None = None
    view: str = ""
    version: int = 0
    code_hash: str = ""
    status: dict[str, Any] = {}
    age_ms: dict[str, Any] = {}
    late: bool | list[bool] = False
    timings_us: dict[str, int] = {}
    error: str = ""
    hint: str = ""
    retry_after_ms: int = 0
    group_late: dict[str, bool | list[bool]] = {}


_request_decoder = msgspec.msgpack.Decoder(RequestMeta)
_answer_decoder = msgspec.msgpack.Decoder(AnswerMeta)
_encoder = msgspec.msgpack.Encoder()
NO_META: Final = RequestMeta()


def checked_id(request_id: bytes | UUID | None, new_id: Callable[[], bytes]) -> bytes:
    """16 bytes: the id that a caller gave, or a new one.

    Raises:
        BadMetadata: HOF-204.
    """
    if request_id is None:
        return new_id()
    raw = request_id.bytes if isinstance(request_id, UUID) else request_id
    if not isinstance(raw, bytes) or len(raw) != ID_BYTES:
        msg = f"a request id is 16 bytes or a UUID, got {request_id!r}"
        raise BadMetadata(msg)
    return raw


def read_request(data: bytes) -> RequestMeta:
    """The checked metadata of a request; no bytes at all mean all defaults.

    Raises:
        BadMetadata: HOF-204.
    """
    if not data:
        return NO_META
    if len(data) > limits.metadata_bytes_max:
        msg = f"app_metadata has {len(data)} bytes, at most {limits.metadata_bytes_max}"
        raise BadMetadata(msg)
    try:
        meta = _request_decoder.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        msg = f"app_metadata is not the msgpack map of this protocol: {error}"
        raise BadMetadata(
            msg, hint="a map with v, id, deadline_ms, store, keys, ordered, key_hash"
        ) from error
    if meta.v != VERSION:
        msg = f"app_metadata has version {meta.v}, this server speaks {VERSION}"
        raise BadMetadata(msg)
    return meta


def read_answer(data: bytes) -> AnswerMeta:
    """The metadata of an answer.

    Raises:
        BadMetadata: HOF-204, the other side is no hofflight server.
    """
    try:
        return _answer_decoder.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        msg = f"the answer's app_metadata does not decode: {error}"
        raise BadMetadata(msg) from error


def agreed(values: list[Any]) -> Any:
    """One value where all are equal, else all: how a column of n travels."""
    return values[0] if len(set(values)) == 1 else values


def write(meta: RequestMeta | AnswerMeta) -> bytes:
    """The msgpack bytes of either."""
    return _encoder.encode(meta)
