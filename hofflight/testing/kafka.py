"""A real Kafka broker for tests and laptops: started in 2 s, killed, paused, started again at will.

It is one process that is broker and controller (KRaft), on 127.0.0.1, out of jars that
`hofflight.jars` has in a cache. Java 17 or newer must be there.
"""

from __future__ import annotations

import base64
import os
import secrets
import signal
import socket
import struct
import subprocess
import tempfile
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hofflight.jars import kafka_jars
from hofflight.jars.java import find_java

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_START_S: Final = 60.0
_STOP_S: Final = 30.0
_ANSWER_S: Final = 1.0
_LOOK_S: Final = 0.02
_TRIES: Final = 3
_PORTS_TRIED: Final = 20
_SHOWN: Final = 4_000
_PORT_MIN: Final = 10_240

# What starts fastest: 1.6 s, where the JVM's own choice takes 2.3 s.
_JVM: Final = (
    "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData",
    "-XX:+ExitOnOutOfMemoryError", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
)  # fmt: skip
# All that a broker gets of an environment: options of ours or of a user would change it.
_ENVIRONMENT: Final = {"LC_ALL": "C.UTF-8"}

# The broker takes the place of the shell, so its pid is ours to signal. Beside it stays a subshell
# that reads a pipe whose other end only we hold: it ends when we do, however we do, and then the
# broker is killed. Both are a session of their own, so no one else gets the pid while one is there.
_LEASHED: Final = """
exec 3<&0
{ read -r _ <&3; kill -KILL $$ 2>/dev/null; } &
exec "$@" </dev/null 3<&-
"""


class Broker:
    """One broker on loopback; its folder and its port stay the same from start to start.

    folder: holds `data`, `server.properties` and `broker.log`, all that its processes ever said.
    java: the launcher with its options, so that the name of a class is all that is missing.
    properties: take the place of those that it has here. free_port: gives a port to try.
    """

    def __init__(
        self,
        folder: Path,
        *,
        java: list[str],
        properties: Mapping[str, str | int],
        free_port: Callable[[], int],
    ) -> None:
        self.folder = folder
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None
        self._java = java
        self._properties = properties
        self._free_port = free_port

    @property
    def bootstrap(self) -> str:
        """Where clients find it."""
        return f"127.0.0.1:{self.port}"

    def log_text(self) -> str:
        """What it wrote so far: warnings and errors."""
        path = self.folder / "broker.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> None:
        """Start it and wait until it serves: on free ports the first time, then on the same.

        Raises: RuntimeError, it does not start; with the end of what it wrote.
        """
        assert self.process is None, "the broker runs"
        first = not self.port
        for left in reversed(range(_TRIES)):
            if first:
                self._settle()
            before = len(self.log_text())
            try:
                self._launch()
                self._wait(before)
                return
            except BaseException as error:
                self.kill()
                taken = "Address already in use" in self.log_text()[before:]
                if not (left and taken and isinstance(error, RuntimeError)):
                    raise

    def stop(self) -> None:
        """SIGTERM, and wait until it is gone: it writes down what it has and says goodbye.

        Raises: RuntimeError, it was not gone after 30 s; it was killed then.
        """
        process = self._running()
        process.terminate()
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired as error:
            msg = f"the broker does not stop\n{self.log_text()[-_SHOWN:]}"
            raise RuntimeError(msg) from error
        finally:
            self.kill()

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone; what it had acknowledged is in its folder."""
        if self.process is not None:
            assert self.process.stdin is not None
            self.process.kill()
            self.process.stdin.close()
            self.process.wait()
            self.process = None

    def pause(self) -> None:
        """SIGSTOP: connections stay and new ones are taken, answers do not come."""
        process = self._running()
        process.send_signal(signal.SIGSTOP)
        # On a busy machine its threads go on for a moment; without WNOWAIT, `process` would miss
        # that it died instead.
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """SIGCONT: it answers what it was asked; wait until it is in service.

        Raises: RuntimeError, it is not after a minute, or it died.
        """
        self._running().send_signal(signal.SIGCONT)
        self._wait(len(self.log_text()))

    def answers(self, timeout_s: float = _ANSWER_S) -> bool:
        """Whether it says within this time that a broker is here and in service."""
        try:
            return _brokers(self.port, timeout_s) > 0
        except (OSError, struct.error):
            return False

    def _settle(self) -> None:
        """Choose ports and write the properties, the given ones last."""
        self.port, controller = self._free_port(), self._free_port()
        properties = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.port}",
            "log.dirs": self.folder / "data",
            "auto.create.topics.enable": "false",
            # One node has no three replicas, and nobody here needs 50 partitions of offsets.
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "transaction.state.log.num.partitions": 1,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            "share.coordinator.state.topic.num.partitions": 1,
            "group.initial.rebalance.delay.ms": 0,
            # Who was killed may register again when its session is over: after 9 s by default,
            # which makes a start of 11 s; this one takes 3 s. The price: who is paused again and
            # again, and sends no heartbeat between for 2 s, is out of service for some 200 ms.
            "broker.session.timeout.ms": 2_000,
            "broker.heartbeat.interval.ms": 200,
            # By default a quarter of the heap.
            "log.cleaner.dedupe.buffer.size": 4 * 1024 * 1024,
            **self._properties,
        }
        text = "".join(f"{name}={value}\n" for name, value in properties.items())
        path = self.folder / "server.properties"
        path.write_text(text.replace("\\", "\\\\"), encoding="utf-8")

    def _launch(self) -> None:
        self._format()
        command = [*self._java, "kafka.Kafka", str(self.folder / "server.properties")]
        with (self.folder / "broker.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["/bin/sh", "-c", _LEASHED, "sh", *command],
                cwd=self.folder,
                env=_ENVIRONMENT,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _format(self) -> None:
        """Give an empty folder the id of a cluster, and the features that a new one has."""
        if (self.folder / "data" / "meta.properties").exists():
            return
        name = base64.urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")
        tool = ["kafka.tools.StorageTool", "format", f"--cluster-id={name}", "--config"]
        run = subprocess.run(
            [*self._java, *tool, str(self.folder / "server.properties")],
            cwd=self.folder,
            env=_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_START_S,
            check=False,
        )
        if run.returncode:
            said = run.stdout.decode(errors="replace")[-_SHOWN:]
            msg = f"the broker's folder cannot be made\n{said}"
            raise RuntimeError(msg)

    def _wait(self, before: int) -> None:
        """Wait until it serves; what stands in the log before that length is not shown."""
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            code = self._running().poll()
            if code is not None:
                said = self.log_text()[before:][-_SHOWN:]
                msg = f"the broker died, exit code {code}\n{said}"
                raise RuntimeError(msg)
            if self.answers():
                return
            time.sleep(_LOOK_S)
        msg = f"the broker does not answer\n{self.log_text()[before:][-_SHOWN:]}"
        raise RuntimeError(msg)

    def _running(self) -> subprocess.Popen[bytes]:
        assert self.process is not None, "the broker does not run"
        return self.process


@contextmanager
def kafka_broker(
    properties: Mapping[str, str | int] | None = None,
    *,
    heap: str = "512m",
    folder: Path | None = None,
    free_port: Callable[[], int] | None = None,
) -> Iterator[Broker]:
    """Run a broker with one's own properties, such as `message.max.bytes`; killed at the end.

    folder: kept, with the topics in it, where one is given. free_port: asked for two ports, and for
    two more where one of them was taken meanwhile.
    Raises: SettingsError (HOF-601), Java or jars are missing; RuntimeError, it does not start.
    """
    java = find_java()
    class_path = ":".join(str(jar) for jar in kafka_jars())
    own = (
        tempfile.TemporaryDirectory(prefix="hof-kafka-") if folder is None else nullcontext(folder)
    )
    with own as name:
        place = Path(name).resolve()
        # Codecs unpack their native libraries where temporary files go.
        options = [*_JVM, f"-Xmx{heap}", f"-Djava.io.tmpdir={place}", "-cp", class_path]
        broker = Broker(
            place,
            java=[str(java.program), *options],
            properties=properties or {},
            free_port=free_port or unused_port,
        )
        try:
            broker.start()
            yield broker
        finally:
            broker.kill()


def unused_port() -> int:
    """A port that nobody has, and that no connection that goes out will be given meanwhile."""
    text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii")
    lowest = int(text.split()[0])
    ports = range(_PORT_MIN, lowest) or range(_PORT_MIN, 65_536)
    for _ in range(_PORTS_TRIED):
        # Not by `random`: tests seed it, and two of them would choose the same.
        port = secrets.choice(ports)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the broker does
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    msg = "no port is free on 127.0.0.1"
    raise RuntimeError(msg)


def _brokers(port: int, timeout_s: float) -> int:
    """How many brokers its answer to a Metadata request (version 4) names.

    It takes connections, and answers what it is asked, before its controller lets it serve; until
    then it names none.
    """
    # Key, version, number, no client id; the topics asked for, none; topics are not created.
    request = struct.pack(">hhih ib", 3, 4, 0, -1, 0, 0)
    with socket.create_connection(("127.0.0.1", port), timeout_s) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        with connection.makefile("rb") as answer:
            # Length, number, throttle time; the length of the list of brokers.
            _, _, _, brokers = struct.unpack(">iiii", answer.read(16))
    return int(brokers)
