"""Errors of answers and of Flight as errors of ours; translated here and nowhere else."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from hofflight import errors, limits
from hofflight.errors import HofError

if TYPE_CHECKING:
    from hofflight.wire.envelope import AnswerMeta

_OURS: Final = re.compile(r"(HOF-\d{3}): (.*)", re.DOTALL)
# What pyarrow writes around a server's words, and a Python server's traceback after them.
_BEFORE: Final = re.compile(r"^.*?with message: ", re.DOTALL)
_AFTER: Final = re.compile(
    r"\.? ?(gRPC client debug context:|Client context:|Detail: |Additionally, could not ).*$",
    re.DOTALL,
)
_TEXT_MAX: Final = 300
_FAMILIES: Final[dict[str, type[HofError]]] = {
    "1": errors.DefinitionError,
    "2": errors.BadRequest,
    "3": errors.Refused,
    "4": errors.Indefinite,
    "5": errors.StoreError,
    "6": errors.SettingsError,
    "9": errors.InternalError,
}
# The first name that fits wins; pyarrow tells some gRPC codes apart in words only.
_FOREIGN: Final = (
    ("resource exhausted", errors.Overloaded),
    ("FlightTimedOutError", errors.NoAnswer),
    ("FlightUnauthenticatedError", errors.Unauthenticated),
    ("FlightUnauthorizedError", errors.Unauthenticated),
    ("ArrowNotImplementedError", errors.NotSupported),
    ("ArrowKeyError", errors.UnknownView),
    ("ArrowInvalid", errors.BadRequest),
)


def from_answer(meta: AnswerMeta) -> HofError:
    """The error that an answer carries instead of rows."""
    return _by_code(meta.code, meta.error, meta.hint, meta.retry_after_ms)


def from_flight(error: Exception) -> HofError:
    """The error that a server's status, or the lack of a server, means.

    A server of ours begins its words with a code. Without one it is told from the gRPC status: an
    end that says nothing of our request is ConnectionLost.
    """
    text = str(error)
    found = _OURS.search(text)
    if found:
        message, _, hint = _AFTER.sub("", found[2]).partition(" Hint: ")
        return _by_code(found[1], message, hint, 0)
    plain = _AFTER.sub("", _BEFORE.sub("", text)).split("\n", 1)[0][:_TEXT_MAX]
    told = f"{type(error).__name__} {text[:_TEXT_MAX]}"
    kind = next((kind for name, kind in _FOREIGN if name in told), errors.ConnectionLost)
    waiting = limits.retry_after_ms if kind is errors.Overloaded else 0
    return kind(plain or type(error).__name__, retry_after_ms=waiting)


def again(error: HofError) -> HofError:
    """A copy to raise in one more thread: an exception instance belongs to one traceback."""
    return type(error)(error.message, hint=error.hint, retry_after_ms=error.retry_after_ms)


def _by_code(code: str, message: str, hint: str, retry_after_ms: int) -> HofError:
    kind = errors.by_code().get(code)
    if kind is None:
        # A newer server's code: its family says whether to send again.
        kind, message = _FAMILIES.get(code[4:5], HofError), f"{code}: {message}"
    if issubclass(kind, errors.Refused) and not retry_after_ms:
        retry_after_ms = limits.retry_after_ms
    return kind(message, hint=hint, retry_after_ms=retry_after_ms)
