"""One Redis or Valkey server as the store knows it: its address, its trust, its connections."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from hiredis import pack_command
from redis.asyncio.connection import (
    Connection,
    RedisSSLContext,
    SSLConnection,
    UnixDomainSocketConnection,
    parse_url,
)

from hofflight.errors import SettingsError
from hofflight.online.pipeline import Pipeline, Reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from hofflight.settings import OnlineSettings

_WRITERS_MAX: Final = 8


class AllBusyError(Exception):
    """Every connection that there may be is waiting for its answer."""


class Node:
    """One server: a pipeline for lookups, and connections for the rest.

    None of those is used again that was not read to its answer's end.
    """

    def __init__(self, options: dict[str, Any], tls: RedisSSLContext | None) -> None:
        self.options = options
        self._tls = tls
        self._idle: list[Connection | UnixDomainSocketConnection] = []
        self._made = 0
        self._is_left = False
        self.pipeline: Pipeline | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._unsent: list[tuple[bytes, Callable[[Reply], None]]] = []

    def connect(self, command: bytes, done: Callable[[Reply], None]) -> None:
        """Make the pipeline, then ask."""
        self._unsent.append((command, done))
        if self._connecting is None:
            self._connecting = asyncio.get_running_loop().create_task(self._connect())

    def abandon(self, why: str) -> None:
        """End the pipeline, also one that is being made: nobody waits for it any more."""
        if self._connecting is not None:
            self._connecting.cancel()
        if self.pipeline is not None:
            self.pipeline.abort(why)
        self._fail_unsent(ConnectionError(why))

    async def _connect(self) -> None:
        loop, options = asyncio.get_running_loop(), self.options
        greeting = greeting_of(options)
        try:
            if "path" in options:
                _, made = await loop.create_unix_connection(
                    lambda: Pipeline(greeting), options["path"]
                )
            else:
                _, made = await loop.create_connection(
                    lambda: Pipeline(greeting), options["host"], options["port"],
                    ssl=None if self._tls is None else self._tls.get(),
                )  # fmt: skip
        except OSError as error:
            self._fail_unsent(error)
            return
        finally:
            self._connecting = None
        self.pipeline = made
        unsent, self._unsent = self._unsent, []
        for command, done in unsent:
            made.ask(command, done)

    def _fail_unsent(self, error: Exception) -> None:
        unsent, self._unsent = self._unsent, []
        for _, done in unsent:
            done(error)

    @property
    def place(self) -> str:
        options = self.options
        return str(options.get("path") or f"{options['host']}:{options['port']}")

    def options_of(self, host: str, port: int) -> dict[str, Any]:
        """The same with another address; an empty host is this one's."""
        address = {"host": host or self.options.get("host", "localhost"), "port": port}
        return {name: value for name, value in self.options.items() if name != "path"} | address

    async def ask(self, command: bytes) -> Any:
        """Send a command and read its answer; connects first where there is no connection."""
        connection = self._idle.pop() if self._idle else self._new_connection()
        try:
            if connection.is_connected and await connection.can_read():
                # Nobody asked, so it is the end: the server closed it, or died and is back.
                await connection.disconnect(nowait=True)
            await connection.send_packed_command(command)
            return await connection.read_response()
        except BaseException:
            # After a timeout or a cancelled call its answer may still come, to the next one's ask.
            await connection.disconnect(nowait=True)
            raise
        finally:
            if self._is_left:
                await connection.disconnect(nowait=True)
            self._idle.append(connection)

    async def leave(self, why: str, *, wait: bool = False) -> None:
        """Close what is idle now, and the rest when it comes back."""
        self._is_left = True
        self.abandon(why)
        for connection in self._idle:
            await connection.disconnect(nowait=not wait)

    def _new_connection(self) -> Connection | UnixDomainSocketConnection:
        if self._made == _WRITERS_MAX:
            msg = f"all {self._made} connections that write to the online store are busy"
            raise AllBusyError(msg)
        self._made += 1
        if "path" in self.options:
            return UnixDomainSocketConnection(**self.options)
        if self._tls is None:
            return Connection(**self.options)
        connection = SSLConnection(**self.options)
        connection.ssl_context = self._tls  # one for all: reading the system's certificates is slow
        return connection


def address_of(settings: OnlineSettings) -> dict[str, Any]:
    """What redis-py's connections want to know; their own timeouts are off, `_ask` has one."""
    options: dict[str, Any] = {"host": "localhost", "port": 6379, **parse_url(settings.url)}
    options.pop("connection_class", None)
    if "path" in options:
        del options["host"], options["port"]
    if password := settings.password.get_secret_value():
        options["password"] = password
    no_timeouts = {"socket_timeout": None, "socket_connect_timeout": None}
    return options | no_timeouts | {"protocol": 2, "driver_info": None}


def greeting_of(options: dict[str, Any]) -> list[bytes]:
    """What a new connection says first: who we are, and which database we mean."""
    said = []
    if password := options.get("password"):
        user = options.get("username")
        said.append(pack_command(("AUTH", user, password) if user else ("AUTH", password)))  # type: ignore[arg-type]
    if database := options.get("db"):
        said.append(pack_command(("SELECT", str(database))))  # type: ignore[arg-type]
    return said


def trust_of(settings: OnlineSettings) -> RedisSSLContext:
    """Whom to trust, and who we are; files are read now, not within a lookup's time.

    Raises: SettingsError (HOF-601).
    """
    files = (settings.tls_ca, settings.tls_certificate, settings.tls_key)
    ca, certificate, key = [str(path) if path is not None else None for path in files]
    context = RedisSSLContext(
        cert_reqs="required", check_hostname=True, ca_certs=ca, certfile=certificate, keyfile=key
    )
    try:
        context.get()
    except OSError as error:  # an ssl.SSLError is one
        msg = f"a file of online.tls_* cannot be used: {error.strerror or error}"
        raise SettingsError(msg) from error
    return context
