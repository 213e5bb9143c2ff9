"""Locks: one writing process per store, with its pid and address; one at a time elsewhere."""

from __future__ import annotations

import fcntl
import math
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import orjson

from hofflight.errors import StoreLocked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LOOK_S: Final = 0.02


class StoreLock:
    """Held from creation to `release`; the kernel lets go of it when the process dies."""

    def __init__(self, path: Path) -> None:
        try:
            self._fd = flocked(path, 0.0)
        except BlockingIOError:
            holder = read_holder(path)
            where = f", serving at {holder['address']}" if holder.get("address") else ""
            msg = f"process {holder.get('pid', 'unknown')} is writing this store{where}"
            raise StoreLocked(msg, hint="connect to it, stop it, or open another store") from None
        self.announce("")

    def announce(self, address: str) -> None:
        """Write who holds the store, for whoever is refused."""
        data = orjson.dumps({"pid": os.getpid(), "address": address})
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, data, 0)

    def release(self) -> None:
        """Let another process write."""
        os.ftruncate(self._fd, 0)
        os.close(self._fd)


def read_holder(path: Path) -> dict[str, Any]:
    """Pid and address of the writing process; empty when unknown."""
    try:
        holder = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return holder if isinstance(holder, dict) else {}


@contextmanager
def one_at_a_time(path: Path, *, wait: bool) -> Iterator[None]:
    """Hold a lock file; the kernel lets go when the process dies.

    Raises: StoreLocked (HOF-501), another process holds it, without `wait`.
    """
    try:
        fd = flocked(path, math.inf if wait else 0.0)
    except BlockingIOError:
        msg = f"another process is at work on {path.parent.name}"
        raise StoreLocked(msg, hint="wait for it to end") from None
    try:
        yield
    finally:
        os.close(fd)


def flocked(path: Path, patience_s: float) -> int:
    """A descriptor of a lock file that is ours until it is closed, or this process dies.

    Raises: BlockingIOError, somebody else had it for so long.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    end_s = time.monotonic() + patience_s
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | (0 if patience_s == math.inf else fcntl.LOCK_NB))
            except BlockingIOError:
                if time.monotonic() >= end_s:
                    raise
                time.sleep(_LOOK_S)
            else:
                return fd
    except BaseException:
        os.close(fd)
        raise
