"""HOF-3xx: nothing was counted, ask again. HOF-4xx: not known here, ask again with the same id."""

from __future__ import annotations

from hofflight.errors.tree import HofError


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


class NotReady(Refused):
    """The server has no place for answers yet, or lost it; it looks for another one."""

    code = "HOF-306"


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
