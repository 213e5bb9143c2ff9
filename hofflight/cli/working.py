"""`hof worker`: answers the records of a group's topics, until a signal."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from hofflight.cli.options import Json, Kafka, Modules, Partitions, RegistryUrl, Store
from hofflight.cli.output import print_json
from hofflight.cli.signals import stop_on_signal
from hofflight.errors import SettingsError
from hofflight.features.modules import versions_of


def worker(
    *,
    group: Annotated[str, typer.Option(metavar="NAME", help="The group, in all its versions.")],
    store: Store,
    modules: Modules,
    kafka: Kafka = None,
    registry: RegistryUrl = None,
    partitions: Partitions = None,
    json: Json = False,
) -> None:
    """Answer a group's requests that servers put into Kafka: windows and all, without Spark.

    Its state is in the store, one folder a partition. A partition has one worker at a time. SIGTERM
    or SIGINT ends it when all that was read is answered.
    """
    from hofflight.assemble_worker import work_kafka
    from hofflight.settings import with_kafka, with_registry

    settings = with_kafka(with_registry(None, registry), kafka)
    chosen = versions_of(modules, group)

    def ready(found: dict[str, Any]) -> None:
        if json:
            print_json(found)
        else:
            listed = ", ".join(map(str, found["partitions"]))
            print(f"working {found['group']}, partitions {listed}", flush=True)

    async def run() -> None:
        with stop_on_signal() as stop:
            numbers = partition_numbers(partitions)
            await work_kafka(store, chosen, settings, partitions=numbers, ready=ready, stop=stop)

    asyncio.run(run())


def partition_numbers(text: str | None) -> list[int] | None:
    """The numbers of `0-3,7`; None for None, which means all.

    Raises: SettingsError (HOF-601).
    """
    if text is None:
        return None
    found: list[int] = []
    for part in text.split(","):
        first, is_range, last = part.strip().partition("-")
        if not first.isdecimal() or (is_range and not last.isdecimal()):
            msg = f"--partitions {text!r} is no list of numbers such as 0-3,7"
            raise SettingsError(msg)
        found += range(int(first), int(last or first) + 1)
    return found
