"""`hof materialize` and `hof model`: stored rows come in, and what a model was trained on."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from hofflight.cli.options import Json, RegistryUrl, Store, named
from hofflight.cli.output import print_json, print_table, progress
from hofflight.errors import SettingsError

if TYPE_CHECKING:
    from hofflight.features.dataset import Dataset


def materialize(
    group: Annotated[
        str, typer.Argument(metavar="GROUP[@VERSION]", help="A registered stored group.")
    ],
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="[SOURCE]", help="Parquet (file or folder), Delta, CSV, JSON lines, Arrow."
        ),
    ] = None,
    *,
    store: Store,
    registry: RegistryUrl = None,
    mode: Annotated[
        str,
        typer.Option("--mode", metavar="full|incremental", help="Incremental: newer rows only."),
    ] = "full",
    refill: Annotated[
        bool, typer.Option("--refill", help="Fill the online store again, from what was loaded.")
    ] = False,
    json: Json = False,
) -> None:
    """Load rows into a stored group, beside a running server too; known rows change nothing.

    The newest row of each key is served; all go into the history that training joins with.
    """
    from hofflight.assemble import read_loader
    from hofflight.settings import with_registry

    if (source is None) != refill:
        msg = "materialize takes a SOURCE, or --refill"
        raise SettingsError(msg)
    name, version = named(group)
    with read_loader(store, with_registry(None, registry)) as (offline, lookups):
        if source is None:
            with progress(f"refilling {name}", offline.loaded_rows(name, version)) as advance:
                rows = offline.refill(name, version, lookups, advance)
            _show({"group": group, "rows": rows}, json=json)
            return
        rows = offline.source_rows(name, version, source)
        # Read, then put: each row counts twice.
        with progress(f"loading {name}", 2 * rows) as advance:
            report = offline.materialize(name, version, source, mode, lookups, advance)  # type: ignore[arg-type]
    _show(asdict(report), json=json)


def model(
    name: Annotated[str, typer.Argument(metavar="MODEL[@VERSION]", help="Its name.")],
    *,
    store: Store,
    registry: RegistryUrl = None,
    dataset: Annotated[
        str,
        typer.Option("--dataset", metavar="NAME[@VERSION]", help="What it was trained on."),
    ],
    tags: Annotated[
        list[str] | None, typer.Option("--tag", metavar="KEY=VALUE", help="To keep with it.")
    ] = None,
    json: Json = False,
) -> None:
    """Keep which training dataset a model was trained on: requests may then name the model."""
    from hofflight.assemble import read_offline
    from hofflight.settings import with_registry

    pairs = [tag.partition("=") for tag in tags or ()]
    if wrong := [key for key, is_, _ in pairs if not is_ or not key]:
        msg = f"--tag takes KEY=VALUE, got {wrong}"
        raise SettingsError(msg)
    kept_tags = {key: value for key, _, value in pairs}
    with read_offline(store, settings=with_registry(None, registry), keeps=True) as (offline, _):
        kept = offline.model(*named(name), named(dataset), kept_tags)
    _show(msgspec.to_builtins(kept), json=json)


def show_dataset(dataset: Dataset, *, json: bool) -> None:
    """What was kept of a training dataset."""
    if json:
        print_json(msgspec.to_builtins(dataset))
        return
    title = f"{dataset.name}@{dataset.version} of {dataset.view}@{dataset.view_version}"
    print_table(title, ("what", "value"), [("rows", dataset.rows), ("file", dataset.file)])
    about = ("nulls", "distinct", "min", "mean", "max", "std")
    rows = [(n, *(s.get(a) for a in about)) for n, s in dataset.statistics.items()]
    print_table("Statistics", ("column", *about), rows)


def _show(found: dict[str, Any], *, json: bool) -> None:
    if json:
        print_json(found)
    else:
        print_table("", ("what", "value"), list(found.items()))
