"""Opens the registry that the settings mean: the store's own file, or one that others share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from hofflight.errors import SettingsError, StoreFormat
from hofflight.eventlog.store import Store
from hofflight.features.registry import Registry
from hofflight.features.sqlite import SqliteDatabase

if TYPE_CHECKING:
    from hofflight.clock import Clock
    from hofflight.features.database import Database
    from hofflight.settings import Settings

_SQLITE: Final = "sqlite:///"


def open_registry(
    settings: Settings,
    path: str | Path | None = None,
    *,
    read_only: bool = False,
    clock: Clock | None = None,
) -> Registry:
    """The registry at `registry.url`; without one that of the store at `path`.

    Raises: StoreFormat (HOF-503), it is damaged, newer, or missing beside logs;
        RegistryUnavailable (HOF-515); SettingsError (HOF-601), neither is named, the store has
        another registry, or the extra `postgres` is not installed.
    """
    url = settings.registry.url
    store = Store(Path(path)) if path is not None else None
    if not url:
        if store is None:
            msg = "there is no registry: neither a store nor registry.url"
            raise SettingsError(msg, hint="--store DIR, or --registry URL")
        _require_own(store)
        return Registry(SqliteDatabase(store.registry, read_only=read_only, clock=clock))
    if store is not None:
        _require_no_other(store, url)
    return Registry(_shared(url, read_only=read_only, clock=clock))


def planned_registry(settings: Settings, path: Path | None) -> Registry:
    """The registry, for reading; an empty one in memory where it is still to be made.

    Raises: as `open_registry`; StoreFormat (HOF-503), `path` is no store.
    """
    url = settings.registry.url
    if url.startswith(_SQLITE):
        is_new = not Path(url.removeprefix(_SQLITE)).exists()
    elif url or path is None:
        is_new = False
    else:
        is_new = not path.exists() or (path.is_dir() and not any(path.iterdir()))
    if is_new:
        return Registry(SqliteDatabase(None))
    return read_registry(settings, path)


def read_registry(settings: Settings, path: str | Path | None) -> Registry:
    """The registry, for reading beside whoever writes it; `path`, where given, is a store.

    Raises: as `planned_registry`.
    """
    if path is not None:
        Store(Path(path)).require(create=False)
    return open_registry(settings, path, read_only=True)


def _shared(url: str, *, read_only: bool, clock: Clock | None) -> Database:
    if url.startswith(_SQLITE):
        path = Path(url.removeprefix(_SQLITE))
        return SqliteDatabase(path, read_only=read_only, clock=clock)
    try:
        from hofflight.features.postgres import PostgresDatabase
    except ImportError:
        msg = "registry.url needs the extra `postgres`"
        raise SettingsError(msg, hint="pip install 'hofflight[postgres]'") from None
    return PostgresDatabase(url, read_only=read_only)


def _require_own(store: Store) -> None:
    """A new registry would give the numbers of the logs again, to other input schemas.

    Raises: StoreFormat (HOF-503).
    """
    if not store.registry.exists() and store.log.exists() and any(store.log.iterdir()):
        msg = f"{store.path.name!r} has logs and no registry of its own"
        raise StoreFormat(msg, hint=f"--registry URL, or bring {store.registry.name} back")


def _require_no_other(store: Store, url: str) -> None:
    """A log's name has a number that its registry gave: another registry would mean another log.

    Raises: SettingsError (HOF-601).
    """
    own = store.registry
    if own.exists() and Path(url.removeprefix(_SQLITE)).resolve() != own.resolve():
        msg = f"{store.path.name!r} has a registry of its own, and registry.url names another"
        hint = f"leave registry.url out, or move {own.name} to where others share it"
        raise SettingsError(msg, hint=hint)
