"""Views: the ordered list of features that a model was trained on. The order is the contract."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeAlias, get_args

import pyarrow as pa

from hofflight import limits
from hofflight.errors import InvalidView, UnknownView, WrongType
from hofflight.features.expression import unknown_column
from hofflight.features.group import FeatureGroup, require_name, require_version
from hofflight.features.stored import StoredGroup

AnyGroup: TypeAlias = FeatureGroup | StoredGroup
GroupId: TypeAlias = tuple[str, int]
# (name, version) -> the registered group; the newest for version None.
GroupOf: TypeAlias = Callable[[str, int | None], AnyGroup]
OnMissing = Literal["mark", "fail"]


class HasColumns(Protocol):
    """What of a group a view is made of: a group itself, or its record in the registry."""

    @property
    def name(self) -> str:
        """The group's name."""
        ...

    @property
    def version(self) -> int:
        """Its version."""
        ...

    @property
    def schema(self) -> pa.Schema:
        """Its full row."""
        ...


FEATURE: Final = re.compile(
    r"(?P<group>[a-z][a-z0-9_]{0,62})(@(?P<version>[0-9]{1,9}))?\.(?P<column>\*|[a-z][a-z0-9_]{0,62})"
)


# Columns that a training table may have beside features and labels, and that find a label's row.
RESERVED_LABELS: Final = frozenset(("request_id", "row", "late", "split"))


@dataclass(frozen=True, slots=True)
class Feature:
    """One column of a group version; a vector names it `group.column`."""

    group: str
    group_version: int
    column: str

    @property
    def name(self) -> str:
        """The column's name in a vector."""
        return f"{self.group}.{self.column}"

    def __str__(self) -> str:
        return f"{self.group}@{self.group_version}.{self.column}"


@dataclass(frozen=True, slots=True)
class View:
    """Ordered features with pinned group versions, and the labels a training table will carry.

    stored: which of the groups are stored ones. on_missing: `mark` answers with a status beside
    each stored feature, `fail` gives an error where one is not there.
    """

    name: str
    version: int
    features: tuple[Feature, ...]
    labels: tuple[str, ...] = ()
    stored: tuple[GroupId, ...] = ()
    on_missing: OnMissing = "mark"

    @property
    def streaming(self) -> tuple[GroupId, ...]:
        """Streaming groups, in the order of their first feature; one request feeds them all."""
        groups = dict.fromkeys((f.group, f.group_version) for f in self.features)
        return tuple(group for group in groups if group not in self.stored)

    @property
    def is_joined(self) -> bool:
        """Whether an answer is put together from several parts."""
        return bool(self.stored) or len(self.streaming) > 1

    @property
    def group(self) -> GroupId:
        """The first streaming group: whose key and event time find a row of the view.

        Raises: InvalidView (HOF-108), it has none.
        """
        if not self.streaming:
            msg = f"view {self.name!r} has stored features only: no event leads to it"
            raise InvalidView(msg, hint="take a view with a streaming group")
        return self.streaming[0]

    def columns_of(self, group: GroupId) -> tuple[str, ...]:
        """The columns that the view takes of a group, in its order."""
        return tuple(f.column for f in self.features if (f.group, f.group_version) == group)

    def schema_of(self, group: HasColumns) -> pa.Schema:
        """Its columns of one group, `group.column`, in its order."""
        names = self.columns_of((group.name, group.version))
        return pa.schema([(f"{group.name}.{n}", group.schema.field(n).type) for n in names])

    def definition(self) -> dict[str, object]:
        """Plain JSON values, for the registry; what is not used is not there."""
        more: dict[str, object] = {}
        if self.stored:
            more["stored"] = [f"{name}@{version}" for name, version in self.stored]
        if self.on_missing != "mark":
            more["on_missing"] = self.on_missing
        return {
            "name": self.name,
            "version": self.version,
            "features": [str(f) for f in self.features],
            "labels": list(self.labels),
            **more,
        }

    def schema(self, *groups: HasColumns) -> pa.Schema:
        """The vector: a column `group.column` per feature, every one nullable."""
        schemas = {(group.name, group.version): group.schema for group in groups}
        return pa.schema([
            (f.name, schemas[f.group, f.group_version].field(f.column).type) for f in self.features
        ])  # fmt: skip


@dataclass(frozen=True, slots=True)
class ViewDeclaration:
    """A view as a module declares it, for `hof register` and `hof serve` to find.

    It is checked, and its group versions pinned, when it is registered.
    """

    name: str
    version: int
    features: tuple[str, ...]
    labels: tuple[str, ...] = ()
    on_missing: OnMissing = "mark"


def view(
    name: str,
    *,
    version: int,
    features: Sequence[str],
    labels: Sequence[str] = (),
    on_missing: OnMissing = "mark",
) -> ViewDeclaration:
    """Declare a view at a name of a module: `fraud = hof.view("fraud", version=1, ...)`.

    ```python
    fraud = hof.view("fraud", version=1, features=["card_tx.*"], labels=["is_fraud"])
    ```

    Args:
        name: `[a-z][a-z0-9_]{0,62}`.
        version: 1 or more; a changed list needs a new one.
        features: `group.*`, `group.column` or `group@2.column`, in the vector's order.
        labels: columns that a training table of this view will carry.
        on_missing: what becomes of a request whose stored row is not there, too old or out of
            reach: `mark` answers and says so beside each feature, `fail` is an error.
    """
    chosen = (features,) if isinstance(features, str) else tuple(features)
    return ViewDeclaration(name, version, chosen, tuple(labels), on_missing)


def implicit_view(group: HasColumns) -> View:
    """`g.*` under the group's own name and version."""
    columns = tuple(Feature(group.name, group.version, column) for column in group.schema.names)
    stored = ((group.name, group.version),) if isinstance(group, StoredGroup) else ()
    return View(group.name, group.version, columns, stored=stored)


def find_view(
    name: str,
    version: int | None,
    declared: Sequence[View],
    group_of: Callable[[str, int | None], HasColumns],
) -> View:
    """The view of that name among those declared, or a group's implicit one; None: the newest.

    Raises: UnknownView (HOF-201), from `group_of` too.
    """
    versions = {view.version: view for view in declared if view.name == name}
    if not versions:
        return implicit_view(group_of(name, version))
    wanted = max(versions) if version is None else version
    if wanted not in versions:
        msg = f"view {name!r} has the versions {sorted(versions)}, not {version}"
        raise UnknownView(msg)
    return versions[wanted]


def declare_view(
    name: str,
    version: int,
    features: Sequence[str],
    labels: Sequence[str],
    group_of: GroupOf,
    on_missing: OnMissing = "mark",
) -> View:
    """Resolve `"group.*"`, `"group.column"` and `"group@2.column"`, pinning group versions.

    Raises: InvalidName (HOF-101), InvalidView (HOF-108), UnknownColumn (HOF-102).
    """
    for what in (name, *labels):
        require_name(what, "view or label name")
    require_version(name, version)
    if on_missing not in get_args(OnMissing):
        msg = f"view {name!r}: on_missing must be one of {get_args(OnMissing)}, got {on_missing!r}"
        raise WrongType(msg)
    chosen: list[Feature] = []
    for text in [features] if isinstance(features, str) else features:
        chosen.extend(_select(name, text, group_of))
    if not chosen:
        msg = f"view {name!r} selects no feature"
        raise InvalidView(msg)
    if len(chosen) > limits.columns_max:
        msg = f"view {name!r} selects {len(chosen)} features, at most {limits.columns_max}"
        raise InvalidView(msg)
    twice = {str(f) for f in chosen if chosen.count(f) > 1}
    if twice:
        msg = f"view {name!r} selects {sorted(twice)} more than once"
        raise InvalidView(msg)
    groups = {g: group_of(*g) for g in dict.fromkeys((f.group, f.group_version) for f in chosen)}
    _require_one_version(name, groups)
    stored = {g: group for g, group in groups.items() if isinstance(group, StoredGroup)}
    streaming = [group for group in groups.values() if isinstance(group, FeatureGroup)]
    key_sources(name, union_input(name, streaming), tuple(stored.values()))
    if labels and not streaming:
        msg = f"view {name!r} has stored features only: there is no event to label"
        raise InvalidView(msg)
    if streaming:
        _require_labels(name, labels, streaming[0])
    return View(name, version, tuple(chosen), tuple(labels), tuple(stored), on_missing)


def union_input(view: str, groups: Sequence[FeatureGroup]) -> pa.Schema:
    """What one request to all of these groups holds: each one's input, equal names once.

    Raises: InvalidView (HOF-108), one name has two types.
    """
    found: dict[str, tuple[str, pa.DataType]] = {}
    for group in groups:
        for field in group.input:
            owner, column_type = found.setdefault(field.name, (group.name, field.type))
            if column_type != field.type:
                msg = f"view {view!r}: column {field.name!r} is {column_type} to {owner}"
                raise InvalidView(f"{msg}, {field.type} to {group.name}")
    return pa.schema([(name, column_type) for name, (_, column_type) in found.items()])


def key_sources(view: str, rows: pa.Schema, stored: Sequence[StoredGroup]) -> pa.Schema:
    """The key columns that a request gives beside its rows: those that no row has.

    Raises: InvalidView (HOF-108), a column is a key of one type here and of another there.
    """
    given: dict[str, pa.DataType] = {}
    for group in stored:
        for field in group.key_schema:
            here = rows.field(field.name).type if field.name in rows.names else None
            known = here or given.setdefault(field.name, field.type)
            if known != field.type:
                msg = f"view {view!r}: key {field.name!r} of {group.name} is {field.type}"
                raise InvalidView(f"{msg}, elsewhere in this view it is {known}")
    return pa.schema(list(given.items()))


def code_hash_of(groups: Sequence[AnyGroup]) -> str:
    """The hash of what computes a view: its only streaming group's, or one over all groups'."""
    hashes = [group.code_hash() for group in groups]
    streaming = [group for group in groups if isinstance(group, FeatureGroup)]
    if len(streaming) == 1:
        return streaming[0].code_hash()
    return hashlib.sha256(" ".join(hashes).encode()).hexdigest()[:16]


def _require_one_version(view: str, groups: Mapping[GroupId, AnyGroup]) -> None:
    """A vector's column is named `group.column`, so a group comes in one version."""
    versions: dict[str, int] = {}
    for name, version in groups:
        if versions.setdefault(name, version) != version:
            msg = f"view {view!r} takes features of {name}@{versions[name]} and of {name}@{version}"
            raise InvalidView(msg, hint="a vector's columns are named group.column: one version")


def _require_labels(view: str, labels: Sequence[str], group: FeatureGroup) -> None:
    """A label is none of the columns that find its row, and comes once."""
    taken = RESERVED_LABELS | {*group.key, group.event_time}
    if wrong := sorted(taken.intersection(labels)):
        msg = f"view {view!r}: {wrong} cannot be labels"
        raise InvalidView(msg, hint=f"names but {', '.join(sorted(taken))}")
    if len(set(labels)) != len(labels):
        msg = f"view {view!r}: a label is there twice: {list(labels)}"
        raise InvalidView(msg)


def _select(view: str, text: str, group_of: GroupOf) -> list[Feature]:
    match = FEATURE.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        msg = f"view {view!r}: a feature is 'group.column', 'group@2.column' or 'group.*'"
        raise InvalidView(f"{msg}, got {text!r}")
    group = group_of(match["group"], int(match["version"]) if match["version"] else None)
    columns = group.schema.names
    if match["column"] != "*":
        if match["column"] not in columns:
            raise unknown_column(match["column"], dict.fromkeys(columns), f"view {view!r}")
        columns = [match["column"]]
    return [Feature(group.name, group.version, column) for column in columns]
