"""Training datasets and models: what a model was trained on, so that a request may name it."""

from __future__ import annotations

from typing import Any

import msgspec

from hofflight.errors import WrongType
from hofflight.features.group import require_name, require_version


class Dataset(msgspec.Struct, frozen=True):
    """A training table that was written: of which view, which rows, by which code.

    start_us, end_us: the range of event times, as asked. file: relative to the store, or absolute.
    code_hashes: of each group, by `group@version`. loads: of each stored group, by
    `group@version`, the newest load that went in. statistics: of each column, by name.
    """

    name: str
    version: int
    view: str
    view_version: int
    start_us: int | None
    end_us: int | None
    as_of: str
    file: str
    rows: int
    columns: dict[str, str]
    code_hashes: dict[str, str]
    loads: dict[str, int]
    statistics: dict[str, dict[str, Any]]

    @property
    def asked(self) -> dict[str, Any]:
        """What must be the same for it to be the same dataset."""
        return {
            "view": f"{self.view}@{self.view_version}", "start_us": self.start_us,
            "end_us": self.end_us, "as_of": self.as_of, "columns": self.columns,
        }  # fmt: skip


class Model(msgspec.Struct, frozen=True):
    """A model's provenance: the dataset it was trained on, and what its maker wants to keep."""

    name: str
    version: int
    dataset: str
    dataset_version: int
    tags: dict[str, str] = {}


def require_document(kind: str, name: object, version: object) -> None:
    """Refuse what cannot name a dataset or a model.

    Raises: InvalidName (HOF-101), WrongType (HOF-103).
    """
    require_name(name, f"{kind} name")
    require_version(str(name), version)


def checked_tags(tags: object) -> dict[str, str]:
    """Tags as text by text.

    Raises: WrongType (HOF-103).
    """
    if not isinstance(tags, dict) or not all(
        isinstance(part, str) for pair in tags.items() for part in pair
    ):
        msg = f"tags= takes text by text, such as {{'run': 'a1b2'}}, got {tags!r}"
        raise WrongType(msg)
    return dict(tags)
