"""A request id that was seen before: the same answer, out of the log, counted once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hofflight.engine.replies import row_status
from hofflight.errors import HofError, IdReused, Indefinite, by_code
from hofflight.eventlog.protocol import Answer
from hofflight.wire.envelope import OK, AnswerMeta

if TYPE_CHECKING:
    from hofflight.engine.runner import Runner
    from hofflight.eventlog.protocol import Entry, EntryMeta, Request


def is_open(meta: EntryMeta, request: Request) -> bool:
    """Whether what is recorded is no outcome, so that the request is a new try.

    The same Kafka record again is none: it would hang again.
    """
    is_indefinite = issubclass(by_code().get(meta.code, HofError), Indefinite)
    return is_indefinite and (request.offset == -1 or request.offset > meta.offset)


def recorded_answer(entry: Entry, request: Request, runner: Runner) -> Answer | None:
    """The answer recorded for this id, in the columns of the view now asked for.

    None when the recorded outcome was indefinite (a function that hung): it may be tried again.

    Raises: IdReused (HOF-208), another payload or another group version; or the error that the
        request got the first time.
    """
    meta = entry.meta
    request.record = meta
    if (entry.head, entry.body) != (request.head, request.body):
        msg = f"request id {meta.id.hex()} was used for another payload"
        raise IdReused(msg, hint="make a new id for every new event; reuse it only to retry")
    if meta.code != OK:
        if is_open(meta, request):
            return None
        raise by_code().get(meta.code, HofError)(meta.error)
    if meta.group_version != runner.group.version:
        msg = f"request id {meta.id.hex()} was answered by version {meta.group_version}"
        raise IdReused(f"{msg} of {runner.group.name}, this view asks for {runner.group.version}")
    served, projection = request.served, runner.projection(request.served)
    again = AnswerMeta(OK, 1, meta.id, served.view, served.version, meta.code_hash)
    if meta.late or meta.overflow:
        again.late, again.status = row_status(
            runner, projection.columns, meta.rows, meta.late, meta.overflow
        )
    if not request.wants_answer:
        return Answer(again, *projection.empty)
    if not meta.answered:
        msg = f"request id {meta.id.hex()} was ingested without an answer"
        raise IdReused(msg, hint="ask with store=False and a new id to see its features now")
    if projection.is_whole and not served.is_part:
        return Answer(again, entry.answer_head, entry.answer_body)
    beside = request.beside
    if beside is not None:
        is_same = (meta.view, meta.view_version) == (served.view, served.version)
        beside = beside.recall(request, meta.joined if is_same else [])
        again.status = {**again.status, **beside.status}
        again.age_ms = beside.age_ms
    full = runner.full_reader.read_batch(entry.answer_head, entry.answer_body)
    if served.is_part:
        return Answer(again, *projection.empty, values=projection.batch(full))
    return Answer(again, *projection.encode_batch(full, beside.values if beside else None))
