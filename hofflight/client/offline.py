"""What clients send for training data, parity and labels, and what comes of the answers."""

from __future__ import annotations

from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pyarrow as pa

from hofflight import limits
from hofflight.errors import BadRows, NotSupported, TooLarge
from hofflight.wire.parity import Explanation, Parity
from hofflight.wire.rows import to_table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# Replay takes seconds; a table of a year some minutes.
DEADLINE_MS: Final = 600_000


def ticket_of(
    view: str, start: Any, end: Any, as_of: str, split: Mapping[str, Any] | None,
    version: int | None, engine: str, *, ids: bool,
) -> dict[str, Any]:  # fmt: skip
    """The JSON of a training ticket, moments as text or microseconds."""
    parts = None if split is None else {name: plain_moment(part) for name, part in split.items()}
    ticket = {
        "view": view, "version": version, "start": plain_moment(start), "end": plain_moment(end),
        "as_of": as_of, "split": parts, "engine": engine, "ids": ids,
    }  # fmt: skip
    return {name: value for name, value in ticket.items() if value is not None}


def plain_moment(moment: Any) -> Any:
    """A datetime or date as ISO 8601 text, anything else as it is; the server checks it."""
    return moment.isoformat() if isinstance(moment, date | datetime) else moment


def label_body(view: str, version: int | None, labels: Any) -> bytes:
    """The msgpack body of the `label` action.

    Raises: BadRows (HOF-211), neither a table nor rows; TooLarge (HOF-207).
    """
    try:
        table = to_table(labels)
    except (TypeError, ValueError, pa.ArrowException) as error:
        msg = f"labels cannot be {type(labels).__name__}: {error}"
        raise BadRows(msg, hint="a table, a frame, or a list of dicts") from error
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    size = sink.tell()
    if size > limits.message_bytes_max - limits.KIB:
        msg = f"the labels have {size} bytes, at most {limits.message_bytes_max}"
        raise TooLarge(msg, hint="load them in parts")
    body = sink.getvalue().to_pybytes()
    return msgspec.msgpack.encode({"view": view, "version": version, "table": body})


def verify_body(view: str, version: int | None, since: Any, sample: float | None) -> dict[str, Any]:
    """The JSON body of the `verify` action."""
    body = {"view": view, "version": version, "since": plain_moment(since), "sample": sample}
    return {name: value for name, value in body.items() if value is not None}


def parity_of(answer: dict[str, Any], explain: Callable[[str], dict[str, Any]] | None) -> Parity:
    """The parity that a server found; `explain` asks it for the answer to one request.

    Without one, `Parity.explain` raises NotSupported (HOF-213): it cannot be awaited.
    """

    def explainer(request_id: bytes | str) -> list[Explanation]:
        if explain is None:
            msg = "a parity of connect_async explains nothing"
            raise NotSupported(msg, hint="use hof.connect, or hof verify --explain REQUEST_ID")
        text = request_id if isinstance(request_id, str) else request_id.hex()
        return [Explanation(**found) for found in explain(text)["explained"]]

    return Parity.from_dict(answer, explainer)
