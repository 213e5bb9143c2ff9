"""`hof plan` and `hof register`: what would change, and making it so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from hofflight.cli.modules import collect, collect_stored, collect_views
from hofflight.cli.options import Json, Store, Target
from hofflight.cli.output import note, print_json
from hofflight.clock import SystemClock
from hofflight.errors import StoreLocked, UnknownView

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from hofflight.features.group import FeatureGroup
    from hofflight.features.records import Change
    from hofflight.features.registry import Registry
    from hofflight.features.stored import StoredGroup
    from hofflight.features.view import AnyGroup, View

_MARKS = {"created": "+", "changed": "!", "unchanged": "="}


def plan(target: Target, store: Store, json: Json = False) -> None:
    """Show what `register` would do: created, changed (refused, exit 1), unchanged."""
    groups = [group for _, group in collect(target)]
    stored = collect_stored(target)
    changes = planned(store, groups, stored, views_of(target, [*groups, *stored]))
    show(changes, json=json)
    _exit_if_changed(changes)


def register(target: Target, store: Store, json: Json = False) -> None:
    """Keep the feature groups of a module in a store; a changed one is refused, and all with it."""
    from hofflight.assemble import open_store

    groups, stored = collect(target), collect_stored(target)
    views = views_of(target, [*(group for _, group in groups), *stored])
    try:
        app = open_store(store)
    except StoreLocked as error:
        hint = f"to add groups, restart that server with --modules {target}"
        raise StoreLocked(error.message, hint=hint) from error
    with app:
        # Straight into the registry: `app.register` would also fold the group's whole log.
        registry = app.engine.registry
        changes = changes_of(registry, [group for _, group in groups], stored, views)
        if not any(change.state == "changed" for change in changes):
            for module, group in groups:
                registry.save_group(group, module=module, created_us=SystemClock.wall_us())
            for each in stored:
                registry.save_stored(each, created_us=SystemClock.wall_us())
            for view in views:
                registry.save_view(view, created_us=SystemClock.wall_us())
    show(changes, json=json)
    _exit_if_changed(changes)


def views_of(target: str, groups: Sequence[AnyGroup]) -> list[View]:
    """The module's views, resolved against the module's groups.

    Raises: DefinitionError (HOF-1xx), UnknownView (HOF-201).
    """
    from hofflight.features.view import declare_view

    def group_of(name: str, version: int | None) -> AnyGroup:
        found = [g for g in groups if g.name == name and version in (None, g.version)]
        if not found:
            msg = f"no group {name!r}" + (f" version {version}" if version else "")
            raise UnknownView(f"{msg} is in {target}", hint="declare a view beside its group")
        return max(found, key=lambda group: group.version)

    return [
        declare_view(v.name, v.version, v.features, v.labels, group_of, v.on_missing)
        for v in collect_views(target)
    ]


def changes_of(
    registry: Registry,
    groups: Sequence[FeatureGroup],
    stored: Sequence[StoredGroup],
    views: Sequence[View],
) -> list[Change]:
    """What registering each of them would do."""
    return [
        *map(registry.plan_group, groups),
        *map(registry.plan_stored, stored),
        *map(registry.plan_view, views),
    ]


def planned(
    store: Path,
    groups: Sequence[FeatureGroup],
    stored: Sequence[StoredGroup],
    views: Sequence[View],
) -> list[Change]:
    """What registering each of them would do; in a store that is still to be made, all is new."""
    from hofflight.assemble import read_store
    from hofflight.features.records import Change

    if not store.exists() or (store.is_dir() and not any(store.iterdir())):
        return [
            *(Change("group", group.name, group.version, "created") for group in groups),
            *(Change("stored group", each.name, each.version, "created") for each in stored),
            *(Change("view", view.name, view.version, "created") for view in views),
        ]
    registry, _ = read_store(store)
    try:
        return changes_of(registry, groups, stored, views)
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
