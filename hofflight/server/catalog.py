"""Views out of the registry alone: a server before Kafka has no code of any group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import pyarrow as pa

from hofflight.errors import NotSupported, UnknownView
from hofflight.eventlog.protocol import Served
from hofflight.features.view import find_view, implicit_view, key_sources

if TYPE_CHECKING:
    from collections.abc import Callable

    from hofflight.features.records import GroupRecord
    from hofflight.features.registry import Registry
    from hofflight.features.stored import StoredGroup
    from hofflight.features.view import View


# Names that are new here, between two looks of the background: each asks the registry.
_UNKNOWN_MAX: Final = 3


class _Snapshot(NamedTuple):
    records: dict[tuple[str, int], GroupRecord]
    views: list[View]
    stored: list[StoredGroup]


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
        self._unknown = 0

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
        self._unknown += 1
        if self._unknown > _UNKNOWN_MAX and self._seen is not None:
            msg = f"no view {name!r} is known here"
            raise UnknownView(msg, hint="a new one is known within seconds")
        self.refresh_views()
        seen = self._known()
        view = find_view(
            *self._registry.view_named(name, version), seen.views, self._registry.any_group
        )
        if problem := self._problem(view):
            what, hint = problem
            raise NotSupported(f"view {name!r} {what}", hint=hint)
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
        self.refresh_views()
        self._unknown = 0

    def refresh_views(self) -> None:
        """The same, while names are asked for that are new here."""
        records = {(record.name, record.version): record for record in self._registry.groups()}
        self._seen = _Snapshot(records, self._registry.views(), self._registry.stored_groups())
        self._bound = {}

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
            stored = tuple(
                group for group in seen.stored if (group.name, group.version) in view.stored
            )
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
    columns = view.columns_of((record.name, record.version))
    schema = [(f"{record.name}.{name}", record.schema.field(name).type) for name in columns]
    return Served(
        view.name, view.version, record.name, record.version, record.code_hash, record.input,
        pa.schema(schema), is_part=True,
    )  # fmt: skip
