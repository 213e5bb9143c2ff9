"""The registry: every version of every group and view, in one SQLite file.

It keeps source text, hashes, schemas and package versions as evidence. Nothing in it is ever run
or unpickled: code comes from the modules that the operator names. Writes are rare, so it uses
SQLite's rollback journal: the write-ahead log of SQLite before 3.51.3 can be corrupted by two
connections.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from hofflight.errors import InvalidName, StoreFormat, UnknownView
from hofflight.features.dataset import Dataset, Model
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
    from pathlib import Path

    from hofflight.features.group import FeatureGroup
    from hofflight.features.stored import StoredGroup
    from hofflight.features.view import View

T = TypeVar("T")
FORMAT: Final = 3
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS groups (
    name TEXT, version INTEGER, schema_number INTEGER NOT NULL, definition TEXT NOT NULL,
    source TEXT NOT NULL, code_hash TEXT NOT NULL, input_schema BLOB NOT NULL,
    packages TEXT NOT NULL, module TEXT NOT NULL, created_us INTEGER NOT NULL,
    full_schema BLOB NOT NULL DEFAULT x'', PRIMARY KEY (name, version));
CREATE TABLE IF NOT EXISTS views (
    name TEXT, version INTEGER, definition TEXT NOT NULL, created_us INTEGER NOT NULL,
    PRIMARY KEY (name, version));
CREATE TABLE IF NOT EXISTS stored_groups (
    name TEXT, version INTEGER, definition TEXT NOT NULL, schema BLOB NOT NULL,
    created_us INTEGER NOT NULL, PRIMARY KEY (name, version));
CREATE TABLE IF NOT EXISTS documents (
    kind TEXT, name TEXT, version INTEGER, definition TEXT NOT NULL, created_us INTEGER NOT NULL,
    PRIMARY KEY (kind, name, version));
"""
# What a registry of format 1 lacks; what its versions answer is noted when they are saved again.
_FROM_1: Final = "ALTER TABLE groups ADD COLUMN full_schema BLOB NOT NULL DEFAULT x''"


class Registry:
    """The file, opened. Thread-safe; one process writes (the store's lock), others may read."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self._lock = threading.RLock()
        mode = "ro" if read_only else "rwc"
        try:
            # The path comes from the operator; as_uri escapes what a file URI cannot hold.
            uri = f"{path.resolve().as_uri()}?mode={mode}"
            self._db = sqlite3.connect(uri, uri=True, check_same_thread=False)
        except sqlite3.DatabaseError as error:
            msg = f"{path.name} cannot be opened: {error}"
            raise StoreFormat(msg) from error
        self._read_only = read_only
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            self._db.close()
            msg = f"{path.name} is not a registry: {error}"
            raise StoreFormat(msg) from error
        except StoreFormat:
            self._db.close()
            raise

    def _open(self) -> None:
        (found,) = self._db.execute("PRAGMA user_version").fetchone()
        if found > FORMAT:
            msg = f"the registry has format {found}, this release reads {FORMAT}"
            raise StoreFormat(msg, hint="upgrade hofflight")
        if not self._read_only:
            # By its columns, not its number: a migration may have been killed in between.
            columns = self._db.execute("PRAGMA table_info(groups)").fetchall()
            if columns and "full_schema" not in {column[1] for column in columns}:
                self._db.execute(_FROM_1)
            self._db.executescript(_TABLES)
            self._db.execute(f"PRAGMA user_version = {FORMAT}")
            self._db.commit()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

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
        with self._lock:
            change = self.plan_group(group)
            refuse_changed(change, read_only=self._read_only)
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
                places = ", ".join("?" * len(row))
                with self._db:
                    self._db.execute(f"INSERT INTO groups VALUES ({places})", row)  # noqa: S608 question marks
            return self.group(group.name, group.version)

    def plan_view(self, view: View) -> Change:
        """What `save_view` would do."""
        known = self._definition("views", view.name, view.version)
        return compared("view", view.name, view.version, known, json.dumps(view.definition()))

    def save_view(self, view: View, *, created_us: int) -> None:
        """Keep a view version; the same definition again is no change.

        Raises: VersionChanged (HOF-107), with the diff.
        """
        with self._lock:
            change = self.plan_view(view)
            refuse_changed(change, read_only=self._read_only)
            if change.state == "created":
                self._require_no_document(view.name)
                row = (view.name, view.version, json.dumps(view.definition()), created_us)
                with self._db:
                    self._db.execute("INSERT INTO views VALUES (?, ?, ?, ?)", row)

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
        with self._lock:
            change = self.plan_stored(group)
            refuse_changed(change, read_only=self._read_only)
            if self._group(group.name, None) is not None:
                raise _taken(group.name, "a streaming group")
            self._require_no_document(group.name)
            if change.state == "created":
                columns = group.schema.serialize().to_pybytes()
                definition = json.dumps(group.definition())
                row = (group.name, group.version, definition, columns, created_us)
                with self._db:
                    self._db.execute("INSERT INTO stored_groups VALUES (?, ?, ?, ?, ?)", row)

    def stored_groups(self) -> list[StoredGroup]:
        """Every version of every stored group, by name and version."""
        query = "SELECT definition, schema FROM stored_groups ORDER BY name, version"
        return [stored_record(*row) for row in self._rows(query)]

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
        with self._lock:
            refuse_changed(Change(kind, name, number, "created"), read_only=self._read_only)
            self.require_free(kind, name)
            row = (kind, name, number, msgspec.json.encode(document).decode(), created_us)
            with self._db:
                self._db.execute("INSERT INTO documents VALUES (?, ?, ?, ?, ?)", row)

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
        return _chosen("dataset", name, wanted, versions)

    def models(self) -> list[Model]:
        """Every model, by name and version."""
        return [msgspec.json.decode(text, type=Model) for text in self._documents("model")]

    def view_named(self, name: str, wanted: int | None) -> tuple[str, int | None]:
        """Name and version of the view that a request means: a model's or a dataset's, or itself.

        Raises: UnknownView (HOF-201), the dataset or model has no such version.
        """
        models = {m.version: m for m in self.models() if m.name == name}
        if models:
            model = _chosen("model", name, wanted, models)
            name, wanted = model.dataset, model.dataset_version
        datasets = {d.version: d for d in self.datasets() if d.name == name}
        if datasets:
            dataset = _chosen("dataset", name, wanted, datasets)
            return dataset.view, dataset.view_version
        return name, wanted

    def groups(self) -> list[GroupRecord]:
        """Every group version, by name and version."""
        return [group_record(r) for r in self._rows("SELECT * FROM groups ORDER BY name, version")]

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
        return [view_record(row[0]) for row in self._rows(query)]

    def _group(self, name: str, wanted: int | None) -> GroupRecord | None:
        if wanted is not None and not 0 < wanted < 1 << 31:  # SQLite refuses what int64 cannot hold
            return None
        query = "SELECT * FROM groups WHERE name = ?1 AND version = coalesce(?2, version)"
        with self._lock:
            row = self._db.execute(
                f"{query} ORDER BY version DESC LIMIT 1", (name, wanted)
            ).fetchone()
        return group_record(row) if row else None

    def _documents(self, kind: str) -> list[str]:
        query = "SELECT definition FROM documents WHERE kind = ? ORDER BY name, version"
        return [row[0] for row in self._rows(query, kind)]

    def _rows(self, query: str, *values: str) -> list[Any]:
        """All rows; none of a table that the release which made this registry did not have."""
        try:
            with self._lock:
                return self._db.execute(query, values).fetchall()
        except sqlite3.OperationalError as error:
            if self._read_only and str(error).startswith("no such table"):
                return []
            raise

    def _definition(self, table: str, name: str, wanted: int) -> str | None:
        query = f"SELECT definition, version FROM {table} WHERE name = ?"  # noqa: S608 ours
        found = {version: definition for definition, version in self._rows(query, name)}
        return found.get(wanted)

    def _note_schema(self, group: FeatureGroup) -> None:
        """Add what a format 1 registry did not keep, for a version that is as it was."""
        row = (group.schema.serialize().to_pybytes(), group.name, group.version)
        with self._db:
            self._db.execute(
                "UPDATE groups SET full_schema = ? WHERE name = ? AND version = ?", row
            )

    def _schema_number(self, group: FeatureGroup) -> int:
        siblings = [g for g in self.groups() if g.name == group.name]
        for sibling in siblings:
            if sibling.input.equals(group.input):
                return sibling.schema_number
        return 1 + max((g.schema_number for g in siblings), default=0)


def _taken(name: str, what: str) -> InvalidName:
    return InvalidName(f"{name!r} is the name of {what}", hint="take another one")


def _chosen(kind: str, name: str, wanted: int | None, versions: dict[int, T]) -> T:
    """The version asked for, the newest for None."""
    number = max(versions) if wanted is None else wanted
    if number not in versions:
        raise UnknownView(f"{kind} {name!r} has the versions {sorted(versions)}, not {wanted}")
    return versions[number]
