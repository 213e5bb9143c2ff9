"""Builds the process that `app.apply` starts: its command line, and its settings as environment."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hofflight.assemble_sealing import HOF
from hofflight.eventlog.store import Store
from hofflight.settings import with_kafka, with_registry, without_settings, worker_environment
from hofflight.spark_bridge.process import SparkProcess

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hofflight.settings import Settings
    from hofflight.spark_bridge.plan import SparkEngine


def apply_spark(
    path: Path, settings: Settings, groups: Sequence[str], modules: str, engine: SparkEngine, *,
    save_features: bool | None = None, command: Sequence[str] = HOF,
) -> SparkProcess:  # fmt: skip
    """Start `hof spark` for groups of the app at `path`; gives it once it is ready.

    save_features: None: as `kafka.features` says. command: how `hof` is called.

    Raises: as `SparkProcess`.
    """
    arguments = command_line(path, groups, modules, engine)
    environment = environment_of(path, settings, engine, save_features)
    return SparkProcess(groups, [*command, *arguments], environment)


def command_line(path: Path, groups: Sequence[str], modules: str, engine: SparkEngine) -> list[str]:
    """The arguments. Each option is one word, so that no value is taken for another option."""
    plan = engine.plan
    options = {
        "store": engine.store or str(path.resolve() / "spark"),
        "modules": modules,
        "mode": plan.mode,
        "trigger": plan.trigger,
        "master": plan.master,
        "checkpoint": plan.checkpoint,
        "takeover": plan.takeover,
        "partitions": "" if plan.partitions is None else ",".join(map(str, plan.partitions)),
    }
    words = [f"--{name}={value}" for name, value in options.items() if value]
    words += [f"--group={name}" for name in groups]
    words += [f"--conf={key}={value}" for key, value in plan.conf.items()]
    return ["spark", "--json", "--leashed", "--make-topics", *words]


def environment_of(
    path: Path, settings: Settings, engine: SparkEngine, save_features: bool | None
) -> dict[str, str]:
    """What the process reads its settings from, passwords too: no other user can read those."""
    url = settings.registry.url or f"sqlite:///{Store(path.resolve()).registry}"
    found = with_kafka(with_registry(settings, url), engine.kafka or None)
    if save_features is not None:
        kafka = found.kafka.model_copy(update={"features": save_features})
        found = found.model_copy(update={"kafka": kafka})
    return {
        **without_settings(),
        **worker_environment(found),
        # A module is found there as it was here: beside a script, or where the program looks.
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
