"""The registry: every version of every group and view, in one SQLite file.

It keeps source text, hashes, schemas and package versions as evidence. Nothing in it is ever run
or unpickled: code comes from the modules that the operator names. Writes are rare, so it uses
SQLite's rollback journal: the write-ahead log of SQLite before 3.51.3 can be corrupted by two
connections.
"""

from __future__ import annotations

import difflib
import json
import sqlite3
import threading
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Final

import pyarrow as pa

from hofflight.errors import ReadOnly, StoreFormat, UnknownView, VersionChanged
from hofflight.features.view import Feature, View

if TYPE_CHECKING:
    from pathlib import Path

    from hofflight.features.group import FeatureGroup

FORMAT: Final = 2
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS groups (
    name TEXT, version INTEGER, schema_number INTEGER NOT NULL, definition TEXT NOT NULL,
    source TEXT NOT NULL, code_hash TEXT NOT NULL, input_schema BLOB NOT NULL,
    packages TEXT NOT NULL, module TEXT NOT NULL, created_us INTEGER NOT NULL,
    full_schema BLOB NOT NULL DEFAULT x'', PRIMARY KEY (name, version));
CREATE TABLE IF NOT EXISTS views (
    name TEXT, version INTEGER, definition TEXT NOT NULL, created_us INTEGER NOT NULL,
    PRIMARY KEY (name, version));
"""
# What a registry of format 1 lacks; what its versions answer is noted when they are saved again.
_FROM_1: Final = "ALTER TABLE groups ADD COLUMN full_schema BLOB NOT NULL DEFAULT x''"
# Whose versions can change what a feature evaluates to.
_PACKAGES: Final = ("hofflight", "pyarrow", "numpy", "pandas", "polars")


@dataclass(frozen=True, slots=True)
class GroupRecord:
    """A registered group version.

    Versions with the same input schema share `schema_number`, and with it their event log.
    """

    name: str
    version: int
    schema_number: int
    definition: str
    source: str
    code_hash: str
    input_schema: bytes
    packages: dict[str, str]
    module: str
    created_us: int
    full_schema: bytes

    @property
    def input(self) -> pa.Schema:
        """The registered input columns."""
        return pa.ipc.read_schema(pa.py_buffer(self.input_schema))

    @property
    def full(self) -> pa.Schema | None:
        """The columns of the group's full row; None in a store of a release that kept no types."""
        if not self.full_schema:
            return None
        return pa.ipc.read_schema(pa.py_buffer(self.full_schema))

    @property
    def key(self) -> tuple[str, ...]:
        """Names of the key columns."""
        return tuple(json.loads(self.definition)["key"])

    @property
    def event_time(self) -> str:
        """Name of the column of event times."""
        return str(json.loads(self.definition)["event_time"])

    @property
    def partition(self) -> str:
        """Name of the event log that the group reads."""
        return f"{self.name}.{self.schema_number}"


@dataclass(frozen=True, slots=True)
class Change:
    """What registering something would do: `created`, `changed` (refused) or `unchanged`."""

    kind: str
    name: str
    version: int
    state: str
    diff: str = ""


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
        before = _pretty(known.definition) + known.source.splitlines()
        after = _pretty(json.dumps(group.definition())) + group.source().splitlines()
        return Change("group", group.name, group.version, "changed", _diff(before, after))

    def save_group(self, group: FeatureGroup, *, module: str, created_us: int) -> GroupRecord:
        """Keep a group version; the same definition again is no change.

        Raises: VersionChanged (HOF-107), with the diff; MissingFunction (HOF-106).
        """
        with self._lock:
            change = self.plan_group(group)
            _refuse_changed(change, read_only=self._read_only)
            if (
                change.state == "unchanged"
                and not self.group(group.name, group.version).full_schema
            ):
                self._note_schema(group)
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
        known = self._view_definition(view.name, view.version)
        if known is None:
            return Change("view", view.name, view.version, "created")
        if json.loads(known) == view.definition():
            return Change("view", view.name, view.version, "unchanged")
        diff = _diff(_pretty(known), _pretty(json.dumps(view.definition())))
        return Change("view", view.name, view.version, "changed", diff)

    def save_view(self, view: View, *, created_us: int) -> None:
        """Keep a view version; the same definition again is no change.

        Raises: VersionChanged (HOF-107), with the diff.
        """
        with self._lock:
            change = self.plan_view(view)
            _refuse_changed(change, read_only=self._read_only)
            if change.state == "created":
                row = (view.name, view.version, json.dumps(view.definition()), created_us)
                with self._db:
                    self._db.execute("INSERT INTO views VALUES (?, ?, ?, ?)", row)

    def groups(self) -> list[GroupRecord]:
        """Every group version, by name and version."""
        with self._lock:
            rows = self._db.execute("SELECT * FROM groups ORDER BY name, version").fetchall()
        return [_group_record(row) for row in rows]

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
        with self._lock:
            rows = self._db.execute(
                "SELECT definition FROM views ORDER BY name, version"
            ).fetchall()
        return [_view(row[0]) for row in rows]

    def _group(self, name: str, wanted: int | None) -> GroupRecord | None:
        if wanted is not None and not 0 < wanted < 1 << 31:  # SQLite refuses what int64 cannot hold
            return None
        query = "SELECT * FROM groups WHERE name = ?1 AND version = coalesce(?2, version)"
        with self._lock:
            row = self._db.execute(
                f"{query} ORDER BY version DESC LIMIT 1", (name, wanted)
            ).fetchone()
        return _group_record(row) if row else None

    def _view_definition(self, name: str, wanted: int) -> str | None:
        query = "SELECT definition FROM views WHERE name = ? AND version = ?"
        with self._lock:
            row = self._db.execute(query, (name, wanted)).fetchone()
        return row[0] if row else None

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


def package_versions() -> dict[str, str]:
    """Installed versions of the packages that take part in a feature's value."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _refuse_changed(change: Change, *, read_only: bool) -> None:
    if read_only:
        msg = "the registry was opened for reading"
        raise ReadOnly(msg, hint="open the store itself, while no server runs")
    if change.state == "changed":
        msg = f"{change.kind} {change.name}@{change.version} is registered with another definition"
        hint = f"raise its version to {change.version + 1}; a version never changes"
        raise VersionChanged(f"{msg}:\n{change.diff}", hint=hint)


def _group_record(row: tuple[object, ...]) -> GroupRecord:
    # A format 1 registry that is only read has no last column.
    values = dict(
        zip(GroupRecord.__slots__, (*row, b"")[: len(GroupRecord.__slots__)], strict=True)
    )
    values["packages"] = json.loads(str(values["packages"]))
    return GroupRecord(**values)  # type: ignore[arg-type]


def _view(definition: str) -> View:
    data = json.loads(definition)
    features = []
    for text in data["features"]:
        group, rest = text.split("@", 1)
        number, column = rest.split(".", 1)
        features.append(Feature(group, int(number), column))
    return View(data["name"], data["version"], tuple(features), tuple(data["labels"]))


def _pretty(definition: str) -> list[str]:
    return json.dumps(json.loads(definition), indent=1).splitlines()


def _diff(before: list[str], after: list[str]) -> str:
    return "\n".join(difflib.unified_diff(before, after, "registered", "given", lineterm="", n=1))
