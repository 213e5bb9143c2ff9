"""The rows of a log in order, for people: filtered by key and time, void marks among them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from hofflight import limits
from hofflight.errors import BadRange
from hofflight.eventlog.joins import JOINED, UNAVAILABLE, read_joins
from hofflight.online.packed import stamp
from hofflight.replay.prepared import SEQ

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hofflight.eventlog.joins import JoinRecord
    from hofflight.features.records import GroupRecord
    from hofflight.features.view import View
    from hofflight.replay.read_log import History, Void
    from hofflight.replay.span import Span


@dataclass(frozen=True, slots=True)
class Filter:
    """Which rows: of one key (its parts as text; none: of all), with event times in a span."""

    record: GroupRecord
    key: tuple[str, ...]
    span: Span

    def values(self) -> list[pa.Scalar]:
        """The parts of the key as their columns have them.

        Raises: BadRange (HOF-215), too many parts or too few, or text that is no such value.
        """
        names = self.record.key
        if self.key and len(self.key) != len(names):
            raise BadRange(f"the key of {self.record.name} is {list(names)}, got {list(self.key)}")
        found = []
        for name, text in zip(names, self.key, strict=False):
            column_type = self.record.input.field(name).type
            try:
                found.append(pa.scalar(text).cast(column_type))
            except pa.ArrowException as error:
                raise BadRange(f"key {name!r} is {column_type}, got {text!r}") from error
        return found

    def keep(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """The rows that pass, in order of arrival."""
        chosen = pa.repeat(pa.scalar(value=True), rows.num_rows)
        for name, value in zip(self.record.key, self.values(), strict=False):
            chosen = pc.and_(chosen, pc.equal(rows.column(name), value))
        if not self.span.is_everything:
            ts = rows.column(self.record.event_time).cast(pa.int64())
            chosen = pc.and_(chosen, self.span.contains(ts))
        kept = rows.filter(pc.fill_null(chosen, False))
        return kept.take(pc.sort_indices(kept.column(SEQ)))


def batches(
    history: History, wanted: Filter, *, answers: int | None = None
) -> Iterator[pa.RecordBatch]:
    """Rows in order of arrival; `answers`: the version whose answers come along, and no other."""
    for after, last in history.ranges():
        parts: Sequence[pa.RecordBatch] = [
            part.rows
            for part in history.parts(after, last, answers=answers)
            if answers is None or part.version == answers
        ]
        if parts:
            yield wanted.keep(pa.concat_batches(parts))


def entries(
    history: History, wanted: Filter, versions: Sequence[int] | None = None
) -> Iterator[dict[str, Any]]:
    """Rows as plain values: `seq`, `arrival`, `id`, `code`, `late`, `error` and `row`.

    `versions`: show what these versions answered in place of what they were sent. Without a key or
    a span, void marks stand where they came, with no row.
    """
    is_all = not wanted.key and wanted.span.is_everything
    for after, last in history.ranges():
        found = [_void(void) for void in history.voids(after, last)] if is_all else []
        for version in versions or (None,):
            for part in history.parts(after, last, answers=version):
                if versions is None or part.version == version:
                    found += _plain(wanted.keep(part.rows))
        yield from sorted(found, key=lambda entry: entry["seq"])


def join_entries(history: History, view: View) -> Iterator[dict[str, Any]]:
    """What the answers of a joined view were joined from, as `entries` gives rows.

    `row` has for each streaming group the seq of its row, for each stored one the load and the
    event time of what was found.
    """
    for after, last in history.ranges():
        found = [_void(void) for void in history.voids(after, last)]
        for part in history.parts(after, last):
            about = part.rows.select(["_seq", "_arrival", "_request_id", "_row"]).to_pylist()
            records = read_joins(part.rows.column(JOINED))
            for one, record in zip(about, records, strict=True):
                found.append({
                    "seq": one["_seq"], "arrival": one["_arrival"].isoformat(),
                    "id": one["_request_id"].hex(), "code": "OK", "late": False, "error": "",
                    "row": _joined_from(view, record, one["_row"]),
                })  # fmt: skip
        yield from sorted(found, key=lambda entry: entry["seq"])


def _joined_from(view: View, record: JoinRecord, row: int) -> dict[str, Any]:
    shown: dict[str, Any] = {
        f"{name}@{version}": number << limits.ROW_BITS | row
        for (name, version), number in zip(view.streaming, record.numbers, strict=True)
    }
    stored = zip(view.stored, record.as_of, record.rows, strict=True)
    for (name, version), as_of, packed in stored:
        if as_of == UNAVAILABLE:
            shown[f"{name}@{version}"] = "UNAVAILABLE"
        elif packed is None:
            shown[f"{name}@{version}"] = f"NOT_FOUND in loads up to {as_of}"
        else:
            time_us, load = stamp(packed)
            moment = datetime.fromtimestamp(time_us / 1e6, UTC).isoformat()
            shown[f"{name}@{version}"] = f"load {load} of {moment}"
    return shown


def _plain(rows: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    shown = rows.select([n for n in rows.schema.names if n[0] != "_"]).to_pylist()
    if "_answer" in rows.schema.names:
        answers = rows.column("_answer").to_pylist()
        shown = [answer or row for answer, row in zip(answers, shown, strict=True)]
    about = rows.select(["_seq", "_arrival", "_request_id", "_late"]).to_pylist()
    for one, row in zip(about, shown, strict=True):
        arrival = one["_arrival"].isoformat()
        id_ = one["_request_id"].hex()
        yield {"seq": one["_seq"], "arrival": arrival, "id": id_, "code": "OK",
               "late": one["_late"], "error": "", "row": row}  # fmt: skip


def _void(void: Void) -> dict[str, Any]:
    return {"seq": void.seq, "arrival": void.arrival.isoformat(), "id": void.request_id.hex(),
            "code": void.code, "late": False, "error": void.error, "row": None}  # fmt: skip
