"""Views out of the registry alone: a server before Kafka has no code of any group."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hofflight.errors import NotSupported, UnknownView
from hofflight.eventlog.protocol import Served
from hofflight.features.view import find_view, implicit_view

if TYPE_CHECKING:
    from collections.abc import Callable

    from hofflight.features.records import GroupRecord
    from hofflight.features.registry import Registry
    from hofflight.features.view import View


class _Snapshot(NamedTuple):
    records: dict[tuple[str, int], GroupRecord]
    views: list[View]


class RegistryCatalog:
    """What can be asked for. `partitions_of`: of a log's topic; 0: nobody made it.

    Views of stored groups or of several streaming groups are not served over Kafka yet.
    """

    def __init__(self, registry: Registry, partitions_of: Callable[[str], int]) -> None:
        self._registry = registry
        self._partitions_of = partitions_of
        self._seen: _Snapshot | None = None
        self._served: dict[tuple[str, int], Served] = {}
        self._bound: dict[tuple[str, int | None], Served] = {}

    def views(self) -> list[Served]:
        """Every view that is served here, implicit ones included, by name and version."""
        seen = self._known()
        declared = [view for view in seen.views if not view.is_joined]
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
        self.refresh()
        seen = self._known()
        view = find_view(
            *self._registry.view_named(name, version), seen.views, self._registry.any_group
        )
        if view.is_joined:
            msg = f"view {name!r} has several groups: it is not served over Kafka yet"
            raise NotSupported(msg, hint="serve it from a store: `hof serve --store`")
        served = self._serve(view, seen)
        if not served.partitions:
            msg = f"the group of view {name!r} has no topic"
            raise NotSupported(msg, hint="`hof register --kafka` makes it")
        self._bound[name, version] = served
        return served

    def stream_of(self, served: Served) -> str:
        """The log that a view's group reads."""
        return self._known().records[served.group, served.group_version].partition

    def refresh(self) -> None:
        """See what other processes registered. Thread: any; it may wait for the registry."""
        records = {(record.name, record.version): record for record in self._registry.groups()}
        self._seen = _Snapshot(records, self._registry.views())
        self._bound = {}

    def _known(self) -> _Snapshot:
        if self._seen is None:
            self.refresh()
        assert self._seen is not None
        return self._seen

    def _serve(self, view: View, seen: _Snapshot) -> Served:
        key = (view.name, view.version)
        found = self._served.get(key)
        if found is None:
            record = seen.records.get(view.group)
            if record is None:  # registered in this very moment
                raise UnknownView(f"group {view.group[0]!r} is not known here yet")
            found = Served(
                view.name, view.version, record.name, record.version, record.code_hash,
                record.input, view.schema(record), view.labels,
                partition_key=record.key, partitions=self._partitions_of(record.partition),
            )  # fmt: skip
            if found.partitions:
                self._served[key] = found
        return found
