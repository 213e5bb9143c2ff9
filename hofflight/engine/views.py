"""Views as a server needs them: names, schemas and hashes of the groups behind them, no code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hofflight.errors import CodeNotLoaded
from hofflight.eventlog.protocol import NO_COLUMNS, Served
from hofflight.features.group import FeatureGroup
from hofflight.features.stored import StoredGroup
from hofflight.features.view import (
    code_hash_of,
    find_view,
    implicit_view,
    key_sources,
    union_input,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hofflight.features.records import GroupRecord
    from hofflight.features.registry import Registry
    from hofflight.features.view import AnyGroup, GroupId, View


class Catalog:
    """What can be asked for: declared views, and every group's implicit one. Thread-safe."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._groups: dict[GroupId, FeatureGroup] = {}
        self._served: dict[GroupId, Served] = {}
        self._bound: dict[tuple[str, int | None], Served] = {}

    def add(self, group: FeatureGroup) -> None:
        """A group was loaded."""
        self._groups[group.name, group.version] = group
        self.forget()

    def forget(self) -> None:
        """A view was declared or a group loaded: names may mean something else now."""
        self._served.clear()
        self._bound.clear()

    def group(self, name: str, version: int | None) -> FeatureGroup:
        """A loaded group; the newest registered version for None.

        Raises: UnknownView (HOF-201), CodeNotLoaded (HOF-504).
        """
        record = self._registry.group(name, version)
        found = self._groups.get((record.name, record.version))
        if found is None:
            raise code_not_loaded(record)
        return found

    def any_group(self, name: str, version: int | None) -> AnyGroup:
        """A loaded group, or a stored one.

        Raises: as `group`.
        """
        found = self._registry.any_group(name, version)
        return found if isinstance(found, StoredGroup) else self.group(name, version)

    def views(self) -> list[Served]:
        """Every view whose groups are loaded, by name and version."""
        declared = [v for v in self._registry.views() if self._groups.keys() >= set(v.streaming)]
        groups: list[AnyGroup] = [*self._groups.values(), *self._registry.stored_groups()]
        served = [self._serve(view) for view in (*declared, *map(implicit_view, groups))]
        return sorted(served, key=lambda s: (s.view, s.version))

    def bind(self, name: str, version: int | None) -> Served:
        """The view of that name, or that which a dataset or model of that name is of.

        Raises: UnknownView (HOF-201), CodeNotLoaded (HOF-504).
        """
        found = self._bound.get((name, version))
        if found is None:
            named = self._registry.view_named(name, version)
            view = find_view(*named, self._registry.views(), self.any_group)
            found = self._bound[name, version] = self._serve(view)
        return found

    def _serve(self, view: View) -> Served:
        served = joined_view if view.is_joined else single_view
        groups = [self.any_group(*group) for group in (*view.streaming, *view.stored)]
        return self._served.setdefault((view.name, view.version), served(view, groups))


def single_view(view: View, groups: Sequence[AnyGroup]) -> Served:
    """A view of one streaming group."""
    (group,) = groups
    assert isinstance(group, FeatureGroup)
    return Served(
        view.name, view.version, group.name, group.version, group.code_hash(), group.input,
        view.schema(group), view.labels, group.is_opaque,
    )  # fmt: skip


def joined_view(view: View, groups: Sequence[AnyGroup]) -> Served:
    """A view of several groups, stored ones among them."""
    streaming = [group for group in groups if isinstance(group, FeatureGroup)]
    stored = tuple(group for group in groups if isinstance(group, StoredGroup))
    rows = union_input(view.name, streaming) if streaming else NO_COLUMNS
    first, version = view.streaming[0] if streaming else ("", 0)
    return Served(
        view.name, view.version, first, version, code_hash_of(groups), rows, view.schema(*groups),
        view.labels, any(group.is_opaque for group in streaming),
        parts=tuple(_part(view, group) for group in streaming), stored=stored,
        keys=key_sources(view.name, rows, stored), on_missing=view.on_missing,
    )  # fmt: skip


def _part(view: View, group: FeatureGroup) -> Served:
    """What one streaming group answers of a view, by its own columns' names."""
    return Served(
        view.name, view.version, group.name, group.version, group.code_hash(), group.input,
        view.schema_of(group), (), group.is_opaque, is_part=True,
    )  # fmt: skip


def code_not_loaded(record: GroupRecord) -> CodeNotLoaded:
    """The error for a registered group whose code nobody named."""
    msg = f"the code of {record.name}@{record.version} was not loaded"
    hint = f"name it: --modules {record.module}" if record.module else "register it again"
    return CodeNotLoaded(msg, hint=hint)
