"""Answers as they travel: metadata and the view's columns, or a code and no rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hofflight.eventlog.protocol import Answer
from hofflight.wire.envelope import OK, AnswerMeta, agreed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hofflight.engine.runner import Computed, Runner
    from hofflight.errors import HofError
    from hofflight.eventlog.protocol import Request


def answer_of(request: Request, runner: Runner, done: Computed, rows: int) -> Answer:
    """The answer to a request whose rows were computed."""
    served = request.served
    projection = runner.projection(served)
    meta = AnswerMeta(OK, 1, request.id, served.view, served.version, runner.code_hash)
    if done.late or done.overflow:
        meta.late, meta.status = row_status(
            runner, projection.columns, rows, done.late, done.overflow
        )
    if not request.wants_answer:
        return Answer(meta, *projection.empty)
    if served.is_part:
        return Answer(meta, *projection.empty, values=projection.values(done))
    beside = request.beside
    if beside is None:
        return Answer(meta, *projection.encode(done))
    meta.status = {**meta.status, **beside.status} if meta.status else beside.status
    meta.age_ms = beside.age_ms
    return Answer(meta, *projection.encode(done, beside.values))


def refusal(request: Request, runner: Runner, error: HofError) -> Answer:
    """The answer that says why there is none: zero rows and a code."""
    served = request.served
    meta = AnswerMeta(
        error.code, 1, request.id, served.view, served.version, runner.code_hash,
        error=error.message, hint=error.hint, retry_after_ms=error.retry_after_ms,
    )  # fmt: skip
    return Answer(meta, *runner.projection(served).empty)


def row_status(
    runner: Runner,
    columns: Sequence[str],
    rows: int,
    late: Sequence[int],
    overflow: Mapping[str, Sequence[int]],
) -> tuple[bool | list[bool], dict[str, Any]]:
    """`late` and `status` of an answer: one value per row, or one for all when they agree.

    Only window columns of the view that are not OK in some row have a status.
    """
    is_late = [False] * rows
    for row in late:
        is_late[row] = True
    status: dict[str, Any] = {}
    for name in columns:
        if name not in runner.group.windows:
            continue
        over = overflow.get(name, ())
        if late or over:
            codes = ["LATE" if flag else OK for flag in is_late]
            for row in over:
                codes[row] = "OVERFLOW"
            status[f"{runner.group.name}.{name}"] = agreed(codes)
    return agreed(is_late), status
