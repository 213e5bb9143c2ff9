"""What a store holds offline, by name: histories of groups, of joined views, of stored groups."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hofflight.errors import StoreFormat, UnknownView
from hofflight.eventlog.joins import JOIN_SCHEMA, is_join_stream, join_stream
from hofflight.features.stored import StoredGroup
from hofflight.features.view import find_view
from hofflight.replay.labels import LabelStore
from hofflight.replay.partitioned import PartitionedHistory
from hofflight.replay.read_log import History
from hofflight.replay.seal import Sorting
from hofflight.replay.sealed import SealedLog
from hofflight.replay.stored_history import StoredHistory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hofflight.features.group import FeatureGroup
    from hofflight.features.records import GroupRecord
    from hofflight.features.registry import Registry
    from hofflight.features.view import AnyGroup, View
    from hofflight.replay.read_log import LiveLog

# How join records are sealed: found by the request that they belong to.
_JOINS = Sorting(JOIN_SCHEMA, None, ("_request_id",), "_row")


@dataclass(frozen=True, slots=True)
class Folders:
    """Where a store has what is read and written offline."""

    labels: Path
    stored: Path
    datasets: Path
    partitions: tuple[Path, ...] = ()

    def require_shared(self, folder: Path) -> None:
        """Refuse what a partition has for itself and all should share: it would be left out.

        Raises: StoreFormat (HOF-503).
        """
        within = folder.relative_to(self.labels.parent)
        for partition in self.partitions:
            if (partition / within).exists():
                store = self.labels.parent.name
                msg = f"partition {partition.name} has {str(within)!r} for itself"
                hint = f"load it with --store {store}, or name --store {store}/{partition.name}"
                raise StoreFormat(msg, hint=hint)


@dataclass(frozen=True, slots=True)
class Logs:
    """Where logs are: how one is opened, and the folder of what is sealed."""

    open: Callable[[str], LiveLog]
    sealed: Path

    def sealed_log(self, stream: str) -> SealedLog:
        """The sealed part of a log."""
        return SealedLog(self.sealed / stream)

    def holds(self, stream: str) -> bool:
        """Whether a log has any record."""
        if self.sealed_log(stream).manifest().sealed_to:
            return True
        return next(self.open(stream).read_meta(), None) is not None


class Histories:
    """The histories of a store. `group_of`: loaded code, by name and version (None: the newest).

    partitions: of a store that workers keep in partitions, where each has its logs. Then a group's
    history is that of all, and `0/card_tx.1` names the log of one.
    """

    def __init__(
        self,
        registry: Registry,
        logs: Logs,
        folders: Folders,
        group_of: Callable[[str, int | None], FeatureGroup],
        partitions: Mapping[int, Logs] | None = None,
    ) -> None:
        self.registry = registry
        self.folders = folders
        self._logs = logs
        self._group_of = group_of
        self._partitions = partitions or {}

    @property
    def partitions(self) -> list[int]:
        """Which partitions are here; none in a store that is not kept in partitions."""
        return list(self._partitions)

    def any_group(self, name: str, version: int | None = None) -> AnyGroup:
        """A loaded group, or a stored one.

        Raises: UnknownView (HOF-201), CodeNotLoaded (HOF-504).
        """
        found = self.registry.any_group(name, version)
        return found if isinstance(found, StoredGroup) else self._group_of(name, version)

    def view(self, name: str, version: int | None) -> View:
        """The view of that name, or of a dataset's, a model's or a group's.

        Raises: UnknownView (HOF-201), CodeNotLoaded (HOF-504).
        """
        named = self.registry.view_named(name, version)
        return find_view(*named, self.registry.views(), self.any_group)

    def join_history(self, view: View) -> History:
        """What the answers of a joined view were joined from."""
        return self.history_of(join_stream(view.name, view.version))

    def label_store(self, view: View) -> LabelStore:
        """The loads of a view's labels.

        Raises: StoreFormat (HOF-503), a partition has loads of its own.
        """
        folder = self.folders.labels / view.name
        self.folders.require_shared(folder)
        return LabelStore(folder)

    def stored_history(self, group: StoredGroup) -> StoredHistory:
        """The loads of a stored group.

        Raises: StoreFormat (HOF-503), a partition has loads of its own.
        """
        self.folders.require_shared(self.folders.stored / group.label)
        return StoredHistory(self.folders.stored / group.label, group)

    def stored_group(self, name: str, version: int | None = None) -> StoredGroup:
        """A registered stored group.

        Raises: UnknownView (HOF-201), there is none, or it is a streaming group.
        """
        stored = self.registry.stored_groups()
        names = {group.name for group in stored} | {g.name for g in self.registry.groups()}
        if name not in names:
            known = [f"{group.name}@{group.version}" for group in stored]
            raise UnknownView(f"no group {name!r} is registered; of stored ones there are {known}")
        found = self.registry.any_group(name, version)
        if not isinstance(found, StoredGroup):
            msg = f"{name!r} is a streaming group: its rows are events"
            raise UnknownView(msg, hint="send them with app.ingest, or to the server")
        return found

    def sealed_to(self, stream: str) -> int:
        """Number of the last record of a log that is sealed."""
        return self._logs.sealed_log(stream).manifest().sealed_to

    def history(self, name: str, version: int | None = None) -> History:
        """The log that a group version reads, sealed and live."""
        return self.history_of(self.registry.group(name, version).partition)

    def history_of(self, stream: str) -> History:
        """A log by its own name, sealed and live.

        Raises: StoreFormat (HOF-503), there is no such log.
        """
        logs, name = self._place_of(stream)
        if logs is self._logs and self._partitions:
            self._require_together(name)
        if is_join_stream(name):
            return History(logs.open(name), logs.sealed_log(name), JOIN_SCHEMA, {})
        records = self.records(name)
        full = {r.version: r.full for r in records if r.full is not None}

        def history(logs: Logs) -> History:
            return History(logs.open(name), logs.sealed_log(name), records[0].input, full)

        if logs is self._logs and self._partitions:
            return PartitionedHistory({n: history(part) for n, part in self._partitions.items()})
        return history(logs)

    def _require_together(self, stream: str) -> None:
        """Refuse what would be left out: an embedded engine was at work where workers are.

        Raises: StoreFormat (HOF-503), rows of a group that are in no partition, or lookups of a
            joined view that are not recorded beside their rows.
        """
        is_joined = is_join_stream(stream)
        aside = [*self._partitions.values()] if is_joined else [self._logs]
        if any(logs.holds(stream) for logs in aside):
            where = "partitions of its own" if is_joined else "no partition"
            msg = f"{stream} has records in {where}: workers wrote only a part of it"
            raise StoreFormat(msg, hint="name one partition: --store DIR/0")

    def _place_of(self, stream: str) -> tuple[Logs, str]:
        """Where a log is, and its name there."""
        number, mark, name = stream.partition("/")
        if mark and number.isdecimal() and int(number) in self._partitions:
            return self._partitions[int(number)], name
        return self._logs, stream

    def history_before(self, record: GroupRecord) -> History:
        """The log of the newest sibling of another input schema.

        Raises: UnknownView (HOF-201), there is none.
        """
        others = [
            r for r in self.registry.groups()
            if r.name == record.name and r.partition != record.partition
        ]  # fmt: skip
        if not others:
            msg = f"{record.name} has no version with another input schema"
            raise UnknownView(msg, hint="without --map, the history is that of the same input")
        return self.history_of(others[-1].partition)

    def stream_of(self, group: FeatureGroup) -> str:
        """The log that a group version reads, or will read once it is registered.

        Raises: UnknownView (HOF-201), no version with its input schema is registered.
        """
        for record in self.registry.groups():
            if record.name == group.name and record.input.equals(group.input):
                return record.partition
        msg = f"no version of {group.name} with this input is registered"
        raise UnknownView(msg, hint="with another input, give --map MODULE:FUNCTION")

    def rows_for(self, group: FeatureGroup) -> int:
        """About how many rows a backfill of the group will read."""
        records = [r for r in self.registry.groups() if r.name == group.name]
        same = [r for r in records if r.input.equals(group.input)]
        chosen = same or records
        return self.history_of(chosen[-1].partition).extent().rows if chosen else 0

    def records(self, stream: str) -> list[GroupRecord]:
        """The group versions that read a log.

        Raises: StoreFormat (HOF-503), there is no such log.
        """
        _, stream = self._place_of(stream)
        records = [r for r in self.registry.groups() if r.partition == stream]
        if not records:
            known = sorted({r.partition for r in self.registry.groups()})
            raise StoreFormat(f"there is no log {stream!r}; there are {known}")
        return records

    def sortings(self, stream: str) -> Mapping[int, Sorting]:
        """How each version's rows of a log are sealed.

        Raises: StoreFormat (HOF-503), there is no such log.
        """
        if is_join_stream(stream):
            return defaultdict(lambda: _JOINS)
        return _Sortings(self.registry, self.records(stream)[0].name)


class _Sortings(dict[int, Sorting]):
    """By version, looked up when its rows are met: it may be registered while a seal runs."""

    def __init__(self, registry: Registry, name: str) -> None:
        super().__init__()
        self._registry = registry
        self._name = name

    def __missing__(self, version: int) -> Sorting:
        found = self[version] = sorting_of(self._registry.group(self._name, version))
        return found


def sorting_of(record: GroupRecord) -> Sorting:
    """How a version's rows are sealed.

    Raises: StoreFormat (HOF-503), the registry does not have its types.
    """
    return Sorting(record.input, record.schema, record.key, record.event_time)
