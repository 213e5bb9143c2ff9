"""The registry: every version of every group and view, in a database that others may share.

It keeps source text, hashes, schemas and package versions as evidence. Nothing in it is ever run
or unpickled: code comes from the modules that the operator names.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, TypeVar

import msgspec

from hofflight.errors import InvalidName, UnknownView
from hofflight.features.dataset import Dataset, Model
from hofflight.features.group import NAME
from hofflight.features.leases import Leases
from hofflight.features.records import (
    Change,
    GroupRecord,
    compared,
    diff_of,
    group_record,
    package_versions,
    pretty,
    refuse_changed,
    stored_record,
    view_record,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager

    from hofflight.features.database import Database, Value
    from hofflight.features.group import FeatureGroup
    from hofflight.features.stored import StoredGroup
    from hofflight.features.view import View

T = TypeVar("T")


class Registry:
    """What a database holds of groups and views. Any thread, beside other processes that write.

    A registration is whole or not there, and none runs beside another one: of two processes that
    register one version, the second finds it. Raises: RegistryUnavailable (HOF-515), from every
    call; ReadOnly (HOF-505), where something would be kept.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def close(self) -> None:
        """Let go of the database."""
        self._database.close()

    def writing(self) -> AbstractContextManager[None]:
        """What is kept inside is kept at once or not at all."""
        return self._database.writing()

    def leases(self) -> Leases:
        """The leases in the same database."""
        return Leases(self._database)

    def plan_group(self, group: FeatureGroup) -> Change:
        """What `save_group` would do."""
        group.require_complete()
        known = self._group(group.name, group.version)
        if known is None:
            return Change("group", group.name, group.version, "created")
        if known.code_hash == group.code_hash():
            return Change("group", group.name, group.version, "unchanged")
        before = pretty(known.definition) + known.source.splitlines()
        after = pretty(json.dumps(group.definition())) + group.source().splitlines()
        return Change("group", group.name, group.version, "changed", diff_of(before, after))

    def save_group(self, group: FeatureGroup, *, module: str, created_us: int) -> GroupRecord:
        """Keep a group version; the same definition again is no change.

        Raises: VersionChanged (HOF-107), with the diff; MissingFunction (HOF-106).
        """
        with self._database.writing():
            change = self.plan_group(group)
            refuse_changed(change)
            if (
                change.state == "unchanged"
                and not self.group(group.name, group.version).full_schema
            ):
                self._note_schema(group)
            if any(stored.name == group.name for stored in self.stored_groups()):
                raise _taken(group.name, "a stored group")
            self._require_no_document(group.name)
            if change.state == "created":
                row = (
                    group.name, group.version, self._schema_number(group),
                    json.dumps(group.definition()), group.source(), group.code_hash(),
                    group.input.serialize().to_pybytes(), json.dumps(package_versions()), module,
                    created_us, group.schema.serialize().to_pybytes(),
                )  # fmt: skip
                self._insert("groups", row)
            return self.group(group.name, group.version)

    def plan_view(self, view: View) -> Change:
        """What `save_view` would do."""
        known = self._definition("views", view.name, view.version)
        return compared("view", view.name, view.version, known, json.dumps(view.definition()))

    def save_view(self, view: View, *, created_us: int) -> None:
        """Keep a view version; the same definition again is no change.

        Raises: VersionChanged (HOF-107), with the diff.
        """
        with self._database.writing():
            change = self.plan_view(view)
            refuse_changed(change)
            if change.state == "created":
                self._require_no_document(view.name)
                row = (view.name, view.version, json.dumps(view.definition()), created_us)
                self._insert("views", row)

    def plan_stored(self, group: StoredGroup) -> Change:
        """What `save_stored` would do."""
        known = self._definition("stored_groups", group.name, group.version)
        given = json.dumps(group.definition())
        return compared("stored group", group.name, group.version, known, given)

    def save_stored(self, group: StoredGroup, *, created_us: int) -> None:
        """Keep a stored group's version; the same definition again is no change.

        Raises: VersionChanged (HOF-107), with the diff; InvalidName (HOF-101), a streaming group
            has this name.
        """
        with self._database.writing():
            change = self.plan_stored(group)
            refuse_changed(change)
            if self._group(group.name, None) is not None:
                raise _taken(group.name, "a streaming group")
            self._require_no_document(group.name)
            if change.state == "created":
                columns = group.schema.serialize().to_pybytes()
                definition = json.dumps(group.definition())
                row = (group.name, group.version, definition, columns, created_us)
                self._insert("stored_groups", row)

    def stored_groups(self) -> list[StoredGroup]:
        """Every version of every stored group, by name and version."""
        query = "SELECT definition, schema FROM stored_groups ORDER BY name, version"
        return [stored_record(*row) for row in self._database.rows(query)]

    def any_group(self, name: str, wanted: int | None = None) -> GroupRecord | StoredGroup:
        """A group version of either kind; the newest for None.

        Raises: UnknownView (HOF-201).
        """
        stored = [g for g in self.stored_groups() if g.name == name]
        if not stored:
            return self.group(name, wanted)
        found = [g for g in stored if wanted in (None, g.version)]
        if not found:
            known = [g.version for g in stored]
            raise UnknownView(f"stored group {name!r} has the versions {known}, not {wanted}")
        return found[-1]

    def save_document(self, document: Dataset | Model, *, created_us: int) -> None:
        """Keep a dataset or a model; one of that name and version must not be there.

        Raises: InvalidName (HOF-101), the name means something else already.
        """
        kind = type(document).__name__.lower()
        name, number = document.name, document.version
        with self._database.writing():
            self.require_free(kind, name)
            row = (kind, name, number, msgspec.json.encode(document).decode(), created_us)
            self._insert("documents", row)

    def require_free(self, kind: str, name: str) -> None:
        """Refuse a name under which a request would find something else than a dataset or model.

        Raises: InvalidName (HOF-101).
        """
        groups = {group.name for group in self.groups()}
        taken = {
            "a group": groups | {group.name for group in self.stored_groups()},
            "a view": {view.name for view in self.views()},
            "a dataset": {dataset.name for dataset in self.datasets()},
            "a model": {model.name for model in self.models()},
        }
        for what, names in taken.items():
            if name in names and what != f"a {kind}":
                raise _taken(name, what)

    def _require_no_document(self, name: str) -> None:
        if any(dataset.name == name for dataset in self.datasets()):
            raise _taken(name, "a dataset")
        if any(model.name == name for model in self.models()):
            raise _taken(name, "a model")

    def datasets(self) -> list[Dataset]:
        """Every training dataset, by name and version."""
        return [msgspec.json.decode(text, type=Dataset) for text in self._documents("dataset")]

    def dataset(self, name: str, wanted: int | None = None) -> Dataset:
        """A training dataset; the newest version for None.

        Raises: UnknownView (HOF-201).
        """
        versions = {d.version: d for d in self.datasets() if d.name == name}
        if not versions:
            known = sorted({d.name for d in self.datasets()})
            raise UnknownView(f"there is no training dataset {name!r}; there are {known}")
        return chosen("dataset", name, wanted, versions)

    def models(self) -> list[Model]:
        """Every model, by name and version."""
        return [msgspec.json.decode(text, type=Model) for text in self._documents("model")]

    def view_named(self, name: str, wanted: int | None) -> tuple[str, int | None]:
        """Name and version of the view that a request means: a model's or a dataset's, or itself.

        Raises: UnknownView (HOF-201), the dataset or model has no such version.
        """
        return view_meant(name, wanted, self.models(), self.datasets())

    def groups(self) -> list[GroupRecord]:
        """Every group version, by name and version."""
        query = "SELECT * FROM groups ORDER BY name, version"
        return [group_record(row) for row in self._database.rows(query)]

    def group(self, name: str, wanted: int | None = None) -> GroupRecord:
        """A group version; the newest for None.

        Raises: UnknownView (HOF-201).
        """
        found = self._group(name, wanted)
        if found is None:
            known = [f"{g.name}@{g.version}" for g in self.groups()]
            msg = f"no group {name!r}" + (f" version {wanted}" if wanted else "")
            raise UnknownView(f"{msg} is registered; there are {known}")
        return found

    def views(self) -> list[View]:
        """Every declared view version, by name and version; implicit views are not kept."""
        query = "SELECT definition FROM views ORDER BY name, version"
        return [view_record(row[0]) for row in self._database.rows(query)]

    def _group(self, name: str, wanted: int | None) -> GroupRecord | None:
        # What a client asks for may be no name and no number that a database can hold.
        is_name = isinstance(name, str) and NAME.fullmatch(name)
        if not is_name or (wanted is not None and not 0 < wanted < 1 << 31):
            return None
        query = "SELECT * FROM groups WHERE name = ? AND version = coalesce(?, version)"
        rows = self._database.rows(f"{query} ORDER BY version DESC LIMIT 1", name, wanted)
        return group_record(rows[0]) if rows else None

    def _documents(self, kind: str) -> list[str]:
        query = "SELECT definition FROM documents WHERE kind = ? ORDER BY name, version"
        return [row[0] for row in self._database.rows(query, kind)]

    def _definition(self, table: str, name: str, wanted: int) -> str | None:
        query = f"SELECT definition FROM {table} WHERE name = ? AND version = ?"  # noqa: S608 ours
        rows = self._database.rows(query, name, wanted)
        return rows[0][0] if rows else None

    def _insert(self, table: str, row: tuple[Value, ...]) -> None:
        places = ", ".join("?" * len(row))
        self._database.change(f"INSERT INTO {table} VALUES ({places})", *row)  # noqa: S608 ours

    def _note_schema(self, group: FeatureGroup) -> None:
        """Add what a format 1 registry did not keep, for a version that is as it was."""
        statement = "UPDATE groups SET full_schema = ? WHERE name = ? AND version = ?"
        full = group.schema.serialize().to_pybytes()
        self._database.change(statement, full, group.name, group.version)

    def _schema_number(self, group: FeatureGroup) -> int:
        siblings = [g for g in self.groups() if g.name == group.name]
        for sibling in siblings:
            if sibling.input.equals(group.input):
                return sibling.schema_number
        return 1 + max((g.schema_number for g in siblings), default=0)


def _taken(name: str, what: str) -> InvalidName:
    return InvalidName(f"{name!r} is the name of {what}", hint="take another one")


def view_meant(
    name: str, wanted: int | None, models: Sequence[Model], datasets: Sequence[Dataset]
) -> tuple[str, int | None]:
    """As `Registry.view_named`, among these.

    Raises: UnknownView (HOF-201).
    """
    of_model = {m.version: m for m in models if m.name == name}
    if of_model:
        model = chosen("model", name, wanted, of_model)
        name, wanted = model.dataset, model.dataset_version
    of_dataset = {d.version: d for d in datasets if d.name == name}
    if of_dataset:
        dataset = chosen("dataset", name, wanted, of_dataset)
        return dataset.view, dataset.view_version
    return name, wanted


def chosen(kind: str, name: str, wanted: int | None, versions: Mapping[int, T]) -> T:
    """The version asked for, the newest for None.

    Raises: UnknownView (HOF-201).
    """
    number = max(versions) if wanted is None else wanted
    if number not in versions:
        raise UnknownView(f"{kind} {name!r} has the versions {sorted(versions)}, not {wanted}")
    return versions[number]
