"""A segment file being written: preallocated and memory-mapped.

An append is a copy into the page cache: no system call (a `write` of 2 KB costs 2 us in a tight
loop and 11 us between two requests, when its kernel path is cold), and the bytes survive the death
of the process all the same. Blocks are reserved before they are written, so a full disk is an
error of the reservation and never a signal.
"""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING, Final

from hofflight import limits
from hofflight.eventlog.frames import MAGIC

if TYPE_CHECKING:
    from pathlib import Path

_STEP: Final = 16 * limits.MIB


class Segment:
    """The open end of a log. `size` is where the next byte goes."""

    def __init__(self, path: Path, size: int) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.size = size
        self._reserved = 0
        self._map: mmap.mmap | None = None
        try:
            if not size:
                self.reserve(len(MAGIC))
                self.write(MAGIC)
        except OSError:
            os.close(self._fd)
            raise

    def reserve(self, length: int) -> None:
        """Make sure that `length` more bytes can be written.

        Raises: OSError, the disk is full or the file may not grow; nothing changed.
        """
        needed = self.size + length
        if needed <= self._reserved:
            return
        reserved = -(-needed // _STEP) * _STEP
        try:
            os.posix_fallocate(self._fd, 0, reserved)
        except OSError:
            # A sixteenth of the step is still some hundred requests; less is a full disk.
            reserved = -(-needed // (_STEP // 16)) * (_STEP // 16)
            os.posix_fallocate(self._fd, 0, reserved)
        if self._map is not None:
            self._map.close()
        self._map = mmap.mmap(self._fd, reserved)
        self._reserved = reserved

    def write(self, data: bytes) -> None:
        """Put bytes that were reserved at the end."""
        assert self._map is not None
        end = self.size + len(data)
        self._map[self.size : end] = data
        self.size = end

    def duplicate(self) -> int:
        """Another descriptor of the file, to be synced and closed by its taker."""
        return os.dup(self._fd)

    def close(self) -> None:
        """Give back what was reserved and not written, make the rest durable, close the file."""
        if self._map is not None:
            self._map.close()
        try:
            os.ftruncate(self._fd, self.size)
            os.fdatasync(self._fd)
        finally:
            os.close(self._fd)

    def abandon(self) -> None:
        """Close the file and change nothing of it."""
        if self._map is not None:
            self._map.close()
        os.close(self._fd)
