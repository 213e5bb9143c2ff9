"""Seals the logs when enough has come or a day is over, in a process of its own.

Sealing decodes and sorts everything that came, some seconds of work: in this process it would hold
up requests. Here it only costs a thread that looks now and then.
"""

from __future__ import annotations

import subprocess
import threading
from typing import TYPE_CHECKING, Final

from hofflight.observe.events import Events

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_STOP_S: Final = 5.0
_events = Events("hofflight.engine")


class Sealer:
    """`is_due` decides, `command` seals in `environment`, `sealed` is called after it did."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        is_due: Callable[[], bool],
        sealed: Callable[[], object],
        period_s: float,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._command = command
        self._environment = environment
        self._is_due = is_due
        self._sealed = sealed
        self._period_s = period_s
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="hof-sealer", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End; a seal under way is ended too, and begun again by the next one."""
        self._stopping.set()
        process = self._process
        if process is not None:
            process.terminate()
        self._thread.join(_STOP_S)

    def _run(self) -> None:
        while not self._stopping.wait(self._period_s):
            try:
                if self._is_due():
                    self._seal()
            except Exception as error:  # noqa: BLE001 a full disk, a damaged manifest: serving goes on
                _events.warning("seal_failed", error=str(error))

    def _seal(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603 our own command line
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, env=self._environment,
        )  # fmt: skip
        _, said = self._process.communicate()
        if self._process.returncode == 0:
            self._sealed()
        elif not self._stopping.is_set():
            _events.warning("seal_failed", error=said.decode(errors="replace")[-500:])
