"""A `hof serve` of our own, as its own process, for as long as a demo needs it."""

from __future__ import annotations

import select
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import orjson

from hofflight.errors import HofError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_START_TIMEOUT_S: Final = 60.0
_STOP_TIMEOUT_S: Final = 30.0
_TAIL_CHARACTERS: Final = 2_000


@contextmanager
def server_process(store: Path, modules: str, events: Path) -> Iterator[str]:
    """Serve a store at a free port of this machine; gives the address.

    `events` is the file for the server's log events. At the end the server drains and stops.

    Raises:
        HofError: HOF-000, the server did not start, or did not stop well.
    """
    command = [
        sys.executable, "-m", "hofflight.cli.main", "serve", "--json",
        "--store", str(store), "--modules", modules, "--grpc", "127.0.0.1:0",
    ]  # fmt: skip
    with (
        events.open("wb") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log) as process,
    ):
        try:
            yield _address(process, events)
            process.send_signal(signal.SIGTERM)
            if process.wait(_STOP_TIMEOUT_S) != 0:
                raise _failed(f"the server ended with {process.returncode}", events)
        except subprocess.TimeoutExpired as error:
            msg = f"the server did not stop within {_STOP_TIMEOUT_S:.0f} s"
            raise _failed(msg, events) from error
        finally:
            process.kill()  # nothing happens to one that has ended


def _address(process: subprocess.Popen[bytes], events: Path) -> str:
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], _START_TIMEOUT_S)
    line = process.stdout.readline() if readable else b""
    if not line:
        raise _failed("the server did not start", events)
    return str(orjson.loads(line)["address"])


def _failed(what: str, events: Path) -> HofError:
    tail = events.read_text(encoding="utf-8", errors="replace")[-_TAIL_CHARACTERS:].strip()
    return HofError(f"{what}; its last words:\n{tail}")
