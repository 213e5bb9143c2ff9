"""`hof log seal --from kafka`: what a group's topics hold, counted in a store as a worker would."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hofflight.cli.output import progress
from hofflight.cli.working import partition_numbers
from hofflight.errors import SettingsError
from hofflight.features.modules import versions_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hofflight.settings import Settings


def read_topics(
    store: Path, group: str | None, modules: str, partitions: str | None, settings: Settings,
    *, json: bool,
) -> None:  # fmt: skip
    """Have the store hold everything that the group's topics do, a store for each partition.

    Raises: SettingsError (HOF-601); as `assemble_worker.read_kafka`.
    """
    from hofflight.assemble_worker import read_kafka

    if group is None or not modules:
        msg = "--from kafka needs --group NAME and --modules A,B: windows are computed anew"
        raise SettingsError(msg)
    chosen = versions_of(modules, group)
    numbers = partition_numbers(partitions)

    @contextmanager
    def shown(count: int) -> Iterator[Callable[[int], None]]:
        if json:
            yield lambda _: None
            return
        with progress(f"reading {group}", count) as advance:
            yield advance

    asyncio.run(read_kafka(store, chosen, settings, partitions=numbers, progress=shown))
