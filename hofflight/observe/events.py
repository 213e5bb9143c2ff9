"""Log events: names with fields, JSON in production and readable on a terminal."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog


class Events:
    """Where a room reports what happened: `Events("hofflight.engine").warning("name", field=1)`.

    A program that configured structlog gets our events its way. One that did not gets them on
    standard error: structlog's own default is standard output, which belongs to the program.
    """

    def __init__(self, room: str) -> None:
        self._room = room

    def __getattr__(self, level: str) -> Any:
        if structlog.is_configured():
            return getattr(structlog.get_logger(self._room), level)
        return getattr(structlog.wrap_logger(structlog.PrintLogger(sys.stderr)), level)


def configure_events(*, json: bool | None = None) -> None:
    """Send every event to standard error: JSON lines, or colours on a terminal (None decides)."""
    as_json = not sys.stderr.isatty() if json is None else json
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer()
    )
    tracebacks = [structlog.processors.format_exc_info] if as_json else []
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *tracebacks,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
