"""What a server counts about itself, as plain integers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class ServerStats:
    """Totals since the start, but for `streams_open`. Written by the loop's thread only.

    requests: batches read. answers: written, errors among them. errors: answers whose code is not
    OK. refused: errors by which nothing was logged (HOF-3xx). slow_readers: streams ended because
    nobody read. incidents: our own bugs. Echoes count as bytes only.
    """

    requests: int = 0
    answers: int = 0
    errors: int = 0
    refused: int = 0
    streams_open: int = 0
    slow_readers: int = 0
    incidents: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
