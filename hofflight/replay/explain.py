"""Why a row has the features it has: both sides of each, and the events in every window."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from hofflight.errors import BadMetadata, UnknownView
from hofflight.replay.partitioned import PartitionExplanation
from hofflight.replay.prepared import SEQ, TS
from hofflight.replay.verify import LATE, Answers
from hofflight.replay.windowed import database
from hofflight.transform.window_plan import lower_bound
from hofflight.wire.columns import first_value, to_python
from hofflight.wire.envelope import checked_id
from hofflight.wire.parity import Explanation

if TYPE_CHECKING:
    from hofflight.features.group import FeatureGroup
    from hofflight.features.window import Frame
    from hofflight.replay.read_log import History
    from hofflight.settings import ReplaySettings


def explain(
    history: History, group: FeatureGroup, settings: ReplaySettings, request_id: bytes | str
) -> list[Explanation]:
    """The rows of a request, in order.

    Raises: UnknownView (HOF-201), this group version answered no such request.
    """
    id_ = checked_request_id(request_id)
    answers = Answers(history, group)
    keys = _keys_of(answers, id_)
    with database(settings) as db:
        found = pa.Table.from_batches(list(answers.windowed(db, keys=keys)))
    rows = found.sort_by([(TS, "ascending"), (SEQ, "ascending")]).combine_chunks().to_batches()[0]
    mine = pc.and_(rows.column("_ours"), pc.equal(rows.column("_request_id"), id_))
    places = pc.indices_nonzero(mine).to_pylist()
    ordered = sorted(places, key=lambda place: rows.column("_row")[place].as_py())
    return [_explained(answers, rows, place, id_) for place in ordered]


def checked_request_id(request_id: bytes | str) -> bytes:
    """16 bytes, or their hex digits.

    Raises: BadMetadata (HOF-204).
    """
    if isinstance(request_id, str):
        try:
            request_id = bytes.fromhex(request_id)
        except ValueError:
            raise BadMetadata(f"{request_id!r} is no request id", hint="32 hex digits") from None
    return checked_id(request_id, bytes)


def _keys_of(answers: Answers, request_id: bytes) -> pa.Table:
    """The prepared keys of a request's rows, which may be in several partitions."""
    names = answers.transformation.preparation.question.keys
    found = []
    for part in answers.history.parts(about=("_seq", "_arrival", "_request_id", "_answered")):
        if part.version != answers.group.version:
            continue
        mine = part.rows.filter(
            pc.and_(pc.equal(part.rows.column("_request_id"), request_id),
                    part.rows.column("_answered"))
        )  # fmt: skip
        if mine.num_rows:
            found.append(answers.transformation.apply(mine).select(names))
    if found:
        return pa.Table.from_batches(found).group_by(names).aggregate([])
    group = answers.group
    msg = f"{group.name}@{group.version} answered no request {request_id.hex()}"
    raise UnknownView(msg, hint="an id is the 16 bytes of a vector's request_id, or their hex")


def _explained(
    answers: Answers, rows: pa.RecordBatch, place: int, request_id: bytes
) -> Explanation:
    group = answers.group
    row = rows.slice(place, 1)
    replayed = answers.replayed(row)
    features = {
        name: {
            "served": first_value(answers.served(row, name)),
            "replayed": first_value(replayed[name]),
            "equal": bool(answers.equal(row, replayed, name)[0]),
        }
        for name in group.schema.names
    }
    late = bool(first_value(row.column(LATE)))
    visible = rows.slice(0, 0) if late else _visible(answers, rows, row)
    windows = {
        name: {
            "window": str(window),
            "events": _events(answers, visible, window.frame, window.columns_read()),
        }
        for name, window in group.windows.items()
    }
    number = int(first_value(row.column("_row")))
    partition, seq = answers.history.place_of(int(first_value(row.column(SEQ))))
    about = (request_id.hex(), number, seq, late, features, windows)
    if partition is None:
        return Explanation(*about)
    return PartitionExplanation(*about, partition=partition)


def _visible(answers: Answers, rows: pa.RecordBatch, row: pa.RecordBatch) -> pa.RecordBatch:
    """V(r): rows of the key, by (ts, seq), that were there and are not late; r is the last."""
    seen = pc.and_(
        pc.less_equal(rows.column(TS), row.column(TS)[0]),
        pc.less_equal(rows.column(SEQ), row.column(SEQ)[0]),
    )
    seen = pc.and_(seen, pc.invert(rows.column(LATE)))
    for key in answers.transformation.preparation.question.keys:
        seen = pc.and_(seen, pc.equal(rows.column(key), row.column(key)[0]))
    return rows.filter(seen)


def _events(
    answers: Answers, visible: pa.RecordBatch, frame: Frame, read: tuple[str, ...]
) -> list[dict[str, Any]]:
    """The rows of V(r) in a frame, with what the window reads of them."""
    if not visible.num_rows:
        return []
    ts = to_python(visible.column(TS))
    last = len(ts) - 1
    low = (
        _session_start(ts, frame.size_us)
        if frame.kind == "session"
        else lower_bound(frame)(ts, ts[last], last)
    )
    framed = visible.slice(low, last + frame.own_row - low)
    columns = {"seq": SEQ, "ts": TS, **{name: name for name in read}}
    values = [to_python(framed.column(column)) for column in columns.values()]
    values[0] = [answers.history.place_of(seq)[1] for seq in values[0]]
    return [dict(zip(columns, event, strict=True)) for event in zip(*values, strict=True)]


def _session_start(ts: list[int], gap_us: int) -> int:
    """Place of the first row of the last session."""
    for place in range(len(ts) - 1, 0, -1):
        if ts[place] - ts[place - 1] >= gap_us:
            return place
    return 0
