"""A registry in a PostgreSQL database, shared by the processes of many machines.

It lives in a schema of its own, `hofflight`, so that the database may hold other things too.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict

from hofflight.errors import HofError, RegistryUnavailable, SettingsError, StoreFormat
from hofflight.features.database import (
    FORMAT,
    TABLES,
    Value,
    require_format,
    require_writable,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

# Any number will do that nobody else takes for a lock in this database.
_WRITERS: Final = int.from_bytes(b"hofflite", "big")
_SESSION: Final = b"""
SET search_path = hofflight;
SET statement_timeout = '30s';
SET idle_in_transaction_session_timeout = '30s';
"""
# A host that is gone is found out after some 25 s, in the middle of a call too.
_PATIENCE: Final = {
    "connect_timeout": 5, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3,
    "tcp_user_timeout": 25_000, "fallback_application_name": "hofflight",
}  # fmt: skip
# Texts are compared byte by byte, as SQLite does, whatever language the database speaks.
_TYPES: Final = {"TEXT": 'TEXT COLLATE "C"', "INTEGER": "BIGINT", "BLOB": "BYTEA"}
_FOUND: Final = """
SELECT count(*) > 0, count(*) FILTER (WHERE relname IN ('format', 'groups')) = 2 FROM pg_class
WHERE relkind = 'r' AND relnamespace = to_regnamespace('hofflight')
"""


class PostgresDatabase:
    """The database at `url`, opened, by one connection.

    Raises: RegistryUnavailable (HOF-515), it cannot be reached; StoreFormat (HOF-503), its schema
        `hofflight` is no registry, or a newer one; SettingsError (HOF-601), `url` is no address.
    """

    def __init__(self, url: str, *, read_only: bool = False) -> None:
        self._lock = threading.RLock()
        self._read_only = read_only
        self._is_writing = False
        self._address = _address(url)
        self._db: psycopg.Connection | None = None
        try:
            self._open()
        except HofError:
            self.close()
            raise

    def _open(self) -> None:
        if not self._is_made() and not self._read_only:
            with self.writing():
                if not self._is_made():  # by whoever was inside before
                    self._make()
        if self._is_made():
            numbers = self.rows("SELECT number FROM format")
            if not numbers:
                msg = "the registry's format cannot be read"
                raise StoreFormat(msg, hint="GRANT this user what the schema hofflight holds")
            require_format(numbers[0][0])

    def _is_made(self) -> bool:
        """Whether there is a registry; False for an empty schema, or none.

        Raises: StoreFormat (HOF-503), something else is there.
        """
        ((is_there, is_ours),) = self.rows(_FOUND)
        if is_there and not is_ours:
            msg = "the schema hofflight of the registry's database holds something else"
            raise StoreFormat(msg, hint="name another database")
        return bool(is_there)

    def _make(self) -> None:
        ((encoding,),) = self.rows("SHOW server_encoding")
        if encoding != "UTF8":
            msg = f"the registry's database has the encoding {encoding}, it has to be UTF8"
            raise StoreFormat(msg, hint="CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0")
        self.change("CREATE SCHEMA IF NOT EXISTS hofflight")
        for table in TABLES:
            for theirs, ours in _TYPES.items():
                table = table.replace(theirs, ours)  # noqa: PLW2901 one after the other
            self.change(table)
        self.change("CREATE TABLE format (number BIGINT NOT NULL)")
        self.change("INSERT INTO format VALUES (?)", FORMAT)

    def rows(self, query: str, *values: Value) -> list[tuple[Any, ...]]:
        with self._lock:
            try:
                return self._run(query, values).fetchall()
            except psycopg.errors.UndefinedTable as error:
                if self._read_only:
                    return []
                raise _unavailable(error) from error
            except psycopg.Error as error:
                raise _unavailable(error) from error

    def change(self, statement: str, *values: Value) -> int:
        require_writable(read_only=self._read_only)
        with self._lock:
            try:
                return self._run(statement, values).rowcount
            except psycopg.Error as error:
                raise _unavailable(error) from error

    @contextmanager
    def writing(self) -> Iterator[None]:
        with self._lock:
            if self._is_writing:
                yield
                return
            self.change("BEGIN")
            self._is_writing = True
            try:
                self.rows(f"SELECT pg_advisory_xact_lock({_WRITERS})")
                yield
                self.change("COMMIT")
            except BaseException:
                self._abandon()
                raise
            finally:
                self._is_writing = False

    def now_us(self) -> int:
        query = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
        return int(self.rows(query)[0][0])

    def close(self) -> None:
        if self._db is not None:
            self._db.close()

    def _run(self, statement: str, values: tuple[Value, ...]) -> psycopg.Cursor[tuple[Any, ...]]:
        """Run it, again on a new connection where the old one turns out to be broken.

        Not in the middle of a transaction: what went before is gone with the connection.
        """
        sql = statement.replace("?", "%s").encode()
        if self._db is not None and not self._db.closed:
            try:
                return self._db.execute(sql, values or None)
            except psycopg.Error:
                if self._is_writing or not self._db.broken:
                    raise
        elif self._is_writing:
            msg = "the connection was lost"
            raise psycopg.OperationalError(msg)
        self._db = self._connected()
        return self._db.execute(sql, values or None)

    def _connected(self) -> psycopg.Connection:
        # No prepared statements: behind a pooler another session may be ours next time.
        db = psycopg.connect(
            **self._address, client_encoding="utf8", autocommit=True, prepare_threshold=None
        )
        try:
            db.execute(_SESSION)
            if self._read_only:
                db.execute(b"SET default_transaction_read_only = on")
        except psycopg.Error:
            db.close()
            raise
        return db

    def _abandon(self) -> None:
        assert self._db is not None
        try:
            self._db.rollback()
        except psycopg.Error:
            self._db.close()


def _address(url: str) -> dict[str, Any]:
    """What to connect to, and with how much patience where the address does not say."""
    try:
        found = conninfo_to_dict(url)
    except psycopg.Error:  # its words hold what was given, the password too
        found = {"port": "unknown"}
    # Where the host was forgotten, `postgresql://USER:PASSWORD`, this is the password.
    if any(port and not port.isdecimal() for port in str(found.get("port", "")).split(",")):
        msg = "registry.url is no address of a PostgreSQL database"
        hint = "postgresql://USER@HOST:PORT/DATABASE, with %40 for @ in a password"
        raise SettingsError(msg, hint=hint)
    return {**_PATIENCE, **found}


def _unavailable(error: psycopg.Error) -> RegistryUnavailable:
    """In the server's own words, which name hosts and users and never a password."""
    said = error.diag.message_primary or " ".join(str(error).split())
    return RegistryUnavailable(f"the registry's PostgreSQL: {said}")
