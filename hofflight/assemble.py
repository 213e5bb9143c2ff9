"""The one place that builds a running system from settings."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from hofflight.app import App
from hofflight.assemble_apply import apply_spark
from hofflight.assemble_online import open_online
from hofflight.assemble_registry import open_registry, read_registry
from hofflight.assemble_sealing import HOF, environment, open_sealer, sealed_log
from hofflight.clock import SystemClock
from hofflight.engine.embedded import Engine, Rebuilt
from hofflight.engine.views import code_not_loaded
from hofflight.errors import StoreFormat
from hofflight.eventlog.local import LocalLog, LogReader, SyncThread
from hofflight.eventlog.lock import StoreLock
from hofflight.eventlog.store import Store
from hofflight.observe.metrics import exposition, named
from hofflight.online.lookups import Lookups
from hofflight.server.join import Joiner
from hofflight.settings import Settings, load_settings, with_registry

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator, Sequence

    from hofflight.clock import Clock
    from hofflight.eventlog.protocol import EventLog
    from hofflight.features.group import FeatureGroup
    from hofflight.features.registry import Registry
    from hofflight.replay.offline import Offline


def open_store(
    path: str | Path,
    *,
    settings: Settings | None = None,
    registry: str | None = None,
    clock: Clock | None = None,
) -> App:
    """Open a store directory for writing in this process, making it if it is new.

    `registry`: the address of one that others share, as `registry.url` in the settings.

    Raises: StoreLocked (HOF-501), StoreFormat (HOF-503), LogCorrupt (HOF-502), RegistryUnavailable
        (HOF-515), SettingsError (HOF-601).
    """
    settings = with_registry(settings, registry)
    clock = clock or SystemClock()
    store = Store(Path(path))
    store.require(create=True)
    if store.partitions():
        msg = f"{store.path.name!r} is kept in partitions, by workers"
        raise StoreFormat(msg, hint="ask `hof serve --kafka`; offline commands take it as it is")
    with contextlib.ExitStack() as undo:
        lock = StoreLock(store.lock)
        undo.callback(lock.release)
        known = open_registry(settings, path, clock=clock)
        undo.pop_all()
    sync = SyncThread(settings.log)

    def open_log(stream: str) -> EventLog:
        return LocalLog(store.log / stream, sync, settings.log)

    @functools.cache
    def offline() -> Offline:
        return _offline(store, known, engine.group, settings, clock)

    def rebuild(group: FeatureGroup) -> Rebuilt:
        from hofflight.replay.backfill import rebuild as rebuilt

        history = offline().history(group.name, group.version)
        return Rebuilt(*rebuilt(history, group, settings.replay))

    def trim() -> None:
        if store.sealed.exists():
            app.trim(lambda stream: sealed_log(store, stream).manifest().sealed_to)

    def on_close() -> None:
        try:
            if sealer is not None:
                sealer.stop()
            trim()
        finally:
            sync.stop()
            known.close()
            lock.release()

    engine = Engine(known, open_log, store.snapshots, clock, settings.engine, rebuild)
    lookups = Lookups(open_online(settings, store.online), settings.online.timeout_ms)
    joiner = Joiner(engine, lookups, open_log, clock, settings.engine)
    app = App(
        engine, joiner, clock, path=store.path, offline=offline, announce=lock.announce,
        on_close=on_close, start_spark=functools.partial(apply_spark, store.path, settings),
    )  # fmt: skip
    sealer = open_sealer(store.path, [(store, app.streams)], settings, clock, trim)
    return app


def _offline(
    store: Store,
    registry: Registry,
    group_of: Callable[[str, int | None], FeatureGroup],
    settings: Settings,
    clock: Clock,
) -> Offline:
    from hofflight.replay.histories import Folders, Logs
    from hofflight.replay.offline import Offline

    def logs_of(place: Store) -> Logs:
        return Logs(lambda stream: LogReader(place.log / stream), place.sealed)

    parts = store.partitions()
    folders = Folders(
        store.labels, store.stored, store.datasets, tuple(part.path for part in parts.values())
    )
    partitions = {number: logs_of(part) for number, part in parts.items()}
    return Offline(registry, logs_of(store), folders, group_of, settings.replay, clock, partitions)


@contextlib.contextmanager
def read_offline(
    path: str | Path,
    groups: Sequence[FeatureGroup] = (),
    settings: Settings | None = None,
    *,
    keeps: bool = False,
) -> Iterator[tuple[Offline, list[str]]]:
    """The offline verbs of a store beside whoever serves it, and the names of its logs.

    `groups`: the code at hand. `keeps`: datasets and models may be kept; the registry itself sees
    to it that others may use it meanwhile. Raises: as `read_store`.
    """
    settings = settings or load_settings()
    registry, logs = read_store(path, settings)
    if keeps:
        registry.close()
        registry = open_registry(settings, path)
    known = {(group.name, group.version): group for group in groups}

    def group_of(name: str, version: int | None) -> FeatureGroup:
        record = registry.group(name, version)
        if (record.name, record.version) not in known:
            raise code_not_loaded(record)
        return known[record.name, record.version]

    with contextlib.closing(registry):
        yield _offline(Store(Path(path)), registry, group_of, settings, SystemClock()), [*logs]


@contextlib.contextmanager
def read_loader(
    path: str | Path, settings: Settings | None = None
) -> Iterator[tuple[Offline, Lookups]]:
    """What loads stored groups beside whoever serves: the offline verbs, and the online store.

    Raises: as `read_store`.
    """
    settings = settings or load_settings()
    if settings.registry.url:  # registered elsewhere: nobody made the store yet
        Store(Path(path)).require(create=True)
    with read_offline(path, settings=settings) as (offline, _):
        online = open_online(settings, Store(Path(path)).online)
        with contextlib.closing(Lookups(online, settings.online.timeout_ms)) as lookups:
            yield offline, lookups


# --- backfill -------------------------------------------------------------------------------------


def backfill_group(
    path: str | Path,
    group: FeatureGroup,
    *,
    settings: Settings | None = None,
    mapping: Callable[[Any], Any] | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> dict[str, int]:
    """Compute a group version's windows from history and keep them as its snapshot.

    Beside a running server, unless `mapping` makes the version's log first, out of that of the
    newest version with another input schema. `progress` is told how many more rows are in.

    Raises: UnknownView (HOF-201), no version has this input schema; StoreLocked (HOF-501), with a
        mapping; TransformFailed (HOF-209), from it.
    """
    from hofflight.engine.runner import Runner
    from hofflight.engine.snapshot import write_snapshot
    from hofflight.replay.backfill import rebuild

    settings = settings or load_settings()
    store = Store(Path(path))
    partitions = store.partitions()
    if partitions and mapping is not None:
        msg = f"{store.path.name!r} is kept in partitions: old rows are mapped in a store of one"
        raise StoreFormat(msg, hint="make a new group version, and let workers count from there")
    mapped = _map_history(path, group, settings, mapping) if mapping is not None else 0
    places = {f"{number}/": part for number, part in partitions.items()} or {"": store}
    folded = keys = 0
    with read_offline(path, settings=settings) as (offline, _):
        stream = offline.stream_of(group)
        for prefix, place in places.items():
            runner = Runner(group, contextlib.nullcontext())
            runner.folded, runner.state = rebuild(
                offline.history_of(f"{prefix}{stream}"), group, settings.replay, progress=progress
            )
            write_snapshot(runner, place.snapshots / stream)
            folded, keys = max(folded, runner.folded), keys + len(runner.state.keys)
    return {"number": folded, "keys": keys, "mapped": mapped}


def _map_history(
    path: str | Path, group: FeatureGroup, settings: Settings, mapping: Callable[[Any], Any]
) -> int:
    """Fill the empty log of a new input schema; how many records it has now."""
    from hofflight.replay.mapped import mapped_entries

    store = Store(Path(path))
    count = 0
    with open_store(path, settings=settings) as app:
        record = app.engine.registry.save_group(
            group,
            module=getattr(group.function, "__module__", ""),
            created_us=SystemClock.wall_us(),
        )
        history = app.offline().history_before(record)
        sync = SyncThread(settings.log)
        log = LocalLog(store.log / record.partition, sync, settings.log)
        try:
            if log.last_number():
                msg = f"the log {record.partition} has {log.last_number()} records already"
                raise StoreFormat(msg, hint="history can only be put before the first event")
            for entries in mapped_entries(history, group, mapping):
                log.append(entries)
                count += len(entries)
        finally:
            sync.stop()
            log.close()
    return count


def read_store(
    path: str | Path, settings: Settings | None = None
) -> tuple[Registry, dict[str, LogReader]]:
    """Open a store for reading beside whoever writes it: its registry and its logs by name.

    Raises: StoreFormat (HOF-503), RegistryUnavailable (HOF-515), SettingsError (HOF-601).
    """
    registry = read_registry(settings or load_settings(), path)
    store = Store(Path(path))
    logs = _logs_in(store)
    for number, part in store.partitions().items():
        logs |= {f"{number}/{name}": log for name, log in _logs_in(part).items()}
    return registry, logs


def _logs_in(store: Store) -> dict[str, LogReader]:
    names = sorted(p.name for p in store.log.iterdir()) if store.log.exists() else []
    return {name: LogReader(store.log / name) for name in names}


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
    from hofflight.server.offline_process import OfflineProcess
    from hofflight.server.serve import FlightServer

    def metrics() -> bytes:
        counted = named("server", dataclasses.asdict(server.stats))
        joins = app.worker.lookups.metrics()
        return exposition({**app.engine.metrics(), **joins, **counted})

    loaded = app.loaded()
    records = [r for r in app.engine.registry.groups() if (r.name, r.version) in loaded]
    modules = sorted({record.module for record in records if record.module})
    offline = OfflineProcess(HOF, app.path, modules, environment(settings))
    server = FlightServer(app.worker, settings.server, metrics=metrics, offline=offline)
    app.worker.lookups.attach()
    # 1. warm up
    warm_up(app)
    # What lives now lives until the end: a full collection need not walk it (tens of ms at p99).
    gc.collect()
    gc.freeze()
    # 2. bind
    address = server.address(await server.start())
    app.announce(address)
    ready(address)
    # 3. wait, drain
    await stop.wait()
    clean = await server.drain()
    await app.worker.lookups.detach()
    return clean


def warm_up(app: App) -> None:
    """Answer one made-up row per view of expressions, as a peek: nothing of it is kept.

    Functions of users are not called with made-up rows. pyarrow imports pandas, where it is
    installed, at its first conversion: 0.5 s that no request should pay.
    """
    pa.array([0.0]).to_numpy()
    for served in app.views():
        # Each of its groups has a view of its own here; its store may be one that is waited for.
        if not served.is_joined and not served.gains_from_company:
            row = {field.name: _made_up(field.type) for field in served.input_schema}
            app.vector(served.view, row, version=served.version, store=False)
        elif served.is_joined:
            app.worker.prepare(served)


def _made_up(column_type: pa.DataType) -> object:
    """A value that any column of this type may hold, as a key too."""
    if column_type in (pa.string(), pa.binary()):
        return "" if column_type == pa.string() else b""
    if column_type == pa.bool_():
        return False
    return 0.0 if pa.types.is_floating(column_type) else 0
