"""The online store without a server: one LMDB environment, read in place by every process.

Readers take a snapshot and never wait, not even for the writer; there is one writer at a time, and
a commit is on the disk before it returns.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import lmdb

from hofflight import limits
from hofflight.errors import OnlineUnavailable
from hofflight.online.protocol import Health, check_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from hofflight.settings import OnlineSettings

_T = TypeVar("_T")
_SPARE_SNAPSHOTS: Final = 16  # kept to be used again, without holding on to any data
_READERS_MAX: Final = 1_024
_TRIES: Final = 3
# How long lookups go on in a file that was removed or replaced: asking costs as much as a lookup.
_CHECK_S: Final = 1.0


class LmdbStore:
    """An OnlineStore in a directory, opened by the first call; any thread may call it.

    One store a directory and process: LMDB's locks belong to the process. read_only: never makes
    or changes a file; where there is no store yet, calls are refused.
    """

    waits = False

    def __init__(
        self, directory: Path, settings: OnlineSettings, *, read_only: bool = False
    ) -> None:
        self._directory = directory
        self._data = directory / "data.mdb"
        self._map_bytes = settings.map_bytes
        self._read_only = read_only
        self._lock = threading.Lock()
        self._environment: lmdb.Environment | None = None
        self._file: tuple[int, int] | None = None
        self._check_at_s = 0.0
        self._is_closed = False

    async def get_many(self, keys: Sequence[bytes], *, patient: bool = False) -> list[bytes | None]:
        del patient  # a file does not keep anybody waiting
        return self.get_now(keys)

    def get_now(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """`get_many` without a coroutine, which costs as much as the lookup.

        Raises: OnlineUnavailable (HOF-510).
        """
        environment = self._environment
        if environment is not None and time.monotonic() < self._check_at_s:
            try:
                with environment.begin() as snapshot:
                    return list(map(snapshot.get, keys))
            except lmdb.Error:  # `suppress` would cost as much as looking up a key
                pass
        return self._run(partial(_read, keys=keys))

    async def put_many(self, items: Sequence[tuple[bytes, bytes]]) -> None:
        check_keys(items)

        def write(environment: lmdb.Environment) -> None:
            # A reader that was killed would hold its snapshot, and the file would grow, for ever.
            environment.reader_check()
            with environment.begin(write=True) as transaction, transaction.cursor() as cursor:
                cursor.putmulti(items)

        self._run(write)

    async def health(self) -> Health:
        def measure(environment: lmdb.Environment) -> str:
            keys = environment.stat()["entries"]
            used, whole = _used_bytes(environment), environment.info()["map_size"]
            return f"lmdb, {keys} keys, {used // limits.MIB} MiB of {whole // limits.MIB}"

        try:
            return Health(True, self._run(measure))
        except OnlineUnavailable as error:
            return Health(False, error.message)

    async def close(self) -> None:
        with self._lock:
            self._is_closed = True
            if self._environment is not None:
                self._environment.close()
            self._environment = None

    def _run(self, work: Callable[[lmdb.Environment], _T]) -> _T:
        """What `work` gives; tried again, since the map may have been replaced under it."""
        for _ in range(_TRIES):
            environment = self._current()
            try:
                return work(environment)
            except lmdb.MapFullError as error:
                msg = f"the online store is full: {self._map_bytes // limits.MIB} MiB"
                hint = "raise online.map_bytes; it is address space, not disk"
                raise OnlineUnavailable(msg, hint=hint) from error
            except lmdb.Error as error:
                failure = error
                self._adopt_growth(environment)
        msg = f"the online store failed: {failure}"
        raise OnlineUnavailable(msg) from failure

    def _adopt_growth(self, environment: lmdb.Environment) -> None:
        """Make room for what another process with a larger map has written.

        That ends the snapshots of this process's other threads: they come here too, and wait.
        """
        with self._lock:
            if self._environment is not environment:
                return
            with suppress(lmdb.Error):  # what is wrong comes out at the next try
                if environment.info()["map_size"] < _used_bytes(environment):
                    environment.set_mapsize(0)

    def _current(self) -> lmdb.Environment:
        """The environment of the file that is there now."""
        with self._lock:
            if self._is_closed:
                msg = "the online store is closed"
                raise OnlineUnavailable(msg)
            if self._environment is not None and self._file != self._file_now():
                # Snapshots of other threads hold on to it; the last one closes it.
                self._environment = None
            if self._environment is None:
                self._environment = self._opened()
                self._file = self._file_now()
            self._check_at_s = time.monotonic() + _CHECK_S
            return self._environment

    def _file_now(self) -> tuple[int, int] | None:
        try:
            found = self._data.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _opened(self) -> lmdb.Environment:
        try:
            if not self._read_only:
                self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            environment = lmdb.open(
                str(self._directory),
                map_size=self._map_bytes,
                mode=0o600,
                readonly=self._read_only,
                create=not self._read_only,
                readahead=False,  # keys are asked for in no order: pages around one are of no use
                max_readers=_READERS_MAX,
                max_spare_txns=_SPARE_SNAPSHOTS,
            )
            # Reading behind the end of a mapped file is no error but the death of the process.
            # A commit writes its pages before it says how many there are: a whole file has them.
            used = _used_bytes(environment)
            size = self._data.stat().st_size
        except (lmdb.Error, OSError) as error:
            msg = f"the online store cannot be opened: {_in_words(error)}"
            raise OnlineUnavailable(msg) from error
        if size < used:
            environment.close()
            msg = f"the online store is damaged: its file has {size} of {used} bytes"
            raise OnlineUnavailable(msg, hint="remove it and load the stored groups again")
        return environment


def _read(environment: lmdb.Environment, keys: Sequence[bytes]) -> list[bytes | None]:
    with environment.begin() as snapshot:
        return list(map(snapshot.get, keys))


def _used_bytes(environment: lmdb.Environment) -> int:
    return (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]


def _in_words(error: Exception) -> str:
    """LMDB's own words, which begin with the path or the C function; or the system's."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)
