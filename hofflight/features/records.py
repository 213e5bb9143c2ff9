"""What a registry holds, as plain values: group versions, changes, and how they are shown."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import pyarrow as pa

from hofflight.errors import StoreFormat, VersionChanged
from hofflight.features.stored import StoredGroup
from hofflight.features.view import Feature, View

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
    def schema(self) -> pa.Schema:
        """The columns of the group's full row.

        Raises: StoreFormat (HOF-503), the release that made this store kept no types.
        """
        full = self.full
        if full is None:
            msg = f"the types of {self.name}@{self.version} were not kept by the release that made"
            raise StoreFormat(f"{msg} this store", hint="register it once with this release")
        return full

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


def package_versions() -> dict[str, str]:
    """Installed versions of the packages that take part in a feature's value."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def refuse_changed(change: Change) -> None:
    """Let pass what may be kept.

    Raises: VersionChanged (HOF-107).
    """
    if change.state == "changed":
        msg = f"{change.kind} {change.name}@{change.version} is registered with another definition"
        hint = f"raise its version to {change.version + 1}; a version never changes"
        raise VersionChanged(f"{msg}:\n{change.diff}", hint=hint)


def group_record(row: tuple[object, ...]) -> GroupRecord:
    """A row of the table `groups`."""
    # A format 1 registry that is only read has no last column.
    values = dict(
        zip(GroupRecord.__slots__, (*row, b"")[: len(GroupRecord.__slots__)], strict=True)
    )
    values["packages"] = json.loads(str(values["packages"]))
    return GroupRecord(**values)  # type: ignore[arg-type]


def view_record(definition: str) -> View:
    """A view from its definition."""
    data = json.loads(definition)
    features = []
    for text in data["features"]:
        group, rest = text.split("@", 1)
        number, column = rest.split(".", 1)
        features.append(Feature(group, int(number), column))
    stored = tuple((name, int(number)) for name, number in map(_split, data.get("stored", ())))
    return View(
        data["name"], data["version"], tuple(features), tuple(data["labels"]), stored,
        data.get("on_missing", "mark"),
    )  # fmt: skip


def stored_record(definition: str, schema: bytes) -> StoredGroup:
    """A stored group from its definition and its columns as Arrow IPC."""
    data = json.loads(definition)
    columns = pa.ipc.read_schema(pa.py_buffer(schema))
    return StoredGroup(
        data["name"], data["version"], tuple(data["key"]), data["event_time"], columns,
        data["ttl_us"],
    )  # fmt: skip


def compared(kind: str, name: str, number: int, known: str | None, given: str) -> Change:
    """What keeping a JSON definition would do, beside the one that is there."""
    if known is None:
        return Change(kind, name, number, "created")
    # As text: the order of columns is part of the contract.
    if json.dumps(json.loads(known)) == json.dumps(json.loads(given)):
        return Change(kind, name, number, "unchanged")
    return Change(kind, name, number, "changed", diff_of(pretty(known), pretty(given)))


def _split(text: str) -> tuple[str, str]:
    name, _, number = text.partition("@")
    return name, number


def pretty(definition: str) -> list[str]:
    """JSON as lines that can be compared."""
    return json.dumps(json.loads(definition), indent=1).splitlines()


def diff_of(before: list[str], after: list[str]) -> str:
    """The lines that differ."""
    return "\n".join(difflib.unified_diff(before, after, "registered", "given", lineterm="", n=1))
