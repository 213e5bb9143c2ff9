"""`hof train`, `label`, `verify` and `backfill`: what is done with a log besides serving."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from hofflight.cli.options import End, Json, Modules, RegistryUrl, Start, Store, named
from hofflight.cli.output import note, print_json, print_table, progress
from hofflight.cli.stored import show_dataset
from hofflight.errors import SettingsError
from hofflight.features.modules import collect

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hofflight.features.group import FeatureGroup
    from hofflight.replay.offline import Offline
    from hofflight.replay.training import TrainingReport
    from hofflight.settings import Settings
    from hofflight.wire.parity import Explanation, Parity

View = Annotated[
    str, typer.Argument(metavar="VIEW[@VERSION]", help="A view, or a group for all its columns.")
]
_SHOWN_MAX = 5


def train(
    view: View,
    *,
    store: Store,
    registry: RegistryUrl = None,
    modules: Modules = "",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help=".parquet or .arrow")
    ] = None,
    save: Annotated[
        str | None,
        typer.Option(
            "--save", metavar="NAME[@VERSION]", help="Keep it as a dataset that requests may name."
        ),
    ] = None,
    start: Start = None,
    end: End = None,
    labels: Annotated[
        Path | None, typer.Option("--labels", metavar="FILE", help="In place of loaded labels.")
    ] = None,
    as_of: Annotated[
        str, typer.Option("--as-of", metavar="arrival|event", help="What was known, or corrected.")
    ] = "arrival",
    split: Annotated[
        str | None,
        typer.Option("--split", metavar="JSON", help='Such as {"train": 0.8, "test": 0.2}.'),
    ] = None,
    engine: Annotated[
        str, typer.Option("--engine", metavar="duckdb|kernel|auto", help="What fits, by default.")
    ] = "auto",
    ids: Annotated[
        bool, typer.Option("--ids", help="Add request_id, row and late before the features.")
    ] = False,
    json: Json = False,
) -> None:
    """Write a view's vectors as they were served, with labels, for training."""
    from hofflight.assemble import read_offline
    from hofflight.replay.offline import Ask
    from hofflight.settings import with_registry

    if out is None and save is None:
        msg = "train takes --out FILE, --save NAME, or both"
        raise SettingsError(msg)
    ask = Ask(start, end, labels, as_of, _split(split), engine, ids)  # type: ignore[arg-type]
    name, version = named(view)
    groups = [group for _, group in collect(modules)]
    with (
        read_offline(store, groups, with_registry(None, registry), keeps=save is not None) as (
            offline,
            _,
        ),
        progress(f"training {name}", rows_of(offline, name, version)) as advance,
    ):
        note_partitions(offline)
        if save is not None:
            dataset = offline.training_dataset(*named(save), (name, version), ask, out, advance)
            show_dataset(dataset, json=json)
            return
        assert out is not None
        report = offline.write_training_data(out, name, version, ask, advance)
    _show_report(report, out, json=json)


def label(
    view: View,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Parquet, CSV, JSON lines, Arrow.")],
    *,
    store: Store,
    registry: RegistryUrl = None,
    json: Json = False,
) -> None:
    """Keep labels of a view's rows, by request_id (and row) or by key and event time."""
    from hofflight.assemble import read_offline
    from hofflight.settings import with_registry

    name, version = named(view)
    with read_offline(store, settings=with_registry(None, registry)) as (offline, _):
        rows = offline.label(name, version, file)
    if json:
        print_json({"view": name, "rows": rows})
    else:
        print(f"{rows} rows of labels of {name}")


def verify(
    view: View,
    *,
    store: Store,
    registry: RegistryUrl = None,
    modules: Modules = "",
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="Only what arrived from then on.")
    ] = None,
    sample: Annotated[
        float | None, typer.Option("--sample", metavar="SHARE", help="Only this share of the keys.")
    ] = None,
    changed_code: Annotated[
        bool, typer.Option("--changed-code", help="Compare though the code is not what served.")
    ] = False,
    request: Annotated[
        str | None, typer.Option("--explain", metavar="REQUEST_ID", help="Show one request alone.")
    ] = None,
    json: Json = False,
) -> None:
    """Compare every answer with what DuckDB makes of the log; exit 1 on any difference."""
    from hofflight.assemble import read_offline
    from hofflight.settings import with_registry

    name, version = named(view)
    groups = [group for _, group in collect(modules)]
    with read_offline(store, groups, with_registry(None, registry)) as (offline, _):
        if request is not None:
            found = offline.explain(name, version, request, changed_code=changed_code)
            _show_explained(found, json=json)
            return
        note_partitions(offline)
        with progress(f"verifying {name}", rows_to_verify(offline, name, version)) as advance:
            parity = offline.verify(
                name, version, since=since, sample=sample, changed_code=changed_code,
                progress=advance,
            )  # fmt: skip
        explained = [e for d in parity.worst[:1] for e in parity.explain(d.request_id)]
    if json:
        covered = {"partitions": offline.partitions} if offline.partitions else {}
        more = {**covered, "explained": [asdict(e) for e in explained]}
        print_json({**parity.to_dict(), **more})
    else:
        show_parity(parity)
        for explanation in explained:
            _show_explanation(explanation, every=False)
    if parity.mismatches:
        raise typer.Exit(1)


def backfill(
    group: Annotated[str, typer.Argument(metavar="GROUP[@VERSION]", help="A registered group.")],
    *,
    store: Store,
    registry: RegistryUrl = None,
    modules: Modules = "",
    mapping: Annotated[
        str | None,
        typer.Option(
            "--map", metavar="MODULE:FUNCTION", help="Old raw batches to this version's input."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Compute a group version's windows from history, so that it serves warm at once."""
    from hofflight.assemble import backfill_group, read_offline
    from hofflight.settings import with_registry

    chosen = _group(group, modules)
    function = _function(mapping) if mapping else None
    settings = with_registry(None, registry)
    with read_offline(store, settings=settings) as (offline, _):
        rows = offline.rows_for(chosen)
    with progress(f"backfilling {group}", rows) as advance:
        done = backfill_group(store, chosen, settings=settings, mapping=function, progress=advance)
    if json:
        print_json(done)
    else:
        print(f"{group}: {done['keys']} keys, after record {done['number']}")


def verified(
    store: Path, groups: Sequence[FeatureGroup], view: str, settings: Settings | None = None
) -> dict[str, Any]:
    """Parity of a store that a demo filled, as `parity_rows`, `parity_mismatches`, ..."""
    from hofflight.assemble import read_offline

    with (
        read_offline(store, groups, settings) as (offline, _),
        progress("verifying", rows_to_verify(offline, view, None)) as advance,
    ):
        parity = offline.verify(view, progress=advance)
    return {
        "parity_rows": parity.rows,
        "parity_mismatches": parity.mismatches,
        "parity_by_feature": parity.by_feature,
        "parity_parts": parity.parts,
        "parity_seconds": parity.seconds,
    }


def _group(text: str, modules: str) -> FeatureGroup:
    """The group of that name among the modules'; its newest version without one.

    Raises: SettingsError (HOF-601).
    """
    name, version = named(text)
    found = [
        group for _, group in collect(modules)
        if group.name == name and version in (None, group.version)
    ]  # fmt: skip
    if not found:
        msg = f"{modules or 'no module'} holds no group {text}"
        raise SettingsError(msg, hint="add --modules MODULE")
    return max(found, key=lambda group: group.version)


def note_partitions(offline: Offline) -> None:
    """Say which partitions are here: of a worker's, others may be on other machines."""
    if offline.partitions:
        note(f"partitions {', '.join(map(str, offline.partitions))}")


def rows_of(offline: Offline, view: str, version: int | None) -> int:
    """How many rows the log of a view has, for a progress bar."""
    groups = offline.view(view, version).streaming
    return sum(offline.history(*group).extent().rows for group in groups)


def rows_to_verify(offline: Offline, view: str, version: int | None) -> int:
    """The same, and the records of what was joined."""
    found = offline.view(view, version)
    joined = offline.join_history(found).extent().rows if found.stored else 0
    return rows_of(offline, view, version) + joined


def show_parity(parity: Parity) -> None:
    """The one line that matters, and below it what differs."""
    print(parity_line(parity))
    for text in parity.notes:
        note(text)
    if parity.by_feature:
        print_table("Differences", ("feature", "rows"), list(parity.by_feature.items()))
        for difference in parity.worst[:_SHOWN_MAX]:
            print(difference)


def parity_line(parity: Parity) -> str:
    """What was compared, in a line."""
    parts = ", ".join(f"{name} {rows}" for name, rows in parity.parts.items())
    more = f" ({parts})" if len(parity.parts) > 1 else ""
    if parity.unavailable:
        more += f", {parity.unavailable} lookups without an answer"
    return (
        f"parity: {parity.rows} answers of {parity.view}@{parity.version} replayed by DuckDB, "
        f"{parity.mismatches} mismatches, {parity.unserved} unserved{more}; {parity.seconds:.1f} s"
    )


def _show_explained(found: list[Explanation], *, json: bool) -> None:
    """The rows of one request, equal or not; exit 1 if not."""
    if json:
        print_json({"explained": [asdict(explanation) for explanation in found]})
    else:
        for explanation in found:
            _show_explanation(explanation, every=True)
    if not all(feature["equal"] for e in found for feature in e.features.values()):
        raise typer.Exit(1)


def _show_explanation(found: Explanation, *, every: bool) -> None:
    from hofflight.replay.partitioned import PartitionExplanation

    title = f"request {found.request_id} row {found.row}" + (", late" if found.late else "")
    if isinstance(found, PartitionExplanation):
        title = f"partition {found.partition}, {title}"
    rows = [(n, f["served"], f["replayed"], f["equal"]) for n, f in found.features.items()]
    print_table(title, ("feature", "served", "replayed", "equal"), rows)
    for name, window in found.windows.items():
        if every or not found.features[name]["equal"]:
            columns = list(dict.fromkeys(key for event in window["events"] for key in event))
            events = [[event[column] for column in columns] for event in window["events"]]
            print_table(f"{name} = {window['window']}", columns, events)


def _show_report(report: TrainingReport, out: Path, *, json: bool) -> None:
    if json:
        print_json({"file": out.name, **asdict(report)})
        return
    print_table(out.name, ("what", "value"), list(asdict(report).items()))


def _split(text: str | None) -> Any:
    if text is None:
        return None
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        msg = f"--split is no JSON: {error}"
        raise SettingsError(msg, hint="""--split '{"train": 0.8, "test": 0.2}'""") from error
    if not isinstance(found, dict):
        msg = "--split takes a JSON object"
        raise SettingsError(msg)
    return found


def _function(target: str) -> Any:
    from hofflight.features.modules import import_named

    module, _, name = target.partition(":")
    function = getattr(import_named(module), name, None) if name else None
    if not callable(function):
        msg = f"--map takes MODULE:FUNCTION, {target!r} names none"
        raise SettingsError(msg)
    return function
