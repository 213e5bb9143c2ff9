"""One answer out of the answers of a request's parts. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hofflight.errors import HofError, Indefinite, MalformedBatch, by_code
from hofflight.eventlog.protocol import Answer
from hofflight.wire.envelope import OK, AnswerMeta, agreed
from hofflight.wire.ipc import BatchReader, empty_message, encode_batch

if TYPE_CHECKING:
    from hofflight.eventlog.protocol import Request
    from hofflight.server.pending import Gathering


def gathered(request: Request, gathering: Gathering) -> Answer | HofError:
    """All parts' rows in the request's order; or the error, where a part has one.

    A part that was refused while another one counted leaves the request half done: then nobody
    can say that nothing was counted, so the error is an indefinite one.
    """
    answers = [answer for answer in gathering.answers if isinstance(answer, Answer)]
    errors = [error for error in map(_error_of, gathering.answers) if error is not None]
    if errors:
        return _worst(errors, counted=len(errors) < len(gathering.answers))
    try:
        return _together(request, gathering, answers)
    except (HofError, ValueError, IndexError, EOFError, TypeError, pa.ArrowException) as error:
        msg = f"a worker's answer does not decode: {type(error).__name__}"
        return Indefinite(msg, hint="ask again with the same request id")


def _together(request: Request, gathering: Gathering, answers: list[Answer]) -> Answer:
    """Raises: what a part of other rows, or of other columns, makes it raise."""
    served = request.served
    meta = AnswerMeta(OK, 1, request.id, served.view, served.version, answers[0].meta.code_hash)
    order = np.argsort(np.concatenate([np.array(rows) for rows in gathering.rows]))
    meta.late = agreed(_spread([answer.meta.late for answer in answers], gathering, order))
    names = {name for answer in answers for name in answer.meta.status}
    meta.status = {
        name: agreed(_spread([a.meta.status.get(name, OK) for a in answers], gathering, order))
        for name in sorted(names)
    }
    meta.age_ms = {
        name: agreed(_spread([a.meta.age_ms.get(name) for a in answers], gathering, order))
        for name in answers[0].meta.age_ms
    }
    meta.timings_us = {
        name: max(answer.meta.timings_us.get(name, 0) for answer in answers)
        for name in answers[0].meta.timings_us
    }
    if not request.wants_answer:
        return Answer(meta, *empty_message(served.output_schema))
    reader = BatchReader(served.output_schema)
    for answer in answers:
        reader.layout(answer.head, answer.body)
    batches = [reader.read_batch(answer.head, answer.body) for answer in answers]
    for batch, rows in zip(batches, gathering.rows, strict=True):
        _require_rows(batch.num_rows, len(rows))
    table = pa.Table.from_batches(batches)
    (batch,) = table.take(pa.array(order)).combine_chunks().to_batches()
    return Answer(meta, *encode_batch(batch))


def _require_rows(came: int, expected: int) -> None:
    """Refuse a part that answers for other rows than it was asked for.

    Raises: MalformedBatch (HOF-203).
    """
    if came != expected:
        raise MalformedBatch(f"{came} rows came, {expected} were asked for")


def _error_of(outcome: object) -> HofError | None:
    if isinstance(outcome, HofError):
        return outcome
    if isinstance(outcome, Answer) and outcome.meta.code != OK:
        meta = outcome.meta
        error = by_code().get(meta.code, HofError)
        return error(meta.error, hint=meta.hint, retry_after_ms=meta.retry_after_ms)
    return None


def _worst(errors: list[HofError], *, counted: bool) -> HofError:
    indefinite = [error for error in errors if isinstance(error, Indefinite)]
    if indefinite:
        return indefinite[0]
    if counted or len({type(error) for error in errors}) > 1:
        msg = f"rows of other partitions may have counted, these did not: {errors[0].message}"
        return Indefinite(msg, hint=errors[0].hint or "ask again with the same request id")
    return errors[0]


def _spread(values: list[Any], gathering: Gathering, order: Any) -> list[Any]:
    """One value a row, in the request's order."""
    flat: list[Any] = []
    for value, rows in zip(values, gathering.rows, strict=True):
        if isinstance(value, list):
            _require_rows(len(value), len(rows))
        flat += value if isinstance(value, list) else [value] * len(rows)
    return [flat[place] for place in order.tolist()]
