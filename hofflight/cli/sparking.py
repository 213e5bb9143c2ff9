"""`hof spark`: answers a group's records by Spark, until a signal."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from hofflight.cli.options import Json, Kafka, Modules, Partitions, RegistryUrl, Store
from hofflight.cli.output import print_json
from hofflight.cli.signals import set_on_signal
from hofflight.cli.working import partition_numbers
from hofflight.errors import SettingsError

if TYPE_CHECKING:
    from pathlib import Path

    from hofflight.settings import Settings
    from hofflight.spark_bridge.plan import SparkPlan
    from hofflight.spark_bridge.progress import Progress

Checkpoint = Annotated[
    str,
    typer.Option(
        metavar="URL",
        help="A folder or object store for offsets and copies of logs; in --store, without.",
    ),
]
Takeover = Annotated[
    str,
    typer.Option(
        metavar="DURATION",
        help="Also take partitions that no application has worked for so long, 1m say.",
    ),
]


def spark(
    *,
    group: Annotated[
        list[str], typer.Option(metavar="NAME", help="A group, in all its versions; or several.")
    ],
    store: Store,
    modules: Modules,
    kafka: Kafka = None,
    registry: RegistryUrl = None,
    partitions: Partitions = None,
    mode: Annotated[
        Literal["realtime", "microbatch"],
        typer.Option(help="As records come, or in batches, for clusters without Real-Time Mode."),
    ] = "realtime",
    trigger: Annotated[
        str, typer.Option(metavar="DURATION", help="How often offsets are committed; 5s at least.")
    ] = "5m",
    master: Annotated[
        str, typer.Option(metavar="URL", help="Spark's master; this machine, where left out.")
    ] = "",
    checkpoint: Checkpoint = "",
    takeover: Takeover = "",
    conf: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="A setting of Spark's own.")
    ] = None,
    make_topics: Annotated[
        bool, typer.Option("--make-topics", help="Make topics that are missing, as register does.")
    ] = False,
    once: Annotated[
        bool, typer.Option("--once", help="Without a supervisor: others start it again.")
    ] = False,
    # It ends when its standard input does: with whoever started it.
    leashed: Annotated[bool, typer.Option("--leashed", hidden=True)] = False,
    json: Json = False,
) -> None:
    """Answer requests that servers put into Kafka by Spark, in Real-Time Mode.

    Servers are started with --nudge. Its state is in the store, one folder a partition; a
    partition has one application or worker at a time. It starts again by itself what ends, itself
    included, until SIGTERM or SIGINT.
    """
    if not once:
        raise typer.Exit(_supervised(leashed=leashed))
    from hofflight.settings import with_kafka, with_registry
    from hofflight.spark_bridge.plan import SparkPlan

    settings = with_kafka(with_registry(None, registry), kafka)
    numbers = partition_numbers(partitions)
    plan = SparkPlan(
        master=master, mode=mode, trigger=trigger, checkpoint=checkpoint, takeover=takeover,
        make_topics=make_topics, conf=_settings_of(conf or []),
        partitions=None if numbers is None else tuple(numbers),
    )  # fmt: skip
    _run(Application(store, group, modules, settings, plan), leashed=leashed, json=json)


class Application(NamedTuple):
    """What runs, until a signal."""

    store: Path
    groups: list[str]
    modules: str
    settings: Settings
    plan: SparkPlan


def _run(wanted: Application, *, leashed: bool, json: bool) -> None:
    """Run it in this process.

    Raises: typer.Exit, it ended after it had run: another start may go on; else as `run_spark`.
    """
    from hofflight.assemble_spark import run_spark
    from hofflight.spark_bridge.supervisor import DIED, end_with_parent

    stop = threading.Event()
    set_on_signal(stop.set)
    if leashed:
        end_with_parent(stop.set)
    is_ready = False

    def ready(found: dict[str, Any]) -> None:
        nonlocal is_ready
        is_ready = True
        set_on_signal(stop.set)  # pyspark took SIGINT for itself
        if json:
            print_json(found)
        else:
            listed = ", ".join(map(str, found["partitions"]))
            names = ", ".join(found["groups"])
            print(f"working {names} by Spark, partitions {listed}", flush=True)

    line = None if json or not sys.stderr.isatty() else _Line()
    try:
        run_spark(*wanted, ready=ready, stop=stop, progress=line)
    except Exception as error:
        if not is_ready:
            raise
        # A dead JVM makes errors of all kinds.
        print(f"{type(error).__name__}: {error}".splitlines()[0], file=sys.stderr)
        raise typer.Exit(DIED) from error


def _supervised(*, leashed: bool) -> int:
    from hofflight.assemble_sealing import HOF
    from hofflight.spark_bridge.supervisor import Supervisor, end_with_parent

    supervisor = Supervisor([*HOF, *sys.argv[1:], "--once", "--leashed"])
    if leashed:
        end_with_parent(supervisor.stop)
    return supervisor.run()


def _settings_of(conf: list[str]) -> dict[str, str]:
    """Raises: SettingsError (HOF-601)."""
    found = {}
    for text in conf:
        key, mark, value = text.partition("=")
        if not mark:
            msg = f"--conf {text!r} is no spark.KEY=VALUE"
            raise SettingsError(msg)
        found[key] = value
    return found


class _Line:
    """One line on a terminal, written over."""

    def __init__(self) -> None:
        self._rows: int | None = None
        self._at_s = 0.0

    def __call__(self, found: Progress) -> None:
        now_s = time.monotonic()
        rate = 0.0 if self._rows is None else (found.rows - self._rows) / (now_s - self._at_s)
        self._rows, self._at_s = found.rows, now_s
        lag = "unknown" if found.lag is None else f"{found.lag:,}"
        text = f"{found.partitions} partitions, {rate:,.0f} rows/s, {lag} records behind"
        size = f"{found.state_bytes / 1e6:,.0f} MB, {found.restarts} restarts"
        print(f"\r{text}, {size}\033[K", end="", file=sys.stderr)
