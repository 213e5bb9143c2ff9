"""`hof` as a process of its own, for as long as a demo needs it."""

from __future__ import annotations

import select
import signal
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import orjson

from hofflight.assemble_sealing import HOF
from hofflight.errors import HofError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

_START_TIMEOUT_S: Final = 60.0
_STOP_TIMEOUT_S: Final = 30.0
_TAIL_CHARACTERS: Final = 2_000

# The process takes the place of the shell. Beside it stays a subshell that reads a pipe whose other
# end only we hold: it ends when we do, however we do, and then the process is told to end, too.
# In a session of their own, so that a terminal's SIGINT is ours alone and no stranger gets the pid.
_LEASHED: Final = """
exec 3<&0
{ read -r _ <&3; kill -TERM $$; } >/dev/null 2>&1 &
exec "$@" </dev/null 3<&-
"""


class HofProcess:
    """A command that runs until it is told to end. events: the file with its log events."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], events: Path) -> None:
        self._name = name
        self._process = process
        self._events = events
        self._is_ending = False

    def said(self, timeout_s: float = _START_TIMEOUT_S) -> dict[str, Any]:
        """The line that it prints once it is ready.

        Raises: HofError (HOF-000), it did not start.
        """
        stdout = self._process.stdout
        assert stdout is not None
        readable, _, _ = select.select([stdout], [], [], timeout_s)
        line = stdout.readline() if readable else b""
        if not line:
            raise self._failed("did not start")
        found: dict[str, Any] = orjson.loads(line)
        return found

    def end(self) -> None:
        """Tell it to end in good order, once: a second signal would end it at once."""
        if not self._is_ending:
            self._is_ending = True
            self._process.send_signal(signal.SIGTERM)

    def wait(self) -> None:
        """Wait until it is gone.

        Raises: HofError (HOF-000), it did not stop, or not well.
        """
        try:
            code = self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise self._failed(f"did not stop within {_STOP_TIMEOUT_S:.0f} s") from None
        if code != 0:
            raise self._failed(f"ended with {code}")

    def _failed(self, what: str) -> HofError:
        text = self._events.read_text(encoding="utf-8", errors="replace")
        tail = text[-_TAIL_CHARACTERS:].strip()
        return HofError(f"{self._name} {what}; its last words:\n{tail}")


@contextmanager
def hof_process(
    arguments: Sequence[str], events: Path, environment: Mapping[str, str] | None = None
) -> Iterator[HofProcess]:
    """Run `hof ARGUMENTS`; at the end it is told to end and waited for. environment: ours, without.

    Raises: HofError (HOF-000), it did not stop well.
    """
    with (
        events.open("wb") as log,
        subprocess.Popen(
            ["/bin/sh", "-c", _LEASHED, "sh", *HOF, *arguments],
            env=None if environment is None else dict(environment),
            cwd=events.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        ) as process,
    ):
        running = HofProcess(f"hof {arguments[0]}", process, events)
        try:
            yield running
            running.end()
            running.wait()
        finally:
            if process.poll() is None:  # we fail: what it writes must be over before its folder is
                running.end()
                try:
                    process.wait(_STOP_TIMEOUT_S)
                finally:
                    process.kill()


@contextmanager
def server_process(store: Path, modules: str, events: Path) -> Iterator[str]:
    """Serve a store at a free port of this machine; gives the address.

    `events` is the file for the server's log events. At the end the server drains and stops.

    Raises:
        HofError: HOF-000, the server did not start, or did not stop well.
    """
    arguments = ["serve", "--json", "--store", str(store), "--modules", modules]
    with hof_process([*arguments, "--grpc", "127.0.0.1:0"], events) as server:
        yield str(server.said()["address"])
