"""What is sent again, after which pause, and which error is the last word. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from hofflight.client.steps import Wait
from hofflight.errors import (
    HofError,
    Indefinite,
    InternalError,
    NoAnswer,
    Refused,
    StorageFailed,
    StoreError,
    Wedged,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from hofflight.client.steps import Steps

T = TypeVar("T")
BACKOFF_S: Final = 0.02
BACKOFF_S_MAX: Final = 0.5
# A full disk or a hanging function seldom mends itself within a request's deadline.
STUBBORN_TRIES: Final = 3
# A try that has less than this left would only turn a known reason into "no answer".
TRY_S_MIN: Final = 0.02


class Chance(Protocol):
    """The part of `random.Random` that jitter needs."""

    def random(self) -> float:
        """A number in [0, 1)."""
        ...


def pause_s(error: HofError, tries: int, left_s: float, rng: Chance) -> float | None:
    """Seconds to wait before try number `tries + 1`; None when this error is final.

    Refused and indefinite errors may be asked again. The pause doubles with each try, is at least
    what the server asked for, and up to half as long again by chance; one that would outlast the
    deadline is not begun.
    """
    if not isinstance(error, Refused | Indefinite):
        return None
    if isinstance(error, Wedged | StorageFailed) and tries >= STUBBORN_TRIES:
        return None
    backoff = min(BACKOFF_S * 2 ** min(tries - 1, 16), BACKOFF_S_MAX)
    pause = max(error.retry_after_ms / 1_000, backoff) * (1 + rng.random() / 2)
    return pause if pause + TRY_S_MIN < left_s else None


def persist(
    attempt: Callable[[float], Steps[T]],
    *,
    deadline_s: float,
    clock: Callable[[], float],
    rng: Chance,
    is_over: Callable[[], bool] = lambda: False,
) -> Steps[T]:
    """Repeat `attempt(seconds left)` until it succeeds, its error is final or time is up.

    `is_over`: whether the client was closed meanwhile, which makes any error final.

    Every attempt must carry the same request id. Once one of them ended without a known outcome,
    a later refusal does not prove that nothing was counted: then that indefinite error is raised.
    """
    unknown: Indefinite | None = None
    before: HofError | None = None
    tries = 0
    while True:
        try:
            return (yield from attempt(deadline_s - clock()))
        except HofError as error:
            tries += 1
            if isinstance(error, Indefinite):
                unknown = error
            pause = pause_s(error, tries, deadline_s - clock(), rng)
            if pause is None or is_over():
                if unknown and isinstance(error, Refused | StoreError | InternalError):
                    raise unknown from error
                if before and isinstance(error, NoAnswer):
                    raise error from before  # why it had to be asked again at all
                raise
            before = error
        yield Wait(None, pause)
