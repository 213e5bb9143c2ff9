"""What the registry asks of a database: rows, changes, and transactions that exclude each other."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol, TypeAlias

from hofflight.errors import ReadOnly, StoreFormat

Value: TypeAlias = str | bytes | int | None
FORMAT: Final = 3
# As SQLite reads them; another adapter names the types in its own words.
TABLES: Final = (
    """
    CREATE TABLE IF NOT EXISTS groups (
        name TEXT, version INTEGER, schema_number INTEGER NOT NULL, definition TEXT NOT NULL,
        source TEXT NOT NULL, code_hash TEXT NOT NULL, input_schema BLOB NOT NULL,
        packages TEXT NOT NULL, module TEXT NOT NULL, created_us INTEGER NOT NULL,
        full_schema BLOB NOT NULL, PRIMARY KEY (name, version))
    """,
    """
    CREATE TABLE IF NOT EXISTS views (
        name TEXT, version INTEGER, definition TEXT NOT NULL, created_us INTEGER NOT NULL,
        PRIMARY KEY (name, version))
    """,
    """
    CREATE TABLE IF NOT EXISTS stored_groups (
        name TEXT, version INTEGER, definition TEXT NOT NULL, schema BLOB NOT NULL,
        created_us INTEGER NOT NULL, PRIMARY KEY (name, version))
    """,
    """
    CREATE TABLE IF NOT EXISTS documents (
        kind TEXT, name TEXT, version INTEGER, definition TEXT NOT NULL,
        created_us INTEGER NOT NULL, PRIMARY KEY (kind, name, version))
    """,
    """
    CREATE TABLE IF NOT EXISTS leases (
        topic TEXT PRIMARY KEY, instance TEXT NOT NULL, epoch INTEGER NOT NULL,
        expires_us INTEGER NOT NULL)
    """,
)


class Database(Protocol):
    """The tables of one registry, opened by one process among others. Any thread may call.

    Statements are SQL that SQLite and PostgreSQL both read, with `?` for each value. Outside
    `writing` each call is a transaction of its own and sees what others committed before it.

    Raises: RegistryUnavailable (HOF-515), from every call: it cannot be reached, is locked for too
        long, or answers with an error. A connection that broke is made again by the next call.
    """

    def rows(self, query: str, *values: Value) -> Sequence[tuple[Any, ...]]:
        """All rows; opened for reading, none of a table that an older release did not make."""
        ...

    def change(self, statement: str, *values: Value) -> int:
        """How many rows a statement changed.

        It may be run twice where a connection breaks before the answer came. Raises: ReadOnly
        (HOF-505).
        """
        ...

    def writing(self) -> AbstractContextManager[None]:
        """What this thread calls inside happens at once or not at all; no other process is inside.

        Another one inside it is part of it. Raises: ReadOnly (HOF-505).
        """
        ...

    def now_us(self) -> int:
        """Microseconds since 1970 by a clock that all who use this database share."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


def require_writable(*, read_only: bool) -> None:
    """Refuse a change of what was opened for reading.

    Raises: ReadOnly (HOF-505).
    """
    if read_only:
        msg = "the registry was opened for reading"
        raise ReadOnly(msg, hint="open the store itself, while no server runs")


def require_format(found: int) -> None:
    """Refuse what a newer release made: this one must not guess.

    Raises: StoreFormat (HOF-503).
    """
    if found > FORMAT:
        msg = f"the registry has format {found}, this release reads {FORMAT}"
        raise StoreFormat(msg, hint="upgrade hofflight")
