"""Runs an application in a process of its own, and another one when that ends: JVMs die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Final

from hofflight.observe.events import Events
from hofflight.spark_bridge.backoff import FIRST_S, Backoff

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_events = Events("hofflight.spark")
# What an application's exit code says: sysexits.h calls it EX_TEMPFAIL.
DIED: Final = 75
_WRONG: Final = 2
_GOODBYE_S: Final = 60.0


class Supervisor:
    """Starts `command` again until it ends well, or until another start could do no better.

    That is where a setting is wrong, or where its very first start fails. The process
    lives no longer than we do: it ends when its standard input does. backoff_s: before the second
    start; then twice as long each time.
    """

    def __init__(self, command: Sequence[str], backoff_s: float = FIRST_S) -> None:
        self._command = list(command)
        self._backoff = Backoff(backoff_s)
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """Its exit code, at last. SIGTERM and SIGINT end it in good order."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stop())
        has_run = False
        while True:
            started_s = time.monotonic()
            code = self._once()
            has_run = has_run or code not in (0, 1, _WRONG)
            if self._stopping.is_set() or code in (0, _WRONG) or not has_run:
                return max(code, 0) if code != -signal.SIGTERM else 0
            wait_s = self._backoff.ended(time.monotonic() - started_s)
            _events.error("application_ended", code=code, again_in_s=wait_s)
            if self._stopping.wait(wait_s):
                return 0

    def stop(self) -> None:
        """End it, and start no other."""
        self._stopping.set()
        process = self._process
        if process is not None:
            process.terminate()

    def _once(self) -> int:
        # A group of its own: a terminal's SIGINT is ours to pass on, once.
        with subprocess.Popen(  # noqa: S603 our own command line
            self._command, stdin=subprocess.PIPE, start_new_session=True
        ) as process:
            self._process = process
            if self._stopping.is_set():
                process.terminate()
            return process.wait()


def end_with_parent(stop: Callable[[], None], patience_s: float = _GOODBYE_S) -> None:
    """Call `stop` when standard input ends, as it does with whoever holds its other end.

    Where that is no end within patience_s, as in a thread that hangs, the process ends at once.
    """

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 1):
            pass
        stop()
        time.sleep(patience_s)
        os._exit(DIED)

    threading.Thread(target=watch, name="hof-leash", daemon=True).start()
