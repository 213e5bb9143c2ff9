"""One writing process per store directory: a lock file with its pid and address."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING, Any

import orjson

from hofflight.errors import StoreLocked

if TYPE_CHECKING:
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
