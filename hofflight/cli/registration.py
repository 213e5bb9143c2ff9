"""`hof plan` and `hof register`: what would change, and making it so."""

from __future__ import annotations

from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import typer

from hofflight.cli.options import AnyStore, Json, Kafka, RegistryUrl, Target
from hofflight.cli.output import note, print_json
from hofflight.clock import SystemClock
from hofflight.errors import StoreLocked, UnknownView
from hofflight.features.modules import collect, collect_stored, collect_views

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from hofflight.features.group import FeatureGroup
    from hofflight.features.records import Change
    from hofflight.features.registry import Registry
    from hofflight.features.stored import StoredGroup
    from hofflight.features.view import AnyGroup, View

_MARKS = {"created": "+", "changed": "!", "unchanged": "="}


def plan(
    target: Target, store: AnyStore = None, registry: RegistryUrl = None, json: Json = False
) -> None:
    """Show what `register` would do: created, changed (refused, exit 1), unchanged."""
    from hofflight.assemble_registry import planned_registry
    from hofflight.settings import with_registry

    groups = [group for _, group in collect(target)]
    stored = collect_stored(target)
    settings = with_registry(None, registry)
    views = views_of(target, [*groups, *stored])
    with closing(planned_registry(settings, store)) as known:
        changes = changes_of(known, groups, stored, views)
    show(changes, json=json)
    _exit_if_changed(changes)


def register(
    target: Target,
    store: AnyStore = None,
    registry: RegistryUrl = None,
    kafka: Kafka = None,
    json: Json = False,
) -> None:
    """Keep a module's groups in a store or registry; a changed one is refused, and all with it.

    A registry apart from the store is written beside whoever serves from it. --kafka makes the
    topics that are missing, too.
    """
    groups, stored = collect(target), collect_stored(target)
    views = views_of(target, [*(group for _, group in groups), *stored])
    with _writable(store, registry, target) as known, known.writing():
        changes = changes_of(known, [group for _, group in groups], stored, views)
        if not any(change.state == "changed" for change in changes):
            for module, group in groups:
                known.save_group(group, module=module, created_us=SystemClock.wall_us())
            for each in stored:
                known.save_stored(each, created_us=SystemClock.wall_us())
            for view in views:
                known.save_view(view, created_us=SystemClock.wall_us())
    topics = _made_topics(kafka, registry, store, [group for _, group in groups], changes)
    show(changes, topics, json=json)
    _exit_if_changed(changes)


def _made_topics(
    kafka: str | None, registry: str | None, store: Path | None, groups: Sequence[FeatureGroup],
    changes: Sequence[Change],
) -> list[str]:  # fmt: skip
    """The Kafka topics that were missing."""
    from hofflight.settings import with_kafka, with_registry

    settings = with_kafka(with_registry(None, registry), kafka)
    if not settings.kafka.bootstrap or any(change.state == "changed" for change in changes):
        return []
    from hofflight.assemble_kafka import make_topics

    return make_topics(settings, groups, store)


@contextmanager
def _writable(store: Path | None, url: str | None, target: str) -> Iterator[Registry]:
    """The registry itself: `app.register` would also fold a group's whole log."""
    from hofflight.assemble import open_store
    from hofflight.assemble_registry import open_registry
    from hofflight.settings import with_registry

    settings = with_registry(None, url)
    if settings.registry.url or store is None:
        with closing(open_registry(settings, store)) as known:
            yield known
        return
    try:
        app = open_store(store, settings=settings)
    except StoreLocked as error:
        hint = f"to add groups, restart that server with --modules {target}"
        raise StoreLocked(error.message, hint=hint) from error
    with app:
        yield app.engine.registry


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


def show(changes: Sequence[Change], topics: Sequence[str] = (), *, json: bool) -> None:
    """Print changes, the diff of each changed one below it; then topics that were made."""
    if json:
        fields = ("kind", "name", "version", "state", "diff")
        found = [{f: getattr(change, f) for f in fields} for change in changes]
        print_json({"changes": found, **({"topics": topics} if topics else {})})
        return
    for line in [*change_lines(changes), *(f"+ topic {topic} created" for topic in topics)]:
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
