"""Every error a user can meet: one tree, a stable code each, and how to mend it.

HofError
├── DefinitionError   HOF-1xx  the declaration is wrong; nothing was registered
├── BadRequest        HOF-2xx  definite: the same bytes will fail again
├── Refused           HOF-3xx  nothing reached the log; the same request may be sent again
├── Indefinite        HOF-4xx  the outcome is not known here; ask again with the same request id
├── StoreError        HOF-5xx  the store directory cannot be used as asked
├── SettingsError     HOF-6xx  a setting is wrong or unsafe
├── NotEqual          HOF-700  what was served is not what replay gives
└── InternalError     HOF-900  our bug; quote the request id
"""

from __future__ import annotations

from typing import ClassVar


class HofError(Exception):
    """The root: `code` is stable, `str(error)` says what was expected, what came and how to fix it.

    `retry_after_ms` is positive only where waiting helps. `request_id` is the id to ask again with,
    on errors of a client's request.
    """

    code: ClassVar[str] = "HOF-000"
    request_id: bytes | None = None

    def __init__(self, message: str, *, hint: str = "", retry_after_ms: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.retry_after_ms = retry_after_ms

    def __str__(self) -> str:
        hint = f" Hint: {self.hint}" if self.hint else ""
        return f"{self.code}: {self.message}{hint}"


class DefinitionError(HofError, ValueError):
    """A feature group, window, expression or view is declared wrongly."""

    code = "HOF-100"


class InvalidName(DefinitionError):
    """A name does not match `[a-z][a-z0-9_]{0,62}` or is used twice."""

    code = "HOF-101"


class UnknownColumn(DefinitionError):
    """A declaration refers to a column that does not exist."""

    code = "HOF-102"


class WrongType(DefinitionError):
    """A column's type is not allowed, or not usable where it is used."""

    code = "HOF-103"


class InvalidDuration(DefinitionError):
    """A duration is not a positive number with a unit, such as `10m`."""

    code = "HOF-104"


class InvalidWindow(DefinitionError):
    """A window lacks its kind, or combines things that have no exact answer."""

    code = "HOF-105"


class MissingFunction(DefinitionError):
    """Output columns declared by type need a function, and there is none (or one too many)."""

    code = "HOF-106"


class VersionChanged(DefinitionError):
    """This name and version are registered with another definition."""

    code = "HOF-107"


class InvalidView(DefinitionError):
    """A view selects nothing, something unknown, or features of more than one streaming group."""

    code = "HOF-108"


class BadRequest(HofError):
    """Definite: the request is wrong and stays wrong."""

    code = "HOF-200"


class UnknownView(BadRequest, KeyError):
    """No view or feature group of that name and version is served here."""

    code = "HOF-201"


class SchemaMismatch(BadRequest):
    """The columns sent are not the registered input columns, in order and type."""

    code = "HOF-202"


class MalformedBatch(BadRequest):
    """The Arrow message lies about itself, is compressed, or is not Arrow."""

    code = "HOF-203"


class BadMetadata(BadRequest):
    """`app_metadata` is not the versioned msgpack map of the protocol."""

    code = "HOF-204"


class NullKey(BadRequest):
    """A key column holds null or NaN."""

    code = "HOF-205"


class BadEventTime(BadRequest):
    """An event time is null, outside 1900 to 2040, or further in the future than `early` allows."""

    code = "HOF-206"


class TooLarge(BadRequest):
    """More rows or bytes than the limits, or no row at all."""

    code = "HOF-207"


class IdReused(BadRequest):
    """This request id was used for another payload."""

    code = "HOF-208"


class TransformFailed(BadRequest):
    """The group's own function or expression failed, or returned something else than declared."""

    code = "HOF-209"


class TieLimit(BadRequest):
    """Too many rows of one key carry the same microsecond."""

    code = "HOF-210"


class BadRows(BadRequest, ValueError):
    """Rows given to the client cannot become the input columns without changing a value."""

    code = "HOF-211"


class Unauthenticated(BadRequest):
    """The server asks for a bearer token and got none, or a wrong one."""

    code = "HOF-212"


class NotSupported(BadRequest):
    """The call is not served (here, or yet)."""

    code = "HOF-213"


class BadLabels(BadRequest):
    """Labels that fit no row: columns, types, null keys, or a key given twice."""

    code = "HOF-214"


class BadRange(BadRequest, ValueError):
    """A range of time that is none: no time zone, or an end before its start."""

    code = "HOF-215"


class BadKeys(BadRequest, ValueError):
    """Keys of stored groups are missing, null, of another type, or more than the view asks for."""

    code = "HOF-216"


class StoredMissing(BadRequest):
    """A stored row is not there, or too old, and the view was declared with `on_missing="fail"`."""

    code = "HOF-217"


class BadStoredRows(BadRequest, ValueError):
    """Rows of a stored group that cannot be loaded: columns, types, null keys or times."""

    code = "HOF-218"


class SignatureMismatch(BadRequest, ValueError):
    """The inputs of an MLflow signature are not a view's columns, in names, order and types."""

    code = "HOF-219"


class Refused(HofError):
    """Nothing was logged or counted: sending the same request again is safe."""

    code = "HOF-300"


class Overloaded(Refused):
    """A bound on rows, bytes or streams in flight was reached."""

    code = "HOF-301"


class DeadlinePassed(Refused):
    """The deadline had passed before the work began."""

    code = "HOF-302"


class Draining(Refused):
    """The server is stopping; another one, or this one later, will answer."""

    code = "HOF-303"


class StorageFailed(Refused):
    """The event log could not be written (disk full, or the disk failed)."""

    code = "HOF-304"


class Wedged(Refused):
    """The group's function hangs; the group is refused until the server restarts."""

    code = "HOF-305"


class Indefinite(HofError):
    """The outcome is unknown to the caller; a retry with the same id finds out and counts once."""

    code = "HOF-400"


class AnsweredTooLate(Indefinite):
    """The rows were counted and their answer recorded, but after the deadline."""

    code = "HOF-401"


class TransformTimeout(Indefinite):
    """The group's function did not return within `transform_timeout_ms`."""

    code = "HOF-402"


class ConnectionLost(Indefinite):
    """The stream ended before the answer came."""

    code = "HOF-403"


class NoAnswer(Indefinite, TimeoutError):
    """No answer came within the deadline."""

    code = "HOF-404"


class StoredUnavailable(Indefinite):
    """The online store did not answer, and the view was declared with `on_missing="fail"`."""

    code = "HOF-405"


class StoreError(HofError):
    """The store directory cannot be used as asked."""

    code = "HOF-500"


class StoreLocked(StoreError):
    """Another process is writing this store."""

    code = "HOF-501"


class LogCorrupt(StoreError):
    """A log segment is damaged before its tail."""

    code = "HOF-502"


class StoreFormat(StoreError):
    """The directory is not a store, or was written by a newer release."""

    code = "HOF-503"


class CodeNotLoaded(StoreError):
    """A registered group's code was not loaded into this process."""

    code = "HOF-504"


class ReadOnly(StoreError):
    """The store was opened for reading."""

    code = "HOF-505"


class SealDamaged(StoreError):
    """A sealed segment or its manifest is missing, cut, or not what was sealed."""

    code = "HOF-506"


class CodeChanged(StoreError):
    """The code given is not the code that served: its hash differs from the recorded one."""

    code = "HOF-507"


class HistoryMissing(StoreError):
    """Windows cannot be rebuilt: the log no longer has what no snapshot holds."""

    code = "HOF-508"


class ReplayMemory(StoreError):
    """A replay did not fit into the memory or the spill folder that it was given."""

    code = "HOF-509"


class OnlineUnavailable(StoreError):
    """The online store cannot be reached, or answers with errors."""

    code = "HOF-510"


class StoredUnreadable(StoreError):
    """What the online store holds is cut, of another schema or release, or none of ours."""

    code = "HOF-511"


class SettingsError(HofError, ValueError):
    """A setting is unknown, out of range or contradicts another."""

    code = "HOF-601"


class UnsafeBind(SettingsError):
    """Binding to an address that others can reach needs TLS and authentication."""

    code = "HOF-602"


class NotEqual(HofError, AssertionError):
    """What was served is not what the replay gives: training data would not be what was served."""

    code = "HOF-700"


class InternalError(HofError):
    """A bug of ours. The server's log has the details under the request id."""

    code = "HOF-900"


def by_code() -> dict[str, type[HofError]]:
    """Every error class by its code, so that a client raises what the server meant."""
    found: dict[str, type[HofError]] = {}
    waiting: list[type[HofError]] = [HofError]
    while waiting:
        error = waiting.pop()
        found[error.code] = error
        waiting.extend(error.__subclasses__())
    return found
