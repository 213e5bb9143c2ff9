"""What a joined answer says: of its parts together, or why there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hofflight.errors import HofError, StoredMissing, StoredUnavailable
from hofflight.eventlog.protocol import Answer
from hofflight.wire.envelope import OK, AnswerMeta
from hofflight.wire.ipc import empty_message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hofflight.eventlog.protocol import Request, Served


def meta_of(request: Request, metas: Sequence[AnswerMeta]) -> AnswerMeta:
    """What the parts say, together; the only one says it all."""
    served = request.served
    if len(metas) == 1:
        return metas[0]
    meta = AnswerMeta(OK, 1, request.id, served.view, served.version, served.code_hash)
    meta.timings_us = {}
    for part in metas:
        meta.status = {**meta.status, **part.status}
        meta.timings_us |= part.timings_us
    if metas:
        meta.group_late = {
            part.group: found.late for part, found in zip(served.parts, metas, strict=True)
        }
        meta.late = _any_late([found.late for found in metas])
    return meta


def _any_late(flags: Sequence[bool | list[bool]]) -> bool | list[bool]:
    lists = [late for late in flags if isinstance(late, list)]
    if any(late is True for late in flags) or not lists:
        return any(late is True for late in flags)
    return [any(row) for row in zip(*lists, strict=True)]


def policy_error(served: Served, missing: str) -> HofError | None:
    """The error that a view which must have its stored rows answers instead."""
    if not missing or served.on_missing == "mark":
        return None
    if missing == "UNAVAILABLE":
        msg = f"{served.view}: the online store did not answer"
        return StoredUnavailable(msg, hint="ask again with the same request id")
    what = "is not there" if missing == "NOT_FOUND" else "is older than its ttl"
    msg = f"{served.view}: a stored row {what}"
    return StoredMissing(msg, hint='load it, or declare the view with on_missing="mark"')


def finish_with(request: Request, failed: AnswerMeta) -> None:
    """Answer with an error, and no rows."""
    served = request.served
    meta = AnswerMeta(
        failed.code, 1, request.id, served.view, served.version, served.code_hash,
        error=failed.error, hint=failed.hint, retry_after_ms=failed.retry_after_ms,
    )  # fmt: skip
    request.finish(Answer(meta, *empty_message(served.output_schema)))
