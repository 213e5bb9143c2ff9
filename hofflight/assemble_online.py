"""Builds the online store of the settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hofflight.errors import SettingsError

if TYPE_CHECKING:
    from pathlib import Path

    from hofflight.online.protocol import OnlineStore
    from hofflight.settings import Settings


def open_online(settings: Settings, directory: Path | None) -> OnlineStore:
    """The online store: LMDB in a directory, or the Valkey or Redis of the settings.

    Raises: SettingsError (HOF-601), the extra `redis` is not installed.
    """
    if not settings.online.url:
        if directory is None:
            raise SettingsError("online.url is not set", hint="HOF_ONLINE__URL=redis://HOST:PORT")
        from hofflight.online.lmdb import LmdbStore

        return LmdbStore(directory, settings.online)
    try:
        from hofflight.online.redis import RedisStore
    except ModuleNotFoundError:
        msg = "online.url needs the extra `redis`"
        raise SettingsError(msg, hint="pip install 'hofflight[redis]'") from None
    return RedisStore(settings.online)
