"""What commands print: JSON or text on stdout, progress and problems on stderr."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

_PLAIN_STEPS = 10
_WIDTH_ELSEWHERE = 10_000


def print_json(value: object) -> None:
    """One JSON document, on a line of its own."""
    print(orjson.dumps(value, default=_plain).decode(), flush=True)


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table as wide as the terminal; where there is none, as wide as its cells need."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, title=title or None, title_justify="left")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    width = None if sys.stdout.isatty() else _WIDTH_ELSEWHERE
    Console(markup=False, highlight=False, width=width).print(table)


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Gives a function that is told how many more are done.

    A bar on a terminal; elsewhere a line every tenth, so that a log stays readable.
    """
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeRemainingColumn as Remaining

        bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"), Remaining(), console=Console(stderr=True),
        )  # fmt: skip
        with bar:
            task = bar.add_task(title, total=total, rate="")

            def show(more: int) -> None:
                bar.update(task, advance=more)
                speed = bar.tasks[task].speed
                bar.update(task, rate=f"{speed:,.0f}/s" if speed else "")

            yield show
        return
    done = 0
    started_s = time.monotonic()

    def advance(more: int) -> None:
        nonlocal done
        before, done = done * _PLAIN_STEPS // max(1, total), done + more
        if done * _PLAIN_STEPS // max(1, total) > before:
            rate = done / max(time.monotonic() - started_s, 1e-9)
            note(f"{title}: {done} of {total}, {rate:,.0f}/s")

    yield advance


def note(text: str) -> None:
    """A line for people, beside the output."""
    print(text, file=sys.stderr, flush=True)


def time_text(time_us: int) -> str:
    """Microseconds since 1970 as ISO 8601, UTC."""
    seconds, us = divmod(time_us, 1_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=us).isoformat()


def _plain(value: object) -> object:
    """Values that JSON has no word for: bytes as hex."""
    if isinstance(value, bytes):
        return value.hex()
    msg = f"no JSON for {type(value).__name__}"
    raise TypeError(msg)


def _cell(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds").removesuffix("+00:00")
    return str(value)
