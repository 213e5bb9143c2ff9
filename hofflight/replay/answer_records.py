"""Answer records: what was answered, as Kafka records that anybody with Arrow can read.

A record's value is one Arrow IPC stream: the columns of `ANSWERED`, then the group's full row as it
was answered. A row is (`_request_id`, `_row`); it may come twice, after a worker was killed.

| header | what |
|---|---|
| `hof-v` | `1` |
| `hof-kind` | `features` |
| `hof-group`, `hof-version` | whose full rows they are |
| `hof-offset` | everything up to this offset of the input partition is there, itself perhaps not |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pyarrow as pa

from hofflight.observe.events import Events
from hofflight.replay.logged import ABOUT, EntryReader, has_answer
from hofflight.wire.envelope import OK
from hofflight.wire.kafka_record import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hofflight.eventlog.protocol import Entry
    from hofflight.wire.kafka_record import Headers

OFFSET: Final = "hof-offset"
_events = Events("hofflight.worker")
_LEFT_OUT: Final = ("_seq", "_answered")  # of one store's log; and only answers are here
_DIGITS_MAX: Final = 19
ANSWERED: Final = pa.schema([field for field in ABOUT if field.name not in _LEFT_OUT])


class AnswerRecords:
    """Makes the records of one group version. full: its full row. bytes_max: of one record."""

    def __init__(self, group: str, version: int, full: pa.Schema, bytes_max: int) -> None:
        self._reader = EntryReader(pa.schema([]), full)
        self._bytes_max = bytes_max
        self._headers: Headers = [
            ("hof-v", VERSION), ("hof-kind", b"features"), ("hof-group", group.encode()),
            ("hof-version", b"%d" % version),
        ]  # fmt: skip

    def encode(self, entries: Sequence[Entry]) -> Iterator[tuple[bytes, Headers]]:
        """Value and headers of the records for these entries, those without an answer left out."""
        answered = [entry for entry in entries if entry.meta.code == OK and has_answer(entry)]
        if not answered:
            return
        parts = list(self._cut(self._reader.answers(answered).drop_columns(list(_LEFT_OUT))))
        # Rows of the first entry may still follow all but the last.
        before = max(answered[0].meta.offset - 1, 0)
        for part in parts:
            offset = answered[-1].meta.offset if part is parts[-1] else before
            yield part, [*self._headers, (OFFSET, b"%d" % offset)]

    def _cut(self, rows: pa.RecordBatch) -> Iterator[bytes]:
        value = _stream(rows)
        if len(value) <= self._bytes_max:
            yield value
            return
        if rows.num_rows == 1:  # no topic takes it, and the others shall not wait for it
            _events.warning("row_not_exported", bytes=len(value),
                            request_id=rows.column("_request_id")[0].as_py().hex())  # fmt: skip
            return
        half = rows.num_rows // 2
        yield from self._cut(rows.slice(0, half))
        yield from self._cut(rows.slice(half))


def _stream(rows: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_batch(rows)
    return bytes(sink.getvalue())


def begin_of(tail: Sequence[Sequence[tuple[str, bytes]]], counted: int) -> int:
    """The first offset of the input that may not be in a topic whose last headers these are.

    counted: the last offset that the log has; what says more was not written by its worker.
    """
    said = [offset for offset in map(offset_said, tail) if offset <= counted]
    return max(said, default=-1)


def offset_said(headers: Sequence[tuple[str, bytes]]) -> int:
    """The `hof-offset` of a record, -1 where it has none: others may write to the topic too."""
    text = dict(headers).get(OFFSET) or b""
    return int(text) if text.isdigit() and len(text) < _DIGITS_MAX else -1
