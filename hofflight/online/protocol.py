"""What an online store promises: the newest bytes of each key, all from one moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeAlias

from hofflight.errors import InternalError, OnlineUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# What LMDB can hold. Keys of rows are bounded by wire/keys.py, which stays far below.
KEY_BYTES_MAX: Final = 511


# What was found for each key, or why nothing was.
Found: TypeAlias = list[bytes | None] | OnlineUnavailable


class Health(NamedTuple):
    """Whether a store answers; `detail` is what it is and holds, or what is wrong with it."""

    ok: bool
    detail: str


class OnlineStore(Protocol):
    """Bytes by key, the newest only: what stored features are read from.

    A key is 1 to 511 bytes, any bytes; a value any bytes, also none. Whatever goes wrong (no
    connection, no answer in time, an error as the answer, damaged files, a closed store) is
    OnlineUnavailable (HOF-510); the next call finds out by itself whether the store is well again.

    `waits`: whether `get_many` ever waits for something. If not, it is a `LocalStore`, and one
    `send(None)` drives any of its coroutines to the end, on any thread. If it does, it is a
    `RemoteStore`, and all calls come from one event loop.
    """

    waits: bool

    async def get_many(self, keys: Sequence[bytes], *, patient: bool = False) -> list[bytes | None]:
        """The values of keys, in their order, None where there is none; all as of one moment.

        patient: for a load, which may take as long as a write; no request waits for it.

        Raises: OnlineUnavailable (HOF-510).
        """
        ...

    async def put_many(self, items: Sequence[tuple[bytes, bytes]]) -> None:
        """Write all items or none, in place of what was there; of one key the last item counts.

        Where an answer got lost (HOF-510) it is not known which.

        Raises: OnlineUnavailable (HOF-510).
        """
        ...

    async def health(self) -> Health:
        """Ask whether the store is well. Never raises."""
        ...

    async def close(self) -> None:
        """Let go of files and connections; calls that come later are refused (HOF-510)."""
        ...


class LocalStore(OnlineStore, Protocol):
    """A store that never waits."""

    def get_now(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """`get_many`, on any thread.

        Raises: OnlineUnavailable (HOF-510).
        """
        ...


class RemoteStore(OnlineStore, Protocol):
    """A store that is waited for."""

    def start_get(
        self, keys: Sequence[bytes], timeout_s: float, done: Callable[[Found], None]
    ) -> None:
        """`get_many` without a coroutine: `done` is called once, on the loop, within the time."""
        ...


def check_keys(items: Sequence[tuple[bytes, bytes]]) -> None:
    """Refuse a key that not every store can hold: it would be a bug of ours, not of the store.

    Raises: InternalError (HOF-900).
    """
    for key, _ in items:
        if not 0 < len(key) <= KEY_BYTES_MAX:
            msg = f"a key of an online store has 1 to {KEY_BYTES_MAX} bytes, not {len(key)}"
            raise InternalError(msg)
