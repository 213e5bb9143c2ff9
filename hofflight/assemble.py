"""The one place that builds a running system from settings."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
import pyarrow as pa

from hofflight.clock import SystemClock
from hofflight.engine.app import App
from hofflight.engine.embedded import Engine
from hofflight.errors import StoreFormat
from hofflight.eventlog.local import LocalLog, LogReader, SyncThread
from hofflight.eventlog.lock import StoreLock
from hofflight.features.registry import Registry
from hofflight.observe.metrics import exposition, named
from hofflight.settings import Settings, load_settings

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from hofflight.clock import Clock
    from hofflight.eventlog.protocol import EventLog

STORE_FORMAT = 1


class Store:
    """Where things are in a store directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.mark = path / "hofflight.json"
        self.lock = path / "lock"
        self.registry = path / "registry.sqlite"
        self.log = path / "log"
        self.snapshots = path / "snapshots"

    def require(self, *, create: bool) -> None:
        """Check that the directory is a store of this release, making one if it may.

        Raises: StoreFormat (HOF-503).
        """
        if self.mark.exists():
            found = self._format()
            if found != STORE_FORMAT:
                msg = f"the store has format {found}, this release reads {STORE_FORMAT}"
                raise StoreFormat(msg, hint="upgrade hofflight")
            return
        is_empty = not self.path.exists() or not any(self.path.iterdir())
        if not create or not is_empty:
            msg = f"{self.path.name!r} is not a store"
            raise StoreFormat(msg, hint="name an empty or new directory, or a store")
        self.path.mkdir(parents=True, mode=0o700, exist_ok=True)
        # Under another name first: a crash must not leave half a mark.
        fresh = self.mark.with_suffix(".tmp")
        fresh.write_bytes(orjson.dumps({"format": STORE_FORMAT}))
        fresh.rename(self.mark)

    def _format(self) -> object:
        try:
            mark = orjson.loads(self.mark.read_bytes())
        except orjson.JSONDecodeError:
            mark = None
        if not isinstance(mark, dict) or "format" not in mark:
            msg = f"{self.mark.name} of {self.path.name!r} is damaged"
            raise StoreFormat(msg, hint=f'if it was a store, it held {{"format": {STORE_FORMAT}}}')
        return mark["format"]


def open_store(
    path: str | Path, *, settings: Settings | None = None, clock: Clock | None = None
) -> App:
    """Open a store directory for writing in this process, making it if it is new.

    Raises: StoreLocked (HOF-501), StoreFormat (HOF-503), LogCorrupt (HOF-502).
    """
    settings = settings or load_settings()
    clock = clock or SystemClock()
    store = Store(Path(path))
    store.require(create=True)
    with contextlib.ExitStack() as undo:
        lock = StoreLock(store.lock)
        undo.callback(lock.release)
        registry = Registry(store.registry)
        undo.pop_all()
    sync = SyncThread(settings.log)

    def open_log(stream: str) -> EventLog:
        return LocalLog(store.log / stream, sync, settings.log)

    def on_close() -> None:
        sync.stop()
        registry.close()
        lock.release()

    engine = Engine(registry, open_log, store.snapshots, clock, settings.engine)
    return App(engine, clock, announce=lock.announce, on_close=on_close)


def read_store(path: str | Path) -> tuple[Registry, dict[str, LogReader]]:
    """Open a store for reading beside whoever writes it: its registry and its logs by name.

    Raises: StoreFormat (HOF-503).
    """
    store = Store(Path(path))
    store.require(create=False)
    names = sorted(p.name for p in store.log.iterdir()) if store.log.exists() else []
    registry = Registry(store.registry, read_only=True)
    return registry, {name: LogReader(store.log / name) for name in names}


# --- serve ----------------------------------------------------------------------------------------


async def serve(
    app: App, settings: Settings, *, ready: Callable[[str], None], stop: asyncio.Event
) -> bool:
    """Put Flight before an opened store until `stop` is set; True if every request was answered.

    1. warm up: the first client must not wait for what the engine loads on first use
    2. bind, tell the lock file where, call `ready` with the address
    3. wait for `stop`, then drain; closing the store is left to the caller

    Raises: SettingsError (HOF-601), UnsafeBind (HOF-602).
    """
    from hofflight.server.serve import FlightServer

    def metrics() -> bytes:
        counted = named("server", dataclasses.asdict(server.stats))
        return exposition({**app.engine.metrics(), **counted})

    server = FlightServer(app.engine, settings.server, metrics=metrics)
    # 1. warm up
    warm_up(app)
    # What lives now lives until the end: a full collection need not walk it (tens of ms at p99).
    gc.collect()
    gc.freeze()
    # 2. bind
    port = await server.start()
    host = settings.server.grpc.rpartition(":")[0]
    scheme = "grpc+tls" if settings.server.tls_certificate else "grpc"
    address = f"{scheme}://{host}:{port}"
    app.announce(address)
    ready(address)
    # 3. wait, drain
    await stop.wait()
    return await server.drain()


def warm_up(app: App) -> None:
    """Answer one made-up row per view of expressions, as a peek: nothing of it is kept.

    Functions of users are not called with made-up rows. pyarrow imports pandas, where it is
    installed, at its first conversion: 0.5 s that no request should pay.
    """
    pa.array([0.0]).to_numpy()
    for served in app.views():
        if not app.engine.group(served.group, served.group_version).is_opaque:
            row = {field.name: _made_up(field.type) for field in served.input_schema}
            app.vector(served.view, row, version=served.version, store=False)


def _made_up(column_type: pa.DataType) -> object:
    """A value that any column of this type may hold, as a key too."""
    if column_type in (pa.string(), pa.binary()):
        return "" if column_type == pa.string() else b""
    if column_type == pa.bool_():
        return False
    return 0.0 if pa.types.is_floating(column_type) else 0
