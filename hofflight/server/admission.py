"""How much may be under way at once: rows, bytes and streams, decided without a clock."""

from __future__ import annotations

from dataclasses import dataclass

from hofflight import limits
from hofflight.errors import Overloaded


@dataclass(slots=True)
class Admission:
    """Counts what is under way and refuses what would go beyond a bound.

    The retry hint is a constant: what is under way is answered within milliseconds.
    """

    rows_max: int
    bytes_max: int
    streams_max: int
    rows: int = 0
    bytes: int = 0
    streams: int = 0

    def admit(self, rows: int, size: int) -> None:
        """Take rows and bytes in; each must be given back with `release`.

        Raises:
            Overloaded: HOF-301, at once; nothing was taken.
        """
        if self.rows + rows > self.rows_max or self.bytes + size > self.bytes_max:
            msg = f"{self.rows} rows and {self.bytes} bytes are under way"
            raise Overloaded(
                f"{msg}, at most {self.rows_max} and {self.bytes_max}",
                hint="wait retry_after_ms and send the same request again",
                retry_after_ms=limits.retry_after_ms,
            )
        self.rows += rows
        self.bytes += size

    def release(self, rows: int, size: int) -> None:
        """Give back what `admit` took."""
        self.rows -= rows
        self.bytes -= size
        assert self.rows >= 0
        assert self.bytes >= 0

    def open_stream(self) -> None:
        """Take a stream in.

        Raises:
            Overloaded: HOF-301.
        """
        if self.streams >= self.streams_max:
            raise Overloaded(
                f"{self.streams} streams are open, at most {self.streams_max}",
                hint="use one stream for many requests",
                retry_after_ms=limits.retry_after_ms,
            )
        self.streams += 1

    def close_stream(self) -> None:
        """Give back a stream."""
        self.streams -= 1
        assert self.streams >= 0
