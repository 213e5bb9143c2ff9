"""Files and directories as a store needs them: bytes and names that survive a power loss."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def sync_path(path: Path) -> None:
    """Make a file's bytes durable, whoever wrote them, or the names in a directory."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Gives the name to write under; at the end of the block the file is durable at `path`.

    Where the block raises, nothing is left. Who writes to the same path at the same time writes
    under another name, and the last one wins.
    """
    fresh = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        yield fresh
        sync_path(fresh)
        fresh.rename(path)
    finally:
        fresh.unlink(missing_ok=True)
    sync_path(path.parent)
