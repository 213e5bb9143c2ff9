"""What all calls of one server share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hofflight.clock import Clock
from hofflight.eventlog.protocol import Worker
from hofflight.server.admission import Admission
from hofflight.server.counters import ServerStats
from hofflight.server.streams import Streams


@dataclass(frozen=True, slots=True)
class Shared:
    """The parts, passed in once. new_id: 16 random bytes. log: a structlog logger."""

    worker: Worker
    admission: Admission
    streams: Streams
    stats: ServerStats
    clock: Clock
    new_id: Callable[[], bytes]
    log: Any
