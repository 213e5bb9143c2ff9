"""HOF-6xx: settings. HOF-7xx: parity. HOF-9xx: bugs of ours."""

from __future__ import annotations

from hofflight.errors.tree import HofError


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
