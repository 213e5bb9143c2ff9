"""Our errors as gRPC statuses, both kinds translated here and nowhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NoReturn

import grpc

from hofflight import errors
from hofflight.errors import HofError, InternalError

if TYPE_CHECKING:
    from collections.abc import Callable

Code = grpc.StatusCode

# The first class that fits wins, so the narrower one stands first.
_CODES: Final = (
    (errors.UnknownView, Code.NOT_FOUND),
    (errors.Unauthenticated, Code.UNAUTHENTICATED),
    (errors.NotSupported, Code.UNIMPLEMENTED),
    (errors.BadRequest, Code.INVALID_ARGUMENT),
    (errors.DeadlinePassed, Code.DEADLINE_EXCEEDED),
    (errors.Overloaded, Code.RESOURCE_EXHAUSTED),
    (errors.Refused, Code.UNAVAILABLE),
    (errors.Indefinite, Code.ABORTED),
    (errors.DefinitionError, Code.FAILED_PRECONDITION),
    (errors.StoreError, Code.FAILED_PRECONDITION),
)
# Clients accept 8 KiB of trailers; gRPC writes a byte that is not plain ASCII as three.
_DETAIL_BYTES_MAX: Final = 2_000


def status_of(error: HofError) -> tuple[Any, str, tuple[tuple[str, str], ...]]:
    """The gRPC code, message and trailing metadata of an error."""
    code = next((code for kind, code in _CODES if isinstance(error, kind)), Code.INTERNAL)
    trailers = [("hof-code", error.code)]
    if error.retry_after_ms > 0:
        after = str(error.retry_after_ms)
        trailers += [("retry-after-ms", after), ("grpc-retry-pushback-ms", after)]
    details = str(error).encode()[:_DETAIL_BYTES_MAX].decode(errors="ignore")
    return code, details, tuple(trailers)


async def abort(context: Any, error: HofError) -> NoReturn:
    """End a call with an error; raises `grpc.aio.AbortError`, which must not be caught."""
    await context.abort(*status_of(error))
    raise AssertionError


def incident(
    error: BaseException, log: Any, new_id: Callable[[], bytes], doing: str
) -> InternalError:
    """What a client is told of our own bug: a number under which the log has the rest."""
    number = new_id().hex()
    log.error("incident", incident=number, doing=doing, exc_info=error)
    return InternalError(
        f"internal error, incident {number}", hint="the server's log has the details"
    )
