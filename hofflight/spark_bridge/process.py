"""`hof spark` as a process beside ours: a JVM that dies takes no program along."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final, Self

import orjson

from hofflight.errors import HofError, WorkerStopped, read_error

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# A JVM, its queries and their workers take some 10 s; a copy of a large log may take minutes.
_START_S: Final = 1_800.0
_STOP_S: Final = 60.0
_END_S: Final = 5.0
_LOOK_S: Final = 0.02
_LAST_LINES: Final = 50


class SparkProcess:
    """Groups that an application answers, from when it is ready until `stop`. Any thread.

    `command` prints a line of JSON with `groups` and `partitions` once it is ready; all else that
    it says goes to standard error. It has to end when its standard input does: that is our own
    end, however we come to it.

    Raises: HofError, as the application says it, it did not start; WorkerStopped (HOF-514), it
        did not say why, or took longer than `start_s`.
    """

    def __init__(
        self, groups: Sequence[str], command: Sequence[str], environment: Mapping[str, str], *,
        start_s: float = _START_S, stop_s: float = _STOP_S, end_s: float = _END_S,
    ) -> None:  # fmt: skip
        self.groups = tuple(groups)
        self._stop_s = stop_s
        self._end_s = end_s
        self._is_stopping = False
        self._ready = threading.Event()
        self._said: deque[str] = deque(maxlen=_LAST_LINES)
        # A session of its own: a terminal's SIGINT is ours alone, and `stop` ends it in good order.
        self._process = subprocess.Popen(  # noqa: S603 our own command line
            list(command), env=dict(environment), text=True, errors="replace",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, name="hof-spark", daemon=True)
        self._reader.start()
        try:
            self._wait_until_ready(start_s)
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        code = self.exit_code
        state = f"process {self._process.pid}" if code is None else f"ended with {code}"
        return f"<Spark answers {', '.join(self.groups)}: {state}>"

    @property
    def is_running(self) -> bool:
        return self.exit_code is None

    @property
    def exit_code(self) -> int | None:
        return self._process.poll()

    def wait(self, timeout_s: float | None = None) -> bool:
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        if code != 0 and not self._is_stopping:
            raise self._failed()
        return True

    def stop(self) -> None:
        self._is_stopping = True
        process = self._process
        # In good order; then at once, as a second signal means to `hof spark`; then without it.
        for end, patience_s in (
            (process.terminate, self._stop_s),
            (process.terminate, self._end_s),
            (process.kill, None),
        ):
            end()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience_s)
                break
        assert process.stdin is not None
        process.stdin.close()
        self._reader.join(self._end_s)

    def _wait_until_ready(self, start_s: float) -> None:
        end_s = time.monotonic() + start_s
        while not self._ready.wait(_LOOK_S):
            if not self.is_running:
                raise self._failed()
            if time.monotonic() > end_s:
                raise WorkerStopped(f"hof spark is not ready after {start_s:.0f} s{self._tail()}")

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                if _says_ready(line):
                    self._ready.set()
                else:
                    self._said.append(line)
                    # A program may have closed its own; the application must be read on.
                    with contextlib.suppress(AttributeError, OSError, ValueError):
                        sys.stderr.write(line)

    def _failed(self) -> HofError:
        self._reader.join(self._end_s)  # its last words may still be on their way
        said = "".join(self._said)
        code = self.exit_code
        return read_error(said) or WorkerStopped(f"hof spark ended with {code}{self._tail()}")

    def _tail(self) -> str:
        said = "".join(self._said).strip()
        return f"; its last words:\n{said}" if said else ""


def _says_ready(line: str) -> bool:
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return isinstance(found, dict) and {"groups", "partitions"} <= found.keys()
