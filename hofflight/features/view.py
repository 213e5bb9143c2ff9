"""Views: the ordered list of features that a model was trained on. The order is the contract."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pyarrow as pa

from hofflight.errors import InvalidName, InvalidView, UnknownView, WrongType
from hofflight.features.expression import unknown_column
from hofflight.features.group import NAME, FeatureGroup

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
    """Ordered features with pinned group versions, and the labels a training table will carry."""

    name: str
    version: int
    features: tuple[Feature, ...]
    labels: tuple[str, ...] = ()

    @property
    def group(self) -> tuple[str, int]:
        """Name and version of the streaming group that answers the view."""
        return self.features[0].group, self.features[0].group_version

    def definition(self) -> dict[str, object]:
        """Plain JSON values, for the registry."""
        return {
            "name": self.name,
            "version": self.version,
            "features": [str(f) for f in self.features],
            "labels": list(self.labels),
        }

    def schema(self, group: FeatureGroup) -> pa.Schema:
        """The vector: a column `group.column` per feature, every one nullable."""
        return pa.schema([(f.name, group.schema.field(f.column).type) for f in self.features])


@dataclass(frozen=True, slots=True)
class ViewDeclaration:
    """A view as a module declares it, for `hof register` and `hof serve` to find.

    It is checked, and its group versions pinned, when it is registered.
    """

    name: str
    version: int
    features: tuple[str, ...]
    labels: tuple[str, ...] = ()


def view(
    name: str, *, version: int, features: Sequence[str], labels: Sequence[str] = ()
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
    """
    chosen = (features,) if isinstance(features, str) else tuple(features)
    return ViewDeclaration(name, version, chosen, tuple(labels))


def implicit_view(group: FeatureGroup) -> View:
    """`g.*` under the group's own name and version."""
    columns = tuple(Feature(group.name, group.version, column) for column in group.schema.names)
    return View(group.name, group.version, columns)


def find_view(
    name: str,
    version: int | None,
    declared: Sequence[View],
    group_of: Callable[[str, int | None], FeatureGroup],
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
    group_of: Callable[[str, int | None], FeatureGroup],
) -> View:
    """Resolve `"group.*"`, `"group.column"` and `"group@2.column"`, pinning group versions.

    `group_of(name, version)` gives a registered group, the newest for version None.

    Raises:
        InvalidName: HOF-101.
        InvalidView: HOF-108, nothing selected, a feature twice, several streaming groups, a label
            with the name of a column that finds its row.
        UnknownColumn: HOF-102.
        UnknownView: HOF-201, from `group_of`.
    """
    for what in (name, *labels):
        if not isinstance(what, str) or not NAME.fullmatch(what):
            msg = f"view and label names must match [a-z][a-z0-9_]{{0,62}}, got {what!r}"
            raise InvalidName(msg)
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        msg = f"view {name!r}: version must be a whole number from 1, got {version!r}"
        raise WrongType(msg)
    chosen: list[Feature] = []
    for text in [features] if isinstance(features, str) else features:
        chosen.extend(_select(name, text, group_of))
    if not chosen:
        msg = f"view {name!r} selects no feature"
        raise InvalidView(msg)
    twice = {str(f) for f in chosen if chosen.count(f) > 1}
    if twice:
        msg = f"view {name!r} selects {sorted(twice)} more than once"
        raise InvalidView(msg)
    groups = {(f.group, f.group_version) for f in chosen}
    if len(groups) > 1:
        msg = f"view {name!r} takes features of {sorted(groups)}"
        raise InvalidView(msg, hint="a view is over exactly one streaming group for now")
    _require_labels(name, labels, group_of(*groups.pop()))
    return View(name, version, tuple(chosen), tuple(labels))


def _require_labels(view: str, labels: Sequence[str], group: FeatureGroup) -> None:
    """A label is none of the columns that find its row, and comes once."""
    taken = RESERVED_LABELS | {*group.key, group.event_time}
    if wrong := sorted(taken.intersection(labels)):
        msg = f"view {view!r}: {wrong} cannot be labels"
        raise InvalidView(msg, hint=f"names but {', '.join(sorted(taken))}")
    if len(set(labels)) != len(labels):
        msg = f"view {view!r}: a label is there twice: {list(labels)}"
        raise InvalidView(msg)


def _select(
    view: str, text: str, group_of: Callable[[str, int | None], FeatureGroup]
) -> list[Feature]:
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
