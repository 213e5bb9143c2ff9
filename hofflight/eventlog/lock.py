"""Locks: one writing process per store, with its pid and address; one at a time elsewhere."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import orjson

from hofflight.errors import StoreLocked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class StoreLock:
    """Held from creation to `release`; the kernel lets go of it when the process dies."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = read_holder(path)
            os.close(self._fd)
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
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            msg = f"another process is at work on {path.parent.name}"
            raise StoreLocked(msg, hint="wait for it to end") from None
        yield
    finally:
        os.close(fd)
