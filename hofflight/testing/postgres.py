"""A real PostgreSQL server for tests: started in a second, stopped, killed, restarted at will."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg

if TYPE_CHECKING:
    from collections.abc import Iterator

_START_S: Final = 60.0
_LOOK_S: Final = 0.02
_USER: Final = "hof"
# What makes it fast where nothing has to survive a power loss, and small.
_OPTIONS: Final = {
    "fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "autovacuum": "off",
    "shared_buffers": "16MB", "max_connections": 50, "listen_addresses": "127.0.0.1",
    "logging_collector": "off",
}  # fmt: skip
# Waits until whoever holds the other end is gone, dead or alive, and takes the folder away.
_SWEEP: Final = 'read _; rm -rf -- "$0" || { sleep 1; rm -rf -- "$0"; }'


class PostgresServer:
    """One server at 127.0.0.1, with a superuser `hof` and a password; `restart` starts it.

    folder: its own, where its data and `postgres.log` are; they survive `stop` and `kill`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = _free_port()
        self.password = secrets.token_hex(16)
        self.process: subprocess.Popen[bytes] | None = None
        self._owner = _owner()
        self._binaries = _binaries()
        self._initialize()

    def url(self, database: str = "postgres") -> str:
        """The address of a database, with its password."""
        return f"postgresql://{_USER}:{self.password}@127.0.0.1:{self.port}/{database}"

    def ask(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """The rows of a statement, on a connection of its own."""
        with psycopg.connect(self.url(database), autocommit=True, connect_timeout=10) as db:
            cursor = db.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def new_database(self, options: str = "") -> str:
        """Make an empty database of a new name; gives its address."""
        name = f"d{secrets.token_hex(6)}"
        self.ask(f"CREATE DATABASE {name} TEMPLATE template0 {options}")
        return self.url(name)

    def kill(self) -> None:
        """End it as a crash would, with its processes for connections, and wait."""
        self._end(signal.SIGQUIT)  # SIGKILL would leave those for a moment, in the way of the next

    def stop(self) -> None:
        """Stop it in order, breaking every connection."""
        self._end(signal.SIGINT)

    def restart(self) -> None:
        """Stop it if it runs, start it on the same port and data, and wait until it answers."""
        self.stop()
        options = {**_OPTIONS, "port": self.port, "unix_socket_directories": self.folder}
        pairs = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        with (self.folder / "postgres.log").open("ab") as log:
            self.process = subprocess.Popen(
                # It dies when this process does, also by SIGKILL.
                [*self._as_owner("--pdeathsig", "QUIT"), str(self._binaries / "postgres"),
                 "-D", str(self.folder / "data"), *pairs],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder,
            )  # fmt: skip
        try:
            self._wait()
        except BaseException:
            self.kill()
            raise

    def _wait(self) -> None:
        last: object = None
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline and self.process and self.process.poll() is None:
            try:
                self.ask("SELECT 1")
                return
            except psycopg.Error as error:
                last = error
            time.sleep(_LOOK_S)
        log = (self.folder / "postgres.log").read_text(errors="replace")[-2_000:]
        msg = f"postgres does not answer: {last!r}\n{log}"
        raise RuntimeError(msg)

    def _initialize(self) -> None:
        password = self.folder / "password"
        password.write_text(self.password)
        for path in (self.folder, password):
            os.chown(path, self._owner.pw_uid, self._owner.pw_gid)
        done = subprocess.run(
            [*self._as_owner(), str(self._binaries / "initdb"), "-D", str(self.folder / "data"),
             "--username", _USER, "--pwfile", str(password), "--auth", "scram-sha-256",
             "--encoding", "UTF8", "--no-locale", "--no-sync", "--no-instructions"],
            capture_output=True, cwd=self.folder, check=False,
        )  # fmt: skip
        password.unlink()
        if done.returncode:
            msg = f"initdb failed: {done.stderr.decode(errors='replace')[-2_000:]}"
            raise RuntimeError(msg)

    def _as_owner(self, *options: str) -> list[str]:
        """How a program is started as the owner: PostgreSQL refuses to run as root."""
        if os.geteuid() == 0:
            owner = self._owner
            options = (*options, f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}",
                       "--clear-groups")  # fmt: skip
        return ["setpriv", *options] if options else []

    def _end(self, number: int) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait()
            self.process = None


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Run the newest PostgreSQL server of this machine; killed at the end, nothing is left.

    Raises: RuntimeError, it is not installed or does not start.
    """
    folder = tempfile.mkdtemp(prefix="hof-postgres-")
    sweeper = subprocess.Popen(["sh", "-c", _SWEEP, folder], stdin=subprocess.PIPE)
    try:
        server = PostgresServer(Path(folder))
        try:
            server.restart()
            yield server
        finally:
            server.kill()
    finally:
        sweeper.communicate()


def _owner() -> pwd.struct_passwd:
    """Who runs the server: this user, or one without rights where this is root."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())


def _binaries() -> Path:
    """The folder of `postgres` and `initdb`; Debian keeps them off the PATH, by version."""
    if found := shutil.which("postgres"):
        return Path(found).resolve().parent
    places = [p.parent for p in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    if not places:
        msg = "the PostgreSQL server is missing: apt-get install postgresql"
        raise RuntimeError(msg)
    return max(places, key=lambda place: int(place.parent.name))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
