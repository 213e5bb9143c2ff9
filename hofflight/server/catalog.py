"""Views out of the registry alone: a server before Kafka has no code of any group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from hofflight.errors import NotSupported, UnknownView
from hofflight.eventlog.protocol import Served
from hofflight.features.registry import chosen, view_meant
from hofflight.features.view import find_view, implicit_view, key_sources

if TYPE_CHECKING:
    from collections.abc import Callable

    from hofflight.features.dataset import Dataset, Model
    from hofflight.features.records import GroupRecord
    from hofflight.features.registry import Registry
    from hofflight.features.stored import StoredGroup
    from hofflight.features.view import View


# Names that nobody knows may be asked for without end: so many ask the registry between two looks.
_ASKED_MAX: Final = 3


class _Snapshot(NamedTuple):
    records: dict[tuple[str, int], GroupRecord]
    views: list[View]
    stored: list[StoredGroup]
    models: list[Model]
    datasets: list[Dataset]

    def view(self, name: str, version: int | None) -> View:
        """The view of that name, or that which a dataset or model of that name is of.

        Raises: UnknownView (HOF-201).
        """
        named = view_meant(name, version, self.models, self.datasets)
        return find_view(*named, self.views, self._group)

    def _group(self, name: str, version: int | None) -> GroupRecord | StoredGroup:
        groups: list[GroupRecord | StoredGroup] = [*self.records.values(), *self.stored]
        versions = {group.version: group for group in groups if group.name == name}
        if not versions:
            known = sorted({group.name for group in groups})
            raise UnknownView(f"no view and no group {name!r} is registered; groups are {known}")
        return chosen("group", name, version, versions)


class RegistryCatalog:
    """What can be asked for. `partitions_of`: of a log's topic; 0: nobody made it.

    looks_up: rows of stored groups can be looked up here. Views of several streaming groups, or of
    none, are not served over Kafka yet.
    """

    def __init__(
        self, registry: Registry, partitions_of: Callable[[str], int], *, looks_up: bool = False
    ) -> None:
        self._registry = registry
        self._partitions_of = partitions_of
        self._looks_up = looks_up
        self._seen: _Snapshot | None = None
        self._served: dict[tuple[str, int], Served] = {}
        self._bound: dict[tuple[str, int | None], Served] = {}
        self._asked = 0

    def views(self) -> list[Served]:
        """Every view that is served here, implicit ones included, by name and version."""
        seen = self._known()
        declared = [view for view in seen.views if not self._problem(view)]
        views = [*declared, *map(implicit_view, seen.records.values())]
        served = [self._serve(view, seen) for view in views]
        return sorted(
            (one for one in served if one.partitions), key=lambda one: (one.view, one.version)
        )

    def bind(self, name: str, version: int | None) -> Served:
        """The view of that name; also of a dataset's or a model's; the newest version for None.

        Raises: UnknownView (HOF-201); NotSupported (HOF-213), it needs more than one group, or the
            group's topic is not there.
        """
        found = self._bound.get((name, version))
        if found is not None:
            return found
        view = self._view(name, version)
        if problem := self._problem(view):
            what, hint = problem
            raise NotSupported(f"view {name!r} {what}", hint=hint)
        served = self._serve(view, self._known())
        if not served.partitions:
            msg = f"the group of view {name!r} has no topic"
            raise NotSupported(msg, hint="`hof register --kafka` makes it")
        self._bound[name, version] = served
        return served

    def stream_of(self, served: Served) -> str:
        """The log that a view's group reads."""
        return self._known().records[served.group, served.group_version].partition

    def streams(self) -> set[str]:
        """The logs of all groups."""
        return {record.partition for record in self._known().records.values()}

    def refresh(self) -> None:
        """See what other processes registered. Thread: any; it may wait for the registry."""
        self._look()
        self._asked = 0

    def _look(self) -> None:
        registry = self._registry
        records = {(record.name, record.version): record for record in registry.groups()}
        self._seen = _Snapshot(
            records, registry.views(), registry.stored_groups(), registry.models(),
            registry.datasets(),
        )  # fmt: skip
        self._bound = {}

    def _view(self, name: str, version: int | None) -> View:
        """The view of that name, as it was known a moment ago or, if it is new, is known now."""
        try:
            return self._known().view(name, version)
        except UnknownView:
            if self._asked >= _ASKED_MAX:
                raise
        self._asked += 1
        self._look()
        return self._known().view(name, version)

    def _known(self) -> _Snapshot:
        if self._seen is None:
            self.refresh()
        assert self._seen is not None
        return self._seen

    def _problem(self, view: View) -> tuple[str, str] | None:
        """Why a view is not served here, and what to do about it."""
        if len(view.streaming) != 1:
            what = "has several streaming groups" if view.streaming else "has no streaming group"
            return (
                f"{what}: it is not served over Kafka yet",
                "serve it from a store: `hof serve --store`",
            )
        if view.stored and not self._looks_up:
            return "has stored groups, and this server no online store", "set online.url"
        return None

    def _serve(self, view: View, seen: _Snapshot) -> Served:
        key = (view.name, view.version)
        found = self._served.get(key)
        if found is None:
            record = seen.records.get(view.group)
            if record is None:  # registered in this very moment
                raise UnknownView(f"group {view.group[0]!r} is not known here yet")
            known = {(group.name, group.version): group for group in seen.stored}
            stored = tuple(known[group] for group in view.stored)  # in the view's order
            found = Served(
                view.name, view.version, record.name, record.version, record.code_hash,
                record.input, view.schema(record, *stored), view.labels,
                parts=(_part(view, record),) if stored else (), stored=stored,
                keys=key_sources(view.name, record.input, stored), on_missing=view.on_missing,
                partition_key=record.key, partitions=self._partitions_of(record.partition),
            )  # fmt: skip
            if found.partitions:
                self._served[key] = found
        return found


def _part(view: View, record: GroupRecord) -> Served:
    """What the streaming group answers of a view with stored groups."""
    return Served(
        view.name, view.version, record.name, record.version, record.code_hash, record.input,
        view.schema_of(record), is_part=True,
    )  # fmt: skip
