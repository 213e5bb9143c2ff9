"""HOF-1xx: the declaration is wrong; nothing was registered."""

from __future__ import annotations

from hofflight.errors.tree import HofError


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
