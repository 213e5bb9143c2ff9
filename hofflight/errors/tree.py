"""The root of every error, and how a client finds the class of a code."""

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


def read_error(said: str) -> HofError | None:
    """The error that a command printed last, as `HOF-215: message Hint: hint`; None for none."""
    lines = [line for line in said.splitlines() if line.startswith("HOF-")]
    if not lines:
        return None
    code, _, message = lines[-1].partition(": ")
    text, _, hint = message.partition(" Hint: ")
    return by_code().get(code, HofError)(text, hint=hint)


def by_code() -> dict[str, type[HofError]]:
    """Every error class by its code, so that a client raises what the server meant."""
    found: dict[str, type[HofError]] = {}
    waiting: list[type[HofError]] = [HofError]
    while waiting:
        error = waiting.pop()
        found[error.code] = error
        waiting.extend(error.__subclasses__())
    return found
