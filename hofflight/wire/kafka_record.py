"""Requests and answers as Kafka records: many to a record, each on its own.

A request record's value is one self-contained Arrow IPC stream: the input schema, one batch for
each request, the end mark. An answer record's value is the batch messages of its answers, one
after the other. Where each begins is said by its size in a header and never read from its bytes:
those were a stranger's, and must not move the border to the next.

| header | of | what |
|---|---|---|
| `hof-v` | both | `1` |
| `hof-kind` | a nudge | `nudge`: no requests, no value; it only lets Spark go on |
| `hof-arrival-us` | requests | when the server had them, microseconds since 1970 |
| `hof-reply` | requests | topic that the answers go to |
| `hof-epoch` | both | which start of which server asks; a decimal number |
| `hof-requests` | requests | msgpack array of `RequestHead` |
| `hof-answers` | answers | msgpack array of `AnswerHead` |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import msgspec
import pyarrow as pa

from hofflight import limits
from hofflight.errors import BadRecord, HofError
from hofflight.wire.ipc import encode_schema, join_message, split_message
from hofflight.wire.schema import require_schema

if TYPE_CHECKING:
    from collections.abc import Sequence

Headers = list[tuple[str, bytes]]

VERSION: Final = b"1"
END: Final = b"\xff\xff\xff\xff\x00\x00\x00\x00"
NUDGE: Final[Headers] = [("hof-v", VERSION), ("hof-kind", b"nudge")]
_HEADERS_MAX: Final = 64
_DIGITS_MAX: Final = 19  # of 2^63
_WORDS_MAX: Final = 500  # of names that a stranger chose
# A message begins with a mark and its header's length, 4 bytes each.
Size = Annotated[int, msgspec.Meta(ge=8)]


class RequestHead(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """One request of a record, beside its batch; written as a msgpack array, in this order.

    call: the server's own number of it, which its answer repeats. id: 16 bytes. size: bytes of its
    message in the value. deadline_us: wall clock, 0 for none; past it nobody waits for the answer.
    joined: what a server looked up for its rows, a msgpack array of `eventlog.joins.JoinRecord`.
    places: of a request in parts, which of its rows these are; empty: all.
    """

    call: int
    id: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    size: Size
    view: str
    version: int
    deadline_us: int = 0
    store: bool = True
    wants_answer: bool = True
    joined: bytes = b""
    places: list[Annotated[int, msgspec.Meta(ge=0, lt=1 << limits.ROW_BITS)]] = []


class AnswerHead(msgspec.Struct, array_like=True):
    """One answer of a record: the call that it answers, its metadata, its message's bytes."""

    call: int
    meta: bytes
    size: Size


class RequestRecord(NamedTuple):
    """What a record of requests holds: each with head and body of its batch."""

    arrival_us: int
    reply: str
    epoch: int
    requests: list[tuple[RequestHead, bytes, bytes]]


class AnswerRecord(NamedTuple):
    """What a record of answers holds: each with head and body of its batch."""

    epoch: int
    answers: list[tuple[AnswerHead, bytes, bytes]]


class Framing:
    """How requests of one input schema are framed, and read back."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._message = join_message(encode_schema(schema), b"")
        # What a record has beside its requests: headers take some hundred bytes.
        self.overhead_bytes = len(self._message) + len(END) + limits.KIB
        # Schema messages that were read before and are this schema: writers differ in their bytes.
        self._known = {self._message}

    def encode(
        self,
        arrival_us: int,
        reply: str,
        epoch: int,
        requests: Sequence[tuple[RequestHead, bytes]],
    ) -> tuple[bytes, Headers]:
        """Value and headers; `requests` come with their encapsulated messages."""
        value = b"".join((self._message, *(message for _, message in requests), END))
        headers = [
            ("hof-v", VERSION),
            ("hof-arrival-us", b"%d" % arrival_us),
            ("hof-reply", reply.encode()),
            ("hof-epoch", b"%d" % epoch),
            ("hof-requests", _encode([head for head, _ in requests])),
        ]
        return value, headers

    def decode(
        self, value: bytes | None, headers: Sequence[tuple[str, bytes]]
    ) -> RequestRecord | None:
        """The requests of a record; None for a nudge. What the batches hold is not looked at.

        Raises: BadRecord (HOF-220), it is no such record.
        """
        said = _checked(headers)
        if "hof-kind" in said:
            if said["hof-kind"] == b"nudge" and not value:
                return None
            raise BadRecord(f"a record of kind {said['hof-kind'][:32]!r} is unknown")
        heads = _decode(said, "hof-requests", _requests)
        if not value:
            raise BadRecord("the record has requests and no value")
        schema_end = len(value) - len(END) - sum(head.size for head in heads)
        if schema_end <= 0 or not value.endswith(END):
            raise BadRecord("the value is not as long as its requests say")
        self._require_schema(value[:schema_end])
        record = RequestRecord(
            _number(said, "hof-arrival-us"), _text(said, "hof-reply"), _number(said, "hof-epoch"),
            [],
        )  # fmt: skip
        for head, message in zip(heads, _cut(value, schema_end, heads), strict=True):
            record.requests.append((head, *_split(message)))
        return record

    def _require_schema(self, message: bytes) -> None:
        if message in self._known:
            return
        if len(message) > limits.header_bytes_max:
            raise BadRecord("the schema is too long")
        if len(message) != 8 + int.from_bytes(message[4:8], "little"):
            raise BadRecord("between schema and requests is what no request says")
        try:
            require_schema(self._schema, pa.ipc.read_schema(pa.py_buffer(message)))
        except (HofError, pa.ArrowException, OSError, ValueError) as error:
            text = error.message if isinstance(error, HofError) else str(error).splitlines()[0]
            msg = f"the value does not begin with the input schema: {text[:_WORDS_MAX]}"
            raise BadRecord(msg) from None
        if len(self._known) < limits.layouts_max:
            self._known.add(message)


def encode_answers(
    epoch: int, answers: Sequence[tuple[int, bytes, bytes, bytes]]
) -> tuple[bytes, Headers]:
    """Value and headers of answers: (call, metadata, head, body) each."""
    messages = [join_message(head, body) for _, _, head, body in answers]
    heads = [
        AnswerHead(call, meta, len(message))
        for (call, meta, _, _), message in zip(answers, messages, strict=True)
    ]
    headers = [
        ("hof-v", VERSION),
        ("hof-epoch", b"%d" % epoch),
        ("hof-answers", _encode(heads)),
    ]
    return b"".join(messages), headers


def decode_answers(value: bytes | None, headers: Sequence[tuple[str, bytes]]) -> AnswerRecord:
    """The answers of a record.

    Raises: BadRecord (HOF-220), it is no such record.
    """
    said = _checked(headers)
    heads = _decode(said, "hof-answers", _answers)
    value = value or b""
    if len(value) != sum(head.size for head in heads):
        raise BadRecord("the value is not as long as its answers say")
    record = AnswerRecord(_number(said, "hof-epoch"), [])
    for head, message in zip(heads, _cut(value, 0, heads), strict=True):
        record.answers.append((head, *_split(message)))
    return record


# --- the pieces -----------------------------------------------------------------------------------

_encode: Final = msgspec.msgpack.Encoder().encode
_requests: Final = msgspec.msgpack.Decoder(list[RequestHead])
_answers: Final = msgspec.msgpack.Decoder(list[AnswerHead])


def _checked(headers: Sequence[tuple[str, bytes]]) -> dict[str, bytes]:
    """Our headers by name; those of others (`traceparent`) are let through."""
    if len(headers) > _HEADERS_MAX:
        raise BadRecord(f"{len(headers)} headers are too many")
    said: dict[str, bytes] = {}
    for name, value in headers:
        if name.startswith("hof-"):
            if name in said:
                raise BadRecord(f"the header {name[:32]!r} is there twice")
            if value is None:
                raise BadRecord(f"the header {name[:32]!r} is null")
            said[name] = value
    if said.get("hof-v") != VERSION:
        raise BadRecord(
            f"the header hof-v is {said.get('hof-v', b'')[:16]!r}, expected {VERSION!r}",
            hint="records come from a hofflight server; events of others come in through DoPut",
        )
    return said


def _decode(said: dict[str, bytes], name: str, decoder: Any) -> Any:
    try:
        found = decoder.decode(said[name])
    except KeyError:
        raise BadRecord(f"the header {name} is missing") from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BadRecord(f"the header {name} does not decode: {error}") from None
    if not found:
        raise BadRecord(f"the header {name} is empty")
    return found


def _number(said: dict[str, bytes], name: str) -> int:
    text = said.get(name, b"")
    if not text.isdigit() or len(text) > _DIGITS_MAX or int(text) >= 1 << 63:
        raise BadRecord(f"the header {name} is {text[:32]!r}, expected a number")
    return int(text)


def _text(said: dict[str, bytes], name: str) -> str:
    try:
        return said[name].decode()
    except (KeyError, UnicodeDecodeError):
        raise BadRecord(f"the header {name} is missing or not UTF-8") from None


def _cut(value: bytes, at: int, heads: Sequence[Any]) -> list[bytes]:
    parts = []
    for head in heads:
        parts.append(value[at : at + head.size])
        at += head.size
    return parts


def _split(message: bytes) -> tuple[bytes, bytes]:
    """Head and body of a message; no head where it is none, which is its own sender's affair."""
    length = int.from_bytes(message[4:8], "little")
    if message[:4] != END[:4] or length > len(message) - 8:
        return b"", message
    return split_message(pa.py_buffer(message))
