"""Builds what seals logs beside whoever writes them, from settings."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from hofflight.engine.sealer import Sealer
from hofflight.eventlog.local import LogReader

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from hofflight.clock import Clock
    from hofflight.eventlog.store import Store
    from hofflight.replay.sealed import SealedLog
    from hofflight.settings import Settings

# How this very installation is called as a command.
HOF = (sys.executable, "-m", "hofflight.cli.main")


def open_sealer(
    path: Path,
    stores: Sequence[tuple[Store, Callable[[], dict[str, int]]]],
    settings: Settings,
    clock: Clock,
    sealed: Callable[[], None],
) -> Sealer | None:
    """Seals by size and age, as the settings say; None where both are off.

    path: the store, or the folder of the partitions' stores. stores: each with the logs at work in
    it and their last numbers. sealed: called after a seal.
    """
    wanted = settings.log
    if not wanted.seal_bytes and not wanted.seal_age_s:
        return None

    def is_due() -> bool:
        return any(
            _is_due(store, stream, last, settings, clock)
            for store, streams in stores
            for stream, last in streams().items()
        )

    command = [*HOF, "log", "seal", "--store", str(path)]
    return Sealer(
        command, is_due=is_due, sealed=sealed, period_s=wanted.seal_check_s,
        environment=environment(settings),
    )  # fmt: skip


def _is_due(store: Store, stream: str, last_number: int, settings: Settings, clock: Clock) -> bool:
    """Once a minute beside serving, so it looks at names, sizes and times alone."""
    wanted = settings.log
    sealed = sealed_log(store, stream)
    sealed_to = sealed.manifest().sealed_to
    if last_number <= sealed_to:
        return False
    log = LogReader(store.log / stream)
    if 0 < wanted.seal_bytes <= log.bytes_after(sealed_to):
        return True
    age_s = (clock.wall_us() - (sealed.sealed_us() or log.first_arrival_us())) / 1e6
    return 0 < wanted.seal_age_s <= age_s


def environment(settings: Settings) -> dict[str, str]:
    """That of processes which we start: a registry's password is nothing for a command line."""
    return {**os.environ, "HOF_REGISTRY__URL": settings.registry.url}


def sealed_log(store: Store, stream: str) -> SealedLog:
    """The sealed part of a log."""
    from hofflight.replay.sealed import SealedLog

    return SealedLog(store.sealed / stream)
