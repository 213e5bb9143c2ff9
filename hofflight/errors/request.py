"""HOF-2xx: the request is wrong and stays wrong."""

from __future__ import annotations

from hofflight.errors.tree import HofError


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


class BadRecord(BadRequest):
    """A Kafka record is not what a hofflight server writes."""

    code = "HOF-220"


class WrongPartition(BadRequest):
    """A row is in another partition of its topic than its key belongs to."""

    code = "HOF-221"
