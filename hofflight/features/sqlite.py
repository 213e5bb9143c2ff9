"""A registry in one SQLite file, shared by the processes of one machine.

Writes are rare, so it uses SQLite's rollback journal: the write-ahead log of SQLite before 3.51.3
can be corrupted by two connections.
"""

from __future__ import annotations

import sqlite3
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from hofflight.clock import SystemClock
from hofflight.errors import HofError, RegistryUnavailable, StoreFormat
from hofflight.features.database import (
    FORMAT,
    TABLES,
    Value,
    require_format,
    require_writable,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hofflight.clock import Clock

# A registration takes some 30 ms; whoever waits longer waits for somebody who is stuck.
_BUSY_S: Final = 30.0
# What a registry of format 1 lacks; what its versions answer is noted when they are saved again.
_FROM_1: Final = "ALTER TABLE groups ADD COLUMN full_schema BLOB NOT NULL DEFAULT x''"


class SqliteDatabase:
    """The file at `path`, opened; one in memory for None.

    `clock`: that of the machine, which all who open the file share.

    Raises: StoreFormat (HOF-503), it cannot be opened or is no registry; nothing was written.
        RegistryUnavailable (HOF-515), it is locked for too long.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        read_only: bool = False,
        clock: Clock | None = None,
        busy_s: float = _BUSY_S,
    ) -> None:
        self._lock = threading.RLock()
        self._clock = clock or SystemClock()
        self._read_only = read_only
        self._name = path.name if path else "the registry"
        # The path comes from the operator; as_uri escapes what a file URI cannot hold.
        mode = "ro" if read_only else "rwc"
        uri = f"{path.resolve().as_uri()}?mode={mode}" if path else "file::memory:"
        try:
            self._db = sqlite3.connect(
                uri, uri=True, check_same_thread=False, isolation_level=None, timeout=busy_s
            )
        except sqlite3.DatabaseError as error:
            msg = f"{self._name} cannot be opened: {error}"
            raise StoreFormat(msg, hint="name a file in a folder that exists") from error
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            self._db.close()
            if error.sqlite_errorname.startswith("SQLITE_BUSY"):  # somebody was stopped in a write
                raise self._unavailable(error) from error
            msg = f"{self._name} is not a registry: {error}"
            raise StoreFormat(msg) from error
        except HofError:
            self._db.close()
            raise

    def _open(self) -> None:
        if self._read_only:
            require_format(self._format())
            return
        found = self._format()  # before anything locks a file that may be none of ours
        require_format(found)
        if found == FORMAT and len(TABLES) <= len(self._tables()):
            return  # and nobody has to wait for whoever writes
        with self.writing():
            require_format(found := self._format())
            # By its columns, not its number: a migration may have been killed in between.
            columns = self._db.execute("PRAGMA table_info(groups)").fetchall()
            if columns and "full_schema" not in {column[1] for column in columns}:
                self._db.execute(_FROM_1)
            for table in TABLES:
                self._db.execute(table)
            if found != FORMAT:
                self._db.execute(f"PRAGMA user_version = {FORMAT}")

    def _tables(self) -> list[Any]:
        return self._db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()

    def _format(self) -> int:
        (found,) = self._db.execute("PRAGMA user_version").fetchone()
        return int(found)

    def rows(self, query: str, *values: Value) -> list[tuple[Any, ...]]:
        try:
            with self._lock:
                return self._db.execute(query, values).fetchall()
        except sqlite3.DatabaseError as error:
            if self._read_only and str(error).startswith("no such table"):
                return []
            raise self._unavailable(error) from error

    def change(self, statement: str, *values: Value) -> int:
        require_writable(read_only=self._read_only)
        try:
            with self._lock:
                return self._db.execute(statement, values).rowcount
        except sqlite3.DatabaseError as error:
            raise self._unavailable(error) from error

    @contextmanager
    def writing(self) -> Iterator[None]:
        require_writable(read_only=self._read_only)
        with self._lock:
            if self._db.in_transaction:
                yield
                return
            self.change("BEGIN IMMEDIATE")
            try:
                yield
                self.change("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # some errors end it by themselves
                    self._db.rollback()
                raise

    def now_us(self) -> int:
        return self._clock.wall_us()

    def close(self) -> None:
        self._db.close()

    def _unavailable(self, error: sqlite3.DatabaseError) -> RegistryUnavailable:
        return RegistryUnavailable(f"{self._name} cannot be used: {error}")
