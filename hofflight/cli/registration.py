"""`hof plan` and `hof register`: what would change, and making it so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from hofflight.cli.modules import collect
from hofflight.cli.options import Json, Store, Target
from hofflight.cli.output import note, print_json
from hofflight.clock import SystemClock
from hofflight.errors import StoreLocked

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from hofflight.features.group import FeatureGroup
    from hofflight.features.registry import Change

_MARKS = {"created": "+", "changed": "!", "unchanged": "="}


def plan(target: Target, store: Store, json: Json = False) -> None:
    """Show what `register` would do: created, changed (refused, exit 1), unchanged."""
    groups = [group for _, group in collect(target)]
    changes = planned(store, groups)
    show(changes, json=json)
    _exit_if_changed(changes)


def register(target: Target, store: Store, json: Json = False) -> None:
    """Keep the feature groups of a module in a store; a changed one is refused, and all with it."""
    from hofflight.assemble import open_store

    groups = collect(target)
    try:
        app = open_store(store)
    except StoreLocked as error:
        hint = f"to add groups, restart that server with --modules {target}"
        raise StoreLocked(error.message, hint=hint) from error
    with app:
        # Straight into the registry: `app.register` would also fold the group's whole log.
        registry = app.engine.registry
        changes = [registry.plan_group(group) for _, group in groups]
        if not any(change.state == "changed" for change in changes):
            for module, group in groups:
                registry.save_group(group, module=module, created_us=SystemClock.wall_us())
    show(changes, json=json)
    _exit_if_changed(changes)


def planned(store: Path, groups: Sequence[FeatureGroup]) -> list[Change]:
    """What registering each group would do; in a store that is still to be made, all is new."""
    from hofflight.assemble import read_store
    from hofflight.features.registry import Change

    if not store.exists() or (store.is_dir() and not any(store.iterdir())):
        return [Change("group", group.name, group.version, "created") for group in groups]
    registry, _ = read_store(store)
    try:
        return [registry.plan_group(group) for group in groups]
    finally:
        registry.close()


def show(changes: Sequence[Change], *, json: bool) -> None:
    """Print changes, the diff of each changed one below it."""
    if json:
        fields = ("kind", "name", "version", "state", "diff")
        print_json({"changes": [{f: getattr(change, f) for f in fields} for change in changes]})
        return
    for line in change_lines(changes):
        print(line)


def change_lines(changes: Sequence[Change]) -> list[str]:
    """`+ group card_tx@1 created`, and the diff indented."""
    lines = []
    for change in changes:
        what = f"{change.kind} {change.name}@{change.version}"
        lines.append(f"{_MARKS[change.state]} {what} {change.state}")
        lines.extend(f"    {line}" for line in change.diff.splitlines())
    return lines


def _exit_if_changed(changes: Sequence[Change]) -> None:
    changed = [f"{change.name}@{change.version}" for change in changes if change.state == "changed"]
    if changed:
        note(f"{', '.join(changed)}: a version never changes; raise the version, nothing was kept")
        raise typer.Exit(1)
